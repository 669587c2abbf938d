"""The checker itself: it must notice each kind of wrong, told by hand or done to a live scheduler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from sched_bench import MS, US, Bench, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_events import JobEvent, JobPhase
from svm_actors.drm.sched_invariants import SchedInvariants
from svm_actors.drm.sched_mock import MockJob
from svm_actors.engine.errors import PropertyFailed

Body = Callable[[Bench], Awaitable[None]]


def fails(body: Body, rule: str, text: str) -> None:
    with pytest.raises(PropertyFailed, match=text) as info:
        run(body)
    assert (info.value.oracle, info.value.rule) == ("sched", rule)


# -- told by hand --------------------------------------------------------------------------------

Story = tuple[JobPhase, ...]
LIFE: Story = ("push", "charge", "run", "scheduled", "refund", "finished", "free")


async def tell(bench: Bench, story: Story, *, faithful: bool = True) -> None:
    """Give a fresh checker the story of a job that nobody runs; with ``faithful`` do what it says."""
    checker = SchedInvariants()
    sched = DrmSched(bench.engine, "told", bench.gpu)
    checker.scheds[sched] = None
    checker.credits[sched] = 0
    job = MockJob(bench.entity(sched))
    await job.arm()
    pair = job.s_fence
    for phase in story:
        if phase in ("charge", "refund"):
            sched.credit_count += 1 if phase == "charge" else -1
        checker(JobEvent(phase, job, sched))
        if faithful and phase == "scheduled":
            pair.scheduled.signal()
        if faithful and phase == "finished":
            pair.finished.signal()
    bench.log.append(checker.jobs)


def test_the_right_story_is_accepted() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        await tell(bench, LIFE)
        assert bench.log == [{}]
        await tell(bench, ("push", "charge", "run", "scheduled", "refund", "charge", "refund", "finished", "free"))
        bench.checker.scheds.popitem()
        bench.checker.scheds.popitem()

    run(body)


@pytest.mark.parametrize(
    ("story", "rule", "text"),
    [
        (("push", "push"), "INV-FEN-07", "pushed twice"),
        (("push", "run"), "INV-FEN-07", "run without credits"),
        (("push", "charge", "charge"), "INV-FEN-07", "takes credits twice"),
        (("push", "refund"), "INV-FEN-07", "returns credits that it does not have"),
        (("push", "charge", "run", "run"), "INV-FEN-07", "is run, but it is run already"),
        (("push", "scheduled"), "INV-FEN-07", "is scheduled, but it is pushed already"),
        (("push", "charge", "run", "finished"), "INV-FEN-07", "is finished, but it is run already"),
        (("push", "charge", "run", "scheduled", "free"), "INV-FEN-07", "is freed, but it is scheduled already"),
        ((*LIFE[:-1], "finished"), "INV-FEN-07", "is finished, but it is finished already"),
        ((*LIFE, "free"), "INV-FEN-08", "it was freed or never pushed"),
        (("run",), "INV-FEN-08", "it was freed or never pushed"),
        ((*LIFE, "charge"), "INV-FEN-07", "after it was freed"),
    ],
)
def test_a_wrong_story_is_not(story: Story, rule: str, text: str) -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        await tell(bench, story)

    fails(body, rule, text)


def test_what_is_told_must_be_done() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        await tell(bench, LIFE, faithful=False)

    fails(body, "INV-FEN-07", "finishes before it is scheduled")


# -- done to a live scheduler ----------------------------------------------------------------------


def test_a_signal_from_outside() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        job = await bench.submit(bench.entity(), MS)
        await job.s_fence.scheduled.wait()
        job.s_fence.finished.signal()
        await bench.engine.quiesce()

    fails(body, "INV-FEN-01", "signaled before its job is done")


def test_finished_while_the_hardware_is_at_it() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await bench.engine.quiesce()
        sched.job_done(job, None)

    fails(body, "INV-FEN-11", "while the hardware is still at it")


def test_finished_out_of_order() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        jobs = [await bench.submit(entity) for _ in range(2)]
        await bench.engine.quiesce()
        jobs[1].hardware.signal()  # type: ignore[union-attr]

    fails(body, "INV-FEN-02", r"e0.finished.2 is signaled before an earlier one")


def test_pushed_out_of_order() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        jobs = [MockJob(bench.entity()) for _ in range(1)]
        jobs.append(MockJob(bench.entities[0]))
        for job in jobs:
            await job.arm()
        await jobs[1].push()

    fails(body, "FEN-R14", "has number 2, but is pushed as number 1")


def test_credits_that_do_not_add_up() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=3)
        job = await bench.submit(bench.entity(), MS)
        await job.s_fence.scheduled.wait()
        sched.credit_count = 2
        await bench.engine.quiesce()

    fails(body, "INV-FEN-07", "counts 1 credits, its jobs have 0")


def test_more_credits_than_there_are() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=3)
        job = await bench.submit(bench.entity(), credits_=3)
        await job.s_fence.scheduled.wait()
        another = MockJob(bench.entities[0])
        await another.arm()
        another.emit("push")
        sched.charge(another)

    fails(body, "INV-FEN-07", "has given 4 of 3 credits")


def test_run_with_a_dependency_open() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        job = MockJob(bench.entity(), US)
        await job.arm()
        job.dependencies.append(Fence(bench.engine, "open"))
        job.next_dependency = 1
        await job.push()
        await bench.engine.quiesce()

    fails(body, "INV-FEN-07", "open, which it depends on, is not signaled")


def test_run_while_stopped() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        await bench.submit(bench.entity(), US)
        sched.parked = True
        await bench.engine.quiesce()

    fails(body, "INV-FEN-07", "is run while sched0 is stopped")


# -- at rest ---------------------------------------------------------------------------------------


def test_a_forgotten_job_is_seen() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        await bench.submit(bench.entity(), US)
        await sched.submit_wq.cancel_work_sync(sched.work_run_job)

    fails(body, "INV-FEN-07", "e0 could run on sched0, but nobody told the worker")


def test_a_forgotten_finished_job_is_seen() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        await bench.submit(bench.entity())
        await bench.engine.quiesce()
        await bench.gpu.advance(1)
        await sched.submit_wq.cancel_work_sync(sched.work_free_job)

    fails(body, "INV-FEN-07", "e0.job1 is finished, but nobody frees it")


def test_a_dependency_nobody_reported_is_seen() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        fence = Fence(bench.engine, "fence")
        entity = bench.entity()
        await bench.submit(entity, US, fence)
        await bench.engine.quiesce()
        fence.remove_callback(entity.cb)
        fence.signal()

    fails(body, "INV-FEN-07", "e0 waits for fence, which is signaled")


def test_waiting_behind_someone_without_credits_is_no_fault() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=2)
        await bench.submit(bench.entity(), credits_=1)
        await bench.engine.quiesce()
        await bench.submit(bench.entity(), credits_=2)
        await bench.submit(bench.entity(), credits_=1)
        await bench.engine.quiesce()
        bench.checker.at_rest()
        for _ in range(3):
            await bench.gpu.advance(1)
            await bench.engine.quiesce()

    run(body)


def test_the_checker_changes_nothing() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=2)
        await bench.submit(bench.entity())
        await bench.engine.quiesce()
        await bench.submit(bench.entity(), credits_=9)
        before = dict(bench.engine.counters)
        bench.checker.at_rest()
        assert dict(bench.engine.counters) == before
        assert bench.entities[1].queue.peek().credits == 9  # type: ignore[union-attr]
        await bench.advance_until_idle()

    run(body)


# -- at the end ------------------------------------------------------------------------------------


def test_a_scheduler_left_standing() -> None:
    checker = SchedInvariants()

    async def body(bench: Bench) -> None:
        checker.scheds[bench.sched()] = None
        await bench.engine.step("local")

    run(body)
    with pytest.raises(PropertyFailed, match="sched0 was never torn down"):
        checker.at_close()


def test_a_job_never_freed() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        del sched.pending[job]
        await bench.gpu.advance(1)

    fails(body, "INV-FEN-10", r"e0.job1 is never freed, it is finished")
