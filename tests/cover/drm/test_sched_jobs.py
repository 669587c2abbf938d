"""The life of a job: init, dependencies, arm, push, run, done, free (fences_and_scheduler 8.2)."""

from __future__ import annotations

import pytest
from sched_bench import MS, US, Bench, NoHardware, S, counted, every, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_fence import to_sched_fence
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_mock import MockJob
from svm_actors.drm.sched_types import Priority
from svm_actors.drm.sched_user import Guilt
from svm_actors.engine.errors import (
    ECANCELED,
    EINVAL,
    EIO,
    ENOENT,
    ENOMEM,
    EngineError,
    PropertyFailed,
)

# -- one job -------------------------------------------------------------------------------------


def test_the_whole_life_of_one_job() -> None:
    """The trace of the worker, op by op, and the events in order."""

    async def body(bench: Bench) -> None:
        bench.sched()
        bench.engine.listeners.append(lambda event: bench.log.append(getattr(event, "phase", type(event).__name__)))
        await bench.submit(bench.entity(), MS)
        await bench.engine.quiesce()
        assert bench.engine.now == MS

    bench = run(body, record=True)
    assert bench.log[:7] == ["push", "charge", "run", "scheduled", "refund", "finished", "free"]
    mine = "sched0.submit: "
    worker = [line.removeprefix(mine) for line in bench.engine.trace() if line.startswith(mine)]
    assert worker[:16] == [
        "start",
        "receive sched0.submit",
        "lock sched0.rq0.lock",
        "lock sched0.rq1.lock",
        "lock sched0.rq2.lock",
        "write e0 last_scheduled",
        "write e0.queue pop",
        "lock e0.lock",
        "lock sched0.job_list_lock",
        "write sched0.gpu ring",
        "fence_signal e0.scheduled.1",
        "write sched0.gpu.1 callback",
        "receive sched0.submit",
        "lock sched0.rq0.lock",
        "lock sched0.rq1.lock",
        "lock sched0.rq2.lock",
    ]
    assert [line for line in worker if line.startswith("free")] == ["free e0.job1"]


def test_the_parent_is_there_when_scheduled_is_signaled() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        job = MockJob(bench.entity(), MS)
        await job.arm()
        pair = job.s_fence
        bench.fences.append(pair)
        pair.finished.get()
        pair.scheduled.add_callback(lambda _: bench.log.append(pair.parent is not None))
        await job.push()
        await pair.finished.wait()

    assert run(body).log == [True]


def test_credits_of_zero_and_no_scheduler_are_refused() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        entity = bench.entity()
        with pytest.raises(EINVAL):
            SchedJob(entity, 0)
        with pytest.raises(EINVAL):
            SchedEntity(bench.engine, "nobody", [])
        sched.ready = False
        orphan = bench.entity(sched)
        with pytest.raises(ENOENT):
            SchedJob(orphan)
        await orphan.kill()
        assert await orphan.flush(bench.process, S)

    run(body)


def test_what_is_not_armed_can_be_dropped_and_what_is_cannot() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        fence = Fence(bench.engine, "dependency", memory=bench.memory)
        job = MockJob(entity)
        job.add_dependency(fence.get())
        job.cleanup()
        assert fence.refs == 1
        fence.signal()
        fence.put()
        with pytest.raises(EngineError, match="not armed"):
            _ = MockJob(entity).s_fence
        with pytest.raises(EngineError, match="not armed"):
            await MockJob(entity).push()
        armed = MockJob(entity, US)
        await armed.arm()
        with pytest.raises(EngineError, match="only the scheduler may free it"):
            armed.cleanup()
        with pytest.raises(EngineError, match="dependencies are fixed"):
            armed.add_dependency(fence)
        with pytest.raises(EngineError, match="armed twice"):
            await armed.arm()
        await armed.push()
        await bench.engine.quiesce()
        with pytest.raises(PropertyFailed, match="INV-FEN-08"):
            armed.release()

    run(body)


