"""Every guard of the scheduler is needed: without it some schedule goes wrong, and is noticed.

Each deviation replaces one guard method.  The scenario must be survived by the correct classes under all
schedules tried, and must fail with the deviation, within the number of random schedules stated and for
the reason stated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from sched_bench import MS, US, Bench, NoHardware, every, exhaust

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_entity_kill import EntityTeardown, KilledJob
from svm_actors.drm.sched_fence import to_sched_fence
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_mock import MockFlags, MockJob
from svm_actors.drm.sched_queue import JobQueue
from svm_actors.drm.sched_recovery import SchedRecovery
from svm_actors.drm.sched_rq import RunQueue
from svm_actors.drm.sched_timeout import SchedTimeout
from svm_actors.drm.sched_user import ProcessGroup
from svm_actors.engine.errors import ENOENT, Deadlock, PropertyFailed


@attrs.frozen
class Parts:
    """The classes a scenario is built from."""

    sched: type[DrmSched] = DrmSched
    entity: type[SchedEntity] = SchedEntity


Scenario = Callable[[Bench, Parts], Awaitable[None]]
CORRECT = Parts()


# -- deviations ------------------------------------------------------------------------------


class CountsLate(JobQueue):
    """FEN-B08: the job is linked, and only then counted."""

    async def push(self, job: SchedJob) -> bool:
        await self.engine.step("write", self, "link")
        first = self.link(job)
        await self.engine.step("write", self, "count")
        self.announce()
        return first


class CountsLateEntity(SchedEntity):
    queue_class = CountsLate


class ClearsOnly(SchedEntity):
    """FEN-B09: a dependency on the same scheduler clears itself, nobody is told."""

    def dependency_signaled(self, fence: Fence) -> None:
        pair = to_sched_fence(fence)
        if pair is None or pair.sched is not self.rq.sched:  # type: ignore[union-attr]
            super().dependency_signaled(fence)
            return
        self.dependency = None
        fence.put()


class RegistersUnderLock(KilledJob):
    """FEN-B10: the callback goes on to the next fence itself, under the lock of this one."""

    def called_back(self, fence: Fence) -> None:
        fence.put()
        while self.job.dependencies:
            following = self.strongest(self.job.dependencies.pop(0))
            assert following is not None
            try:
                following.add_callback(self.cb)
            except ENOENT:
                following.put()
            else:
                return
        self.job.sched.system_wq.queue_work(self.work)


class NeverScheduled(KilledJob):
    """FEN-B12: a killed job signals ``finished`` only."""

    async def end(self) -> None:
        pair = self.job.s_fence
        await self.engine.step("fence_signal", pair.finished)
        pair.signal_finished(None)
        await self.job.sched.free_job(self.job)


def teardown(**replaced: Any) -> type[SchedEntity]:
    """An entity whose teardown has other attributes."""
    return type("Deviant", (SchedEntity,), {"teardown_class": type("DeviantTeardown", (EntityTeardown,), replaced)})


def unknown_is_mine(self: EntityTeardown, process: ProcessGroup) -> bool:
    """FEN-B13: nobody used it yet, so it must be the caller's."""
    return self.entity.last_user is None or self.entity.last_user is process


class ForgetsOwner(SchedEntity):
    """FEN-B13, the other half: who opened it is not noted."""

    teardown_class = type("DeviantTeardown", (EntityTeardown,), {"is_last_user": unknown_is_mine})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.last_user = None


class UnlockedChange(SchedEntity):
    """FEN-B15: the list of schedulers is replaced without the lock, one word after the other."""

    async def modify_sched(self, scheds: Any) -> None:
        self._scheds = tuple(scheds)
        await self.engine.step("write", self, "num_sched_list")
        self._num_scheds = len(self._scheds)
        self._settled = False


class NotesLate(SchedEntity):
    """FEN-R17: the job is taken out before its fence is noted."""

    async def take_out(self, job: SchedJob) -> None:
        await self.engine.step("write", self.queue, "pop")
        self.queue.pop()
        await self.engine.step("write", self, "last_scheduled")
        self.note_scheduled(job.s_fence.finished.get())


class ReadsLate(SchedEntity):
    """FEN-R16: the job is looked at after it was pushed."""

    async def push_job(self, job: SchedJob, process: ProcessGroup | None) -> None:
        await super().push_job(job, process)
        await self.engine.step("read", self)
        job.alive("the push looks at")


