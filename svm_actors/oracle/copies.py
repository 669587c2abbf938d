"""What a page holds goes along with it, and nothing of a move is left behind (core_mm 14, pagemap 9).

* INV-15: when a migration commits, the target holds what the source holds.
* INV-16: what reclaim gives away is what the swap slot holds: nobody has written without leaving a dirty bit.
* INV-26: at the commit the target is locked, up to date and held by the migration alone; one that was not
  committed is free when the migration is over.
* INV-09, RULE-44: a migration that is over has left no migration entry of its page, and neither lock nor reference.
* INV-30, RULE-13, RULE-42: what the data pointer of a device page leads to is the same at every move.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mirror.memory import backing_of
from svm_actors.mm.events import EntryChanged, FolioMigrated, MigrationOver, SwappedOut
from svm_actors.mm.folio import Folio
from svm_actors.mm.page_table import Entry, Pte

OF_THE_PAGE = ("map", "pagecache", "swapcache")
"""References that are handed from the source to the target, or that a new entry has."""


class Copies:
    """Listens to commits, to the end of migrations, and to reclaim."""

    name = "copies"
    hears = (EntryChanged, FolioMigrated, MigrationOver, SwappedOut)

    def __init__(self) -> None:
        self.migrating: Counter[tuple[int, int]] = Counter()
        """Migration entries by the page they name."""
        self.data: dict[tuple[int, int], object] = {}
        """What the data pointer of a device page led to when it was first seen."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is EntryChanged:
            self._entry(event.old, -1)
            self._entry(event.new, 1)
        elif kind is FolioMigrated:
            self._committed(event)
        elif kind is MigrationOver:
            self._over(event)
        else:
            self._swapped_out(event)

    def _fail(self, rule: str, text: str) -> None:
        raise PropertyFailed(self.name, rule, text)

    def _entry(self, pte: Pte | None, change: int) -> None:
        if pte is not None and pte.kind is Entry.MIGRATION:
            self.migrating[identity(pte.folio)] += change

    def _committed(self, event: FolioMigrated) -> None:
        source, target = event.source, event.target
        if not target.lock.locked or not target.uptodate:
            self._fail("INV-26", f"{target!r} becomes the page, and is not locked and up to date")
        others = {reason: count for reason, count in target.refs.items() if reason not in OF_THE_PAGE}
        if others != {"dst": 1}:
            self._fail("INV-26", f"{target!r} becomes the page, and the migration is not alone with it")
        if source is not None and content_of(source) != content_of(target):
            self._fail("INV-15", f"{target.name} becomes the page, and does not hold what {source.name} holds")
        self._constant(source)
        self._constant(target)

    def _constant(self, folio: Folio | None) -> None:
        """INV-30, RULE-13, RULE-42."""
        if folio is None or not folio.is_device_private:
            return
        if self.data.setdefault(identity(folio), folio.zone_device_data) is not folio.zone_device_data:
            self._fail("INV-30", f"the data pointer of {folio.name} leads elsewhere than when it was made")

    def _over(self, event: MigrationOver) -> None:
        source, target = event.source, event.target
        if target is not None and not event.committed and not target.freed:
            self._fail("INV-26", f"{target!r} was not needed, and is not free")
        if source is not None:
            self._left_behind(source, event)
        if target is not None and target.lock.held_by_me():
            self._fail("RULE-44", f"{target!r} is still locked by a migration that is over")

    def _left_behind(self, source: Folio, event: MigrationOver) -> None:
        if event.committed and self.migrating[identity(source)]:
            self._fail("INV-09", f"{source!r} has gone to {event.target!r}, and an entry still waits for it")
        if not event.committed and self.migrating[identity(source)] and not source.lock.locked:
            self._fail("INV-09", f"{source!r} has not moved, and an entry still waits for it")
        if source.lock.held_by_me() is not event.by_fault:
            self._fail("RULE-44", f"a migration that is over has left {source!r} locked, or unlocked it for the fault")

    def _swapped_out(self, event: SwappedOut) -> None:
        """INV-16."""
        if event.slot.content != event.folio.content:
            self._fail("INV-16", f"{event.folio.name} is dropped as clean, and {event.slot.name} holds something else")


def identity(folio: Folio) -> tuple[int, int]:
    """Which page it is, of all that were ever in this frame."""
    return folio.pfn, folio.generation


def content_of(folio: Folio) -> Any:
    """What a page holds; those of a mirror device hold nothing themselves, but the page behind them."""
    return backing_of(folio).content if isinstance(folio.zone_device_data, Folio) and folio.pgmap else folio.content
