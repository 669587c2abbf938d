"""Job timeout, ban and GT reset (fences_and_scheduler section 9)."""

from __future__ import annotations

import pytest
from exec_bench import SECOND, VPN, attempt, calm, every, hit, machine, queue_of, read, run, submit, write

from svm_actors.engine.errors import ECANCELED, ETIME
from svm_actors.gpu.program import AtomicAdd, Spin
from svm_actors.world import World
from svm_actors.xe.queue_reset import GtReset, JobTimeout


def test_a_job_that_hangs_ends_with_etime_and_those_behind_it_with_ecanceled() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        bad, good = queue_of(vm), queue_of(vm)
        hung = await submit(bad, write(b"1"), Spin(), write(b"2"))
        behind = [await submit(bad, write(b"3")) for _ in range(2)]
        with pytest.raises(ETIME):
            await hung.wait()
        for job in behind:
            with pytest.raises(ECANCELED):
                await job.wait()
        assert bad.banned
        with pytest.raises(ECANCELED):
            await submit(bad, read())
        assert await (await submit(good, read())).wait() == [b"1"]
        assert await bo.read(0) == b"1"
        assert world.engine.now >= 5 * SECOND

    for result in every(scenario):
        assert result.counters["exec.banned"] == 1
        assert ("exec.gt_reset" in result.counters) == ("exec.no_ack" in result.counters)


def test_long_jobs_within_the_limit_are_left_alone() -> None:
    """The timer fires for a queue that has been waiting, but no job used up its time."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        jobs = [await submit(queue, Spin(3 * SECOND), AtomicAdd(VPN, 0, 1)) for _ in range(4)]
        assert [(await job.wait())[1] for job in jobs] == [0, 1, 2, 3]

    for result in every(scenario):
        assert "exec.banned" not in result.counters


def test_a_timer_that_fires_too_early_looks_and_goes_on() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        job = await submit(queue, Spin(4 * SECOND), read())
        await world.sleep(SECOND)
        queue.sched.tdr.fault()
        assert await job.wait() == [None, b"\0"]

    assert hit(list(every(scenario, 20)), "exec.timeout_too_early")["exec.timeout_too_early"] > 1


def test_the_timer_races_the_end_of_the_job() -> None:
    """FEN-R21, FEN-R29: it is through, or it is hung, never both."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        job = await submit(queue, Spin(5 * SECOND), write(b"1"))
        await job.fence.wait()
        if job.fence.error is None:
            assert job.batch.results == [None, None]
        else:
            assert isinstance(job.fence.error, ETIME)

    runs = list(every(scenario, 100))
    assert 0 < hit(runs, "exec.banned")["exec.banned"] < len(runs)
    assert hit(runs, "FEN-R21")["FEN-R21"]


def test_no_answer_leads_to_a_gt_reset_that_spares_the_innocent() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        bad, good = queue_of(vm), queue_of(vm)
        hung = await submit(bad, Spin(None, preemptible=False))
        gate = world.syncobj()
        waiting = await submit(good, AtomicAdd(VPN, 0, 1), syncs=(gate.sync_out(),))
        assert await waiting.wait() == [0]
        with pytest.raises(ETIME):
            await hung.wait()
        assert await (await submit(good, AtomicAdd(VPN, 0, 1))).wait() == [1]
        assert await bo.read(0) == b"\2"

    for result in every(scenario, 30):
        assert result.counters["exec.gt_reset"] == 1
        assert result.counters["exec.no_ack"] == 1


