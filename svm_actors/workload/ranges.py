"""A map from address ranges to values: what a log says about which part of an address space.

Ranges are half open, never overlap, and touching ranges with equal values are one.  Cost is logarithmic in the number
of ranges and independent of their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from sortedcontainers import SortedDict

Range = tuple[int, int]
"""Start and end address; the end is not part of it."""
V = TypeVar("V")


class RangeMap(Generic[V]):
    """Ranges with values; addresses without a value are gaps."""

    def __init__(self) -> None:
        self._ranges: SortedDict[int, tuple[int, V]] = SortedDict()

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        return ((start, end, value) for start, (end, value) in self._ranges.items())

    def __len__(self) -> int:
        return len(self._ranges)

    def copy(self) -> RangeMap[V]:
        """An independent map with the same content."""
        twin: RangeMap[V] = RangeMap()
        twin._ranges = self._ranges.copy()
        return twin

    def pieces(self, start: int, end: int) -> list[tuple[int, int, V]]:
        """What lies in [start, end), clipped to it, in address order."""
        if start >= end:
            return []
        first = max(self._ranges.bisect_right(start) - 1, 0)
        found = []
        for low in self._ranges.islice(first):
            if low >= end:
                break
            high, value = self._ranges[low]
            if high > start:
                found.append((max(low, start), min(high, end), value))
        return found

    def gaps(self, start: int, end: int) -> list[Range]:
        """The parts of [start, end) without a value, in address order."""
        found = []
        for low, high, _ in self.pieces(start, end):
            if low > start:
                found.append((start, low))
            start = high
        if start < end:
            found.append((start, end))
        return found

    def clear(self, start: int, end: int) -> None:
        """Make [start, end) a gap."""
        for low, high, _ in self.pieces(start, end):
            whole = self._ranges.bisect_right(low) - 1
            first = self._ranges.keys()[whole]
            last, value = self._ranges.pop(first)
            if first < low:
                self._ranges[first] = (low, value)
            if high < last:
                self._ranges[high] = (last, value)

    def assign(self, start: int, end: int, value: V) -> None:
        """Give all of [start, end) the value, whatever was there."""
        if start >= end:
            return
        self.clear(start, end)
        for low, high, near in self.pieces(max(start - 1, 0), end + 1):
            if near == value and (high == start or low == end):
                first = self._ranges.keys()[self._ranges.bisect_right(low) - 1]
                last, _ = self._ranges.pop(first)
                start, end = min(start, first), max(end, last)
        self._ranges[start] = (end, value)
