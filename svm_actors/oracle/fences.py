"""What was promised is kept, in order (INV-FEN-02, INV-FEN-10, INV-VMB-04, INV-VMB-09).

Everything published, in a reservation or a syncobj, is booked by its timeline.  A fence that is signaled
while an earlier one of its context is not breaks the contract that containers and slots squash by.  When
the scenario is at rest, a job's fence that nobody has signaled is looked at once more: somebody must still
be able to.  When the world is closed every promise must have been kept.

A fence with an error is exempt from the order: what could not be put on the hardware ends at once
(see :mod:`svm_actors.drm.sched_invariants`).  A lazy fence, as a preempt fence is one, may stay unsignaled
until somebody asks.
"""

from __future__ import annotations

from typing import Any

from svm_actors.dma_buf.events import FencePublished
from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.seqno import is_later
from svm_actors.engine.errors import PropertyFailed

ORACLE = "fences"


class Promises:
    """The books of all published fences that are not signaled."""

    name = ORACLE
    hears = (FencePublished,)

    def __init__(self) -> None:
        self.timelines: dict[int, dict[Fence, str]] = {}
        """By context: fences published and not known to be signaled, with where they can be found."""

    def __call__(self, event: Any) -> None:
        """The listener."""
        if type(event) is FencePublished:
            self.book(event.fence, event.place)

    def book(self, fence: Fence, place: str) -> None:
        """A promise is made; a look at its timeline costs little, as most of it is through."""
        timeline = self.timelines.setdefault(fence.context, {})
        timeline.setdefault(fence, place)
        self.check_timeline(fence.context)

    def check_timeline(self, context: int) -> None:
        """INV-FEN-02, INV-VMB-09: nobody overtakes; those through are forgotten."""
        timeline = self.timelines[context]
        done = [fence for fence in timeline if is_through(fence)]
        for fence in done:
            del timeline[fence]
        if not context:
            return  # nobody's timeline: no order is promised
        for late in done:
            early = next((one for one in timeline if is_later(late, one)), None)
            if early is not None and late.error is None:
                text = f"{late.name} is signaled, {early.name}, before it on the same timeline, is not"
                raise PropertyFailed(ORACLE, "INV-FEN-02", text)

    def at_rest(self) -> None:
        """Nothing moves: the order holds everywhere."""
        for context in self.timelines:
            self.check_timeline(context)

    def at_close(self) -> None:
        """INV-FEN-10, INV-VMB-04: everything is torn down, so nobody will signal what is not signaled now."""
        self.at_rest()
        for timeline in self.timelines.values():
            for fence, place in timeline.items():
                if not is_through(fence):
                    raise PropertyFailed(ORACLE, "INV-FEN-10", f"{fence.name}, published in {place}, is never signaled")


def is_through(fence: Fence) -> bool:
    """Signaled, or a poll would find that it is: an oracle does not signal what it looks at.

    Nobody waits for a container that nobody refers to any more; what it was made of is a promise of its own.
    """
    return fence.signaled or (fence.container and fence.refs == 0) or fence.ops_signaled()
