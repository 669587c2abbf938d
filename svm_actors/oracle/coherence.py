"""Coherence: a read returns a write that was not definitely overwritten (INV-14, INV-15, INV-17, INV-36, RULE-46).

The oracle keeps, for every byte ever written, the set of values a read may return.  In quiet times
the set has one member.  While a system call changes a range (munmap, DONTNEED, mremap, fork ...) the
order of a concurrent access and the change is open, so old value, new value and zero are all legal,
and what was written meanwhile may or may not survive.  Untouched memory reads zero: a fresh mapping
showing anything else is another process's data.

Anonymous memory is keyed by (mm, page), page-cache memory by (object, index).

The mirror device filters its own migrations, so it may touch a page that is being moved (traps
HM-D02, HM-D03).  Such an access is judged by what the CPU entry says at that moment: on a page in
migration it may or may not survive, on a page that is no longer the one mapped it has no effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sortedcontainers import SortedDict

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.events import GpuAccess
from svm_actors.mirror.mirror import MirrorAccess
from svm_actors.mm.constants import PAGE_SIZE, Vm
from svm_actors.mm.events import CpuAccess, MmExited, RangeChanged, RangeChanging
from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry

Values = frozenset[int]
_ZERO: Values = frozenset({0})
_MAX_CHANGES = 64
_STRIDE = 64
"""Bytes compared at once; divides the page."""


def parted(data: bytes) -> tuple[int, list[int]]:
    """The value most bytes have, and where the others are: what a whole page costs depends on these alone."""
    if data.count(data[:1]) == len(data):
        return data[0], []
    fill = max(sorted(set(data)), key=data.count)
    blank = bytes((fill,)) * _STRIDE
    strides = [start for start in range(0, len(data), _STRIDE) if data[start : start + _STRIDE] != blank]
    return fill, [index for start in strides for index in range(start, start + _STRIDE) if data[index] != fill]


class PageValues:
    """What each byte of a page may read as."""

    __slots__ = ("base", "known")

    def __init__(self, base: Values = _ZERO, known: dict[int, Values] | None = None) -> None:
        self.base = base
        """For bytes without an entry of their own."""
        self.known = known if known is not None else {}

    def copy(self) -> PageValues:
        """An independent copy."""
        return PageValues(self.base, dict(self.known))

    def at(self, offset: int) -> Values:
        """Legal values of one byte."""
        return self.known.get(offset, self.base)

    def write(self, offset: int, data: bytes) -> None:
        """A store that is now the only legal value."""
        if len(data) == PAGE_SIZE:
            fill, rest = parted(data)
            self.base, self.known = frozenset({fill}), {index: frozenset({data[index]}) for index in rest}
            return
        for index, value in enumerate(data, offset):
            self.known[index] = frozenset({value})

    def may(self, offset: int, data: bytes) -> None:
        """A store that may or may not be what a read sees."""
        if len(data) == PAGE_SIZE:
            fill, rest = parted(data)
            offsets = [*self.known, *(index for index in rest if index not in self.known)]
            self.known = {index: self.at(index) | {data[index]} for index in offsets}
            self.base |= {fill}
            return
        for index, value in enumerate(data, offset):
            self.known[index] = self.at(index) | {value}

    def may_be_zero(self) -> None:
        """Every byte may also read zero."""
        self.base |= _ZERO
        self.known = {index: values | _ZERO for index, values in self.known.items()}


class Change:
    """A system call in progress over a range, with the stores that raced it."""

    def __init__(self, event: RangeChanging) -> None:
        self.event = event
        self.raced: list[tuple[int, int, bytes]] = []
        """(page offset in the range, byte offset, data)."""

    def place(self, vpn: int) -> int | None:
        """Offset of a page in the range, old or new place; None when outside."""
        event = self.event
        if event.start <= vpn < event.end:
            return vpn - event.start
        if event.what == "move" and event.to_start <= vpn < event.to_start + event.end - event.start:
            return vpn - event.to_start
        return None

    def matches(self, event: RangeChanged) -> bool:
        """True when ``event`` ends this change."""
        mine = self.event
        return (mine.mm, mine.start, mine.end, mine.what, mine.to_start) == (
            event.mm,
            event.start,
            event.end,
            event.what,
            event.to_start,
        ) and mine.to_mm is event.to_mm


class Coherence:
    """Listens to accesses and system calls; raises at the first read that returns an illegal value (RULE-46)."""

    name = "coherence"
    hears = (CpuAccess, GpuAccess, MirrorAccess, MmExited, RangeChanged, RangeChanging)

    def __init__(self, world: Any) -> None:
        self.world = world
        self.memory: dict[str, SortedDict] = {}
        self.cache: dict[tuple[str, int], PageValues] = {}
        self.changes: list[Change] = []

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is CpuAccess:
            self.access(event.mm, event.vpn, event.folio, event.offset, event.data, event.write, "CPU")
        elif kind is GpuAccess:
            self._gpu(event)
        elif kind is MirrorAccess:
            self._mirror(event)
        elif kind is RangeChanging:
            self._begin(event)
        elif kind is RangeChanged:
            self._end(event)
        elif kind is MmExited:
            self.memory.pop(event.mm.name, None)

    # -- accesses --------------------------------------------------------------------

    def _gpu(self, event: GpuAccess) -> None:
        mm, vpn = self.world.mm_of_asid(event.gpu, event.asid), event.vpn
        if mm is None:
            place = self.world.userptr_place(event.gpu, event.asid, event.folio, vpn)
            if place is None:
                return
            mm, vpn = place
        if event.old is not None:
            self.access(mm, vpn, event.folio, event.offset, event.old, False, event.gpu)
        self.access(mm, vpn, event.folio, event.offset, event.data, event.write, event.gpu)

    def _mirror(self, event: MirrorAccess) -> None:
        mm, who = event.mirror.mm, event.mirror.name
        data = event.content.read(0, PAGE_SIZE if event.write else 1)
        state = authority(mm, event.vpn, event.folio)
        if state == "stale":
            self.world.engine.count("HM-D02")
        elif state == "moving":
            self.world.engine.count("HM-D03")
            if event.write:
                self._page(mm, event.vpn, event.folio).may(0, data)
        else:
            self.access(mm, event.vpn, event.folio, 0, data, event.write, who)

    def access(
        self, mm: Mm, vpn: int, folio: Folio, offset: int, data: bytes, write: bool, who: str
    ) -> None:
        """Judge a load, book a store."""
        page = self._page(mm, vpn, folio)
        if not write:
            self._check(page, mm, vpn, offset, data, who)
            return
        private = folio.mapping is None
        racing = [change for change in self.changes if change.event.mm is mm and change.place(vpn) is not None]
        unstable = False
        for change in racing if private else ():
            place = change.place(vpn)
            assert place is not None
            change.raced.append((place, offset, data))
            if change.event.what != "fork":
                unstable = True
                if change.event.what == "move":
                    self._of(mm, change.event.to_start + place).may(offset, data)  # the entry may yet take it along
            elif change.event.to_mm is not None:
                self._of(change.event.to_mm, vpn).may(offset, data)
        if unstable:
            page.may(offset, data)
            page.may_be_zero()
        else:
            page.write(offset, data)

    def _check(self, page: PageValues, mm: Mm, vpn: int, offset: int, data: bytes, who: str) -> None:
        for index, value in enumerate(data, offset):
            legal = page.at(index)
            if value not in legal:
                raise PropertyFailed(
                    self.name,
                    "INV-14",
                    f"{who} reads {value} at {mm.name} page {vpn:#x} byte {index}, legal: {_list(legal)}",
                )

    def _page(self, mm: Mm, vpn: int, folio: Folio) -> PageValues:
        if folio.mapping is not None:
            return self.cache.setdefault((folio.mapping.name, folio.index), PageValues())
        return self._of(mm, vpn)

    def _of(self, mm: Mm, vpn: int) -> PageValues:
        pages = self.memory.get(mm.name)
        if pages is None:
            pages = self.memory[mm.name] = SortedDict()
        page = pages.get(vpn)
        if page is None:
            page = pages[vpn] = self._first_seen(mm, vpn)
        return page  # type: ignore[no-any-return]

    def _first_seen(self, mm: Mm, vpn: int) -> PageValues:
        """A private page of a file mapping begins as a copy of the file's page, else as zeros."""
        vma = mm.vmas.find(vpn)
        if vma is None or vma.file is None:
            return PageValues()
        source = self.cache.get((vma.file.name, vma.offset_of(vpn)))
        return source.copy() if source is not None else PageValues()

    # -- changes ---------------------------------------------------------------------

    def _tracked(self, mm: Mm, start: int, end: int) -> list[int]:
        pages = self.memory.get(mm.name)
        return [] if pages is None else list(pages.irange(start, end - 1))

    def _begin(self, event: RangeChanging) -> None:
        change = Change(event)
        self.changes.append(change)
        if len(self.changes) > _MAX_CHANGES:
            raise PropertyFailed(self.name, "INV-19", "more than 64 range changes in progress: ends are missing")
        tracked = self._tracked(event.mm, event.start, event.end)
        if event.what == "fork":
            assert event.to_mm is not None
            pages = self.memory[event.mm.name] if tracked else {}
            self.memory[event.to_mm.name] = SortedDict({vpn: pages[vpn].copy() for vpn in tracked})
            return
        if event.what == "move":
            self._show_at_new_place(event, tracked)
        for vpn in tracked:
            self.memory[event.mm.name][vpn].may_be_zero()
            for child in self._children_in_the_making(event.mm):
                self._of(child, vpn).may_be_zero()

    def _children_in_the_making(self, mm: Mm) -> list[Mm]:
        """Where a fork in progress copies to: it takes each page before or after what happens meanwhile."""
        forks = [change.event for change in self.changes if change.event.mm is mm and change.event.what == "fork"]
        return [fork.to_mm for fork in forks if fork.to_mm is not None]

    def _show_at_new_place(self, event: RangeChanging, tracked: Iterable[int]) -> None:
        pages = self.memory.get(event.mm.name)
        if pages is not None:
            copies = {vpn - event.start + event.to_start: pages[vpn].copy() for vpn in tracked}
            pages.update(copies)

    def _end(self, event: RangeChanged) -> None:
        change = next(change for change in self.changes if change.matches(event))
        self.changes.remove(change)
        if event.what == "fork":
            self._forked(event)
        elif event.what == "move":
            self._moved(change)
        elif event.what == "free":
            pass  # old contents or zeros: what the beginning already said
        else:
            self._emptied(change)

    def _forked(self, event: RangeChanged) -> None:
        child = event.to_mm
        assert child is not None
        for vma in child.vmas:
            if vma.flags & Vm.WIPEONFORK:
                for vpn in self._tracked(child, vma.start, vma.end):
                    self.memory[child.name][vpn] = PageValues()

    def _emptied(self, change: Change) -> None:
        """Zero, or what raced the change."""
        event = change.event
        pages = self.memory.get(event.mm.name)
        for vpn in self._tracked(event.mm, event.start, event.end):
            assert pages is not None
            del pages[vpn]
        for place, offset, data in change.raced:
            self._of(event.mm, event.start + place).may(offset, data)

    def _moved(self, change: Change) -> None:
        """The new place has what the old one had, or what raced the move; the old place is empty."""
        event = change.event
        pages = self.memory.get(event.mm.name)
        for place, offset, data in change.raced:
            self._of(event.mm, event.to_start + place).may(offset, data)
        for vpn in self._tracked(event.mm, event.start, event.end):
            assert pages is not None
            if not event.to_start <= vpn < event.to_start + event.end - event.start:
                del pages[vpn]


def authority(mm: Mm, vpn: int, folio: Folio) -> str:
    """Is ``folio`` where the data of this page lives?  ``yes``, ``moving`` or ``stale``."""
    pte = mm.page_table.get(vpn)
    if pte is None:
        return "moving"
    if pte.kind is Entry.MIGRATION:
        return "moving"
    if pte.kind is Entry.SWAP:
        return "stale"
    holder = pte.folio.zone_device_data if pte.kind is Entry.DEVICE_PRIVATE else pte.folio
    return "yes" if holder is folio else "stale"


def _list(values: Values) -> str:
    return ", ".join(str(value) for value in sorted(values))
