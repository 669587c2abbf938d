"""The GPU scheduler: feeds one hardware queue from many entities (fences_and_scheduler 8).

The scheduler is an actor whose mailbox is its submit work queue.  It has three messages, each pending at
most once: *run* the next job, *free* the oldest finished job, and the *timeout*.  Everybody else only
pushes jobs to entities, signals fences and kicks.

Who kicks whom, so that nothing that can run is forgotten (FEN-R15, INV-FEN-07):

* a push to an empty entity, a dependency that is signaled, the start after a stop: *run*;
* a run that took a job, or found one that has to wait: *run* again;
* a job that is done: *free*; and a *free*, when it is through: *run*, as there may be credits again.

Credits are what the hardware queue has room for: a job takes its own when it is put on the hardware and
returns them when it is done there, which may be in an interrupt, without a lock.

``pending`` holds the jobs on the hardware in order, under ``job_list_lock``.  Timeouts are in
:mod:`svm_actors.drm.sched_timeout`, stop, start and blame in :mod:`svm_actors.drm.sched_recovery`.

Simplified: ``sched.ready`` is set from the start; counters the kernel keeps as atomics are plain numbers,
since an op is never announced between reading and writing one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence
from svm_actors.drm.sched_events import SchedEnded, SchedStarted
from svm_actors.drm.sched_policy import POLICIES, SchedPolicy
from svm_actors.drm.sched_recovery import SchedRecovery
from svm_actors.drm.sched_rq import RunQueue
from svm_actors.drm.sched_timeout import SchedTimeout
from svm_actors.drm.sched_types import UNLIMITED_CREDITS, Priority, SchedBackendOps
from svm_actors.drm.sched_user import EntityStats, Score
from svm_actors.drm.sched_work import Work, Workqueue
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOENT, KernelError, PropertyFailed
from svm_actors.engine.locks import SpinLock, WaitQueue
from svm_actors.engine.signalling import signalling

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence_memory import FenceMemory
    from svm_actors.dma_buf.rcu import Rcu
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_job import SchedJob


class DrmSched:
    """One scheduler.

    ``timeout`` in virtual ns.  ``submit_wq`` and ``timeout_wq`` may be shared between schedulers: an
    ordered ``timeout_wq`` is how a reset domain has one recovery at a time.
    """

    timeout_class = SchedTimeout
    recovery_class = SchedRecovery
    rq_class = RunQueue

    def __init__(
        self,
        engine: Engine,
        name: str,
        ops: SchedBackendOps,
        *,
        credit_limit: int = UNLIMITED_CREDITS,
        timeout: int = MAX_SCHEDULE_TIMEOUT,
        hang_limit: int = 0,
        policy: SchedPolicy = SchedPolicy.FIFO,
        submit_wq: Workqueue | None = None,
        timeout_wq: Workqueue | None = None,
        score: Score | None = None,
        memory: FenceMemory | None = None,
    ) -> None:
        self.engine = engine
        self.name = name
        self.ops = ops
        self.memory = memory
        """Where the fences of its jobs are counted; None: nowhere."""
        self.credit_limit = credit_limit
        self.credit_count = 0
        """Credits of the jobs on the hardware."""
        self.hang_limit = hang_limit
        """How many hangs a job may be blamed for before its entity counts as guilty."""
        self.ready = True
        """Takes jobs."""
        self.pause_submit = False
        """Nothing new is begun."""
        self.parked = False
        """Nothing is begun, and what had been is over: set once a stop has waited for the workers."""
        self.ending = False
        """Being torn down: whoever recovers from a hang just now does not start it again."""
        self.ended = False
        """Torn down; the memory may still be there."""
        self.freed = False
        """So is the memory gone."""
        self.score = Score() if score is None else score
        self.job_list_lock = SpinLock(engine, f"{name}.job_list_lock", "job_list_lock")
        self.pending: OrderedDict[SchedJob, None] = OrderedDict()
        """pending_list: jobs on the hardware, oldest first."""
        self.leaked: list[SchedJob] = []
        """Jobs nobody will ever free: pending when the scheduler ended, without ``cancel_job``."""
        self.job_scheduled = WaitQueue(engine, f"{name}.job_scheduled")
        """Woken whenever a job has been put on the hardware; who flushes an entity sleeps here."""
        rule = POLICIES[policy]()
        queues = list(Priority) if rule.priorities else [Priority.KERNEL]
        self.rqs = [engine.parts.of(self.rq_class)(self, f"{name}.rq{priority.value}", rule) for priority in queues]
        self.own_submit_wq = submit_wq is None
        self.submit_wq = Workqueue(engine, f"{name}.submit") if submit_wq is None else submit_wq
        self.system_wq = Workqueue(engine, f"{name}.system", ordered=False)
        """Where killed jobs are brought to their end, and timeouts handled unless told otherwise."""
        self.work_run_job = Work(engine, f"{name}.run_job", self._run_job_work)
        self.work_free_job = Work(engine, f"{name}.free_job", self._free_job_work)
        tdr = engine.parts.of(self.timeout_class)
        self.tdr = tdr(self, timeout, self.system_wq if timeout_wq is None else timeout_wq)
        self.recovery = engine.parts.of(self.recovery_class)(self)
        engine.emit(SchedStarted(self))

    # -- small things ------------------------------------------------------------------

    def rq_of(self, priority: Priority) -> RunQueue:
        """The run queue for entities of this priority."""
        return self.rqs[min(priority, len(self.rqs) - 1)]

    def alive(self, doing: str) -> None:
        """Raise when its memory is gone (INV-FEN-08)."""
        if self.freed:
            raise PropertyFailed("lifetime", "INV-FEN-08", f"{doing} {self.name}, which is freed")

    def statistics(self) -> dict[str, Any]:
        """Jobs on the hardware, credits and the score."""
        return {"pending": len(self.pending), "credits": self.credit_count, "score": self.score.value}

    # -- kicks: never sleep, may be called in any context ----------------------------------

    def run_job_queue(self) -> None:
        """Look for a job to run."""
        self.alive("a kick reaches")
        if not self.pause_submit:
            self.submit_wq.queue_work(self.work_run_job)

    def run_free_queue(self) -> None:
        """Look for a finished job."""
        self.alive("a finished job reaches")
        if not self.pause_submit:
            self.submit_wq.queue_work(self.work_free_job)

    # -- credits -----------------------------------------------------------------------

    def can_queue(self, entity: SchedEntity) -> bool:
        """Whether the hardware has room for the entity's first job; one that never fits is cut down."""
        job = entity.queue.peek()
        if job is None:
            return False
        if job.credits > self.credit_limit:
            self.engine.count("sched.credits_truncated")
            job.credits = self.credit_limit
        if self.credit_count + job.credits > self.credit_limit:
            self.engine.count("sched.no_credits")
            return False
        return True

    def charge(self, job: SchedJob) -> None:
        """A job takes its credits."""
        self.credit_count += job.credits
        job.emit("charge")

    def refund(self, job: SchedJob) -> None:
        """A job gives them back."""
        self.credit_count -= job.credits
        job.emit("refund")

    # -- run ---------------------------------------------------------------------------

    async def _run_job_work(self) -> None:
        """The message *run*: at most one job."""
        self.alive("a worker runs for")
        if self.pause_submit:
            return
        with signalling(self.engine):
            entity = await self.select_entity()
            if entity is None:
                return
            job = await entity.pop_job()
            if job is not None:
                await self._run(job, entity)
            else:
                self.release_entity(entity)
        self.run_job_queue()

    async def select_entity(self) -> SchedEntity | None:
        """The first ready entity of the highest priority; none if it is credits that it lacks."""
        for rq in self.rqs:
            entity, go_on = await rq.select()
            if entity is not None or not go_on:
                return entity
        return None

    def release_entity(self, entity: SchedEntity) -> None:
        """The worker has let go of it."""
        entity.entity_idle.complete_all()

    async def _run(self, job: SchedJob, entity: SchedEntity) -> None:
        """Put it on the hardware."""
        self.charge(job)
        await self.tdr.job_begin(job)
        pair = job.s_fence
        hardware, error = await self._start(job)
        await self.engine.step("fence_signal", pair.scheduled)
        self.release_entity(entity)
        job.emit("scheduled")
        pair.signal_scheduled(hardware)
        if hardware is None:
            self.job_done(job, error)
        else:
            await self.watch(job, hardware)
            hardware.put()
        self.job_scheduled.wake_up()

    async def _start(self, job: SchedJob) -> tuple[Fence | None, KernelError | None]:
        """Let the driver run it.  An error is the job's result: its fences are promised."""
        job.emit("run")
        job.start_ts = self.engine.now
        self.engine.count("sched.run_job")
        try:
            return await self.ops.run_job(job), None
        except KernelError as error:
            return None, self.result_of(error)

    def result_of(self, error: KernelError) -> KernelError | None:
        """FEN-B18: whoever waits for a job that could not be submitted is told."""
        return error

    async def watch(self, job: SchedJob, hardware: Fence, error: KernelError | None = None) -> None:
        """Have the job's end reported; at once when the hardware was faster than that."""
        await self.engine.step("write", hardware, "callback")
        try:
            hardware.add_callback(job.cb)
        except ENOENT:
            self.job_done(job, hardware.error or error)

    def job_done(self, job: SchedJob, error: KernelError | None) -> None:
        """The hardware is through with a job, or never had it.  Any context, never sleeps.

        Credits come back before ``finished`` is signaled; the job itself is freed later, in order.
        """
        self.alive("a job ends on")
        job.alive("the end of")
        self.refund(job)
        self.score.value -= 1
        self._book_time(job)
        job.emit("finished")
        finished = job.s_fence.finished.get()
        job.s_fence.signal_finished(error)
        finished.put()
        self.run_free_queue()

    def _book_time(self, job: SchedJob) -> None:
        if job.start_ts is not None:
            self.stats_of(job).runtime += self.engine.now - job.start_ts

    def stats_of(self, job: SchedJob) -> EntityStats:
        """FEN-B17: they are the job's; its entity may have ended since the job was taken out of it."""
        return job.stats

    # -- free --------------------------------------------------------------------------

    async def _free_job_work(self) -> None:
        """The message *free*: at most one job, then see whether another may run."""
        self.alive("a worker frees for")
        if self.pause_submit:
            return
        job, more = await self.get_finished_job()
        if job is not None:
            await self.free_job(job)
            if more:
                self.run_free_queue()
        self.run_job_queue()

    async def get_finished_job(self) -> tuple[SchedJob | None, bool]:
        """Unlink the oldest job if it is finished; also says whether the next one is.

        Jobs that finish out of turn wait for those in front of them.
        """
        async with self.job_list_lock:
            job = next(iter(self.pending), None)
            if job is None or not job.s_fence.finished.signaled:
                return None, False
            del self.pending[job]
            following = next(iter(self.pending), None)
            if following is None:
                self.tdr.work.cancel()
                return job, False
            following.start_ts = job.s_fence.finished.timestamp
            self.tdr.restart()
            return job, following.s_fence.finished.signaled

    async def free_job(self, job: SchedJob) -> None:
        """Give a finished job back to the driver; once, and it must not be used after."""
        self.alive("a job is freed of")
        await self.ops.free_job(job)
        job.emit("free")
        job.release()

    # -- teardown ----------------------------------------------------------------------

    async def stop(self, bad: SchedJob | None = None) -> None:
        """drm_sched_stop, see :meth:`SchedRecovery.stop`."""
        await self.recovery.stop(bad)

    async def start(self, error: KernelError | None = None) -> None:
        """drm_sched_start, see :meth:`SchedRecovery.start`."""
        await self.recovery.start(error)

    async def fini(self) -> None:
        """Tear it down.  Its entities should be gone by now; nothing of them runs any more.

        Jobs on the hardware are cancelled if the driver can do that, else they are leaked.  A recovery that
        is under way is waited for, but leaves the scheduler stopped (the kernel relies on its drivers for that).
        """
        self.ending = True
        await self.recovery.wqueue_stop()
        await self._free_rqs()
        self.wake_flushers()
        await self.cancel_timer()
        if self.ops.can_cancel:
            await self._cancel_remaining_jobs()
        if self.own_submit_wq:
            self.submit_wq.destroy()
        self.ready = False
        self.ended = True
        self.leaked = list(self.pending)
        if self.leaked:
            self.engine.count("sched.leaked_jobs", len(self.leaked))
        self.engine.emit(SchedEnded(self))

    async def _free_rqs(self) -> None:
        """Entities still there are stopped and taken off: none may be put back on freed memory."""
        for rq in self.rqs:
            async with rq.lock:
                for entity in list(rq.entities):
                    entity.stopped = True
                    rq.remove(entity)
                rq.freed = True

    def wake_flushers(self) -> None:
        """FEN-R24: whoever sleeps in a flush must see that its entity is stopped."""
        if self.job_scheduled.parked:
            self.engine.count("FEN-R24")
        self.job_scheduled.wake_up()

    async def cancel_timer(self) -> None:
        """FEN-R23, FEN-B22: no timeout is armed, queued or running after this."""
        if self.tdr.work.busy:
            self.engine.count("FEN-R23")
        await self.tdr.work.cancel_sync()

    async def _cancel_remaining_jobs(self) -> None:
        """drm_sched_cancel_remaining_jobs: newest first, so that nothing new starts on the hardware."""
        for job in reversed(list(self.pending)):
            await self.ops.cancel_job(job)
            if job not in self.pending:  # walked without the lock: everybody else is gone, timer and workers
                raise PropertyFailed("lifetime", "INV-FEN-08", f"{self.name} ends, and somebody unlinks {job.name}")
            del self.pending[job]
            await self.free_job(job)

    def free_rcu(self, rcu: Rcu) -> None:
        """FEN-B21: a grace period after its last fence was signaled; who reads a name may still be at it."""
        rcu.call(self.free)

    def free(self) -> None:
        """Its memory is gone."""
        self.freed = True
