"""MM-B05, MM-R04, MM-R05, MM-R06: subscriptions that come and go during an invalidation (core_mm section 6)."""

from __future__ import annotations

from typing import Any

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.engine.locks import WaitQueue
from svm_actors.mm.mmu_notifier import IntervalNotifier, MmuNotifierSubscriptions

STORY = "subscribe-during-invalidations"


# -- insert ---------------------------------------------------------------------------------


def past_seq(self: MmuNotifierSubscriptions) -> int:
    """As if the period under way had not been there: its readers do not wait, and nobody calls them back."""
    return self.sequence.value - 2


MM_R05 = Bug(
    id="MM-R05",
    title="a subscription made during an invalidation starts with a sequence of the past",
    removes="MmuNotifierSubscriptions.seq_of_deferred",
    races=("MM-R05",),
    oracles=("lifetime/INV-05", "coherence/INV-14", "structure/INV-03", "ranges/RULE-18"),
    story=STORY,
    plant=replace_guard(MmuNotifierSubscriptions, "seq_of_deferred", past_seq),
)


# -- remove ---------------------------------------------------------------------------------


def detach_at_once(self: MmuNotifierSubscriptions, sub: IntervalNotifier) -> None:
    """Out of the tree, whoever is calling it; a pending insert is dropped as it should be."""
    place = self.tree if sub.subscribed else self.deferred
    place.remove(sub)
    sub.subscribed = False


MM_R06 = Bug(
    id="MM-R06",
    title="a subscription is taken away without waiting for the callbacks under way",
    removes="MmuNotifierSubscriptions.detach",
    races=("MM-R06",),
    oracles=("invalidation/INV-22", "two_pass/INV-22"),
    story=STORY,
    plant=replace_guard(MmuNotifierSubscriptions, "detach", detach_at_once),
)


def value_before_list(original: type[MmuNotifierSubscriptions]) -> type[MmuNotifierSubscriptions]:
    """Removers look at the value without the lock, under which it changes before the deferred list is done.

    The spinlock keeps everybody else out of that moment, so it gets a gate here.  A sleeper may be woken for any
    reason, and looks then.
    """

    class LocklessRemove(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.ending = False
            self.gate = WaitQueue(self.engine, f"{self.name}.lock")

        async def section(self, what: str) -> None:
            await self.gate.wait_event(lambda: not self.ending)

        async def open_even_period(self) -> None:
            if self.sequence.active == 1 and self.sequence.value & 1:
                self.ending = True
                self.sequence.wake()
                await self.engine.step("seq_write", self, "deferred list")
                self.ending = False
                self.gate.wake_up()
            await super().open_even_period()

        async def wait_removed(self, value: int) -> None:
            await self.sequence.queue.wait_event(lambda: self.ending or self.sequence.value != value)

    return LocklessRemove


MM_B05 = Bug(
    id="MM-B05",
    title="a remover tests the sequence without the lock and returns before the deferred list is done",
    removes="MmuNotifierSubscriptions.wait_removed",
    races=("MM-R06",),
    oracles=("invalidation/INV-22",),
    story=STORY,
    plant=replace_part(MmuNotifierSubscriptions, value_before_list),
)


# -- end of a region ------------------------------------------------------------------------


async def first_end_opens(self: MmuNotifierSubscriptions) -> None:
    """Whoever ends first lets the readers of all overlapping regions go on."""
    others = self.sequence.active - 1
    self.sequence.active = 1
    await settle(self)
    self.sequence.active = others


settle = MmuNotifierSubscriptions.open_even_period

MM_R04 = Bug(
    id="MM-R04",
    title="the first end of overlapping invalidations wakes the readers of all of them",
    removes="MmuNotifierSubscriptions.open_even_period",
    races=("MM-R04",),
    oracles=("invalidation", "lifetime/INV-05", "coherence/INV-14", "mirrors/INV-03", "structure/INV-03"),
    story="overlapping-invalidations",
    plant=replace_guard(MmuNotifierSubscriptions, "open_even_period", first_end_opens),
)
