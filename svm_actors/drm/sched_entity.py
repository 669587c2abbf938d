"""An entity: one in-order queue of jobs, and the scheduler it is served by (sections 8.1 and 8.2).

Jobs of an entity run and finish in the order in which they are pushed.  It is bound to a run queue, and
may be moved to another scheduler of its list only between two jobs (FEN-R17).

``entity.lock`` keeps ``rq``, ``stopped`` and the list of schedulers together; ``rq.lock`` nests inside.
``entity_idle`` is incomplete while the worker has the entity in its hands: whoever wants to take the
entity apart waits for it.

Taking apart is in :mod:`svm_actors.drm.sched_entity_kill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svm_actors.dma_buf.fence import Fence, FenceCb
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.sched_entity_kill import EntityTeardown
from svm_actors.drm.sched_fence import to_sched_fence
from svm_actors.drm.sched_queue import JobQueue
from svm_actors.drm.sched_types import Priority
from svm_actors.drm.sched_user import EntityStats, Guilt, ProcessGroup
from svm_actors.drm.sched_work import Completion
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ECANCELED, EINVAL, ENOENT, KernelError, PropertyFailed
from svm_actors.engine.locks import Mutex, SpinLock

if TYPE_CHECKING:
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_fence import SchedFence
    from svm_actors.drm.sched_job import SchedJob
    from svm_actors.drm.sched_rq import RunQueue


class SchedEntity:
    """One queue.  -EINVAL without a scheduler.

    ``process`` is who opened it; it is its last user from the start (FEN-R26).
    """

    teardown_class = EntityTeardown
    queue_class = JobQueue

    def __init__(
        self,
        engine: Engine,
        name: str,
        scheds: Sequence[DrmSched],
        priority: Priority = Priority.NORMAL,
        *,
        guilt: Guilt | None = None,
        process: ProcessGroup | None = None,
    ) -> None:
        if not scheds:
            raise EINVAL
        self.engine = engine
        self.name = name
        self.priority = priority
        self.guilt = guilt
        self.lock = SpinLock(engine, f"{name}.lock", "entity.lock")
        self.queue = engine.parts.of(self.queue_class)(engine, f"{name}.queue")
        self.rq: RunQueue | None = scheds[0].rq_of(priority) if scheds[0].ready else None
        """Where it is served, or will be when it has jobs; None: no scheduler takes jobs."""
        self.dependency: Fence | None = None
        """What the job at the head waits for."""
        self.last_scheduled: Fence | None = None
        """``finished`` fence of the last job taken out."""
        self.last_user = process
        self.stopped = False
        """Killed, or its scheduler is gone: nothing more will run."""
        self.freed = False
        self.entity_idle = Completion(engine, f"{name}.entity_idle", done=True)
        self.fence_context = dma_fence_context_alloc(engine, 2)
        """Context of the ``scheduled`` fences; those of the ``finished`` fences is the next one."""
        self.rq_key: tuple[int, int] | None = None
        """Its place in the run queue."""
        self.rr_turn = 0
        """When it had its last turn, by the run queue's logical clock."""
        self.vruntime = 0
        """Weighted GPU time, for the FAIR policy."""
        self.stats = EntityStats()
        self._scheds: tuple[DrmSched, ...] = tuple(scheds)
        self._num_scheds = len(self._scheds)
        self._settled = False
        """The only scheduler there is was chosen: nothing is left to decide."""
        self._seqno = 0
        self._jobs = 0
        self._submission = Mutex(engine, f"{name}.submission", "sched_submission")
        self.cb = FenceCb(self.dependency_signaled)
        """On the dependency, while there is one."""
        self.teardown = engine.parts.of(self.teardown_class)(self)

    # -- small things ------------------------------------------------------------------

    def job_name(self) -> str:
        """A name for one more job."""
        self._jobs += 1
        return f"{self.name}.job{self._jobs}"

    def next_seqno(self) -> int:
        """The sequence number of a job that is armed now."""
        self._seqno += 1
        return self._seqno

    def is_ready(self) -> bool:
        """There is a job, and it waits for nothing."""
        return self.queue.count > 0 and self.dependency is None

    def is_idle(self) -> bool:
        """Nothing more will run: what a flush waits for."""
        return self.stopped or not self.queue.count or self.rq is None or not self.rq.is_on(self)

    def error(self) -> KernelError | None:
        """Error of the last job that was taken out, as far as it is known."""
        last = self.last_scheduled
        return last.error if last is not None and last.signaled else None

    def alive(self, doing: str) -> None:
        """Raise when it is freed (INV-FEN-08)."""
        if self.freed:
            raise PropertyFailed("lifetime", "INV-FEN-08", f"{doing} {self.name}, which is freed")

    def statistics(self) -> dict[str, Any]:
        """Jobs queued and what the first one waits for."""
        return {
            "queued": self.queue.count,
            "dependency": None if self.dependency is None else self.dependency.name,
            "stopped": self.stopped,
        }

    # -- choosing the scheduler --------------------------------------------------------

    def submission(self) -> Mutex:
        """FEN-R14, FEN-B31: the one lock that arm and push are done under, so that queue order is fence order."""
        if self._submission.holders():
            self.engine.count("FEN-R14")
        return self._submission

    async def select_rq(self) -> None:
        """Bind the entity to the least loaded scheduler of its list, if it may move (FEN-R17)."""
        self.alive("a job is armed for")
        if self._settled or not await self.may_move():
            return
        async with self.lock:
            self._settled = self._num_scheds == 1
            best = self._least_loaded()
            if best is None:
                return
            old, new = self.rq, best.rq_of(self.priority)
            if old is not new:
                if old is not None:
                    async with old.lock:
                        old.remove(self)
                self.rq = new
                self.engine.count("sched.entity_moved")

    async def may_move(self) -> bool:
        """FEN-R17: only when no job is queued *and then* the last one taken out is done.

        In this order: the worker notes the job before it takes it out of the queue, so who sees the
        queue empty sees the note.
        """
        await self.engine.step("read", self.queue, "count")
        if self.queue.count:
            return False
        await self.engine.step("read", self, "last_scheduled")
        if self.last_scheduled is not None and not self.last_scheduled.signaled:
            self.engine.count("FEN-R17")
            return False
        return True

    def _least_loaded(self) -> DrmSched | None:
        """drm_sched_pick_best: the first with the lowest score among those that take jobs."""
        usable = [sched for sched in self._scheds[: self._num_scheds] if sched.ready]
        if len(self._scheds) != self._num_scheds:
            raise PropertyFailed("sched", "FEN-R25", f"{self.name} reads a list of schedulers that is half changed")
        return min(usable, key=lambda sched: sched.score.value, default=None)

    async def modify_sched(self, scheds: Sequence[DrmSched]) -> None:
        """Give it another list of schedulers, from the next job on.  -EINVAL for an empty one.

        FEN-R25, FEN-B15: list and length change together, under the lock that those who choose take.
        """
        if not scheds:
            raise EINVAL
        if self.queue.count or self._submission.holders():
            self.engine.count("FEN-R25")
        async with self.lock:
            self._scheds = tuple(scheds)
            self._num_scheds = len(self._scheds)
            self._settled = False

    async def set_priority(self, priority: Priority) -> None:
        """From the next time its scheduler is chosen: never, once the only one there is was."""
        async with self.lock:
            self.priority = priority

    # -- pushing -----------------------------------------------------------------------

    async def push_job(self, job: SchedJob, process: ProcessGroup | None) -> None:
        """Queue an armed job; the first one puts the entity on its run queue and wakes the worker."""
        self.alive("a job is pushed to")
        job.sched.score.value += 1
        self.last_user = process
        submit_ts = self.stamp(job)
        if await self.queue.push(job):
            sched = await self.enter_rq(submit_ts)
            if sched is not None:
                await self.wake(sched)

    async def wake(self, sched: DrmSched) -> None:
        """FEN-R15: after the job can be found, and whether or not the worker is at work just now.

        FEN-B16: without a look at the job, which may be freed by now; whether it has room is the worker's to see.
        """
        if sched.work_run_job.worker is not None:
            self.engine.count("FEN-R15")
        sched.run_job_queue()

    def stamp(self, job: SchedJob) -> int:
        """FEN-R16: what is needed after the push is read before it; the job may be freed by then."""
        job.emit("push")
        job.submit_ts = self.engine.now
        return job.submit_ts

    async def enter_rq(self, submit_ts: int) -> DrmSched | None:
        """Onto the run queue; answers whom to wake, read under the lock (FEN-B14).

        A stopped entity stays off: its job remains queued until the entity is killed once more.
        """
        async with self.lock:
            rq = self.rq
            if self.stopped or rq is None:
                self.engine.count("sched.push_to_stopped")
                return None
            async with rq.lock:
                rq.add(self, submit_ts)
            return rq.sched

    # -- popping: the scheduler's worker -----------------------------------------------

    async def pop_job(self) -> SchedJob | None:
        """Take the first job out, if all it depends on is done; else have somebody call when it is."""
        job = self.queue.peek()
        if job is None:
            return None
        while (fence := await self._next_dependency(job)) is not None:
            if await self.wait_for(fence, job.sched):
                return None
        if self.guilt is not None and self.guilt.guilty:
            job.s_fence.finished.set_error(ECANCELED())
        await self.take_out(job)
        async with self.lock:
            rq = self.rq
            assert rq is not None
            async with rq.lock:
                rq.popped(self)
        job.entity = None
        return job

    async def _next_dependency(self, job: SchedJob) -> Fence | None:
        """The next of its dependencies; then whatever the driver comes up with."""
        if job.next_dependency < len(job.dependencies):
            job.next_dependency += 1
            return job.dependencies[job.next_dependency - 1].get()
        return await job.sched.ops.prepare_job(job, self)

    async def wait_for(self, fence: Fence, sched: DrmSched) -> bool:
        """Have :meth:`dependency_signaled` called when the fence is signaled; False: go on.

        Fences of this entity need no waiting, its jobs run in order anyway.  For one of the same
        scheduler it is enough that it is *on* the hardware, unless it failed or forbids it.
        """
        if fence.context in (self.fence_context, self.fence_context + 1):
            fence.put()
            return False
        pair = to_sched_fence(fence)
        if pair is not None and self.is_own(pair, sched) and fence.error is None and not pair.dont_pipeline:
            scheduled = pair.scheduled.get()
            fence.put()
            fence = scheduled
        await self.engine.step("write", fence, "callback")
        self.dependency = fence
        try:
            fence.add_callback(self.cb)
        except ENOENT:
            self.dependency = None
            fence.put()
            return False
        return True

    def is_own(self, pair: SchedFence, sched: DrmSched) -> bool:
        """FEN-B26: order holds on one piece of hardware; a job of another one must be waited for."""
        return pair.sched is sched

    def dependency_signaled(self, fence: Fence) -> None:
        """FEN-R19: the head job may go on, and the worker is told whatever kind of fence it was.

        Called from the fence's signal.
        """
        self.alive("a dependency calls back")
        pair = to_sched_fence(fence)
        if pair is not None and pair.killed:
            self.engine.count("FEN-R19")
        self.dependency = None
        fence.put()
        assert self.rq is not None
        self.rq.sched.run_job_queue()

    def forget_dependency(self) -> bool:
        """FEN-R18: nobody calls back any more; False when nothing was to be forgotten."""
        fence = self.dependency
        if fence is None:
            return False
        fence.remove_callback(self.cb)
        self.dependency = None
        fence.put()
        return True

    async def take_out(self, job: SchedJob) -> None:
        """FEN-R17: note the job's fence, then take the job out of the queue; never the other way round."""
        await self.engine.step("write", self, "last_scheduled")
        self.note_scheduled(job.s_fence.finished.get())
        await self.engine.step("write", self.queue, "pop")
        self.queue.pop()

    def note_scheduled(self, finished: Fence | None) -> None:
        """Replace ``last_scheduled``; takes over the reference."""
        if self.last_scheduled is not None:
            self.last_scheduled.put()
        self.last_scheduled = finished

    # -- taking it apart ---------------------------------------------------------------

    async def flush(self, process: ProcessGroup, timeout_ns: int) -> bool:
        """Wait until nothing is left to run; see :meth:`EntityTeardown.flush`."""
        return await self.teardown.flush(process, timeout_ns)

    async def kill(self) -> None:
        """Nothing more of it runs; see :meth:`EntityTeardown.kill`."""
        await self.teardown.kill()

    async def fini(self) -> None:
        """Take it apart; see :meth:`EntityTeardown.fini`."""
        await self.teardown.fini()

    async def destroy(self, process: ProcessGroup, timeout_ns: int) -> None:
        """drm_sched_entity_destroy: flush, then take apart."""
        await self.flush(process, timeout_ns)
        await self.fini()
