"""Deviations of the interval-notifier protocol around its second passes, and of what may change while they run."""

from __future__ import annotations

from typing import Any

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.mm.mmu_notifier import IntervalNotifier, MmuNotifierSubscriptions, NotifierRange, SecondPass
from svm_actors.xe.userptr import Userptr


def finishing_after_the_end(original: type[MmuNotifierSubscriptions]) -> type[MmuNotifierSubscriptions]:
    """A subclass that puts all second passes off until the period has ended."""

    class FinishesAfterTheEnd(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.put_off: list[SecondPass] = []

        async def finish_all(self, queued: list[SecondPass], refused: bool) -> None:
            self.put_off += queued

        async def invalidate_range_end(self, event: NotifierRange) -> None:
            await super().invalidate_range_end(event)
            mine = [item for item in self.put_off if item.range is event]
            self.put_off = [item for item in self.put_off if item.range is not event]
            await super().finish_all(mine, False)

    return FinishesAfterTheEnd


def none_after_a_refusal(original: type[MmuNotifierSubscriptions]) -> type[MmuNotifierSubscriptions]:
    """A subclass that drops what is queued when somebody refuses."""

    class NoneAfterARefusal(original):  # type: ignore[misc, valid-type]
        async def finish_all(self, queued: list[SecondPass], refused: bool) -> None:
            if not refused:
                await super().finish_all(queued, refused)

    return NoneAfterARefusal


def sequence_in_the_second_pass(original: type[Userptr]) -> type[Userptr]:
    """A subclass that makes its readers wait from the second pass on."""

    class SetsSequenceLate(original):  # type: ignore[misc, valid-type]
        late: int | None = None

        def store_sequence(self, seq: int) -> None:
            self.late = seq

        async def complete(self) -> None:
            await super().complete()
            if self.late is not None:
                self.notifier.set_seq(self.late)

    return SetsSequenceLate


def always_mine(userptr: Userptr) -> bool:
    """There is one finish object, and this callback needs it."""
    userptr.finish_in_use = True
    return True


async def until_called_back(subs: MmuNotifierSubscriptions, sub: IntervalNotifier) -> int:
    """Readers wait for the callback of their subscription, and it has returned."""
    await subs.engine.step("seq_read", subs, sub.name)
    seen = sub.seq
    if sub in subs.calling:
        await subs.sequence.wait_past(seen)
    return seen


async def no_wait(_subs: MmuNotifierSubscriptions, _value: int) -> None:
    """It is on the list; it will go."""


def into_the_tree(subs: MmuNotifierSubscriptions, sub: IntervalNotifier) -> None:
    """There is always a place in a tree; the sequence is one that no writer has any more."""
    sub.seq = (subs.sequence.value | 1) - 2
    subs._insert_now(sub)


MM_B66 = Bug(
    id="MM-B66",
    title="second passes of notifiers run after the invalidation has ended",
    removes="MmuNotifierSubscriptions.finish_all",
    races=("MM-R30", "MM-R31"),
    oracles=("two_pass/INV-38",),
    story="user-memory-dropped-twice",
    plant=replace_part(MmuNotifierSubscriptions, finishing_after_the_end),
)

MM_R31 = Bug(
    id="MM-R31",
    title="the second passes of subscribers that have agreed are skipped when a later one refuses",
    removes="MmuNotifierSubscriptions.finish_all",
    races=("MM-R31",),
    oracles=("two_pass/INV-38",),
    story="slow-devices-outlive-the-reaper",
    plant=replace_part(MmuNotifierSubscriptions, none_after_a_refusal),
)

MM_B67 = Bug(
    id="MM-B67",
    title="a two-pass subscription makes its readers wait from its second pass on only",
    removes="Userptr.store_sequence",
    races=("MM-R30", "VMB-R02"),
    oracles=("two_pass/INV-39", "lifetime", "coherence"),
    story="user-memory-dropped-twice",
    plant=replace_part(Userptr, sequence_in_the_second_pass),
)

MM_R30 = Bug(
    id="MM-R30",
    title="readers wait for the first pass of their subscription and not for the end of the invalidation",
    removes="MmuNotifierSubscriptions.read_begin",
    races=("MM-R30", "MM-R04"),
    oracles=("invalidation/INV-01", "lifetime", "mirrors", "coherence"),
    story="slow-device-reads-what-is-dropped",
    plant=replace_guard(MmuNotifierSubscriptions, "read_begin", until_called_back),
)

MM_B68 = Bug(
    id="MM-B68",
    title="two invalidations use the one finish object of a subscription at once",
    removes="Userptr.claim_finish",
    races=("MM-R32", "VMB-R18"),
    oracles=("two_pass/INV-38",),
    story="user-memory-dropped-twice",
    plant=replace_guard(Userptr, "claim_finish", always_mine),
)

MM_R33 = Bug(
    id="MM-R33",
    title="a two-pass subscription counts as removed while its second pass is outstanding",
    removes="MmuNotifierSubscriptions.wait_removed",
    races=("MM-R33", "MM-R06"),
    oracles=("two_pass/INV-22", "invalidation/INV-22"),
    story="user-memory-dropped-twice",
    plant=replace_guard(MmuNotifierSubscriptions, "wait_removed", no_wait),
)

MM_B52 = Bug(
    id="MM-B52",
    title="a subscription enters the tree in the middle of an odd period",
    removes="MmuNotifierSubscriptions.insert_locked",
    races=("MM-R05",),
    oracles=("invalidation/INV-21", "invalidation/INV-01", "lifetime", "mirrors", "coherence"),
    story="subscribe-during-invalidations",
    plant=replace_guard(MmuNotifierSubscriptions, "insert_locked", into_the_tree),
)