def test_jobs_of_a_context_are_numbered_from_one() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        first, second = bench.entity(), bench.entity()
        for entity in (first, second, first):
            await bench.submit(entity, US)
        numbers = [(pair.scheduled.context, pair.finished.context, pair.seqno) for pair in bench.fences]
        a, b = first.fence_context, second.fence_context
        assert numbers == [(a, a + 1, 1), (b, b + 1, 1), (a, a + 1, 2)]
        assert abs(a - b) >= 2

    run(body)


# -- results ---------------------------------------------------------------------------------------


def test_an_error_of_run_job_is_the_jobs_error() -> None:
    """FEN-B18: who waits must not believe that it worked; nothing is retried, both fences are signaled."""

    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        bad = MockJob(entity)
        bad.failure = EIO()
        await bench.hand_over(bad)
        good = await bench.submit(entity, US)
        await good.s_fence.finished.wait()
        assert isinstance(bad.s_fence.finished.error, EIO)
        assert bad.s_fence.scheduled.error is None
        assert bad.s_fence.parent is None
        assert good.s_fence.finished.error is None

    assert counted(every(body), "sched.run_job") == 2 * 61


def test_a_job_without_hardware_fence_is_done_at_once() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        job = MockJob(bench.entity())
        job.instant = True
        await bench.hand_over(job)
        await job.s_fence.finished.wait()
        assert job.s_fence.finished.error is None
        assert bench.engine.now == 0

    for _ in every(body, 20):
        pass


def test_a_failed_submission_may_overtake_one_on_the_hardware() -> None:
    """The kernel lets it: ``finished`` fences then signal out of order; the checker counts it."""

    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        await bench.submit(entity)
        bad = MockJob(entity)
        bad.failure = EIO()
        await bench.hand_over(bad)
        await bad.s_fence.finished.wait()
        assert not bench.fences[0].finished.signaled
        await bench.gpu.advance(1)

    assert run(body).engine.counters["sched.finished_out_of_order"] == 1


def test_the_hardware_error_is_passed_on_and_visible_in_the_entity() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        assert entity.error() is None
        job = await bench.submit(entity)
        await job.s_fence.scheduled.wait()
        assert entity.error() is None
        hardware = job.hardware
        assert hardware is not None
        bench.gpu.jobs.clear()
        await bench.engine.step("fence_signal", hardware)
        hardware.signal(EIO())
        assert isinstance(job.s_fence.finished.error, EIO)
        assert isinstance(entity.error(), EIO)

    run(body)


def test_a_guilty_context_runs_with_an_error() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        guilt = Guilt()
        first, second = bench.entity(guilt=guilt), bench.entity(guilt=guilt)
        before = await bench.submit(first, US)
        await before.s_fence.finished.wait()
        guilt.guilty = True
        jobs = [await bench.submit(entity, US) for entity in (first, second)]
        await bench.engine.quiesce()
        assert before.s_fence.finished.error is None
        for job in jobs:
            assert isinstance(job.s_fence.finished.error, ECANCELED)
            assert job.done.done

    run(body)


def test_gpu_time_is_booked_once_though_jobs_overlap() -> None:
    """A job's time begins when the one before it is done, not when it was put on the hardware."""

    async def body(bench: Bench) -> None:
        bench.sched()
        first, second = bench.entity(), bench.entity()
        for entity, duration in ((first, 3 * MS), (second, MS), (first, 2 * MS)):
            await bench.submit(entity, duration)
        await bench.engine.quiesce()
        assert (first.stats.runtime, second.stats.runtime) == (5 * MS, MS)

    for _ in every(body, 20):
        pass


# -- dependencies ------------------------------------------------------------------------------


def test_a_job_waits_for_all_its_dependencies_in_any_order() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        fences = [Fence(bench.engine, f"f{n}") for n in range(3)]
        job = await bench.submit(bench.entity(), US, *fences)

        async def signaler(fence: Fence) -> None:
            await bench.engine.step("fence_signal", fence)
            assert not job.s_fence.scheduled.signaled
            fence.signal()

        for fence in fences:
            bench.engine.spawn(signaler(fence), fence.name)
        await job.s_fence.scheduled.wait()
        assert all(fence.signaled for fence in fences)

    for _ in every(body):
        pass


