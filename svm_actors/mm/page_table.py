"""Sparse page tables: leaf entries of one mm (core_mm section 3).

A leaf entry is an immutable tuple, so a lockless reader (hmm) holds a consistent snapshot and
"has the entry changed" is a comparison.  Entries live in leaf tables of 512, created on demand;
nothing is kept for untouched memory.  The leaf table is the page-table lock's domain: whoever
changes entries announces one ``pte_write`` op for the table and then works atomically.

Simplified: PTE level only; PMD-level entries are listed in docs/design/not_yet.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from sortedcontainers import SortedDict

from svm_actors.mm.constants import PTRS_PER_PTE

_UPPER_SHIFT = 18
"""Pages of 4 KiB in 1 GiB, as a shift: what one PUD entry covers."""


class Entry(Enum):
    """States of a leaf entry; NONE is the absence of an entry."""

    PRESENT = "present"
    SWAP = "swap"
    MIGRATION = "migration"
    DEVICE_PRIVATE = "device_private"
    DEVICE_EXCLUSIVE = "device_exclusive"


class Pte(NamedTuple):
    """One leaf entry."""

    kind: Entry
    folio: Any
    """The folio; for SWAP the swap slot."""
    writable: bool = False
    """PRESENT: hardware write; DEVICE_PRIVATE and MIGRATION: the WRITE variant."""
    dirty: bool = False
    young: bool = False
    exclusive: bool = False
    """SWAP: the exclusive bit; MIGRATION: READ_EXCLUSIVE (or WRITE)."""
    protnone: bool = False
    """PRESENT but closed to the CPU: PROT_NONE or a NUMA hint."""

    @property
    def is_mapping(self) -> bool:
        """Counts as reference and mapcount of its folio."""
        return self.kind in _MAPPING


_MAPPING = (Entry.PRESENT, Entry.DEVICE_PRIVATE, Entry.DEVICE_EXCLUSIVE)


Changed = Callable[[int, Pte | None, Pte | None], None]
"""Is told of every change of an entry, in the same atomic step: the page, what was there, what is there."""


class PageTable:
    """The leaf tables of one mm."""

    def __init__(self, name: str, changed: Changed | None = None) -> None:
        self.name = name
        self._changed = changed
        self._tables: SortedDict = SortedDict()
        self._upper: set[int] = set()
        """1 GiB slots whose upper-level tables exist; only :meth:`free_upper` takes them away."""

    def get(self, vpn: int) -> Pte | None:
        """The entry of a virtual page, None when there is none."""
        table = self._tables.get(vpn // PTRS_PER_PTE)
        return None if table is None else table.get(vpn)

    def set(self, vpn: int, pte: Pte) -> None:
        """Write an entry."""
        index = vpn // PTRS_PER_PTE
        table = self._tables.get(index)
        if table is None:
            self._tables[index] = table = {}
            self._upper.add(vpn >> _UPPER_SHIFT)
        if self._changed is None:
            table[vpn] = pte
            return
        old = table.get(vpn)
        table[vpn] = pte
        self._changed(vpn, old, pte)

    def clear(self, vpn: int) -> None:
        """Remove an entry; the leaf table goes with its last one."""
        index = vpn // PTRS_PER_PTE
        table = self._tables[index]
        old = table.pop(vpn)
        if not table:
            del self._tables[index]
        if self._changed is not None:
            self._changed(vpn, old, None)

    def tables(self, start: int, end: int) -> list[int]:
        """Indices of the leaf tables in use that overlap pages [start, end)."""
        if end <= start:
            return []
        return list(self._tables.irange(start // PTRS_PER_PTE, (end - 1) // PTRS_PER_PTE))

    def entries(self, table_index: int, start: int, end: int) -> list[tuple[int, Pte]]:
        """Entries of one leaf table inside [start, end), in address order."""
        table = self._tables.get(table_index)
        if table is None:
            return []
        return sorted((vpn, pte) for vpn, pte in table.items() if start <= vpn < end)

    def first_populated(self, start: int, end: int) -> int | None:
        """First page of [start, end) below an existing upper-level (1 GiB) entry, None if there is none."""
        for slot in range(start >> _UPPER_SHIFT, (end - 1 >> _UPPER_SHIFT) + 1):
            if slot in self._upper:
                return max(start, slot << _UPPER_SHIFT)
        return None

    def free_upper(self, start: int, end: int) -> None:
        """free_pgtables: forget upper-level entries that lie wholly in a hole [start, end) of the VMA map."""
        first, last = start + (1 << _UPPER_SHIFT) - 1 >> _UPPER_SHIFT, end >> _UPPER_SHIFT
        for slot in [slot for slot in sorted(self._upper) if first <= slot < last]:
            self._upper.discard(slot)

    def items(self) -> Iterator[tuple[int, Pte]]:
        """Every entry in address order, for oracles."""
        for table in self._tables.values():
            yield from sorted(table.items())

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())
