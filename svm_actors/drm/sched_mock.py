"""A GPU without a GPU, for schedulers: the hardware of the kernel's own scheduler tests.

Conformance catalogue drm_sched_kunit, section 1.  One timeline with a fence context of its own: jobs
complete strictly in the order in which they were submitted, by the clock when they have a duration, by
hand (:meth:`MockGpu.advance`) when they have none; such a job holds up everything behind it.

The hardware is a task of its own.  What the driver does about a hang is chosen with ``recovery``:
``signal`` is what the kernel's mock does, ``restart`` a full stop, reset and start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Flag, auto
from typing import TYPE_CHECKING, Literal

from svm_actors.dma_buf.fence import Fence, FenceLock
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_types import GpuSchedStat, SchedBackend
from svm_actors.drm.sched_work import Completion
from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import ECANCELED, ETIMEDOUT, KernelError

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence_memory import FenceMemory
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_fence import SchedFence
    from svm_actors.drm.sched_user import ProcessGroup


class MockFlags(Flag):
    """What happened to a job, or shall happen."""

    NONE = 0
    DONE = auto()
    """The hardware completed it."""
    TIMEDOUT = auto()
    """The timeout handler took it off the hardware."""
    DONT_RESET = auto()
    """The next timeout is a false alarm."""


class MockJob(SchedJob):
    """A job for the mock hardware."""

    def __init__(self, entity: SchedEntity, duration: int = 0, credits_: int = 1) -> None:
        super().__init__(entity, credits_)
        self.duration = duration
        """Virtual ns on the hardware; 0: until it is advanced by hand."""
        self.flags = MockFlags.NONE
        self.failure: KernelError | None = None
        """What ``run_job`` raises."""
        self.instant = False
        """``run_job`` has no hardware fence to give: it is done at once."""
        self.hardware: Fence | None = None
        self.finish_at = 0
        """When the hardware will be through with it, virtual ns."""
        self.finished_at: int | None = None
        """When it was."""
        self.done = Completion(self.engine, f"{self.name}.done")
        """The hardware completed it; not so when it timed out."""


async def hand_over(job: MockJob, process: ProcessGroup, kept: list[SchedFence]) -> None:
    """Arm and push under one lock; its fences join ``kept``, with a reference on ``finished``."""
    assert job.entity is not None
    async with job.entity.submission():
        await job.arm()
        pair = job.s_fence
        pair.finished.get()
        kept.append(pair)
        await job.push(process)


class MockGpu(SchedBackend):
    """The hardware timeline and its driver."""

    can_cancel = True

    def __init__(self, engine: Engine, name: str = "mock", *, memory: FenceMemory | None = None) -> None:
        self.engine = engine
        self.name = name
        self.memory = memory
        self.context = dma_fence_context_alloc(engine)
        self.fence_lock = FenceLock()
        """One for all hardware fences: a callback of one may not touch another (FEN-R20)."""
        self.next_seqno = 1
        self.current_seqno = 0
        self.jobs: deque[MockJob] = deque()
        """On the hardware, oldest first."""
        self.recovery: Literal["signal", "restart"] = "signal"
        self.freed: list[MockJob] = []
        """Jobs given back by the scheduler, in that order."""
        self._ring = Source(engine)
        self._hardware = engine.spawn(self._work(), f"{name}.hardware", daemon=True)

    # -- backend operations ------------------------------------------------------------

    async def run_job(self, job: SchedJob) -> Fence | None:
        """Onto the tail of the list; it ends its duration after the one before it does, or after now."""
        assert isinstance(job, MockJob)
        await self.engine.step("write", self, "ring")
        if job.failure is not None:
            raise job.failure
        if job.instant:
            return None
        if job.hardware is not None:  # it was on the hardware before the reset
            job.hardware.put()
        now = self.engine.now
        begins = max(self.jobs[-1].finish_at, now) if self.jobs else now
        job.finish_at = begins + job.duration
        job.hardware = Fence(
            self.engine, f"{self.name}.{self.next_seqno}", self._hardware,
            context=self.context, seqno=self.next_seqno, memory=self.memory, lock=self.fence_lock,
        )  # fmt: skip
        self.next_seqno += 1
        self.jobs.append(job)
        self._ring.changed()
        return job.hardware.get()

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        """Take it off the hardware with -ETIMEDOUT, unless it is told that nothing is wrong.

        The timer runs from before ``run_job``, so the job may not even be on the hardware yet.
        """
        assert isinstance(job, MockJob)
        await self.engine.step("read", self, "registers")
        if job.hardware is None:
            return GpuSchedStat.NO_HANG
        if MockFlags.DONT_RESET in job.flags or MockFlags.DONE in job.flags:
            job.flags &= ~MockFlags.DONT_RESET
            return GpuSchedStat.NO_HANG
        if self.recovery == "restart":
            return await self._restart(job)
        job.flags |= MockFlags.TIMEDOUT
        await self._take_off(job, ETIMEDOUT())
        await job.sched.recovery.wait_finished(job.s_fence.finished)
        await job.sched.free_job(job)
        return GpuSchedStat.RESET

    async def free_job(self, job: SchedJob) -> None:
        """Its memory goes; the hardware fence lives on with whoever refers to it."""
        assert isinstance(job, MockJob)
        await self.engine.step("free", job)
        self.freed.append(job)
        if job.hardware is not None:
            job.hardware.put()

    async def cancel_job(self, job: SchedJob) -> None:
        """Teardown: off the hardware with -ECANCELED."""
        assert isinstance(job, MockJob)
        await self._take_off(job, ECANCELED())

    async def _take_off(self, job: MockJob, error: KernelError) -> None:
        """End a job on the hardware before its time."""
        assert job.hardware is not None
        await self.engine.step("fence_signal", job.hardware)
        if job.hardware.signaled:
            return
        self.jobs.remove(job)
        job.hardware.signal(error)
        self._ring.changed()

    async def _restart(self, job: MockJob) -> GpuSchedStat:
        """Reset the hardware: the bad job ends with an error, all behind it are put on it again."""
        sched = job.sched
        await sched.stop(job)
        await self.reset()
        job.flags |= MockFlags.TIMEDOUT
        await sched.recovery.increase_karma(job)
        job.failure = ETIMEDOUT()
        await sched.recovery.resubmit_jobs()
        await sched.start(ETIMEDOUT())
        return GpuSchedStat.RESET

    # -- the hardware ------------------------------------------------------------------

    async def reset(self) -> None:
        """Everything on it is lost; the scheduler must be stopped."""
        await self.engine.step("write", self, "reset")
        while self.jobs:
            lost = self.jobs.popleft().hardware
            assert lost is not None
            lost.signal(ECANCELED())
        self._ring.changed()

    async def advance(self, seqnos: int) -> int:
        """Step the timeline by hand; answers how many jobs that completed."""
        await self.engine.step("fence_signal", self)
        self.current_seqno += seqnos
        completed = 0
        while self.jobs and self._seqno(self.jobs[0]) <= self.current_seqno:
            self._complete()
            completed += 1
        return completed

    def _seqno(self, job: MockJob) -> int:
        assert job.hardware is not None
        return job.hardware.seqno

    def _complete(self) -> None:
        """The oldest job is done."""
        job = self.jobs.popleft()
        assert job.hardware is not None
        self.current_seqno = max(self.current_seqno, job.hardware.seqno)
        job.flags |= MockFlags.DONE
        job.finished_at = self.engine.now
        job.done.complete_all()
        job.hardware.signal()
        self._ring.changed()

    def _timed(self) -> bool:
        return bool(self.jobs) and self.jobs[0].duration > 0

    async def _work(self) -> None:
        """Complete jobs when their time has come."""
        engine = self.engine
        while True:
            await engine.wait("receive", self, self._ring, self._timed)
            job = self.jobs[0]
            if job.finish_at > engine.now:
                left = job.finish_at - engine.now
                await engine.wait("wait", self, self._ring, self._gone(job), "timer", timeout=left)
                continue
            assert job.hardware is not None
            await engine.step("fence_signal", job.hardware)
            if self.jobs and self.jobs[0] is job:
                self._complete()

    def _gone(self, job: MockJob) -> Callable[[], bool]:
        """Guard: it is at the head no longer."""
        return lambda: not self.jobs or self.jobs[0] is not job
