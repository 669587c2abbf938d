"""Job timeout, ban and GT reset (fences_and_scheduler section 9; FEN-R21, R27 to R29, R31).

One rule over all: a fence is never signaled before the context is off the hardware (INV-FEN-11), and
after that it is signaled without fail, with an error if need be.

*Timeout.*  The timer only says that nothing moved for a while.  The handler looks whether the job is
through after all, or has not used up its time; then the context is switched off.  If the hardware does
not answer, the whole GT is reset.  A queue whose job hung is banned: -ETIME for that job, -ECANCELED for
those behind it.  For a queue of the kernel, and for a job the hardware has not even begun, two GT resets
come first; a kernel queue that is not helped by them wedges the device.

*GT reset.*  Every scheduler is stopped, every context thrown off, every TLB invalidation counts as done,
since a reset empties the TLB.  A queue that had a job on the hardware is banned; all others get their
unfinished jobs put on the ring again.

Timeouts and resets of a device run on one ordered work queue.

Simplified: the run-time counter does not get stuck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.sched_types import GpuSchedStat
from svm_actors.drm.sched_work import Work
from svm_actors.engine.errors import ECANCELED, ETIME, KernelError
from svm_actors.engine.signalling import signalling
from svm_actors.xe.exec_job import ExecJob

if TYPE_CHECKING:
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.submission import Submission

MAX_STRIKES = 2
"""GT resets before a job that cannot be begun, or one of the kernel, is given up."""


class JobTimeout:
    """The timeout handler of one queue."""

    def __init__(self, queue: ExecQueue) -> None:
        self.queue = queue
        self.engine = queue.engine

    async def timedout_job(self, job: ExecJob) -> GpuSchedStat:
        """guc_exec_queue_timedout_job: always answers NO_HANG, as the job is still to be freed in order."""
        queue = self.queue
        await self.engine.step("read", job.batch.fence)
        if self.is_done(job):
            return GpuSchedStat.NO_HANG
        await queue.sched.recovery.wqueue_stop()
        if queue.dead or self.is_hung(job):
            await self._recover(job)
        else:
            self.engine.count("exec.timeout_too_early")
        await queue.sched.recovery.wqueue_start()
        return GpuSchedStat.NO_HANG

    def is_done(self, job: ExecJob) -> bool:
        """FEN-R21: it finished while the timer fired."""
        return job.batch.fence.is_signaled()

    def is_hung(self, job: ExecJob) -> bool:
        """Its run-time counter has reached the limit; or the hardware does not begin it."""
        batch = job.batch
        if not batch.started:
            return self.queue.context.dead
        return batch.runtime(self.engine.now) >= self.queue.submission.limits.job_timeout

    async def _recover(self, job: ExecJob) -> None:
        """Off the hardware, then the queue ends; or a GT reset has to see to it."""
        queue = self.queue
        if not queue.dead and self._deserves_reset(job):
            queue.submission.reset.queue()
            return
        if job.strikes <= MAX_STRIKES and not await self._switched_off():
            self.engine.count("exec.no_ack")
            queue.submission.reset.queue()
            return
        error = self.verdict(job)
        queue.mark_banned()
        await queue.context.reset()
        await self.end_all(job, error)

    def verdict(self, job: ExecJob) -> KernelError:
        """-ETIME for the one that hung; -ECANCELED when its queue is killed, or was banned before it was begun."""
        queue = self.queue
        late = queue.banned and not job.batch.started
        return ECANCELED() if queue.killed or queue.submission.wedged or late else ETIME()

    def _deserves_reset(self, job: ExecJob) -> bool:
        """A job of the kernel, or one never begun: two GT resets first, then the device is wedged."""
        if job.batch.started and not self.queue.kernel:
            return False
        job.strikes += 1
        if job.strikes <= MAX_STRIKES:
            return True
        if self.queue.kernel:
            self.queue.submission.wedge()
        return False

    async def _switched_off(self) -> bool:
        """INV-FEN-11: the hardware has said that the context is off, or a reset has thrown it off."""
        queue = self.queue
        if queue.enabled and not queue.pending_disable:
            await queue.request_disable()
        return await queue.wait_answer()

    async def end_all(self, job: ExecJob, first: KernelError) -> None:
        """Signal what will never run: the context is off, so nothing of it touches memory any more."""
        queue = self.queue
        queue.enabled = queue.pending_disable = False
        queue.finish_suspend()
        for other in (job, *queue.sched.pending):
            assert isinstance(other, ExecJob)
            await self.end(other, first)
            first = ECANCELED()

    async def end(self, job: ExecJob, error: KernelError) -> None:
        """FEN-R29: what the hardware has completed keeps its good result; the fence lock decides (FEN-R04)."""
        fence = job.batch.fence
        await self.engine.step("fence_signal", fence)
        if fence.is_signaled():
            self.engine.count("FEN-R29")
        else:
            fence.signal(error)


class GtReset:
    """The reset of everything that executes."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.engine = submission.engine
        self.done = 0
        """Resets so far."""
        self._work = Work(self.engine, f"{submission.device.gpu.name}.gt_reset", self._reset)

    def queue(self) -> None:
        """xe_gt_reset_async: never sleeps; behind whatever recovery is under way."""
        self.submission.timeout_wq.queue_work(self._work)

    async def _reset(self) -> None:
        with signalling(self.engine):
            self.engine.count("exec.gt_reset")
            queues = [queue for queue in self.submission.queues if not queue.destroyed]
            for queue in queues:
                await self.stop(queue)
            await self.submission.device.tlb_inval.reset()
            for queue in queues:
                await self.restart(queue)
            self.done += 1

    async def stop(self, queue: ExecQueue) -> None:
        """FEN-R27: whoever waits for an answer of this context is told that there will be none."""
        queue.stopped = True
        queue.answer.wake_up()
        await queue.sched.recovery.wqueue_stop()
        await queue.withdraw_messages()
        await queue.context.reset()
        queue.enabled = queue.pending_disable = False
        queue.finish_suspend()
        if self.is_guilty(queue):
            queue.mark_banned()

    def is_guilty(self, queue: ExecQueue) -> bool:
        """A user queue with a job begun and not finished; looked at when nothing can be begun any more."""
        if queue.kernel or queue.dead or self.is_excused():
            return False
        jobs = [job for job in queue.sched.pending if isinstance(job, ExecJob)]
        return any(job.batch.started and not self.skips(job) for job in jobs)

    def is_excused(self) -> bool:
        """VMB-B37: the system sleeps; what was begun was switched off in good order, and will go on."""
        return self.submission.device.power.off

    def lose_power(self, queue: ExecQueue) -> None:
        """guc_exec_queue_stop at system suspend; its context is off and saved."""
        if self.is_guilty(queue):
            queue.mark_banned()
            queue.end_jobs()

    async def restart(self, queue: ExecQueue) -> None:
        """Replay, or have the dead end."""
        queue.stopped = False
        if queue.dead:
            queue.end_jobs()
        else:
            for job in list(queue.sched.pending):
                assert isinstance(job, ExecJob)
                if self.skips(job):
                    self.engine.count("FEN-R31")
                else:
                    await self._replay(queue, job)
        queue.answer.wake_up()
        await queue.sched.recovery.wqueue_start()

    def skips(self, job: ExecJob) -> bool:
        """FEN-R31: never what is done; its memory may belong to somebody else by now (FEN-B20)."""
        return job.batch.fence.is_signaled()

    async def _replay(self, queue: ExecQueue, job: ExecJob) -> None:
        self.engine.count("exec.replayed")
        job.batch.rewind()
        await queue.submit(job.batch)
