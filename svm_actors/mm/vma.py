"""VMAs and the VMA tree of one mm: lookup, split, merge (core_mm sections 1 and 5).

Merging follows the kernel's rule: neighbours with equal flags, the same object, contiguous page
offsets and compatible anon_vmas become one.  It matters beyond looks, because notifier events,
fork and migration steps are cut at VMA ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sortedcontainers import SortedDict

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.task import Task
from svm_actors.mm.constants import ACCESS_FLAGS, Vm

if TYPE_CHECKING:
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.rmap import AnonVma


class Vma(Source):
    """vm_area_struct over pages [start, end), with its per-VMA lock.

    Read fields only with mmap_lock or the VMA lock held.
    """

    __slots__ = (
        "_readers",
        "anon_vma",
        "anon_vma_chain",
        "attached",
        "end",
        "file",
        "flags",
        "left_behind",
        "mm",
        "name",
        "pgoff",
        "start",
        "writer",
    )

    def __init__(self, engine: Engine, mm: Mm, start: int, end: int, flags: Vm, pgoff: int, file: Any = None) -> None:
        super().__init__(engine)
        self.mm = mm
        self.start = start
        self.end = end
        self.name = f"{mm.name}.vma[{start:x}-{end:x}]"
        """With the page numbers at its creation: ops carry it, so it does not follow a split or merge."""
        self.flags = flags
        self.pgoff = pgoff
        """Page offset in the file, or the address page number at creation for anonymous memory."""
        self.file = file
        """The shmem or file object behind it, None for private anonymous memory."""
        self.anon_vma: AnonVma | None = None
        """Where pages first touched through this VMA go."""
        self.anon_vma_chain: list[AnonVma] = []
        """Every anon_vma whose pages may be mapped here: its own and those of the fork ancestors."""
        self.attached = True
        """False once removed from the tree (vma_mark_detached)."""
        self.left_behind = False
        """Its pages went to another place with MREMAP_DONTUNMAP, or some of them."""
        self.writer = False
        """vma_start_write was called; lasts until mmap_lock is released or downgraded."""
        self._readers = 0

    @property
    def is_anonymous(self) -> bool:
        """vma_is_anonymous: no file and not shared."""
        return self.file is None

    @property
    def is_shared(self) -> bool:
        """VM_SHARED."""
        return bool(self.flags & Vm.SHARED)

    @property
    def is_cow(self) -> bool:
        """is_cow_mapping: private, so written pages become anonymous."""
        return not self.flags & Vm.SHARED

    @property
    def is_fork_child(self) -> bool:
        """Faulted and linked to more than its own anon_vma: such VMAs do not lend theirs."""
        return self.anon_vma is not None and len(self.anon_vma_chain) > 1

    @property
    def npages(self) -> int:
        """Length in pages."""
        return self.end - self.start

    def offset_of(self, vpn: int) -> int:
        """Page offset of an address: linear_page_index."""
        return self.pgoff + vpn - self.start

    def address_of(self, index: int) -> int | None:
        """Address of a page offset inside this VMA: vma_address, None when outside."""
        vpn = self.start + index - self.pgoff
        return vpn if self.start <= vpn < self.end else None

    # -- per-VMA lock ----------------------------------------------------------------

    def try_start_read(self) -> bool:
        """vma_start_read: fails when detached or write-marked; never waits."""
        if not self.attached or self.writer:
            return False
        self._readers += 1
        return True

    def end_read(self) -> None:
        """vma_end_read."""
        self._readers -= 1
        if self.parked:
            self.changed()

    async def start_write(self) -> None:
        """vma_start_write: needs mmap_lock for write; waits out the readers."""
        if self.writer:
            return
        self.writer = True
        self.mm.write_marked.append(self)
        if self._readers:
            await self.engine.wait("lock", self, self, lambda: not self._readers)

    def __repr__(self) -> str:
        return f"<{self.name} {self.flags!r}>"

    def holders(self) -> list[Task]:
        """For the wait-for graph: readers are not tracked one by one."""
        return []


class VmaTree:
    """Non-overlapping VMAs ordered by address."""

    def __init__(self) -> None:
        self._by_start: SortedDict = SortedDict()

    def find(self, vpn: int) -> Vma | None:
        """The VMA that contains the page, or None."""
        vma = self.at_or_after(vpn)
        return vma if vma is not None and vma.start <= vpn else None

    def at_or_after(self, vpn: int) -> Vma | None:
        """find_vma: the first VMA that ends after the page."""
        index = self._by_start.bisect_right(vpn)
        if index:
            vma: Vma = self._by_start.peekitem(index - 1)[1]
            if vma.end > vpn:
                return vma
        if index < len(self._by_start):
            found: Vma = self._by_start.peekitem(index)[1]
            return found
        return None

    def previous(self, vma_start: int) -> Vma | None:
        """The VMA before the one that starts (or would start) here."""
        index = self._by_start.bisect_left(vma_start)
        return self._by_start.peekitem(index - 1)[1] if index else None

    def next(self, vma_end: int) -> Vma | None:
        """The first VMA that starts at or after the page."""
        index = self._by_start.bisect_left(vma_end)
        return self._by_start.peekitem(index)[1] if index < len(self._by_start) else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """VMAs that touch [start, end), in address order; an empty range touches none."""
        found = []
        vma = self.at_or_after(start) if start < end else None
        while vma is not None and vma.start < end:
            found.append(vma)
            vma = self.next(vma.end)
        return found

    def insert(self, vma: Vma) -> None:
        """Store a VMA; the place must be free."""
        self._by_start[vma.start] = vma

    def remove(self, vma: Vma) -> None:
        """Take a VMA out."""
        del self._by_start[vma.start]

    def move_start(self, vma: Vma, start: int) -> None:
        """Change a VMA's start, and its page offset with it."""
        del self._by_start[vma.start]
        vma.pgoff += start - vma.start
        vma.start = start
        self._by_start[start] = vma

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._by_start.values())

    def __len__(self) -> int:
        return len(self._by_start)


def anon_vmas_compatible(first: Vma, second: Vma) -> bool:
    """Two VMAs may share one anon_vma: equal, or one has none and the other is no fork child."""
    if first.anon_vma is second.anon_vma:
        return True
    if first.anon_vma is None:
        return not second.is_fork_child
    return second.anon_vma is None and not first.is_fork_child


def mergeable(left: Vma, right: Vma) -> bool:
    """can_vma_merge: adjacent, equal flags and object, contiguous offsets, compatible anon_vmas."""
    return (
        left.end == right.start
        and left.flags == right.flags
        and not left.flags & Vm.HUGETLB
        and left.file is right.file
        and left.pgoff + left.npages == right.pgoff
        and anon_vmas_compatible(left, right)
    )


def anon_vma_shareable(near: Vma, vma: Vma) -> bool:
    """find_mergeable_anon_vma's test: alike but for access bits, so a later mprotect could merge them."""
    low, high = (near, vma) if near.start < vma.start else (vma, near)
    return (
        near.anon_vma is not None
        and not near.is_fork_child
        and low.end == high.start
        and low.file is high.file
        and not (low.flags ^ high.flags) & ~ACCESS_FLAGS
        and low.pgoff + low.npages == high.pgoff
    )