def test_other_entities_are_served_meanwhile() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        blocked, free = bench.entity(), bench.entity()
        fence = Fence(bench.engine, "fence")
        waits = await bench.submit(blocked, US, fence)
        for _ in range(2):
            job = await bench.submit(free, US)
        await job.done.wait()
        assert not waits.s_fence.scheduled.signaled
        assert blocked.statistics() == {"queued": 1, "dependency": "fence", "stopped": False}
        fence.signal()
        await waits.done.wait()

    for _ in every(body, 20):
        pass


def test_of_one_context_only_the_latest_is_kept() -> None:
    async def body(bench: Bench) -> None:
        engine = bench.engine
        bench.sched()
        context = dma_fence_context_alloc(engine)
        one, two, three = (Fence(engine, f"f{n}", context=context, seqno=n, memory=bench.memory) for n in (1, 2, 3))
        foreign = [Fence(engine, f"none{n}", memory=bench.memory) for n in range(2)]
        job = MockJob(bench.entity(), US)
        job.add_dependency(None)
        for fence in (two, one, three, three, *foreign):
            job.add_dependency(fence.get())
        assert job.dependencies == [three, *foreign]
        assert [fence.refs for fence in (one, two, three)] == [1, 1, 2]
        job.cleanup()
        for fence in (one, two, three, *foreign):
            fence.signal()
            fence.put()

    run(body)


def test_the_reference_is_consumed_also_when_memory_is_short() -> None:
    """FEN-B07: the caller never puts a fence it gave to a job."""

    class Refuses:
        name = "refuses"
        left = 0

        def schedule(self, running: object, candidates: list[object], timer: bool) -> int:
            return 0

        def data(self, count: int, label: str) -> int:
            assert label in ("oom.job fences", "oom.job dependency")
            self.left -= 1
            return int(self.left == 0)

    chooser = Refuses()

    async def body(bench: Bench) -> None:
        bench.sched()
        fence = Fence(bench.engine, "fence", memory=bench.memory)
        entity = bench.entity()
        bench.memory.inject = True
        chooser.left = 1
        with pytest.raises(ENOMEM):
            MockJob(entity)
        job = MockJob(entity)
        chooser.left = 1
        with pytest.raises(ENOMEM):
            job.add_dependency(fence.get())
        assert fence.refs == 1
        job.add_dependency(fence.get())
        assert fence.refs == 2
        bench.memory.inject = False
        job.cleanup()
        fence.signal()
        fence.put()

    run(body, chooser=chooser)  # type: ignore[arg-type]


@pytest.mark.parametrize(("write", "waits_for"), [(False, "KW"), (True, "KWR")])
def test_implicit_dependencies_of_a_reservation(write: bool, waits_for: str) -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        resv = DmaResv(bench.engine, "bo", memory=bench.memory)
        fences = {usage: Fence(bench.engine, usage.name, memory=bench.memory) for usage in Usage}
        job = MockJob(bench.entity(), US)
        await resv.lock()
        resv.reserve(len(fences))
        for usage, fence in fences.items():
            resv.add(fence, usage)
        job.add_implicit_dependencies(resv, write)
        resv.unlock()
        assert "".join(fence.name[0] for fence in job.dependencies) == waits_for
        job.cleanup()
        for fence in fences.values():
            fence.signal()
            fence.put()
        resv.fini()

    run(body)


class Counting(SchedEntity):
    """Notes which fences it waits for."""

    async def wait_for(self, fence: Fence, sched: DrmSched) -> bool:
        waits = await super().wait_for(fence, sched)
        if waits:
            assert self.dependency is not None
            self.waited.append(self.dependency.name)  # type: ignore[attr-defined]
        return waits


def listed(bench: Bench, *scheds: DrmSched) -> SchedEntity:
    entity = bench.entity(*scheds, cls=Counting)
    entity.waited = []  # type: ignore[attr-defined]
    return entity


def test_a_dependency_on_the_own_entity_is_no_dependency() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = listed(bench)
        before = await bench.submit(entity, MS)
        job = await bench.submit(entity, US, before.s_fence.finished, before.s_fence.scheduled)
        await job.done.wait()
        assert entity.waited == []  # type: ignore[attr-defined]

    for _ in every(body, 20):
        pass


