"""What a log says about one address space: known mapped, known unmapped, or unknown.

Pages that a successful call needed, but that no recorded call mapped, were there before the log began (the executable,
the loader, the stack) or before the fork that copied them.  They become premaps of the address space that the memory
descends from.  A call on pages known to be unmapped that succeeded all the same has a reason outside the log
(an untraced call, or an order within overlapping calls that the log does not show): it is marked, not repaired.
"""

from __future__ import annotations

from typing import Literal

import attrs

from .ranges import Range, RangeMap
from .strace_actions import PAGE, Action, Brk, Madvise, Mmap, Mprotect, Mremap, Munmap, page_down, page_up
from .strace_steps import Premap, Process


def _not_empty(pages: Range | None) -> Range | None:
    return pages if pages is not None and pages[0] < pages[1] else None


@attrs.frozen
class Effect:
    """What a call did to the address space; the fields are those of a Step."""

    touched: Range | None = attrs.field(default=None, converter=_not_empty)
    gained: tuple[Range, ...] = ()
    lost: tuple[Range, ...] = ()
    reproducible: bool = True


def pages_of(address: int, length: int) -> Range:
    """The whole pages that hold the bytes."""
    return page_down(address), page_up(address + length)


class AddressSpace:
    """The knowledge about one address space while a log is followed in recorded order."""

    def __init__(
        self, number: int, parent: AddressSpace | None = None, origin: Literal["root", "fork", "exec"] = "root"
    ) -> None:
        self.number = number
        self.parent = parent
        self.origin = origin
        self.known: RangeMap[bool] = RangeMap()
        self.last_steps: RangeMap[int] = RangeMap()
        self.premaps: RangeMap[bool] = RangeMap()
        self.brk: int | None = None
        self.brk_start: int | None = None
        if origin == "fork" and parent is not None:
            self.known = parent.known.copy()
            self.brk = parent.brk

    def process(self) -> Process:
        """The finished description."""
        premaps = tuple(Premap(start, end - start, file) for start, end, file in self.premaps)
        parent = None if self.parent is None else self.parent.number
        return Process(self.number, parent, self.origin, premaps, self.brk_start)

    def order(self, step: int, pages: Range) -> list[int]:
        """Note that the step works on the pages; the steps that did so last, each once, oldest first."""
        before = {last for _, _, last in self.last_steps.pieces(*pages)}
        self.last_steps.assign(*pages, step)
        return sorted(before)

    def mapped(self, pages: Range) -> tuple[Range, ...]:
        """The parts known to be mapped."""
        return tuple((start, end) for start, end, there in self.known.pieces(*pages) if there)

    # -- effects ---------------------------------------------------------------------

    def apply(self, action: Action, result: int | None, errno: str | None) -> Effect:
        """Learn from one finished memory call."""
        if isinstance(action, Brk):
            return self._brk(action, result)
        if errno is not None:
            return self._failed(action, errno)
        match action:
            case Mmap():
                return self._mmap(action)
            case Munmap():
                pages = pages_of(action.address, action.length)
                self._need(pages, file=False)
                return Effect(pages, lost=self._unmap(pages))
            case Mremap():
                return self._mremap(action)
            case Mprotect() | Madvise():
                pages = pages_of(action.address, action.length)
                return Effect(pages, reproducible=self._need(pages, file=isinstance(action, Mprotect)))
        return Effect()

    def _mmap(self, action: Mmap) -> Effect:
        pages = pages_of(action.address, action.length)
        placed_in_use = not action.fixed and bool(self.mapped(pages))
        self.known.assign(*pages, True)
        return Effect(pages, gained=(pages,), reproducible=not placed_in_use)

    def _mremap(self, action: Mremap) -> Effect:
        assert action.new_address is not None
        old = pages_of(action.old_address, action.old_length)
        new = pages_of(action.new_address, action.new_length)
        explained = self._need(old, file=False)
        keeps = not action.old_length or "MREMAP_DONTUNMAP" in action.flags
        lost: tuple[Range, ...] = ()
        if old[0] != new[0] and not keeps:
            lost = self._unmap(old)
        elif old[0] == new[0] and new[1] < old[1]:
            lost = self._unmap((new[1], old[1]))
        self.known.assign(*new, True)
        return Effect(new, gained=(new,), lost=lost, reproducible=explained)

    def _brk(self, action: Brk, result: int | None) -> Effect:
        if result is None:
            return Effect()
        before, self.brk = self.brk, result
        if before is None:
            self.brk_start = result
            before = result
        refused = action.end is not None and action.end != result
        low, high = page_up(before), page_up(result)
        if high > low:
            self.known.assign(low, high, True)
            return Effect((low, high), gained=((low, high),), reproducible=not refused)
        if high < low:
            return Effect((high, low), lost=self._unmap((high, low)), reproducible=not refused)
        return Effect(reproducible=not refused)

    # -- knowledge -------------------------------------------------------------------

    def _need(self, pages: Range, *, file: bool) -> bool:
        """The pages were mapped before the call: premap what is unknown; whether that explains the call."""
        source: AddressSpace = self
        while source.origin == "fork" and source.parent is not None:
            source = source.parent
        for start, end in self.known.gaps(*pages):
            for low, high in source.premaps.gaps(start, end):
                source.premaps.assign(low, high, file)
            self.known.assign(start, end, True)
        return all(there for _, _, there in self.known.pieces(*pages))

    def _unmap(self, pages: Range) -> tuple[Range, ...]:
        lost = self.mapped(pages)
        self.known.assign(*pages, False)
        return lost

    def _failed(self, action: Action, errno: str) -> Effect:
        """A failed call changes nothing; say whether its arguments or the known memory explain the error."""
        match action:
            case Mmap():
                pages = pages_of(action.address, action.length)
                taken = "MAP_FIXED_NOREPLACE" in action.flags and bool(self.mapped(pages))
                expected = "EINVAL" if not action.length else "EEXIST" if taken else ""
                return Effect(pages, reproducible=errno == expected)
            case Mremap():
                pages = pages_of(action.old_address, action.old_length)
                return Effect(pages, reproducible=errno == self._mremap_error(action, pages))
            case Munmap() | Mprotect() | Madvise():
                pages = pages_of(action.address, action.length)
                invalid = action.address % PAGE != 0 or (isinstance(action, Munmap) and not action.length)
                hole = not isinstance(action, Munmap) and not self._whole(pages)
                expected = "EINVAL" if invalid else "ENOMEM" if hole else ""
                return Effect(pages, reproducible=errno == expected)
        return Effect()

    def _mremap_error(self, action: Mremap, old: Range) -> str:
        """The error that arguments and known memory lead to, in the order of the kernel's checks; none if unknown."""
        if action.old_address % PAGE or not action.new_length:
            return "EINVAL"
        if "MREMAP_FIXED" in action.flags and action.new_address is not None:
            new = pages_of(action.new_address, action.new_length)
            if action.new_address % PAGE or (new[0] < old[1] and old[0] < new[1]):
                return "EINVAL"
        if not self._whole(old):
            return "EFAULT"
        grown = (old[1], page_up(action.old_address + action.new_length))
        stays = "MREMAP_MAYMOVE" not in action.flags
        return "ENOMEM" if stays and grown[0] < grown[1] and self.mapped(grown) else ""

    def _whole(self, pages: Range) -> bool:
        return sum(end - start for start, end in self.mapped(pages)) == pages[1] - pages[0]
