"""The two fences of a job: ``scheduled`` and ``finished`` (fences_and_scheduler 8.2).

``scheduled`` says that the job is on the hardware, ``finished`` that it is done.  They live in two
contexts of the entity, c and c + 1, with one sequence number: both are promised when the job is armed,
long before there is a hardware fence, and both outlive the job.  They share one lock.

The hardware fence is ``parent``.  It is set before ``scheduled`` is signaled, so that who is woken by
the latter finds the former.

References, where they are counted: the job holds ``finished``, that one holds ``scheduled``, and that one
the hardware fence.

Simplified: the kernel allocates the pair when the job is made and fills it in when it is armed; here it
comes into being when it is armed, as nothing can refer to it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import Fence, FenceLock
from svm_actors.engine.errors import KernelError

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence_memory import FenceMemory
    from svm_actors.drm.sched import DrmSched
    from svm_actors.engine.engine import Engine


class SchedFencePart(Fence):
    """One of the two; knows the pair it belongs to."""

    __slots__ = ("pair",)

    pins_ops = True

    def __init__(
        self, engine: Engine, name: str, pair: SchedFence, context: int, seqno: int, memory: FenceMemory | None
    ) -> None:
        super().__init__(engine, name, context=context, seqno=seqno, memory=memory, lock=pair.lock)
        self.pair = pair

    def ops_release(self) -> None:
        """Let go of what this one holds."""
        held = self.pair.scheduled if self is self.pair.finished else self.pair.parent
        if held is not None:
            held.put()
        self.free()

    def ops_timeline_name(self) -> str:
        """That of the scheduler, which must still be there."""
        self.pair.sched.alive(f"the name of {self.name} is that of")
        return self.pair.sched.name

    def ops_set_deadline(self, deadline: int) -> None:
        """The hope for ``finished`` is passed on to the hardware fence, as soon as there is one."""
        if self is self.pair.finished and self.pair.parent is not None:
            self.pair.parent.set_deadline(deadline)


class SchedFence:
    """The pair, and what it stands for."""

    __slots__ = ("dont_pipeline", "finished", "killed", "lock", "parent", "sched", "scheduled")

    def __init__(self, engine: Engine, entity: str, sched: DrmSched, context: int, seqno: int) -> None:
        self.sched = sched
        """The scheduler the job was armed for: who depends on it there need only wait for ``scheduled``."""
        self.lock = FenceLock()
        self.parent: Fence | None = None
        """The hardware fence; None before the job runs, and when it never got onto the hardware."""
        self.killed = False
        """Its entity was killed while the job was queued."""
        self.dont_pipeline = False
        """Who depends on it waits for ``finished`` even on the same scheduler."""
        memory = sched.memory
        self.scheduled = SchedFencePart(engine, f"{entity}.scheduled.{seqno}", self, context, seqno, memory)
        self.finished = SchedFencePart(engine, f"{entity}.finished.{seqno}", self, context + 1, seqno, memory)

    @property
    def seqno(self) -> int:
        """Place of the job among those of its entity, from 1."""
        return self.finished.seqno

    def set_parent(self, parent: Fence) -> None:
        """The job is on the hardware, as this fence."""
        self.parent = parent.get()
        if self.finished.deadline is not None:
            parent.set_deadline(self.finished.deadline)

    def drop_parent(self) -> None:
        """It is there no longer."""
        if self.parent is not None:
            self.parent.put()
            self.parent = None

    def signal_scheduled(self, parent: Fence | None) -> None:
        """drm_sched_fence_scheduled: the job is on the hardware, or will never be; parent first."""
        if parent is not None:
            self.set_parent(parent)
        self.scheduled.signal()

    def signal_finished(self, error: KernelError | None) -> None:
        """drm_sched_fence_finished: the job is done.  An error set earlier is kept when this is none."""
        self.finished.signal(error)


def to_sched_fence(fence: Fence) -> SchedFence | None:
    """to_drm_sched_fence: the pair a fence belongs to, None when it is of another kind."""
    return fence.pair if isinstance(fence, SchedFencePart) else None