def test_on_the_same_scheduler_being_scheduled_is_enough() -> None:
    """Both jobs are on the hardware at a time, in order."""

    async def body(bench: Bench) -> None:
        bench.sched()
        blocked, entity = bench.entity(), listed(bench)
        gate = Fence(bench.engine, "gate")
        before = await bench.submit(blocked, MS, gate)
        job = await bench.submit(entity, MS, before)
        await bench.engine.quiesce()
        assert entity.waited == ["e0.scheduled.1"]  # type: ignore[attr-defined]
        gate.signal()
        await job.s_fence.scheduled.wait()
        assert not before.done.done
        await job.done.wait()
        assert (before.finished_at, job.finished_at) == (MS, 2 * MS)

    assert run(body).engine.counters["FEN-R19"] == 0


@pytest.mark.parametrize("reason", ["flag", "other scheduler", "error"])
def test_else_it_must_be_finished(reason: str) -> None:
    async def body(bench: Bench) -> None:
        first = bench.sched()
        second = bench.sched()
        entity = listed(bench, second if reason == "other scheduler" else first)
        gate = Fence(bench.engine, "gate")
        before = MockJob(bench.entity(first), MS)
        before.add_dependency(gate)
        await before.arm()
        bench.fences.append(before.s_fence)
        before.s_fence.finished.get()
        if reason == "flag":
            before.s_fence.dont_pipeline = True
        if reason == "error":
            before.s_fence.finished.set_error(EIO())
        await before.push()
        job = await bench.submit(entity, MS, before)
        await bench.engine.quiesce()
        assert entity.waited == ["e1.finished.1"]  # type: ignore[attr-defined]
        gate.signal()
        await job.done.wait()
        assert bench.engine.now == 2 * MS

    run(body)


class Prepares(NoHardware):
    """A driver that has more to wait for, twice."""

    def __init__(self, fences: list[Fence]) -> None:
        super().__init__()
        self.fences = fences
        self.asked = 0

    async def prepare_job(self, job: SchedJob, entity: SchedEntity) -> Fence | None:
        self.asked += 1
        return self.fences.pop(0).get() if self.fences else None


def test_prepare_job_is_asked_until_it_has_nothing_more() -> None:
    async def body(bench: Bench) -> None:
        engine = bench.engine
        fences = [Fence(engine, f"prepared{n}", memory=bench.memory) for n in range(2)]
        driver = Prepares(list(fences))
        sched = DrmSched(engine, "s", driver)
        bench.scheds.append(sched)
        pair = await SchedJob(bench.entity(sched)).submit()
        for fence in fences:
            await engine.quiesce()
            assert not pair.scheduled.signaled
            fence.signal()
        await pair.finished.wait()
        assert driver.asked == 3
        for fence in fences:
            fence.put()

    for _ in every(body, 20):
        pass


def test_an_unmet_dependency_keeps_the_entity_not_the_scheduler_busy() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        fence = Fence(bench.engine, "fence")
        await bench.submit(bench.entity(), US, fence)
        await bench.engine.quiesce()
        assert not bench.scheds[0].work_run_job.busy
        assert bench.entities[0].entity_idle.done
        fence.signal()

    run(body)


# -- fences ------------------------------------------------------------------------------------


def test_the_finished_fence_outlives_the_job() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        job = await bench.submit(bench.entity(), US)
        pair = job.s_fence
        await bench.engine.quiesce()
        assert job.freed
        assert pair.finished.refs == 2  # ours, and the entity's for its last job
        await bench.entities[0].fini()
        assert pair.finished.refs == 1
        assert pair.finished.get_status() == 1
        assert to_sched_fence(pair.finished) is pair
        assert to_sched_fence(pair.scheduled) is pair
        assert pair.finished.ops is not None

    run(body)


def test_references_go_in_a_chain() -> None:
    """finished holds scheduled, scheduled holds the hardware fence; all end with the last reference."""

    async def body(bench: Bench) -> None:
        memory: FenceMemory = bench.memory
        bench.sched()
        await bench.submit(bench.entity(), US)
        pair = bench.fences.pop()
        await bench.engine.quiesce()
        parent = pair.parent
        assert parent is not None
        assert (pair.finished.refs, pair.scheduled.refs, parent.refs) == (2, 1, 1)
        await bench.entities[0].fini()
        assert pair.finished.refs == 1
        pair.finished.put()
        assert (pair.finished.refs, pair.scheduled.refs, parent.refs) == (0, 0, 0)
        await memory.drain()
        memory.check_empty()

    run(body)


