"""Timeouts and recovery: the re-arm rule, RESET, ENODEV, NO_HANG, stop and start, blame (section 8.3)."""

from __future__ import annotations

from typing import Any

import pytest
from sched_bench import MS, US, Bench, counted, every, run

from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_mock import MockFlags, MockGpu, MockJob
from svm_actors.drm.sched_types import GpuSchedStat, Priority
from svm_actors.drm.sched_user import Guilt
from svm_actors.drm.sched_work import Workqueue
from svm_actors.engine.errors import ECANCELED, EIO, ENODEV, ETIMEDOUT, PropertyFailed

TIMEOUT = 200 * MS


def watch_timeouts(bench: Bench) -> list[int]:
    """Virtual times at which the driver is asked about a hang."""
    times: list[int] = []
    original = bench.gpu.timedout_job

    async def timedout_job(job: SchedJob) -> GpuSchedStat:
        times.append(bench.engine.now)
        return await original(job)

    bench.gpu.timedout_job = timedout_job  # type: ignore[method-assign]
    return times


# -- when ------------------------------------------------------------------------------------------


def test_a_job_in_time_is_left_alone_and_the_timer_is_off_afterwards() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=TIMEOUT)
        await bench.submit(bench.entity(), 50 * MS)
        await bench.engine.quiesce()
        assert bench.engine.now == 50 * MS
        assert not sched.tdr.work.busy

    assert counted(every(body, 20), "sched.timeout") == 0


def test_beginning_any_job_postpones_the_timer() -> None:
    """A steady submission keeps a hung job from being noticed; the first gap shows it."""

    async def body(bench: Bench) -> None:
        bench.sched(timeout=TIMEOUT)
        times = watch_timeouts(bench)
        entity = bench.entity()
        await bench.submit(entity)
        for _ in range(5):
            await bench.engine.sleep(150 * MS)
            await bench.submit(entity)
        assert times == []
        await bench.engine.quiesce()
        assert times == [5 * 150 * MS + n * TIMEOUT for n in range(1, 7)]

    run(body)


def test_freeing_a_job_starts_the_timer_for_the_next() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(timeout=TIMEOUT)
        times = watch_timeouts(bench)
        entity = bench.entity()
        await bench.submit(entity, 150 * MS)
        late = await bench.submit(entity)
        await bench.engine.quiesce()
        assert times == [350 * MS]
        assert MockFlags.TIMEDOUT in late.flags

    for _ in every(body, 20):
        pass


def test_no_timeout_means_never() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        await bench.submit(bench.entity())
        await bench.engine.sleep(10**15)
        await bench.gpu.advance(1)

    assert run(body).engine.counters["sched.timeout"] == 0


def test_a_fault_the_driver_knows_of_comes_at_once() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=TIMEOUT)
        times = watch_timeouts(bench)
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await bench.engine.sleep(MS)
        sched.tdr.fault()
        await job.s_fence.finished.wait()
        assert times == [MS]

    run(body)


def test_a_wedged_device_times_everything_out_at_once() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=TIMEOUT)
        entity = bench.entity()
        first = await bench.submit(entity)
        await first.s_fence.scheduled.wait()
        async with sched.job_list_lock:
            sched.tdr.queue_immediately()
        await first.s_fence.finished.wait()
        second = await bench.submit(entity)
        await second.s_fence.finished.wait()
        assert bench.engine.now == 0
        assert all(isinstance(pair.finished.error, ETIMEDOUT) for pair in bench.fences)

    for _ in every(body, 20):
        pass


# -- what the driver answers -------------------------------------------------------------------------


def test_reset_goes_on_watching_the_next_job() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(timeout=TIMEOUT)
        times = watch_timeouts(bench)
        entity = bench.entity()
        jobs = [await bench.submit(entity) for _ in range(3)]
        await bench.engine.quiesce()
        assert times == [TIMEOUT, 2 * TIMEOUT, 3 * TIMEOUT]
        assert all(MockFlags.TIMEDOUT in job.flags for job in jobs)
        assert all(isinstance(pair.finished.error, ETIMEDOUT) for pair in bench.fences)

    for _ in every(body, 20):
        pass


class Gone(MockGpu):
    """The device is gone: nothing is reset, its jobs never end by themselves."""

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        assert isinstance(job, MockJob)
        await self._take_off(job, ENODEV())
        await job.sched.recovery.wait_finished(job.s_fence.finished)
        await job.sched.free_job(job)
        return GpuSchedStat.ENODEV


def test_enodev_does_not_arm_the_timer_again() -> None:
    async def body(bench: Bench) -> None:
        gpu = Gone(bench.engine, memory=bench.memory)
        sched = bench.sched(gpu=gpu, timeout=TIMEOUT)
        entity = bench.entity()
        for _ in range(2):
            await bench.submit(entity)
        await bench.engine.quiesce()
        assert bench.engine.now == TIMEOUT
        assert len(sched.pending) == 1
        assert not sched.tdr.work.busy
        assert isinstance(bench.fences[0].finished.error, ENODEV)
        assert not bench.fences[1].finished.signaled

    for _ in every(body, 20):
        pass


