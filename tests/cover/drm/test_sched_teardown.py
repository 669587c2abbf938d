"""The end of entities and schedulers: flush, kill, fini (fences_and_scheduler 8.4)."""

from __future__ import annotations

import pytest
from sched_bench import MS, US, Bench, NoHardware, counted, every, exhaust, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_mock import MockFlags, MockGpu, MockJob
from svm_actors.drm.sched_user import ProcessGroup
from svm_actors.drm.sched_work import Workqueue
from svm_actors.engine.errors import ECANCELED, ESRCH, PropertyFailed


def killed(bench: Bench) -> list[bool]:
    """Of each job submitted, whether it was killed."""
    return [isinstance(pair.finished.error, ESRCH) for pair in bench.fences]


# -- flush -----------------------------------------------------------------------------------------


def test_a_flush_waits_until_everything_is_on_the_hardware() -> None:
    """Not until it is finished: the entity is idle when its queue is empty."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        jobs = [await bench.submit(entity, MS) for _ in range(3)]
        assert await entity.flush(bench.process, 0)
        assert jobs[2].s_fence.scheduled.signaled
        assert not jobs[2].done.done
        assert entity.last_user is None

    for _ in every(body, 30):
        pass


def test_an_exiting_process_waits_no_longer_than_it_may() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        for _ in range(2):
            await bench.submit(entity)
        bench.process.exit()
        assert not await entity.flush(bench.process, 5 * MS)
        assert bench.engine.now == 5 * MS
        assert not entity.stopped
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        await bench.gpu.advance(1)

    for _ in every(body, 20):
        pass


def test_sigkill_ends_a_killable_flush_but_kills_only_on_exit() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        for _ in range(2):
            await bench.submit(entity)

        async def flusher() -> None:
            bench.log.append(await entity.flush(bench.process, MS))

        task = bench.engine.spawn(flusher(), "flusher")
        await bench.engine.sleep(1)
        assert bench.process.sleeps_on == [bench.scheds[0].job_scheduled]
        bench.process.sigkill()
        await bench.engine.join(task)
        assert not entity.stopped
        assert bench.process.sleeps_on == []
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        await bench.gpu.advance(1)

    for bench in every(body, 20):
        assert bench.log == [False]


def test_a_flush_ends_when_somebody_else_kills_the_entity() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        for _ in range(2):
            await bench.submit(entity)
        flush = bench.engine.spawn(entity.flush(bench.process, MS), "flush")
        await bench.engine.sleep(1)
        assert not flush.done
        await entity.kill()
        await bench.engine.join(flush)
        await bench.gpu.advance(1)

    for _ in every(body, 20):
        pass


def test_the_death_of_the_last_user_kills_the_entity() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        for _ in range(3):
            await bench.submit(entity)
        await bench.engine.quiesce()
        bench.process.sigkill()
        bench.process.exit()
        assert not await entity.flush(bench.process, MS)
        assert entity.stopped
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert killed(bench) == [False, True, True]

    for _ in every(body, 30):
        pass


@pytest.mark.parametrize("pushed", [False, True])
def test_the_death_of_a_child_kills_nothing(pushed: bool) -> None:
    """FEN-R26, FEN-B13: the child inherited the file; the entity is its parent's."""

    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        if pushed:
            await bench.submit(entity, US)
        child = ProcessGroup("child")
        child.sigkill()
        child.exit()
        await entity.flush(child, MS)
        assert not entity.stopped
        assert entity.last_user is bench.process
        job = await bench.submit(entity, US)
        await job.done.wait()

    assert counted(every(body, 20), "FEN-R26") == 21


def test_a_new_user_takes_the_entity_over() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        heir = ProcessGroup("heir")
        await MockJob(entity, US).submit(heir)
        bench.process.sigkill()
        bench.process.exit()
        await entity.flush(bench.process, MS)
        assert not entity.stopped
        heir.sigkill()
        heir.exit()
        await entity.flush(heir, MS)
        assert entity.stopped

    run(body)


# -- kill ----------------------------------------------------------------------------------------


