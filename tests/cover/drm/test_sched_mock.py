"""The mock GPU does what the catalogue says of it (drm_sched_kunit, section 1), without a scheduler."""

from __future__ import annotations

import pytest
from sched_bench import MS, Bench, run

from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_mock import MockFlags, MockGpu, MockJob
from svm_actors.drm.sched_types import GpuSchedStat, SchedBackend
from svm_actors.engine.errors import ECANCELED, EIO, ETIMEDOUT


async def on_hardware(bench: Bench, entity: SchedEntity, duration: int = 0) -> MockJob:
    """A job put there by hand: its scheduler does not know."""
    job = MockJob(entity, duration)
    fence = await bench.gpu.run_job(job)
    assert fence is job.hardware
    assert fence is not None
    fence.put()
    return job


def drop(*jobs: MockJob) -> None:
    for job in jobs:
        assert job.hardware is not None
        job.hardware.put()


def test_sequence_numbers_start_at_one() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        jobs = [await on_hardware(bench, entity) for _ in range(3)]
        fences = [job.hardware for job in jobs]
        assert [fence.seqno for fence in fences if fence] == [1, 2, 3]
        assert {fence.context for fence in fences if fence} == {bench.gpu.context}
        assert bench.gpu.current_seqno == 0
        await bench.gpu.advance(3)
        drop(*jobs)

    run(body)


def test_advance_completes_what_it_reaches_and_counts_it() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        assert await bench.gpu.advance(1) == 0  # ahead of the jobs: the next number is reached already
        jobs = [await on_hardware(bench, entity) for _ in range(4)]
        assert await bench.gpu.advance(2) == 3
        assert [job.done.done for job in jobs] == [True, True, True, False]
        assert await bench.gpu.advance(5) == 1
        assert bench.gpu.current_seqno == 8
        drop(*jobs)

    run(body)


def test_durations_add_up_and_start_now_when_the_list_is_empty() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        await bench.engine.sleep(5 * MS)
        jobs = [await on_hardware(bench, entity, n * MS) for n in (1, 2)]
        await bench.engine.quiesce()
        await bench.engine.sleep(10 * MS)
        jobs.append(await on_hardware(bench, entity, MS))
        await bench.engine.quiesce()
        assert [job.finished_at for job in jobs] == [6 * MS, 8 * MS, 19 * MS]
        assert all(MockFlags.DONE in job.flags for job in jobs)
        drop(*jobs)

    run(body)


def test_a_job_without_duration_blocks_all_behind_it() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        jobs = [await on_hardware(bench, entity, duration) for duration in (0, MS, MS)]
        await bench.engine.sleep(10 * MS)
        assert not any(job.done.done for job in jobs)
        assert await bench.gpu.advance(1) == 1
        await bench.engine.quiesce()
        # Their time had come while they were blocked.
        assert [job.finished_at for job in jobs] == [10 * MS] * 3
        drop(*jobs)

    run(body)


def test_the_timeout_handler() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched()
        entity = bench.entity()
        normal = await bench.submit(entity)
        alarm = await bench.submit(entity)
        await alarm.s_fence.scheduled.wait()
        alarm.flags |= MockFlags.DONT_RESET
        assert await bench.gpu.timedout_job(alarm) is GpuSchedStat.NO_HANG
        assert MockFlags.DONT_RESET not in alarm.flags
        assert MockFlags.TIMEDOUT not in alarm.flags
        job = await sched.tdr.take_head()
        assert job is normal
        assert await bench.gpu.timedout_job(normal) is GpuSchedStat.RESET
        assert normal.flags == MockFlags.TIMEDOUT
        assert isinstance(normal.s_fence.parent.error, ETIMEDOUT)  # type: ignore[union-attr]
        assert not normal.done.done
        assert list(bench.gpu.jobs) == [alarm]
        await bench.gpu.advance(2)
        assert await bench.gpu.timedout_job(alarm) is GpuSchedStat.NO_HANG
        waiting = MockJob(entity)
        assert await bench.gpu.timedout_job(waiting) is GpuSchedStat.NO_HANG
        waiting.cleanup()

    run(body)


def test_failures_and_instant_jobs_never_reach_the_list() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        bad, quick = MockJob(entity), MockJob(entity)
        bad.failure = EIO()
        quick.instant = True
        with pytest.raises(EIO):
            await bench.gpu.run_job(bad)
        assert await bench.gpu.run_job(quick) is None
        assert not bench.gpu.jobs
        assert bench.gpu.next_seqno == 1

    run(body)


def test_a_reset_ends_everything_with_an_error() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        entity = bench.entity()
        jobs = [await on_hardware(bench, entity, MS) for _ in range(2)]
        await bench.gpu.reset()
        assert not bench.gpu.jobs
        assert all(isinstance(job.hardware.error, ECANCELED) for job in jobs if job.hardware)
        await bench.engine.quiesce()
        assert bench.engine.now == 0
        assert not any(job.done.done for job in jobs)
        drop(*jobs)

    run(body)


def test_a_backend_without_cancel_is_never_asked_to() -> None:
    async def body(bench: Bench) -> None:
        bench.sched()
        backend = SchedBackend()
        job = MockJob(bench.entity())
        assert not backend.can_cancel
        assert MockGpu.can_cancel
        assert await backend.prepare_job(job, bench.entities[0]) is None
        await backend.free_job(job)
        with pytest.raises(NotImplementedError):
            await backend.cancel_job(job)

    run(body)