def test_no_hang_puts_the_job_back() -> None:
    """FEN-B19: it ends normally afterwards, at the head of the list as before."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=TIMEOUT)
        entity = bench.entity()
        slow = MockJob(entity, 300 * MS)
        slow.flags |= MockFlags.DONT_RESET
        await bench.hand_over(slow)
        following = await bench.submit(entity, MS)
        await bench.engine.sleep(TIMEOUT + MS)
        assert list(sched.pending) == [slow, following]
        await following.done.wait()
        assert slow.finished_at == 300 * MS
        await bench.engine.quiesce()
        assert bench.gpu.freed == [slow, following]

    for bench in every(body, 20):
        assert bench.engine.counters["sched.timeout"] == 1
        assert bench.engine.counters["FEN-R21"] == 0


def test_no_hang_because_it_finished_meanwhile() -> None:
    """FEN-R21: off the list it could not be freed; back on it somebody must look."""

    async def body(bench: Bench) -> None:
        bench.sched(timeout=MS)
        job = MockJob(bench.entity(), MS)
        job.flags |= MockFlags.DONT_RESET
        await bench.hand_over(job)
        await bench.engine.quiesce()
        assert bench.gpu.freed == [job]
        assert job.s_fence.finished.error is None

    assert counted(every(body, 100), "FEN-R21") > 0


def test_putting_a_job_on_the_list_twice_is_noticed() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await sched.tdr.reinsert(job)

    with pytest.raises(PropertyFailed, match="FEN-R21"):
        run(body)


# -- stop, reset, start ------------------------------------------------------------------------------


def test_a_full_recovery_ends_the_bad_job_and_replays_the_others() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=TIMEOUT)
        bench.gpu.recovery = "restart"
        a, b = bench.entity(), bench.entity()
        bad = await bench.submit(a)
        good = [await bench.submit(entity, MS) for entity in (b, a, b)]
        await bench.engine.quiesce()
        assert isinstance(bad.s_fence.finished.error, ETIMEDOUT)
        assert MockFlags.TIMEDOUT in bad.flags
        # What the guilty entity had sent fails too, though it is run; the others do not notice.
        assert [job.done.done for job in good] == [True] * 3
        errors = [job.s_fence.finished.error for job in good]
        assert [type(error) for error in errors] == [type(None), ECANCELED, type(None)]
        assert bench.gpu.freed == [bad, *good]
        assert sched.statistics() == {"pending": 0, "credits": 0, "score": 2}
        assert bench.engine.now == TIMEOUT + 3 * MS

    for _ in every(body):
        pass


def test_a_recovery_in_any_interleaving_with_submissions_and_completions() -> None:
    """FEN-R21, FEN-R22: timers race, two entities submit, the hardware completes by the clock."""

    async def body(bench: Bench) -> None:
        bench.sched(timeout=3 * MS, credit_limit=3, hang_limit=1 << 30)
        bench.gpu.recovery = "restart"
        entities = [bench.entity(), bench.entity()]

        async def submitter(entity: Any) -> None:
            for number in range(4):
                await bench.submit(entity, 0 if number == 1 else MS)

        async with bench.engine.nursery() as nursery:
            for entity in entities:
                nursery.start_soon(submitter, entity)
        for pair in bench.fences:
            await pair.finished.wait()
            assert pair.finished.error is None or isinstance(pair.finished.error, ETIMEDOUT)

    benches = list(every(body, 150, race_timers=True))
    assert counted(benches, "sched.timeout") > 150


def test_stop_and_start_without_a_reset_loses_nothing() -> None:
    """What finishes at the same time is seen through by the stop (FEN-R22)."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=2)
        entity = bench.entity()
        jobs = [await bench.submit(entity, MS) for _ in range(4)]
        await bench.engine.sleep(MS)
        await sched.stop()
        assert sched.parked
        bench.log.append(len(sched.pending))
        assert sched.credit_count == 0
        await bench.gpu.reset()
        await sched.recovery.resubmit_jobs()
        await sched.start()
        await jobs[-1].done.wait()
        assert all(pair.finished.error is None for pair in bench.fences[:3])

    benches = list(every(body, 150, race_timers=True))
    assert counted(benches, "FEN-R22") > 0
    assert {bench.log[0] for bench in benches} >= {1, 2}


