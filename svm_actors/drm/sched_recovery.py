"""Stop, start and blame: what a driver uses to get over a hang (fences_and_scheduler 8.3).

    await sched.stop(bad)            # workers parked, callbacks off, the bad job back on the list
    ...                              # the driver resets the hardware
    await sched.increase_karma(bad)
    await sched.resubmit_jobs()      # deprecated; or the driver replays on its own, or gives the jobs up
    await sched.start(error)         # what has no hardware fence now ends with the error

A stop can come at any moment of a job's end.  What it removes the callback of is its own from then on;
where it comes too late, the job is on its way out and only has to be waited for (FEN-R22).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.sched_types import Priority
from svm_actors.engine.errors import ECANCELED, KernelError

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_job import SchedJob


class SchedRecovery:
    """Recovery of one scheduler.  Its driver sees to it that there is one at a time."""

    def __init__(self, sched: DrmSched) -> None:
        self.sched = sched
        self.engine = sched.engine

    # -- workers -----------------------------------------------------------------------

    async def wqueue_stop(self) -> None:
        """drm_sched_wqueue_stop: nothing new is begun; wait for what has been."""
        sched = self.sched
        await self.engine.step("write", sched, "pause_submit")
        sched.pause_submit = True
        await sched.submit_wq.cancel_work_sync(sched.work_run_job)
        await sched.submit_wq.cancel_work_sync(sched.work_free_job)
        sched.parked = True

    async def wqueue_start(self) -> None:
        """drm_sched_wqueue_start: whatever was kicked meanwhile was not heard, so look at everything."""
        sched = self.sched
        await self.engine.step("write", sched, "pause_submit")
        if sched.ending:
            return
        sched.parked = sched.pause_submit = False
        sched.run_job_queue()
        sched.run_free_queue()

    # -- stop --------------------------------------------------------------------------

    async def stop(self, bad: SchedJob | None) -> None:
        """Park the scheduler and cut every job on the hardware off it; newest first.

        ``bad`` is the job the timeout handler was called for: it goes back to the head of the list.
        """
        sched = self.sched
        await self.wqueue_stop()
        if bad is not None and bad.sched is sched:
            sched.tdr.put_back(bad)
        for job in reversed(list(sched.pending)):
            if not await self.detach(job):
                await self._wait_out(job, bad)
        sched.tdr.work.cancel()

    async def detach(self, job: SchedJob) -> bool:
        """FEN-R22: take the callback off the hardware fence; False: too late, the job is ending."""
        pair = job.s_fence
        if pair.parent is None:
            return False
        await self.engine.step("write", pair.parent, "callback")
        if not pair.parent.remove_callback(job.cb):
            self.engine.count("FEN-R22")
            return False
        pair.drop_parent()
        self.sched.refund(job)
        return True

    async def _wait_out(self, job: SchedJob, bad: SchedJob | None) -> None:
        """The job ended by itself: see it through and free it; the handler frees the one it is at."""
        sched = self.sched
        async with sched.job_list_lock:
            del sched.pending[job]
        await self.wait_finished(job.s_fence.finished)
        if job is bad:
            sched.tdr.free_guilty = job
        else:
            await sched.free_job(job)

    async def wait_finished(self, finished: Fence) -> None:
        """FEN-R22: the callback may be at work with the job; it is through when ``finished`` is signaled.

        No fence wait in the sense of the signalling rules: the hardware is done, nothing can block this.
        """
        await self.engine.wait("fence_wait", finished, finished, lambda: finished.signaled)

    # -- start -------------------------------------------------------------------------

    async def start(self, error: KernelError | None) -> None:
        """Go on: jobs with a hardware fence are watched again, the others end with the error."""
        sched = self.sched
        for job in list(sched.pending):
            sched.charge(job)
            parent = job.s_fence.parent
            if parent is not None:
                await sched.watch(job, parent, error)
            else:
                await self.engine.step("fence_signal", job.s_fence.finished)
                sched.job_done(job, error or ECANCELED())
        await sched.tdr.restart_unlocked()
        await self.wqueue_start()

    # -- blame and replay --------------------------------------------------------------

    async def increase_karma(self, bad: SchedJob) -> None:
        """Blame the job; past the limit its context is guilty.  Kernel jobs are always innocent."""
        if bad.priority is Priority.KERNEL:
            return
        bad.karma += 1
        if bad.karma <= self.sched.hang_limit:
            return
        context = bad.s_fence.scheduled.context
        for rq in self.sched.rqs:
            async with rq.lock:
                for entity in rq.entities:
                    if entity.fence_context == context and entity.guilt is not None:
                        entity.guilt.guilty = True

    async def resubmit_jobs(self) -> None:
        """drm_sched_resubmit_jobs: run everything pending once more; what the guilty one's queue sent fails."""
        sched = self.sched
        guilty: int | None = None
        for job in list(sched.pending):
            if not self.must_resubmit(job):
                continue
            pair = job.s_fence
            if guilty is None and job.karma > sched.hang_limit:
                guilty = pair.scheduled.context
            if pair.scheduled.context == guilty:
                pair.finished.set_error(ECANCELED())
            await self._run_again(job)

    def must_resubmit(self, job: SchedJob) -> bool:
        """FEN-R31: never what is done: its buffers may belong to somebody else."""
        return not job.s_fence.finished.signaled

    async def _run_again(self, job: SchedJob) -> None:
        pair = job.s_fence
        try:
            hardware = await self.sched.ops.run_job(job)
        except KernelError as error:
            pair.finished.set_error(error)
            return
        if hardware is not None:
            pair.set_parent(hardware)
            hardware.put()
