"""The job queue of an entity: one producer, one consumer, no lock (spsc_queue.h; section 8.1).

The producer is whoever pushes, kept alone by the driver's lock; the consumer is the scheduler's worker,
or whoever kills the entity once the worker has let go of it.  What must not be torn apart is the count
and the list: the worker looks at the count to see whether there is anything, and only the push that finds
the list empty wakes it (FEN-R15).

Simplified: claiming the tail and linking the node are one op.  The kernel does them with preemption off,
and a consumer that meets the gap spins until it is closed, so it sees the same as here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from svm_actors.engine.errors import PropertyFailed

if TYPE_CHECKING:
    from svm_actors.drm.sched_job import SchedJob
    from svm_actors.engine.engine import Engine


class JobQueue:
    """First in, first out."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.count = 0
        """Jobs announced; never less than those linked."""
        self._jobs: deque[SchedJob] = deque()
        self._pushing = False

    async def push(self, job: SchedJob) -> bool:
        """Count, then link (FEN-R15, FEN-B08); True when the list was empty, so that the worker must be told."""
        if self._pushing:
            raise PropertyFailed("sched", "FEN-R14", f"two threads push to {self.name} at a time")
        self._pushing = True
        await self.engine.step("write", self, "count")
        self.announce()
        await self.engine.step("write", self, "link")
        first = self.link(job)
        self._pushing = False
        return first

    def announce(self) -> None:
        """Raise the count."""
        self.count += 1

    def link(self, job: SchedJob) -> bool:
        """Put the job where the consumer finds it; True when the list was empty."""
        self._jobs.append(job)
        return len(self._jobs) == 1

    def peek(self) -> SchedJob | None:
        """The oldest job."""
        return self._jobs[0] if self._jobs else None

    def pop(self) -> SchedJob:
        """Take the oldest job out; there must be one, or somebody else is at it."""
        if not self._jobs:
            raise PropertyFailed("lifetime", "INV-FEN-08", f"two consumers take jobs out of {self.name}")
        self.count -= 1
        return self._jobs.popleft()

    def __len__(self) -> int:
        return len(self._jobs)
