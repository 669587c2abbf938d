"""Deviations of reservations: slots, polls, and readers without the lock (fences_and_scheduler 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.resv import MIN_SLOTS, DmaResv, ResvCursor, Slot, Usage
from svm_actors.dma_buf.seqno import same_context

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence

JIFFY: Final = 4_000_000
"""Virtual ns."""


def same_timeline_is_enough(old: Slot, fence: Fence, usage: Usage) -> bool:
    """The one that is added is the newer one, as a rule."""
    return old.fence.is_signaled() or (old.usage >= usage and same_context(old.fence, fence))


def at_least_a_jiffy(timeout: int) -> int:
    """No wait without any time."""
    return timeout or JIFFY


def readers_before_writers(resv: DmaResv, usage: Usage) -> bool:
    """Whoever reads has waited for the writer, so with readers there the writer need not be looked at."""
    pending = resv.unsignaled(usage)
    readers = [slot.fence for slot in resv.fences.slots if slot.usage > Usage.WRITE]
    return not [fence for fence in pending if fence in readers] if readers else not pending


def some_room(resv: DmaResv, _n: int, wanted: int) -> int:
    """The first array has the usual size."""
    old = resv.fences.max_fences
    return max(wanted, old * 2) if old else MIN_SLOTS


def borrow(_resv: DmaResv, _fence: Fence) -> None:
    """Whoever adds it holds it, as it seems."""


def never_stale(_cursor: ResvCursor) -> bool:
    """Walks on in the array it began with."""
    return False


FEN_B01 = Bug(
    id="FEN-B01",
    title="a fence takes the slot of another one of its timeline without a look which one is later",
    removes="DmaResv.may_replace",
    races=(),
    oracles=("reservations/INV-FEN-12",),
    story="resv-two-of-a-timeline",
    plant=replace_guard(DmaResv, "may_replace", staticmethod(same_timeline_is_enough)),
)

FEN_B02 = Bug(
    id="FEN-B02",
    title="a wait with no timeout left sleeps for a jiffy, so that a poll blocks",
    removes="DmaResv.time_for",
    races=(),
    oracles=("caller/FEN-B02",),
    story="resv-poll",
    plant=replace_guard(DmaResv, "time_for", staticmethod(at_least_a_jiffy)),
)

FEN_B03 = Bug(
    id="FEN-B03",
    title="whether a buffer is idle is asked of its readers only, where there are some",
    removes="DmaResv.test_signaled",
    races=(),
    oracles=("caller/INV-FEN-12",),
    story="resv-writer-and-readers",
    plant=replace_guard(DmaResv, "test_signaled", readers_before_writers),
)

FEN_B04 = Bug(
    id="FEN-B04",
    title="how many slots are wanted is not looked at when the first array is made",
    removes="DmaResv.room_for",
    races=(),
    oracles=("resv/INV-FEN-04",),
    story="resv-many-slots",
    plant=replace_guard(DmaResv, "room_for", some_room),
)

FEN_B29 = Bug(
    id="FEN-B29",
    title="a fence is published without a reference of the reservation's own",
    removes="DmaResv.hold",
    races=("FEN-R05",),
    oracles=("lifetime/FEN-R05",),
    story="resv-many-slots",
    plant=replace_guard(DmaResv, "hold", borrow),
)

FEN_R10 = Bug(
    id="FEN-R10",
    title="a reader without the lock goes on in an array of slots that has been replaced",
    removes="ResvCursor.is_stale",
    races=("FEN-R10",),
    oracles=("lifetime/FEN-R05",),
    story="resv-reader-and-writer",
    plant=replace_guard(ResvCursor, "is_stale", never_stale),
)
