"""Nothing that was added to a reservation is lost before it is signaled (INV-FEN-12, fences_and_scheduler 3).

Whoever asks a reservation for a usage relies on finding there everything of that usage that is not done.  A fence
may leave its slot only to one that completes no earlier: a later one of its own timeline, for a usage that nobody
asks for less.  So with every fence that is added the oracle looks whether those before it are still stood for.

A driver that replaces the fences of a context says by that that nobody has to wait for the old ones.
"""

from __future__ import annotations

from typing import Any

from svm_actors.dma_buf.events import FenceAdded, FencesReplaced
from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import DmaResv, Slot, Usage
from svm_actors.dma_buf.seqno import is_later_or_same, same_context
from svm_actors.engine.errors import PropertyFailed
from svm_actors.oracle.fences import is_through

ORACLE = "reservations"


class Reservations:
    """The books of what was added and is not signaled."""

    name = ORACLE
    hears = (FenceAdded, FencesReplaced)

    def __init__(self) -> None:
        self.added: dict[DmaResv, list[tuple[Fence, Usage]]] = {}

    def __call__(self, event: Any) -> None:
        """The listener."""
        if type(event) is FenceAdded:
            self.book(event.resv, event.fence, event.usage)
        elif type(event) is FencesReplaced:
            self.added[event.resv] = [one for one in self.added.get(event.resv, ()) if one[0].context != event.context]

    def book(self, resv: DmaResv, fence: Fence, usage: Usage) -> None:
        """One more; those that are through are forgotten."""
        left = [one for one in self.added.get(resv, ()) if not is_through(one[0])]
        for old, asked in left:
            if not any(stands_for(slot, old, asked) for slot in resv.fences.slots):
                text = f"{old.name} was added to {resv.name} as {asked.name} and is not signaled, but no slot says so"
                raise PropertyFailed(ORACLE, "INV-FEN-12", text)
        self.added[resv] = [*left, (fence, usage)]


def stands_for(slot: Slot, fence: Fence, usage: Usage) -> bool:
    """Whoever asks for this usage and waits for what is in the slot has waited for the fence."""
    if slot.usage > usage:
        return False
    return slot.fence is fence or (same_context(slot.fence, fence) and is_later_or_same(slot.fence, fence))
