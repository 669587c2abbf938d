"""Timeouts: who watches that the hardware gets on (fences_and_scheduler 8.3).

One timer for the oldest job.  Beginning *any* job starts it anew, so it measures the time since the last
sign of life, and a steady stream of submissions postpones it; so does every job that is freed.

The handler takes the job off the pending list before it asks the driver, because the driver takes its
time and the job could finish and be freed meanwhile (FEN-R21).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT
from svm_actors.drm.sched_types import GpuSchedStat
from svm_actors.drm.sched_work import DelayedWork, Workqueue
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.signalling import signalling

if TYPE_CHECKING:
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_job import SchedJob


TICK: Final = 1_000_000
"""Virtual ns between two runs of the handler for one job, even with a timeout of 0: others run in between."""


class SchedTimeout:
    """The timer of one scheduler and its handler."""

    def __init__(self, sched: DrmSched, timeout: int, queue: Workqueue) -> None:
        self.sched = sched
        self.engine = sched.engine
        self.timeout = timeout
        """Virtual ns without a sign of life."""
        self.work = DelayedWork(sched.engine, f"{sched.name}.tdr", self.timedout, queue)
        self.free_guilty: SchedJob | None = None
        """The job that is being handled finished after all: the handler has to free it."""

    # -- the timer: called with job_list_lock held ---------------------------------------

    def restart(self, at_least: int = 0) -> None:
        """drm_sched_start_timeout: start anew if there is a job to watch."""
        at_work = at_least and self.work.pending  # queued anew meanwhile: that is not put off
        if self.timeout != MAX_SCHEDULE_TIMEOUT and self.sched.pending and not at_work:
            self.work.mod(max(self.timeout, at_least))

    async def restart_unlocked(self, at_least: int = 0) -> None:
        """The same for callers without the lock."""
        async with self.sched.job_list_lock:
            self.restart(at_least)

    async def job_begin(self, job: SchedJob) -> None:
        """drm_sched_job_begin: it is about to go on the hardware."""
        async with self.sched.job_list_lock:
            self.sched.pending[job] = None
            self.restart()

    def fault(self) -> None:
        """drm_sched_fault: the driver knows of a hang before the timer does.  Any context."""
        self.work.mod(0)

    def queue_immediately(self) -> None:
        """drm_sched_tdr_queue_imm: now, and from now on every job times out as soon as it is begun (a dead queue).

        A fault alone would not do: freeing a job that was through starts the timer anew.
        """
        self.timeout = 0
        if self.sched.pending:
            self.work.mod(0)

    # -- the handler -------------------------------------------------------------------

    async def timedout(self) -> None:
        """The oldest job took too long: let the driver find out what is wrong, act on its answer."""
        sched = self.sched
        sched.alive("the timeout fires for")
        job = await self.take_head()
        if job is not None:
            self.engine.count("sched.timeout")
            with signalling(self.engine):
                status = await sched.ops.timedout_job(job)
            await self._settle(job, status)
            if status is GpuSchedStat.ENODEV:
                return
        await self.restart_unlocked(TICK)

    async def take_head(self) -> SchedJob | None:
        """FEN-R21: off the list, so that nobody frees it while the driver looks at it."""
        async with self.sched.job_list_lock:
            job = next(iter(self.sched.pending), None)
            if job is not None:
                del self.sched.pending[job]
            return job

    async def _settle(self, job: SchedJob, status: GpuSchedStat) -> None:
        guilty, self.free_guilty = self.free_guilty, None
        if guilty is not None:
            await self.sched.free_job(guilty)
        if status is GpuSchedStat.NO_HANG:
            await self.reinsert(job)

    async def reinsert(self, job: SchedJob) -> None:
        """FEN-R21: back to the head after a false alarm; it may have finished meanwhile, so somebody looks."""
        async with self.sched.job_list_lock:
            self.put_back(job)
            if job.s_fence.finished.signaled:
                self.engine.count("FEN-R21")
            self.sched.run_free_queue()

    def put_back(self, job: SchedJob) -> None:
        """To the head of the pending list."""
        pending = self.sched.pending
        job.alive("the timeout handler puts back")
        if job in pending:
            raise PropertyFailed("sched", "FEN-R21", f"{job.name} is put on the pending list a second time")
        pending[job] = None
        pending.move_to_end(job, last=False)
