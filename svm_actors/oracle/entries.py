"""Leaf entries change only as their owners may change them (core_mm section 14; INV-25, INV-27, INV-33, INV-36).

* INV-25: an entry loses its page or a permission only between the start and the end of an event that covers it:
  else a device goes on with what the CPU has lost.
* INV-27: what a migration restores names the target where the move was committed and the source where it was not, and
  permits no more than the migration entry did.
* INV-33: nothing new is mapped in an address space that nobody uses any more.
* INV-36: mremap moves the very entry; none is left at the old place.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.events import EntryChanged, FolioMigrated, RangeChanged, RangeChanging
from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import InvalidateEnded, InvalidateReturned, NotifierRange
from svm_actors.mm.page_table import Entry, Pte


class Entries:
    """Listens to every change of an entry."""

    name = "entries"
    hears = (EntryChanged, FolioMigrated, InvalidateEnded, InvalidateReturned, RangeChanged, RangeChanging)

    def __init__(self) -> None:
        self.open: dict[Mm, list[NotifierRange]] = {}
        """Events between the return of their start and their end."""
        self.moving: list[RangeChanging] = []
        """Calls of mremap under way."""
        self.in_flight: tuple[Mm, int, Pte] | None = None
        """An entry that mremap has taken up: where it must be put down, and what it is."""
        self.moved: dict[tuple[int, int], Folio] = {}
        """Where the content of a page has gone, by frame and generation."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is EntryChanged:
            self._changed(event)
        elif kind is FolioMigrated:
            if event.source is not None:
                self.moved[event.source.pfn, event.source.generation] = event.target
        elif kind is InvalidateReturned:
            self.open.setdefault(event.range.mm, []).append(event.range)
        elif kind is InvalidateEnded:
            self._ended(event.range)
        elif event.what == "move":
            self._mremap(event)

    def _fail(self, rule: str, event: EntryChanged, text: str) -> None:
        raise PropertyFailed(self.name, rule, f"{event.mm.name} page {event.vpn:#x}: {text}")

    def _ended(self, range_: NotifierRange) -> None:
        self.open[range_.mm] = [each for each in self.open.get(range_.mm, ()) if each is not range_]

    def _changed(self, event: EntryChanged) -> None:
        old, new = event.old, event.new
        if self.moving:
            self._moved(event)
        if old is not None and old.is_mapping:
            self._covered(event, old, new)
        elif new is not None and new.is_mapping:
            if old is not None and old.kind is Entry.MIGRATION:
                self._restored(event, old, new)
            elif event.mm.users <= 0 and not self.moving:
                self._fail("INV-33", event, "a page is mapped, and nobody uses the address space any more")

    # -- one change ------------------------------------------------------------------------------

    def _covered(self, event: EntryChanged, old: Pte, new: Pte | None) -> None:
        """INV-25."""
        if new is not None and not is_less(old, new):
            return
        if not any(each.start <= event.vpn < each.end for each in self.open.get(event.mm, ())):
            state = "is gone" if new is None else f"is {new.kind.value}"
            self._fail("INV-25", event, f"the entry was {old.kind.value}, {state} now, and nobody was told")

    def _restored(self, event: EntryChanged, old: Pte, new: Pte) -> None:
        """INV-27: the survivor, with no more permission than the migration entry left it."""
        source: Folio = old.folio
        survivor = self.moved.get((source.pfn, source.generation), source)
        if new.folio is not survivor:
            text = f"{source.name} comes back as {new.folio.name}, its content is in {survivor.name}"
            self._fail("INV-27", event, text)
        if new.writable and not old.writable:
            self._fail("INV-27", event, f"{new.folio.name} comes back writable from an entry that was not")

    # -- mremap ----------------------------------------------------------------------------------

    def _moved(self, event: EntryChanged) -> None:
        """INV-36: what was taken up is put down by the very next change."""
        if self.in_flight is not None:
            mm, vpn, pte = self.in_flight
            if event.mm is not mm or event.vpn != vpn or event.new != pte:
                self._fail("INV-36", event, f"mremap has taken {pte.folio.name} up and put something else down")
            self.in_flight = None
            return
        if event.new is None and event.old is not None:
            for call in self.moving:
                if call.mm is event.mm and call.start <= event.vpn < call.end:
                    self.in_flight = (event.mm, event.vpn - call.start + call.to_start, event.old)

    def _mremap(self, event: RangeChanging | RangeChanged) -> None:
        if isinstance(event, RangeChanging):
            self.moving.append(event)
            return
        ended = (event.mm, event.start, event.end, event.to_start)
        self.moving = [call for call in self.moving if (call.mm, call.start, call.end, call.to_start) != ended]
        table = event.mm.page_table
        for index in table.tables(event.start, event.end):
            for vpn, pte in table.entries(index, event.start, event.end):
                text = f"{event.mm.name} page {vpn:#x}: {pte.folio.name} is still at the old place"
                raise PropertyFailed(self.name, "INV-36", text)


def is_less(old: Pte, new: Pte) -> bool:
    """The new entry names another page, or lets less be done with it."""
    if not new.is_mapping or new.folio is not old.folio:
        return True
    return (old.writable and not new.writable) or (new.protnone and not old.protnone)
