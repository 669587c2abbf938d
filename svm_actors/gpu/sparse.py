"""A sparse map from (virtual) page numbers to values, in leaf tables of 512.

Nothing is kept for untouched pages, and work over a range costs what is present in it, whatever its
length.  A leaf table that becomes empty goes away, so "a table exists" means "something is there".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from sortedcontainers import SortedDict

V = TypeVar("V")

_SHIFT = 9
_SIZE = 1 << _SHIFT


class SparseMap(Generic[V]):
    """Values by page number, in page order."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: SortedDict = SortedDict()

    def get(self, page: int) -> V | None:
        """The value of a page, None when there is none."""
        table: dict[int, V] | None = self._tables.get(page >> _SHIFT)
        return None if table is None else table.get(page)

    def set(self, page: int, value: V) -> None:
        """Put or replace a value."""
        index = page >> _SHIFT
        table = self._tables.get(index)
        if table is None:
            self._tables[index] = table = {}
        table[page] = value

    def clear_range(self, start: int, end: int) -> int:
        """Remove what is in [start, end); how many values that were."""
        cleared = 0
        for index in self._overlapping(start, end):
            table = self._tables[index]
            inside = _inside(table, index, start, end)
            cleared += len(inside)
            if len(inside) == len(table):
                del self._tables[index]
                continue
            for page in inside:
                del table[page]
        return cleared

    def any_in(self, start: int, end: int) -> bool:
        """True when [start, end) holds anything."""
        tables = self._tables
        return any(_inside(tables[index], index, start, end) for index in self._overlapping(start, end))

    def entries_in(self, start: int, end: int) -> list[tuple[int, V]]:
        """What [start, end) holds, in page order."""
        found: list[tuple[int, V]] = []
        for index in self._overlapping(start, end):
            table: dict[int, V] = self._tables[index]
            found += [(page, table[page]) for page in sorted(_inside(table, index, start, end))]
        return found

    def items(self) -> Iterator[tuple[int, V]]:
        """Everything, in page order."""
        for table in self._tables.values():
            yield from sorted(table.items())

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def __bool__(self) -> bool:
        return bool(self._tables)

    def _overlapping(self, start: int, end: int) -> list[int]:
        if end <= start or not self._tables:
            return []
        return list(self._tables.irange(start >> _SHIFT, (end - 1) >> _SHIFT))


def _inside(table: dict[int, V], index: int, start: int, end: int) -> list[int]:
    """Pages of one leaf table inside [start, end), in no particular order of address."""
    first = index << _SHIFT
    if start <= first and first + _SIZE <= end:
        return list(table)
    if end - start < len(table):
        return [page for page in range(start, end) if page in table]
    return [page for page in table if start <= page < end]
