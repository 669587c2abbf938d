"""Who is next among the entities of one run queue (fences_and_scheduler 8.1).

All policies use one tree ordered by a number; they differ in where the number comes from.

* FIFO, the default: the time at which the entity's oldest job was submitted.
* RR: a logical clock that ticks whenever an entity has had its turn.
* FAIR: GPU time used so far, scaled by priority; one run queue for all priorities.

Simplified: FAIR books GPU time when a job finishes, so what is on the hardware is not booked yet; the
kernel does the same.  An entity that comes back after a pause keeps what it has used, or gets what the
hindmost has; the kernel keeps the difference instead, and nudges it by priority.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from svm_actors.drm.sched_types import Priority

if TYPE_CHECKING:
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_job import SchedJob
    from svm_actors.drm.sched_rq import RunQueue

FAIR_SHIFT: Final = {Priority.KERNEL: 1, Priority.HIGH: 2, Priority.NORMAL: 4, Priority.LOW: 7}
"""Binary logarithm of what a nanosecond of GPU time costs an entity of this priority."""


class Policy(Protocol):
    """Gives each entity its place in the tree; the smallest number is served first."""

    priorities: bool
    """One run queue per priority; else one for all."""

    def place_new(self, rq: RunQueue, entity: SchedEntity, submit_ts: int) -> int:
        """Where an entity goes that had no job queued until now."""
        ...

    def place_again(self, rq: RunQueue, entity: SchedEntity, head: SchedJob) -> int:
        """Where it goes when one of its jobs was taken and ``head`` is the next."""
        ...

    def leave(self, rq: RunQueue, entity: SchedEntity) -> None:
        """It has no job left."""
        ...


class FifoPolicy:
    """Oldest job first."""

    priorities = True

    def place_new(self, rq: RunQueue, entity: SchedEntity, submit_ts: int) -> int:
        """By the time of the job just pushed."""
        return submit_ts

    def place_again(self, rq: RunQueue, entity: SchedEntity, head: SchedJob) -> int:
        """By the time of the next job."""
        return head.submit_ts

    def leave(self, rq: RunQueue, entity: SchedEntity) -> None:
        """Nothing to remember."""


class RoundRobinPolicy:
    """Whoever had its turn goes to the back."""

    priorities = True

    def place_new(self, rq: RunQueue, entity: SchedEntity, submit_ts: int) -> int:
        """Where its last turn put it: idling gives no advantage and no drawback."""
        return entity.rr_turn

    def place_again(self, rq: RunQueue, entity: SchedEntity, head: SchedJob) -> int:
        """Behind everybody."""
        rq.clock += 1
        entity.rr_turn = rq.clock
        return rq.clock

    def leave(self, rq: RunQueue, entity: SchedEntity) -> None:
        """It had its turn all the same."""
        rq.clock += 1
        entity.rr_turn = rq.clock


class FairPolicy:
    """Least GPU time first, weighted.  The run queue's clock is what the hindmost has used, and never goes back."""

    priorities = False

    def place_new(self, rq: RunQueue, entity: SchedEntity, submit_ts: int) -> int:
        """By what it has used, but nobody saves up by being idle."""
        self._charge(entity)
        entity.vruntime = max(entity.vruntime, rq.clock)
        return entity.vruntime

    def place_again(self, rq: RunQueue, entity: SchedEntity, head: SchedJob) -> int:
        """By what it has used until now."""
        self._charge(entity)
        rq.clock = max(rq.clock, min(entity.vruntime, rq.smallest(entity.vruntime)))
        return entity.vruntime

    def leave(self, rq: RunQueue, entity: SchedEntity) -> None:
        """The hindmost is among those who stay."""
        rq.clock = max(rq.clock, rq.smallest(rq.clock))

    def _charge(self, entity: SchedEntity) -> None:
        """Weighted GPU time since the last time this was asked."""
        stats = entity.stats
        fresh, stats.charged = stats.runtime - stats.charged, stats.runtime
        entity.vruntime += fresh << FAIR_SHIFT[entity.priority]


class SchedPolicy(Enum):
    """The policy of a scheduler."""

    FIFO = "fifo"
    RR = "rr"
    FAIR = "fair"


POLICIES: Final[dict[SchedPolicy, Callable[[], Policy]]] = {
    SchedPolicy.FIFO: FifoPolicy,
    SchedPolicy.RR: RoundRobinPolicy,
    SchedPolicy.FAIR: FairPolicy,
}
"""What implements each."""
