"""The nodes of a VM's page table, as the driver sees them, with a staging copy (vm_bind section 6, VMB-R08).

*Prepare* links new nodes into the staging children only; *commit* makes them live in one step under the
notifier lock; *abort* forgets them.  A zap that walks the tree in between therefore never meets a node
that is half linked.  Nodes that an update empties are freed after it was committed, by a deferred put.

Simplified: one level of nodes under the root.  The hardware's walker reads the leaf entries in
:class:`svm_actors.gpu.page_table.GpuPageTable`, so a node here is memory and bookkeeping, not entries.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.xe.range_fence import NODE_PAGES


@attrs.frozen
class PtUpdate:
    """What to do to the entries of one span."""

    start: int
    """First page."""
    end: int
    """One past the last page."""
    entries: tuple[tuple[int, GpuPte], ...] = ()
    """(page, entry) to write; none clears the span."""

    def part(self, first: int, most: int) -> tuple[int, int]:
        """Span of ``most`` entries from number ``first`` on; a clear is not divided."""
        if not self.entries:
            return self.start, self.end
        return self.start + first, min(self.start + first + most, self.end)

    def write(self, page_table: GpuPageTable) -> None:
        """By whichever hand; it was announced."""
        if not self.entries:
            page_table.clear_range(self.start, self.end)
        for vpn, pte in self.entries:
            page_table.set(vpn, pte)


class PtNode:
    """One page of page-table memory: 512 entries."""

    __slots__ = ("freed", "index", "used")

    def __init__(self, index: int) -> None:
        self.index = index
        self.used: dict[int, None] = {}
        """Entries in use, by page."""
        self.freed = False

    def must_live(self) -> None:
        """VMB-R09: raise when somebody who walks here has lost the race with an unbind."""
        if self.freed:
            raise PropertyFailed("lifetime", "VMB-R09", f"page-table node {self.index:#x} is walked after it was freed")


class PtTree:
    """Children of the root, live and staged; protected by the VM's reservation, commit by notifier_lock too."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.live: dict[int, PtNode] = {}
        """What a walker follows."""
        self.staging: dict[int, PtNode] = {}
        """What the update under way sees: live children and its own new ones."""
        self._staged: list[int] = []
        """Indices of new nodes, in the order in which they were linked."""
        self.freed = False

    def stage(self, start: int, end: int) -> None:
        """Make sure that [start, end) has nodes in the staging tree."""
        self.must_live()
        for index in range(start // NODE_PAGES, -(-end // NODE_PAGES)):
            if index not in self.staging:
                self.staging[index] = PtNode(index)
                self._staged.append(index)

    def commit(self, updates: Iterable[PtUpdate]) -> int:
        """Staging becomes live, and entries change in order; answers how many nodes went."""
        self.must_live()
        touched = dict.fromkeys(self._staged)
        for index in self._staged:
            self.live[index] = self.staging[index]
        self._staged.clear()
        for update in updates:
            touched.update(dict.fromkeys(self._clear(update.start, update.end)))
            for page, _pte in update.entries:
                self.live[page // NODE_PAGES].used[page] = None
        return self._displace(touched)

    def abort(self) -> None:
        """Undo the staging, the last node first."""
        while self._staged:
            del self.staging[self._staged.pop()]

    def _clear(self, start: int, end: int) -> list[int]:
        """Entries go; answers the nodes they were in."""
        indices = self._indices(start, end)
        for index in indices:
            used = self.live[index].used
            for page in [page for page in used if start <= page < end]:
                del used[page]
        return indices

    def _indices(self, start: int, end: int) -> list[int]:
        first, last = start // NODE_PAGES, -(-end // NODE_PAGES)
        if last - first > len(self.live):
            return [index for index in self.live if first <= index < last]
        return [index for index in range(first, last) if index in self.live]

    def _displace(self, touched: Iterable[int]) -> int:
        """Nodes of this update that have nothing left in them go; the others were not emptied by it."""
        empty = [index for index in touched if not self.live[index].used]
        for index in empty:
            self.live.pop(index).freed = True
            del self.staging[index]
        return len(empty)

    def walk(self, start: int, end: int) -> list[PtNode]:
        """Live nodes with entries of [start, end), for a zap.

        VMB-R08: a bind that has staged nodes is not through, and may be undone: they are not for anybody else.
        """
        self.must_live()
        if self._staged:
            self.engine.count("VMB-R08")
        return [self.live[index] for index in self._indices(start, end)]

    def has_entry(self, page: int) -> bool:
        """For oracles: a live node counts the entry of this page."""
        node = self.live.get(page // NODE_PAGES)
        return node is not None and page in node.used

    def free(self) -> None:
        """VM close: all that is left."""
        self.live.clear()
        self.staging.clear()
        self._staged.clear()
        self.freed = True

    def must_live(self) -> None:
        """VMB-R25: raise when VM close has freed them."""
        if self.freed:
            raise PropertyFailed("lifetime", "VMB-R25", f"page tables of {self.name} are used after they were freed")

    def statistics(self) -> dict[str, int]:
        """Nodes in use and staged."""
        return {"nodes": len(self.live), "staged": len(self._staged)}