class NotLocked(SchedEntity):
    """FEN-R14: arm and push each by itself."""

    def submission(self) -> Any:
        class Nothing:
            async def __aenter__(self) -> None: ...

            async def __aexit__(self, *_: object) -> None: ...

        return Nothing()


class LeavesCallback(SchedEntity):
    """FEN-R18: the entity goes, its callback stays."""

    def forget_dependency(self) -> bool:
        self.dependency = None
        return True


async def do_not_wait(self: EntityTeardown) -> None:
    """FEN-R18: the worker may still have the entity in its hands."""


class StaysOn(RunQueue):
    """A killed entity is put back by the worker that had chosen it."""

    def popped(self, entity: SchedEntity) -> None:
        self._unplace(entity)
        head = entity.queue.peek()
        if head is not None:
            self._place(entity, self.policy.place_again(self, entity, head))


class StaysOnSched(DrmSched):
    rq_class = StaysOn


class NoFlusherWoken(DrmSched):
    """FEN-R24."""

    def wake_flushers(self) -> None: ...


class TimerStays(DrmSched):
    """FEN-R23, FEN-B22."""

    async def cancel_timer(self) -> None: ...


def timeouts(**replaced: Any) -> type[DrmSched]:
    return type("DeviantSched", (DrmSched,), {"timeout_class": type("DeviantTimeout", (SchedTimeout,), replaced)})


async def leave_it_there(self: SchedTimeout) -> SchedJob | None:
    """FEN-R21: the job stays on the list while the driver looks at it."""
    await self.engine.step("read", self.sched)
    return next(iter(self.sched.pending), None)


def put_back_if_there_no_more(self: SchedTimeout, job: SchedJob) -> None:
    """Goes with it."""
    job.alive("the timeout handler looks at")


async def no_hang_is_nothing(self: SchedTimeout, job: SchedJob) -> None:
    """FEN-B19: the job was off the list for the time of the handler, and remains so."""
    await self.engine.step("local")


async def always_mine(self: SchedRecovery, job: SchedJob) -> bool:
    """FEN-R22: whether the callback was still there is not looked at."""
    pair = job.s_fence
    if pair.parent is None:
        return False
    await self.engine.step("write", pair.parent, "callback")
    pair.parent.remove_callback(job.cb)
    pair.drop_parent()
    self.sched.refund(job)
    return True


class AlwaysMine(DrmSched):
    recovery_class = type("DeviantRecovery", (SchedRecovery,), {"detach": always_mine})


class NoKickAfterFree(DrmSched):
    """Credits come back, but nobody looks whether they are enough for somebody."""

    async def _free_job_work(self) -> None:
        if self.pause_submit:
            return
        job, more = await self.get_finished_job()
        if job is not None:
            await self.free_job(job)
            if more:
                self.run_free_queue()


class TellsBusyWorkerNothing(SchedEntity):
    """FEN-R15: the worker is at work, so it will see by itself."""

    async def push_job(self, job: SchedJob, process: ProcessGroup | None) -> None:
        submit_ts = self.stamp(job)
        job.sched.score.value += 1
        if await self.queue.push(job):
            sched = await self.enter_rq(submit_ts)
            if sched is not None and sched.work_run_job.worker is None:
                sched.run_job_queue()


class RunsWhilePaused(DrmSched):
    """A kick is obeyed whether or not the scheduler is stopped."""

    def run_job_queue(self) -> None:
        self.submit_wq.queue_work(self.work_run_job)

    async def _run_job_work(self) -> None:
        pause, self.pause_submit = self.pause_submit, False
        await super()._run_job_work()
        self.pause_submit = pause


# -- scenarios -------------------------------------------------------------------------------


async def two_pushes(bench: Bench, parts: Parts) -> None:
    """Two jobs that stay on the hardware: nothing else wakes the worker for the second."""
    bench.sched(cls=parts.sched)
    entity = bench.entity(cls=parts.entity)

    async def thread() -> None:
        for _ in range(2):
            await bench.submit(entity)

    bench.engine.spawn(thread(), "thread")
    await bench.engine.quiesce()
    bench.checker.at_rest()
    await bench.gpu.advance(2)


async def two_threads_one_entity(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched)
    entity = bench.entity(cls=parts.entity)

    async def thread() -> None:
        await bench.submit(entity, US)

    async with bench.engine.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(thread)