def test_a_foreign_fence_belongs_to_no_pair() -> None:
    async def body(bench: Bench) -> None:
        assert to_sched_fence(Fence(bench.engine, "plain")) is None
        await bench.engine.step("local")

    run(body)


def test_a_deadline_reaches_the_hardware_fence() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        job = MockJob(bench.entity(), MS)
        await job.arm()
        pair = job.s_fence
        bench.fences.append(pair)
        pair.finished.get()
        pair.finished.set_deadline(500)
        await job.push()
        await pair.scheduled.wait()
        assert pair.parent is not None
        assert pair.parent.deadline == 500
        pair.finished.set_deadline(300)
        pair.finished.set_deadline(400)
        assert pair.parent.deadline == 300
        pair.scheduled.set_deadline(100)
        assert pair.parent.deadline == 300

    run(body)


# -- entities ------------------------------------------------------------------------------------


def test_an_entity_goes_to_the_least_loaded_scheduler() -> None:
    async def body(bench: Bench) -> None:
        first, second = bench.sched(), bench.sched()
        entity = bench.entity(first, second)
        for _ in range(3):
            await bench.submit(bench.entity(first))
        job = await bench.submit(entity)
        assert job.sched is second
        following = await bench.submit(entity)
        assert following.sched is second
        await bench.engine.quiesce()
        for gpu in bench.gpus:
            await gpu.advance(10)

    bench = run(body)
    assert bench.engine.counters["sched.entity_moved"] == 1


def test_it_stays_as_long_as_a_job_is_not_done() -> None:
    """FEN-R17: queue empty, but the last job is still on the hardware."""

    async def body(bench: Bench) -> None:
        first, second = bench.sched(), bench.sched()
        entity = bench.entity(first, second)
        job = await bench.submit(entity)
        await job.s_fence.scheduled.wait()
        for _ in range(3):
            await bench.submit(bench.entity(first))
        assert (await bench.submit(entity)).sched is first
        await bench.engine.quiesce()
        await bench.gpus[0].advance(10)
        await bench.engine.quiesce()
        for _ in range(3):
            await bench.submit(bench.entity(first))
        assert (await bench.submit(entity)).sched is second
        await bench.engine.quiesce()
        for gpu in bench.gpus:
            await gpu.advance(10)

    assert run(body).engine.counters["FEN-R17"] == 1


def test_a_scheduler_that_takes_no_jobs_is_not_chosen() -> None:
    async def body(bench: Bench) -> None:
        first, second, third = bench.sched(), bench.sched(), bench.sched()
        entity = bench.entity(first, second, third)
        first.ready = second.ready = False
        assert (await bench.submit(entity, US)).sched is third
        await bench.engine.quiesce()
        third.ready = False
        assert (await bench.submit(entity, US)).sched is third

    run(body)


def test_a_changed_list_counts_from_the_next_job_on() -> None:
    async def body(bench: Bench) -> None:
        first, second = bench.sched(), bench.sched()
        entity = bench.entity(first)
        assert (await bench.submit(entity, US)).sched is first
        await bench.engine.quiesce()
        with pytest.raises(EINVAL):
            await entity.modify_sched([])
        await entity.modify_sched([second])
        await entity.set_priority(Priority.HIGH)
        job = await bench.submit(entity, US)
        assert job.sched is second
        assert entity.rq is second.rq_of(Priority.HIGH)
        assert job.priority is Priority.HIGH

    assert run(body).engine.counters["FEN-R25"] == 0


def test_the_priority_of_a_settled_entity_stays() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        entity = bench.entity()
        job = MockJob(entity, US)
        await entity.set_priority(Priority.HIGH)
        await bench.hand_over(job)
        assert job.priority is Priority.HIGH
        assert entity.rq is sched.rq_of(Priority.HIGH)
        await bench.engine.quiesce()
        await entity.set_priority(Priority.LOW)
        await bench.submit(entity, US)
        assert entity.rq is sched.rq_of(Priority.HIGH)

    run(body)