def test_a_killed_job_keeps_its_promises_in_order() -> None:
    """Both fences, -ESRCH, after the job in front of it and after all it would have waited for."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        gate = Fence(bench.engine, "gate")
        on_hardware = await bench.submit(entity)
        await on_hardware.s_fence.scheduled.wait()
        await bench.submit(entity, 0, gate)
        last = await bench.submit(entity)
        for pair in bench.fences:
            for fence in (pair.scheduled, pair.finished):
                if not fence.signaled:
                    fence.add_callback(lambda fence: bench.log.append(fence.name))
        await entity.kill()
        await bench.engine.quiesce()
        assert bench.log == []
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert bench.log == ["e0.finished.1"]
        gate.signal()
        await last.s_fence.finished.wait()
        assert bench.log == [
            "e0.finished.1", "e0.scheduled.2", "e0.finished.2", "e0.scheduled.3", "e0.finished.3",
        ]  # fmt: skip
        assert killed(bench) == [False, True, True]

    assert counted(every(body, 30), "FEN-R20") == 3 * 31


def test_a_scheduled_dependency_is_waited_for_until_it_is_finished() -> None:
    """To run behind it, being on the hardware was enough; to say "done" it is not."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        other, doomed = bench.entity(), bench.entity()
        first = await bench.submit(other)
        await first.s_fence.scheduled.wait()
        second = MockJob(doomed)
        second.add_dependency(first.s_fence.scheduled.get())
        await bench.hand_over(second)
        await doomed.kill()
        await bench.engine.quiesce()
        assert not second.s_fence.finished.signaled
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert killed(bench) == [False, True]

    for _ in every(body, 20):
        pass


def test_a_scheduled_dependency_whose_job_is_long_gone() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        other, doomed = bench.entity(), bench.entity()
        old = MockJob(other, US)
        await old.arm()
        scheduled = old.s_fence.scheduled.get()
        await old.push()
        await bench.engine.quiesce()
        await other.fini()
        blocker = await bench.submit(doomed)
        await blocker.s_fence.scheduled.wait()
        job = MockJob(doomed)
        job.add_dependency(scheduled)
        await bench.hand_over(job)
        await bench.memory.drain()
        assert scheduled.pair.finished.freed
        await doomed.kill()
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert killed(bench) == [False, True]

    run(body)


def test_dependants_on_other_entities_do_not_wait_for_ever() -> None:
    """FEN-R19: who waits for ``scheduled`` of a killed job is told, and runs."""

    async def body(bench: Bench) -> None:
        bench.sched()
        doomed, waiter = bench.entity(), bench.entity()
        gate = Fence(bench.engine, "gate")
        victim = await bench.submit(doomed, US, gate)
        last = await bench.submit(waiter, US, victim)
        killer = bench.engine.spawn(doomed.kill(), "killer")
        await bench.engine.join(killer)
        gate.signal()
        await last.done.wait()
        assert killed(bench) == [True, False]

    assert counted(every(body), "FEN-R19") > 30


def test_a_push_to_a_killed_entity_stays_until_it_is_killed_again() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        await entity.kill()
        job = await bench.submit(entity, US)
        await bench.engine.quiesce()
        assert not job.s_fence.scheduled.signaled
        assert entity.queue.count == 1
        await entity.fini()
        await bench.engine.quiesce()
        assert killed(bench) == [True]

    for bench in every(body, 20):
        assert bench.engine.counters["sched.push_to_stopped"] == 1


def test_kill_races_with_pushes_and_runs() -> None:
    """Whatever the interleaving, every job either runs or is killed, in order."""

    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()

        async def submitter() -> None:
            for _ in range(4):
                await bench.submit(entity, US)

        async def killer() -> None:
            for _ in range(bench.engine.choose(60, "delay")):
                await bench.engine.step("local")
            await entity.kill()

        bench.engine.spawn(submitter(), "submitter")
        await bench.engine.join(bench.engine.spawn(killer(), "killer"))
        await bench.engine.quiesce()
        await entity.kill()
        await bench.engine.quiesce()
        dead = killed(bench)
        assert dead == sorted(dead)
        bench.log.append(sum(dead))

    benches = list(every(body, 200))
    assert {bench.log[0] for bench in benches} >= {0, 1, 2, 3, 4}
    assert counted(benches, "FEN-R18") > 0