def test_a_replayed_job_is_watched_again() -> None:
    """The reset came from elsewhere: nobody but the start arms the timer."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(timeout=TIMEOUT)
        times = watch_timeouts(bench)
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await bench.engine.sleep(MS)
        await sched.stop()
        assert not sched.tdr.work.busy
        await bench.gpu.reset()
        await sched.recovery.resubmit_jobs()
        await bench.engine.sleep(TIMEOUT)
        await sched.start()
        await bench.engine.quiesce()
        assert times == [MS + 2 * TIMEOUT]

    for _ in every(body, 10):
        pass


def test_a_job_that_cannot_be_replayed_has_that_error() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await sched.stop()
        await bench.gpu.reset()
        job.failure = EIO()
        await sched.recovery.resubmit_jobs()
        assert isinstance(job.s_fence.finished.error, EIO)
        assert job.s_fence.parent is None
        await sched.start()
        # What start says comes last: the job never reached the hardware again.
        assert isinstance(job.s_fence.finished.error, ECANCELED)

    run(body)


def test_without_a_replay_what_was_on_the_hardware_is_cancelled() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=2)
        entity = bench.entity()
        jobs = [await bench.submit(entity) for _ in range(3)]
        await jobs[1].s_fence.scheduled.wait()
        await sched.stop()
        await bench.gpu.reset()
        await sched.start()
        assert [type(pair.finished.error) for pair in bench.fences] == [ECANCELED, ECANCELED, type(None)]
        await jobs[2].s_fence.scheduled.wait()
        await bench.gpu.advance(10)

    for _ in every(body, 20):
        pass


def test_a_stopped_scheduler_hears_later_what_was_said() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        await sched.stop()
        jobs = [await bench.submit(bench.entity(), US) for _ in range(2)]
        await bench.engine.quiesce()
        assert not any(job.s_fence.scheduled.signaled for job in jobs)
        await sched.start()
        await jobs[1].done.wait()

    for _ in every(body, 20):
        pass


def test_the_hardware_fence_may_be_signaled_between_stop_and_start() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        await sched.stop()
        old, new = job.hardware, await bench.gpu.run_job(job)
        assert old is not None
        assert new is not None
        job.s_fence.set_parent(new)
        new.put()
        await bench.gpu.advance(2)
        await sched.start(ETIMEDOUT())
        await bench.engine.quiesce()
        # The fence itself brought no error, so the one given to start counts.
        assert isinstance(job.s_fence.finished.error, ETIMEDOUT)
        old.signal()

    with pytest.raises(PropertyFailed, match="signaled after its last reference was dropped"):
        run(body)


def test_a_shared_timeout_queue_recovers_one_scheduler_after_the_other() -> None:
    async def body(bench: Bench) -> None:
        shared = Workqueue(bench.engine, "reset_domain")
        inside: list[MockGpu] = []

        class Slow(MockGpu):
            async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
                assert inside == []
                inside.append(self)
                await bench.engine.sleep(MS)
                status = await super().timedout_job(job)
                inside.pop()
                return status

        for number in range(2):
            gpu = Slow(bench.engine, f"gpu{number}", memory=bench.memory)
            gpu.recovery = "restart"
            bench.sched(gpu=gpu, timeout=TIMEOUT, timeout_wq=shared)
            await bench.submit(bench.entity(bench.scheds[number]))
        await bench.engine.quiesce()
        assert bench.engine.now == TIMEOUT + 2 * MS
        assert bench.engine.counters["sched.timeout"] == 2

    for _ in every(body, 20):
        pass


# -- blame -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "hangs", "guilty"), [(0, 1, True), (1, 1, False), (1, 2, True)])
def test_past_the_limit_the_context_is_guilty(limit: int, hangs: int, guilty: bool) -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(hang_limit=limit)
        guilt, other = Guilt(), Guilt()
        job = await bench.submit(bench.entity(guilt=guilt))
        await bench.submit(bench.entity(guilt=other))
        await job.s_fence.scheduled.wait()
        for _ in range(hangs):
            await sched.recovery.increase_karma(job)
        assert job.karma == hangs
        assert (guilt.guilty, other.guilty) == (guilty, False)
        await bench.engine.quiesce()
        await bench.gpu.advance(2)

    run(body)


def test_a_kernel_job_is_always_innocent() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        guilt = Guilt()
        job = await bench.submit(bench.entity(priority=Priority.KERNEL, guilt=guilt))
        await job.s_fence.scheduled.wait()
        await sched.recovery.increase_karma(job)
        assert (job.karma, guilt.guilty) == (0, False)
        await bench.gpu.advance(1)

    run(body)


def test_what_is_done_is_not_run_again() -> None:
    """FEN-R31, FEN-B20: its buffers may belong to somebody else by now."""

    async def body(bench: Bench) -> None:
        sched = bench.sched()
        job = await bench.submit(bench.entity())
        await job.s_fence.scheduled.wait()
        sched.pause_submit = True
        await bench.gpu.advance(1)
        assert list(sched.pending) == [job]
        await sched.recovery.resubmit_jobs()
        assert not bench.gpu.jobs
        sched.pause_submit = False
        sched.run_free_queue()

    run(body)