async def killed_dependency(bench: Bench, parts: Parts) -> None:
    """An entity waits for a job of another one of the same scheduler, which is killed first."""
    bench.sched(cls=parts.sched)
    doomed, waiter = bench.entity(cls=parts.entity), bench.entity(cls=parts.entity)
    foreign = Fence(bench.engine, "foreign")
    victim = await bench.submit(doomed, US, foreign)
    last = await bench.submit(waiter, US, victim)
    await bench.engine.quiesce()
    await doomed.fini()
    await bench.engine.step("fence_signal", foreign)
    foreign.signal()
    await last.s_fence.finished.wait()


async def killed_behind_hardware(bench: Bench, parts: Parts) -> None:
    """A killed job waits for a hardware fence of the timeline that the job in front of it is on."""
    bench.sched(cls=parts.sched, credit_limit=2)
    entity = bench.entity(cls=parts.entity)
    await bench.submit(entity)
    other = await bench.submit(bench.entity())
    await other.s_fence.scheduled.wait()
    assert other.hardware is not None
    job = await bench.submit(entity, US, other.hardware)
    await bench.engine.quiesce()
    await entity.kill()
    for _ in range(2):
        assert await bench.gpu.advance(1) == 1
    await job.s_fence.finished.wait()


async def forked_child_dies(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched)
    entity = bench.entity(cls=parts.entity)
    child = ProcessGroup("child")
    child.sigkill()
    child.exit()
    await entity.flush(child, MS)
    job = await bench.submit(entity, US)
    await job.done.wait()


async def list_changes(bench: Bench, parts: Parts) -> None:
    first, second = bench.sched(), bench.sched()
    entity = bench.entity(first, second, cls=parts.entity)
    changer = bench.engine.spawn(entity.modify_sched([second]), "changer")
    await bench.submit(entity, US)
    await bench.engine.join(changer)


async def entity_may_move(bench: Bench, parts: Parts) -> None:
    """Two schedulers; the other one looks less loaded as soon as a job is taken."""
    first, second = bench.sched(), bench.sched()
    entity = bench.entity(first, second, cls=parts.entity)
    for _ in range(2):
        await bench.submit(entity)


async def free_during_push(bench: Bench, parts: Parts) -> None:
    sched = parts.sched(bench.engine, "s", NoHardware())
    bench.scheds.append(sched)
    entity = bench.entity(sched, cls=parts.entity)

    async def thread() -> None:
        await SchedJob(entity).submit()

    bench.engine.spawn(thread(), "thread")


async def dependency_outlives(bench: Bench, parts: Parts) -> None:
    """The entity ends while its head job waits for a fence of somebody else."""
    bench.sched(cls=parts.sched)
    entity = bench.entity(cls=parts.entity)
    fence = Fence(bench.engine, "foreign")
    await bench.submit(entity, US, fence)
    await bench.engine.quiesce()
    await entity.fini()
    await bench.engine.step("fence_signal", fence)
    fence.signal()


async def end_under_the_worker(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched)
    entity = bench.entity(cls=parts.entity)
    for _ in range(3):
        await bench.submit(entity, US)
    await entity.fini()


async def flush_and_fini(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched, credit_limit=1)
    entity = bench.entity()
    for _ in range(2):
        await bench.submit(entity)
    await bench.engine.quiesce()
    flush = bench.engine.spawn(entity.flush(bench.process, MS), "flush")
    await bench.engine.step("local")
    await bench.scheds[0].fini()
    await bench.engine.join(flush)


async def fini_with_jobs(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched, timeout=MS)
    await bench.submit(bench.entity())
    await bench.engine.step("local")
    await bench.scheds[0].fini()


async def false_alarm(bench: Bench, parts: Parts) -> None:
    """The job finishes at the very time its timeout fires."""
    bench.sched(cls=parts.sched, timeout=MS)
    job = MockJob(bench.entity(), MS)
    job.flags |= MockFlags.DONT_RESET
    await bench.hand_over(job)
    await job.s_fence.finished.wait()


async def stop_while_finishing(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched)
    entity = bench.entity()
    for _ in range(2):
        await bench.submit(entity, MS)
    await bench.engine.sleep(MS)
    await bench.scheds[0].stop()
    await bench.gpu.reset()
    await bench.scheds[0].recovery.resubmit_jobs()
    await bench.scheds[0].start()