def test_a_reset_bans_who_was_running_and_replays_who_was_not() -> None:
    """FEN-R31: what is done is not run a second time."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        world.gpu().driver.submission.limits.job_timeout = 1000 * SECOND
        running, queued = queue_of(vm), queue_of(vm)
        queued.context.dead = True
        lost = await submit(running, Spin(SECOND))
        kept = await submit(queued, AtomicAdd(VPN, 0, 1))
        await world.sleep(SECOND // 2)
        queued.context.dead = False
        world.gpu().driver.submission.reset.queue()
        await lost.fence.wait()
        assert await kept.wait() == [0]
        assert await bo.read(0) == b"\1"

    runs = list(calm(scenario))
    for result in runs:
        assert result.counters["exec.gt_reset"] == 1
    assert hit(runs, "exec.banned", "exec.replayed")["exec.banned"]


def test_a_reset_at_any_moment_runs_every_job_at_most_once() -> None:
    """INV-FEN-11, FEN-R28, FEN-R31: jobs end once, and the sum tells how many ran."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        queues = [queue_of(vm) for _ in range(3)]

        async def reset() -> None:
            await world.engine.step("local")
            world.gpu().driver.submission.reset.queue()

        async with world.nursery() as nursery:
            nursery.start_soon(reset)
            jobs = [await submit(queue, AtomicAdd(VPN, 0, 1)) for queue in queues for _ in range(2)]
        for job in jobs:
            await job.fence.wait()
        await world.settle()
        good = sum(job.fence.error is None for job in jobs)
        ran = (await bo.read(0))[0]
        assert good <= ran <= len(jobs)

    runs = list(every(scenario, 100))
    numbers = hit(runs, "exec.replayed", "exec.gt_reset")
    assert all(numbers.values()), numbers


def test_a_job_never_begun_gets_two_resets_before_its_queue_is_banned() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        queue.context.dead = True
        job = await submit(queue, read())
        with pytest.raises(ETIME):
            await job.wait()

    result = run(scenario)
    assert result.counters["exec.gt_reset"] >= 2


def test_a_kernel_queue_that_stays_hung_wedges_the_device() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        kernel, user = queue_of(vm, kernel=True), queue_of(vm)
        job = await submit(kernel, Spin())
        with pytest.raises(ECANCELED):
            await job.wait()
        with pytest.raises(ECANCELED):
            await submit(user, read())
        assert kernel.submission.wedged

    result = run(scenario)
    assert result.counters["exec.gt_reset"] == 2
    assert result.counters["device.wedged"] == 1


def test_a_killed_queue_leaves_the_hardware_at_once() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        job = await submit(queue, Spin(), write(b"n"))
        behind = await submit(queue, write(b"n"))
        queue.kill()
        for execution in (job, behind):
            with pytest.raises(ECANCELED):
                await execution.wait()
        assert world.engine.now < SECOND

    list(calm(scenario))


def test_destroying_a_queue_with_jobs_everywhere() -> None:
    """One on the hardware, one behind it, one that waits for a sync."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue, other = queue_of(vm), queue_of(vm)
        gate = world.syncobj()
        await submit(other, Spin(SECOND), syncs=(gate.sync_out(),))
        jobs = [await submit(queue, Spin()), await submit(queue, read())]
        jobs.append(await submit(queue, read(), syncs=(gate.sync_in(),)))
        await queue.destroy()
        for job in jobs:
            await job.fence.wait()
            assert job.fence.error is not None
        assert queue.submission.statistics() == {"exec_queues": 1}

    list(every(scenario))


# -- what the guards are good for ------------------------------------------------------------


def test_without_waiting_for_the_answer_a_job_runs_on_after_its_fence() -> None:
    """INV-FEN-11: the fence says the memory is free, and the job writes to it."""

    class NoWait(JobTimeout):
        async def _switched_off(self) -> bool:
            return True

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        queue = queue_of(vm)
        queue.timeout = NoWait(queue)

        async def no_reset() -> None:
            return

        queue.context.reset = no_reset  # type: ignore[method-assign]
        job = await submit(queue, Spin(6 * SECOND), write(b"late"))
        with pytest.raises(ETIME):
            await job.wait()
        await world.sleep(3 * SECOND)
        assert await bo.read(0, 4) == bytes(4)

    assert attempt(scenario).failure is not None


def test_a_replay_of_what_is_done_runs_it_twice() -> None:
    """FEN-B20."""

    class Blind(GtReset):
        def skips(self, job: object) -> bool:
            return False

        def is_guilty(self, queue: object) -> bool:
            return False

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        submission = world.gpu().driver.submission
        submission.reset = Blind(submission)
        queue = queue_of(vm)
        job = await submit(queue, AtomicAdd(VPN, 0, 1))
        async with world.nursery() as nursery:

            async def reset() -> None:
                await world.engine.step("local")
                submission.reset.queue()

            nursery.start_soon(reset)
        await job.fence.wait()
        await world.settle()
        assert await bo.read(0) == b"\1"

    failures = [attempt(scenario, "random", seed).failure for seed in range(60)]
    assert any(failures)
