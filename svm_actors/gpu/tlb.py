"""The TLB of one GPU: copies of page-table entries, by address space and page.

It has no capacity: an entry stays until it is flushed, which is the worst a driver can meet.
A finite TLB only forgets more.
"""

from __future__ import annotations

from collections.abc import Iterator

from svm_actors.gpu.page_table import GpuPte
from svm_actors.gpu.sparse import SparseMap


class Tlb:
    """Translations the hardware may use without looking at the page table."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._spaces: dict[int, SparseMap[GpuPte]] = {}

    def lookup(self, asid: int, vpn: int) -> GpuPte | None:
        """The cached entry, None on a miss."""
        space = self._spaces.get(asid)
        return None if space is None else space.get(vpn)

    def fill(self, asid: int, vpn: int, pte: GpuPte) -> None:
        """Cache an entry, replacing an older one."""
        space = self._spaces.get(asid)
        if space is None:
            self._spaces[asid] = space = SparseMap()
        space.set(vpn, pte)

    def flush(self, asid: int, start: int, end: int) -> int:
        """Forget [start, end) of one address space; how many entries went."""
        space = self._spaces.get(asid)
        return 0 if space is None else space.clear_range(start, end)

    def any_in(self, asid: int, start: int, end: int) -> bool:
        """True when [start, end) of an address space is cached anywhere."""
        space = self._spaces.get(asid)
        return space is not None and space.any_in(start, end)

    def entries_in(self, asid: int, start: int, end: int) -> list[tuple[int, GpuPte]]:
        """(page, entry) cached for [start, end), in page order."""
        space = self._spaces.get(asid)
        return [] if space is None else space.entries_in(start, end)

    def entries(self) -> Iterator[tuple[int, int, GpuPte]]:
        """Every (address space, page, entry), sorted."""
        for asid in sorted(self._spaces):
            for vpn, pte in self._spaces[asid].items():
                yield asid, vpn, pte

    def __len__(self) -> int:
        return sum(map(len, self._spaces.values()))