async def push_while_stopped(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched)
    await bench.scheds[0].stop()
    await bench.submit(bench.entity(), US)
    await bench.engine.quiesce()
    await bench.scheds[0].start()


async def credits_return(bench: Bench, parts: Parts) -> None:
    bench.sched(cls=parts.sched, credit_limit=1)
    entity = bench.entity()
    for _ in range(3):
        await bench.submit(entity, US)


# -- the table ---------------------------------------------------------------------------------


@attrs.frozen
class Row:
    """A deviation, where it shows and how."""

    id: str
    parts: Parts
    scenario: Scenario
    notices: str
    """``Deadlock``, or the rules of the properties that may fail."""
    preemptions: int | None = None
    """Search all interleavings with so many preemptions; None: random schedules."""
    options: dict[str, Any] = attrs.field(factory=dict)


ROWS = [
    Row("FEN-B08", Parts(entity=CountsLateEntity), two_pushes, "INV-FEN-07", 2),
    Row("FEN-B09", Parts(entity=ClearsOnly), killed_dependency, "Deadlock"),
    Row("FEN-B10", Parts(entity=teardown(killed_job_class=RegistersUnderLock)), killed_behind_hardware, "FEN-R20"),
    Row("FEN-B12", Parts(entity=teardown(killed_job_class=NeverScheduled)), killed_dependency, "INV-FEN-07"),
    Row("FEN-B13", Parts(entity=ForgetsOwner), forked_child_dies, "Deadlock"),
    Row("FEN-B15", Parts(entity=UnlockedChange), list_changes, "FEN-R25"),
    Row("FEN-B19", Parts(timeouts(reinsert=no_hang_is_nothing)), false_alarm, "INV-FEN-10"),
    Row("FEN-B22", Parts(TimerStays), fini_with_jobs, "INV-FEN-08"),
    Row("FEN-R14", Parts(entity=NotLocked), two_threads_one_entity, "FEN-R14"),
    Row("FEN-R15", Parts(entity=TellsBusyWorkerNothing), two_pushes, "INV-FEN-07", 2),
    Row("FEN-R16", Parts(entity=ReadsLate), free_during_push, "INV-FEN-08", 2),
    Row("FEN-R17", Parts(entity=NotesLate), entity_may_move, "INV-FEN-07", 2),
    Row("FEN-R18 callback", Parts(entity=LeavesCallback), dependency_outlives, "INV-FEN-08"),
    Row("FEN-R18 worker", Parts(entity=teardown(wait_unused=do_not_wait)), end_under_the_worker,
        "INV-FEN-08 INV-FEN-02"),
    Row("FEN-R18 run queue", Parts(StaysOnSched), end_under_the_worker, "INV-FEN-08"),
    Row("FEN-R21", Parts(timeouts(take_head=leave_it_there, put_back=put_back_if_there_no_more)),
        false_alarm, "INV-FEN-08", options={"race_timers": True}),
    Row("FEN-R22", Parts(AlwaysMine), stop_while_finishing, "INV-FEN-07"),
    Row("FEN-R24", Parts(NoFlusherWoken), flush_and_fini, "FEN-R24"),
    Row("no kick after free", Parts(NoKickAfterFree), credits_return, "INV-FEN-07"),
    Row("runs while paused", Parts(RunsWhilePaused), push_while_stopped, "INV-FEN-07"),
]  # fmt: skip


SCHEDULES = 60
"""Random schedules that the correct classes must survive, and that must find the deviation."""

INTERLEAVINGS = 6_000
"""No search may need more."""


def search(row: Row, parts: Parts) -> BaseException | None:
    """The first failure among the schedules tried; None when all hold."""

    async def body(bench: Bench) -> None:
        await row.scenario(bench, parts)

    try:
        if row.preemptions is not None:
            exhaust(body, INTERLEAVINGS, row.preemptions, **row.options)
        else:
            for _ in every(body, SCHEDULES, **row.options):
                pass
    except (PropertyFailed, Deadlock) as error:
        return error
    return None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_guard_holds(row: Row) -> None:
    error = search(row, CORRECT)
    assert error is None, (error, error.__notes__)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_without_the_guard_it_fails(row: Row) -> None:
    error = search(row, row.parts)
    assert error is not None, "not noticed"
    assert (error.rule if isinstance(error, PropertyFailed) else "Deadlock") in row.notices.split(), error
