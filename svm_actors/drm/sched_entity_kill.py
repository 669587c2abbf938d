"""The end of an entity: flush, kill, fini (fences_and_scheduler 8.4).

Killing must keep every promise already made.  A job that is still queued gets both its fences signaled,
``finished`` with -ESRCH, but not before the job in front of it is done and not before everything it would
have waited for is: who waits for it may rely on the order (section 1.4) and on its buffers being idle.

Nothing is torn down under a lock of a fence: the callback only queues a work item, and that one looks for
the next thing to wait for (FEN-R20).

Simplified: the kernel wakes a flush that sleeps on a killed entity only with the next job the scheduler
runs; here the kill wakes it.  A killed job gives back its share of the scheduler's score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import FenceCb
from svm_actors.drm.sched_fence import to_sched_fence
from svm_actors.drm.sched_work import Work
from svm_actors.engine.errors import ENOENT, ESRCH

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_job import SchedJob
    from svm_actors.drm.sched_rq import RunQueue
    from svm_actors.drm.sched_user import ProcessGroup


class KilledJob:
    """A queued job whose entity was killed: waits for what it would have waited for, then ends."""

    def __init__(self, job: SchedJob) -> None:
        self.job = job
        self.engine = job.engine
        self.work = Work(job.engine, f"{job.name}.kill", self.go_on)
        self.cb = FenceCb(self.called_back)

    async def follow(self, previous: Fence | None) -> None:
        """Begin when the job in front is done; takes over the reference."""
        if previous is None or not await self._callback_on(previous):
            self.job.sched.system_wq.queue_work(self.work)

    def called_back(self, fence: Fence) -> None:
        """FEN-R20, FEN-B10: under the lock of this fence no other fence is touched; a work item goes on.

        FEN-B11: nor is a job ended here, in an interrupt, as its driver may sleep when it frees one.
        """
        self.engine.count("FEN-R20")
        fence.put()
        self.job.sched.system_wq.queue_work(self.work)

    async def go_on(self) -> None:
        """The work item: wait for one dependency after the other, then end the job."""
        dependencies = self.job.dependencies
        while dependencies:
            fence = self.strongest(dependencies.pop(0))
            if fence is not None and await self._callback_on(fence):
                return
        await self.end()

    async def _callback_on(self, fence: Fence) -> bool:
        """Go on when the fence is signaled; False when it is already.  Takes over the reference."""
        await self.engine.step("write", fence, "callback")
        try:
            fence.add_callback(self.cb)
        except ENOENT:
            fence.put()
            return False
        return True

    def strongest(self, fence: Fence) -> Fence | None:
        """That the other job is on the hardware was enough to run behind it; to end it must be done.

        None: it is done so long that its ``finished`` is gone.
        """
        pair = to_sched_fence(fence)
        if pair is None or fence is pair.finished:
            return fence
        finished = None if pair.finished.freed else pair.finished.get_rcu()
        fence.put()
        return finished

    async def end(self) -> None:
        """FEN-R19, FEN-B12: signal both fences, or who waits for ``scheduled`` alone waits for ever; then free it."""
        job = self.job
        pair = job.s_fence
        await self.engine.step("fence_signal", pair.scheduled)
        job.emit("scheduled")
        pair.signal_scheduled(None)
        await self.engine.step("fence_signal", pair.finished)
        job.emit("finished")
        job.sched.score.value -= 1
        pair.signal_finished(ESRCH())
        await job.sched.free_job(job)


class EntityTeardown:
    """What ends one entity."""

    killed_job_class = KilledJob

    def __init__(self, entity: SchedEntity) -> None:
        self.entity = entity
        self.engine = entity.engine

    # -- flush -------------------------------------------------------------------------

    async def flush(self, process: ProcessGroup, timeout_ns: int) -> bool:
        """A process closes its file: wait until nothing is left to run; False when that did not happen.

        A process on its way out waits for a bounded time, any other until SIGKILL.  When the last user of
        the entity was killed, so is the entity.
        """
        entity = self.entity
        entity.alive("a process flushes")
        if entity.rq is None:
            return True
        await self._wait_until_idle(entity.rq.sched, process, timeout_ns)
        idle = entity.is_idle()
        await self.engine.step("write", entity, "last_user")
        if self.is_last_user(process):
            entity.last_user = None
            if process.exiting and process.sigkilled:
                await entity.kill()
        return idle

    def is_last_user(self, process: ProcessGroup) -> bool:
        """FEN-R26, FEN-B13: the entity is this process's and nobody else's; an unknown user is not this one."""
        mine = self.entity.last_user is process
        if not mine and process.sigkilled:
            self.engine.count("FEN-R26")
        return mine

    async def _wait_until_idle(self, sched: DrmSched, process: ProcessGroup, timeout_ns: int) -> None:
        queue, is_idle = sched.job_scheduled, self.entity.is_idle
        if process.exiting:
            await queue.wait_event_timeout(is_idle, timeout_ns)
            return
        process.sleeps_on.append(queue)
        await queue.wait_event(lambda: process.sigkilled or is_idle())
        process.sleeps_on.remove(queue)

    # -- kill --------------------------------------------------------------------------

    async def kill(self) -> None:
        """Take it off its run queue, wait for the worker to let go of it, end its jobs."""
        entity = self.entity
        rq = entity.rq
        if rq is None:
            return
        await self.stop(rq)
        await self.wait_unused()
        rq.sched.job_scheduled.wake_up()
        before = entity.last_scheduled
        previous = None if before is None else before.get()
        while True:
            await self.engine.step("write", entity.queue, "pop")
            if not len(entity.queue):
                break
            job = entity.queue.pop()
            job.entity = None
            job.s_fence.killed = True
            following = job.s_fence.finished.get()
            await self.engine.parts.of(self.killed_job_class)(job).follow(previous)
            previous = following
        if previous is not None:
            previous.put()

    async def stop(self, rq: RunQueue) -> None:
        """No push puts it back, no worker finds it."""
        entity = self.entity
        async with entity.lock:
            entity.stopped = True
            async with rq.lock:
                rq.remove(entity)

    async def wait_unused(self) -> None:
        """FEN-R18: the worker may have chosen the entity just before; let it finish with it."""
        idle = self.entity.entity_idle
        if not idle.done:
            self.engine.count("FEN-R18")
        await idle.wait()

    # -- fini --------------------------------------------------------------------------

    async def fini(self) -> None:
        """Kill what is left, cut every tie; the entity is free after this."""
        entity = self.entity
        entity.alive("somebody takes apart")
        await entity.kill()
        await self.engine.step("write", entity, "dependency")
        if entity.forget_dependency():
            self.engine.count("FEN-R18")
        entity.note_scheduled(None)
        entity.freed = True
