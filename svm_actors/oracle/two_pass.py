"""Second passes of two-pass subscriptions (core_mm section 6; INV-22, INV-38, INV-39).

Every finish object is finished exactly once, after its first pass and before the start returns or the period ends;
it has one use at a time; its subscription is still there; and the first pass has moved the subscription's sequence
into the period, so that its readers wait until the second one is through.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import (
    FinishDone,
    FinishQueued,
    InvalidateEnded,
    InvalidateReturned,
    NotifierRange,
    NotifierRemoved,
    SecondPass,
)


class TwoPass:
    """Listens to the notifier protocol."""

    name = "two_pass"
    hears = (FinishDone, FinishQueued, InvalidateEnded, InvalidateReturned, NotifierRemoved)

    def __init__(self, world: Any) -> None:
        self.world = world
        self.open: list[SecondPass] = []
        """Queued and not done."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is FinishQueued:
            self._queued(event.item)
        elif kind is FinishDone:
            self.open.remove(event.item)
        elif kind in (InvalidateReturned, InvalidateEnded):
            self._none_left(event.range)
        elif kind is NotifierRemoved:
            self._not_under_way(event)

    def _fail(self, rule: str, mm: Mm, text: str) -> None:
        raise PropertyFailed(self.name, rule, f"{mm.name}: {text}")

    def _queued(self, item: SecondPass) -> None:
        mm = item.range.mm
        if any(other.finish is item.finish for other in self.open):
            self._fail("INV-38", mm, f"the finish object of {item.notifier.name} is in use for two events at once")
        if item.notifier.seq != item.seq:
            text = f"{item.notifier.name} leaves its second pass for later and its readers do not wait for it"
            self._fail("INV-39", mm, text)
        self.open.append(item)

    def _none_left(self, range_: NotifierRange) -> None:
        for item in self.open:
            if item.range is range_:
                self._fail("INV-38", range_.mm, f"the second pass of {item.notifier.name} is outstanding")

    def _not_under_way(self, event: NotifierRemoved) -> None:
        for item in self.open:
            if item.notifier is event.notifier:
                text = f"{item.notifier.name} is removed with its second pass outstanding"
                self._fail("INV-22", item.range.mm, text)