def test_every_interleaving_of_a_push_a_run_and_a_kill() -> None:
    async def body(bench: Bench) -> None:
        sched = DrmSched(bench.engine, "s", NoHardware())
        bench.scheds.append(sched)
        entity = bench.entity(sched)

        async def submitter() -> None:
            bench.fences.append(await SchedJob(entity).submit())

        bench.engine.spawn(submitter(), "submitter")
        bench.engine.spawn(entity.kill(), "killer")
        await bench.engine.quiesce()
        assert not entity.rq.waiting()  # type: ignore[union-attr]
        await entity.kill()
        await bench.engine.quiesce()
        assert bench.fences[0].finished.signaled

    assert exhaust(body, 20_000, 3) > 500


# -- fini of an entity -----------------------------------------------------------------------------


def test_fini_cuts_every_tie() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        fence = Fence(bench.engine, "fence")
        await bench.submit(entity, US, fence)
        await bench.engine.quiesce()
        assert entity.dependency is fence
        await entity.fini()
        assert (entity.dependency, entity.last_scheduled, entity.freed) == (None, None, True)
        fence.signal()
        await bench.engine.quiesce()
        assert killed(bench) == [True]
        for late in (entity.fini(), entity.flush(bench.process, 0), MockJob(entity).arm()):
            with pytest.raises(PropertyFailed, match="INV-FEN-08"):
                await late

    assert counted(every(body, 20), "FEN-R18") == 21


def test_a_job_made_before_cannot_be_pushed_after() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        job = MockJob(entity)
        await job.arm()
        await entity.fini()
        await job.push()

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*a job is pushed to e0, which is freed"):
        run(body)


def test_the_job_does_not_keep_the_entity() -> None:
    """FEN-B17: the entity may go while its job is on the hardware."""

    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        job = await bench.submit(entity)
        await job.s_fence.scheduled.wait()
        assert job.entity is None
        await entity.fini()
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert MockFlags.DONE in job.flags

    for _ in every(body, 20):
        pass


# -- fini of a scheduler -----------------------------------------------------------------------------


def test_pending_jobs_are_cancelled_newest_first() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=3)
        entity = bench.entity()
        jobs = [await bench.submit(entity) for _ in range(3)]
        await jobs[2].s_fence.scheduled.wait()
        await sched.fini()
        assert bench.gpu.freed == jobs[::-1]
        assert all(isinstance(pair.finished.error, ECANCELED) for pair in bench.fences)
        assert sched.leaked == []

    # So the fences of one context signal in the wrong order, which is against their contract (INV-FEN-02).
    assert counted(every(body, 10), "sched.finished_out_of_order") == 2 * 11


class CannotCancel(MockGpu):
    can_cancel = False


def test_without_cancel_they_are_leaked_and_reported() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(gpu=CannotCancel(bench.engine, memory=bench.memory))
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await sched.fini()
        assert sched.leaked == [job]
        assert bench.engine.counters["sched.leaked_jobs"] == 1

    with pytest.raises(PropertyFailed, match=r"INV-FEN-10.*leaked: e0.job1"):
        run(body)


def test_sleeping_flushers_are_woken() -> None:
    """FEN-R24."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        entity = bench.entity()
        for _ in range(2):
            await bench.submit(entity)
        await bench.engine.quiesce()
        flush = bench.engine.spawn(entity.flush(bench.process, MS), "flush")
        for _ in range(3):
            await bench.engine.step("local")
        await bench.scheds[0].fini()
        await bench.engine.join(flush)
        assert entity.stopped

    assert counted(every(body), "FEN-R24") > 30


def test_the_timer_is_cancelled_and_its_handler_waited_for() -> None:
    """FEN-R23: armed, fired, or at work with a recovery that would start the scheduler again."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=MS)
        bench.gpu.recovery = "restart"
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await bench.engine.sleep(MS)
        await sched.fini()
        assert not sched.tdr.work.busy
        assert sched.pause_submit

    benches = list(every(body, 150))
    assert counted(benches, "FEN-R23") > 100
    assert 0 < counted(benches, "sched.timeout") < 151


def test_what_is_left_on_a_run_queue_is_stopped() -> None:
    """Entities that outlive the scheduler can still be taken apart, and nothing runs any more."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=1)
        entity = bench.entity()
        for _ in range(3):
            await bench.submit(entity)
        await bench.fences[0].scheduled.wait()
        await sched.fini()
        assert entity.stopped
        assert not sched.ready
        await bench.engine.quiesce()
        await entity.fini()
        await bench.engine.quiesce()
        assert killed(bench) == [False, True, True]

    for _ in every(body, 20):
        pass


def test_an_entity_of_a_dead_scheduler_may_not_be_used() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        entity = bench.entity()
        await sched.fini()
        await bench.submit(entity, US)

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*e0 uses sched0.rq2, which is freed"):
        run(body)


def test_its_memory_must_outlive_its_jobs() -> None:
    """FEN-B21: the hardware completes a leaked job of a scheduler that is gone."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(gpu=CannotCancel(bench.engine, memory=bench.memory))
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await sched.fini()
        sched.free()
        await bench.gpu.advance(1)

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*a job ends on sched0, which is freed"):
        run(body)


def test_its_memory_must_outlive_its_killed_jobs() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        entity = bench.entity()
        gate = Fence(bench.engine, "gate")
        await bench.submit(entity, 0, gate)
        await bench.engine.quiesce()
        await entity.fini()
        await sched.fini()
        sched.free()
        gate.signal()
        await bench.engine.quiesce()

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*a job is freed of sched0, which is freed"):
        run(body)


@pytest.mark.parametrize("what", ["run_job_queue", "run_free_queue", "work_run_job", "work_free_job", "timer"])
def test_nothing_may_reach_its_memory_afterwards(what: str) -> None:
    """INV-FEN-08: no kick, no work item, no timer."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=MS)
        sched.free()
        if what.startswith("run"):
            getattr(sched, what)()
        elif what == "timer":
            sched.tdr.work.mod(MS)
        else:
            sched.submit_wq.queue_work(getattr(sched, what))
        await bench.engine.quiesce()

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*sched0, which is freed"):
        run(body)


def test_its_own_queue_goes_with_it_and_a_shared_one_does_not() -> None:
    async def body(bench: Bench) -> None:
        shared = Workqueue(bench.engine, "shared")
        for sched in (bench.sched(), bench.sched(submit_wq=shared)):
            await sched.fini()
            assert sched.submit_wq.destroyed == (sched.submit_wq is not shared)

    run(body)


def test_a_job_ends_once() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity(), US)
        await bench.engine.quiesce()
        bench.engine.listeners.clear()
        sched.job_done(job, None)

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*the end of e0.job1, which is freed"):
        run(body)


def test_killed_jobs_outlive_entity_and_scheduler() -> None:
    """Their last breath comes after both are down: the scheduler's memory must still be there."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=1)
        entity = bench.entity()
        gate = Fence(bench.engine, "gate")
        await bench.submit(entity, 0, gate)
        await bench.engine.quiesce()
        await entity.fini()
        await sched.fini()
        gate.signal()
        await bench.engine.quiesce()
        assert killed(bench) == [True]

    for _ in every(body, 20):
        pass


def test_everything_down_in_the_middle_of_everything() -> None:
    """Submitters, the clock, a timeout, then entities and scheduler end at any moment."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=2, timeout=5 * MS)
        entities = [bench.entity() for _ in range(3)]

        async def submitter(index: int) -> None:
            for number in range(3):
                before = [pair.finished for pair in bench.fences[-1:]]
                await bench.submit(entities[index], 0 if number == index == 0 else MS, *before)

        async with bench.engine.nursery() as nursery:
            for index in range(3):
                nursery.start_soon(submitter, index)
        for entity in entities:
            await entity.destroy(bench.process, MS)
        await sched.fini()
        await bench.engine.quiesce()

    for _ in every(body, 150, race_timers=True):
        pass
