"""Engine groups: jobs with a dma-fence and faulting queues take turns on the hardware (VMB-R34)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from bind_bench import gate
from exec_bench import ADDR, PAGE, VPN, attempt, calm, every, hit, machine, queue_of, read, run, submit, write

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import ECANCELED, EINVAL, ENOENT
from svm_actors.gpu.program import AtomicAdd, Load, Spin
from svm_actors.world import BindVm, World
from svm_actors.xe.engine_group import EngineGroup, ExecMode, add_faulting_queue
from svm_actors.xe.exec import Exec
from svm_actors.xe.exec_queue import ExecQueue

MS = 1_000_000
FAR = VPN + 0x1000
"""Page of the faulting VM."""


async def faulting(world: World) -> tuple[BindVm, Any, ExecQueue]:
    """A VM in fault mode with one object at FAR, and a queue."""
    vm: BindVm = await world.gpu().create_vm(world.process(), "fault", mirror=False)
    bo = await vm.create_bo(PAGE)
    await vm.bind(FAR * PAGE, bo)
    return vm, bo, await vm.create_queue()


def group_of(world: World) -> EngineGroup:
    return world.gpu().driver.submission.group


def adds(count: int, page: int = FAR) -> list[AtomicAdd]:
    return [AtomicAdd(page, 0, 1)] * count


async def both(world: World, *, spin: int = 100) -> None:
    """Three jobs of each kind at once, and more of both that come later."""
    vm, bo = await machine(world)
    _fault_vm, fault_bo, fault_queue = await faulting(world)
    queues = [queue_of(vm) for _ in range(2)]

    async def fault_jobs() -> None:
        for _ in range(3):
            assert len(await (await submit(fault_queue, *adds(2), Spin(spin), *adds(1))).wait()) == 4

    async def jobs(queue: ExecQueue) -> None:
        for _ in range(2):
            await (await submit(queue, AtomicAdd(VPN, 0, 1), Spin(spin), AtomicAdd(VPN, 0, 1))).wait()

    async with world.nursery() as nursery:
        nursery.start_soon(fault_jobs)
        for queue in queues:
            nursery.start_soon(jobs, queue)
    assert (await bo.read(0), await fault_bo.read(0)) == (b"\10", b"\11")


def test_both_kinds_of_jobs_get_through_and_never_at_once() -> None:
    runs = list(every(both, 30))
    assert all(hit(runs, "exec.group_switch").values())


def test_the_group_begins_with_dma_fence_jobs_and_comes_back_to_faulting_ones() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        _fault_vm, fault_bo, fault_queue = await faulting(world)
        group = group_of(world)
        assert (group.mode, group.faulting, fault_queue.suspend_count) == (ExecMode.DMA_FENCE, [fault_queue], 1)
        fault_job = await submit(fault_queue, *adds(1), Spin(20 * MS), *adds(1))
        await world.sleep(10 * MS)
        assert (group.mode, fault_queue.suspend_count) == (ExecMode.LR, 0)
        job = await submit(queue_of(vm), Spin(MS), write(b"x"))
        assert (group.mode, fault_queue.suspend_count, fault_queue.context.on) == (ExecMode.DMA_FENCE, 1, False)
        assert await job.wait() == [None, None]
        assert not fault_job.fence.signaled
        assert await fault_job.wait() == [0, None, 1]
        assert group.mode is ExecMode.LR
        assert await fault_bo.read(0) == b"\2"

    run(scenario)


def test_faulting_queues_that_have_nothing_to_do_are_not_brought_back() -> None:
    """Until one of them is given a job."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        _fault_vm, fault_bo, fault_queue = await faulting(world)
        await (await submit(fault_queue, *adds(1))).wait()
        assert group_of(world).mode is ExecMode.LR
        await (await submit(queue_of(vm), write(b"x"))).wait()
        await world.settle()
        assert (group_of(world).mode, fault_queue.suspend_count) == (ExecMode.DMA_FENCE, 1)
        assert await (await submit(fault_queue, *adds(1))).wait() == [1]
        assert await fault_bo.read(0) == b"\2"

    for result in every(scenario, 20):
        assert "exec.group_switch" not in result.counters


def test_a_long_running_queue_without_faults_is_left_alone() -> None:
    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), "lr")
        bo = await vm.create_bo(PAGE)
        await vm.bind(ADDR, bo)
        queue = await vm.create_queue()
        job = await submit(queue, Spin())
        _fault_vm, _bo, fault_queue = await faulting(world)
        assert await (await submit(fault_queue, *adds(2))).wait() == [0, 1]
        assert group_of(world).faulting == [fault_queue]
        await queue.destroy()
        assert job.fence.error is not None

    list(every(scenario, 10))


def test_a_job_whose_in_syncs_are_pending_does_not_stop_faulting_work() -> None:
    """VMB-R34: it waits without the mode; the faulting job goes on, and so do execs that need no switch."""

    runs = list(calm(pending_in_sync, 15))
    assert hit(runs, "VMB-R34") == {"VMB-R34": len(runs)}


async def pending_in_sync(world: World) -> None:
    vm, bo = await machine(world)
    _fault_vm, _bo, fault_queue = await faulting(world)
    fence, pending = gate(world)
    queue = queue_of(vm)
    answers: list[Any] = []
    fault_job = await submit(fault_queue, *adds(1), Spin(20 * MS), *adds(1))
    await world.sleep(10 * MS)

    async def job() -> None:
        answers.append(await submit(queue, write(b"x"), syncs=(pending.sync_in(),)))

    world.spawn(job(), "job")
    await world.sleep(50 * MS)
    assert fault_job.fence.signaled, "faulting work was stopped for a job that cannot run"
    assert not answers
    fence.signal()
    await world.settle()
    await answers[0].wait()
    assert await bo.read(0) == b"x"


def test_without_a_switch_nobody_waits_for_in_syncs() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        await faulting(world)
        fence, pending = gate(world)
        job = await submit(queue_of(vm), write(b"x"), syncs=(pending.sync_in(),))
        fence.signal()
        await job.wait()
        assert await bo.read(0) == b"x"

    assert "VMB-R34" not in run(scenario).counters


def test_a_faulting_queue_that_does_not_let_go_is_thrown_off() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        _fault_vm, _bo, fault_queue = await faulting(world)
        stuck = await submit(fault_queue, Spin(None, preemptible=False))
        await world.sleep(1)
        assert await (await submit(queue_of(vm), write(b"x"))).wait() == [None]
        assert fault_queue.banned
        await stuck.fence.wait()
        with pytest.raises(ECANCELED):
            await submit(fault_queue, *adds(1))
        assert await bo.read(0) == b"x"

    assert run(scenario).counters["exec.group_threw_off"] == 1


def test_queues_come_and_go_in_either_mode() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        fault_vm, fault_bo, first = await faulting(world)
        queue = queue_of(vm)

        async def churn() -> None:
            for _ in range(2):
                other = await fault_vm.create_queue()
                await (await submit(other, *adds(1))).wait()
                await other.destroy()

        async def jobs() -> None:
            for _ in range(2):
                await (await submit(queue, AtomicAdd(VPN, 0, 1), Spin(10))).wait()

        async with world.nursery() as nursery:
            nursery.start_soon(churn)
            nursery.start_soon(jobs)
            nursery.start_soon(jobs)
        await (await submit(first, *adds(1))).wait()
        assert group_of(world).faulting == [first]
        assert await fault_bo.read(0) == b"\3"

    list(every(scenario, 20))


def test_killing_a_faulting_queue_while_it_is_being_stopped() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        _fault_vm, _bo, fault_queue = await faulting(world)
        await submit(fault_queue, Spin(10), *adds(50))
        async with world.nursery() as nursery:

            async def job() -> None:
                await (await submit(queue_of(vm), write(b"x"))).wait()

            nursery.start_soon(job)
            nursery.start_soon(fault_queue.destroy)
        assert await bo.read(0) == b"x"
        assert group_of(world).faulting == []

    list(every(scenario, 25))


async def killed(world: World) -> None:
    """A faulting queue that does not let go is killed, and stays on the hardware until it is reset."""
    vm, bo = await machine(world)
    _fault_vm, _bo, fault_queue = await faulting(world)
    await submit(fault_queue, Spin(None, preemptible=False))
    await world.sleep(10 * MS)
    fault_queue.kill()
    await (await submit(queue_of(vm), write(b"x"))).wait()
    assert await bo.read(0) == b"x"


def test_only_vms_that_fault_have_faulting_queues() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        with pytest.raises(EINVAL):
            await add_faulting_queue(vm.vm, vm.vm.device)
        fault_vm = await world.gpu().create_vm(world.process(), "fault", mirror=False)
        await fault_vm.close()
        with pytest.raises(ENOENT):
            await fault_vm.create_queue()

    run(scenario)


def test_the_mode_is_taken_outside_of_the_vm_lock() -> None:
    """The declared lock order."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        async with vm.vm.lock.reading(), group_of(world).mode_sem.reading():
            pass

    failure = attempt(scenario).failure
    assert failure is not None
    assert (failure.kind, failure.rule) == ("property", "INV-24")


# -- what the guards are good for ------------------------------------------------------------


def found(scenario: Any, seeds: int = 8) -> set[str]:
    """What goes wrong, in schedules without racing timers."""
    failures = [attempt(scenario, "random", seed).failure for seed in range(2, 2 * seeds, 2)]
    return {failure.rule for failure in failures if failure is not None}


def test_without_stopping_faulting_queues_both_kinds_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: EngineGroup) -> None:
        return

    monkeypatch.setattr(EngineGroup, "suspend_faulting", nothing)
    assert "VMB-R34" in found(both)


def test_without_waiting_for_dma_fence_jobs_both_kinds_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: EngineGroup) -> None:
        return

    monkeypatch.setattr(EngineGroup, "wait_for_dma_fence_jobs", nothing)
    assert found(both) == {"VMB-R34"}


def test_a_new_faulting_queue_that_is_not_stopped_runs_beside_dma_fence_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        job = await submit(queue_of(vm), Spin(20 * MS))
        _fault_vm, _fault_bo, fault_queue = await faulting(world)
        await (await submit(fault_queue, *adds(1))).wait()
        await job.wait()

    async def nothing(_self: EngineGroup, _queue: ExecQueue) -> None:
        return

    assert not found(scenario)
    monkeypatch.setattr(EngineGroup, "suspend_new", nothing)
    assert "VMB-R34" in found(scenario)


def test_a_dead_queue_that_is_not_waited_for_runs_beside_dma_fence_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """That nobody answers for it any more does not mean that it is off."""

    async def nothing(_self: ExecQueue) -> None:
        return

    assert not found(killed)
    monkeypatch.setattr(ExecQueue, "taken_off", nothing)
    assert found(killed) == {"VMB-R34"}


def test_a_faulting_job_that_asks_for_no_turn_never_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        _fault_vm, _bo, fault_queue = await faulting(world)
        await (await submit(fault_queue, *adds(1))).wait()

    monkeypatch.setattr(EngineGroup, "queue_resume", lambda self: None)
    failure = attempt(scenario).failure
    assert failure is not None
    assert failure.kind == "deadlock"


def test_a_switch_for_a_job_that_cannot_run_stops_faulting_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R34, the first half of the guard: look at the in-syncs before the switch."""

    def never(_self: EngineGroup, _fences: Sequence[Fence]) -> bool:
        return False

    monkeypatch.setattr(EngineGroup, "must_wait_first", never)
    assert found(pending_in_sync, 4)


def test_waiting_with_the_mode_locked_stops_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R34, the second half: whoever signals the in-sync may have to submit a job for that."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        _fault_vm, _bo, fault_queue = await faulting(world)
        fence, pending = gate(world)
        await submit(fault_queue, *adds(1), Spin(20 * MS), *adds(1))
        await world.sleep(10 * MS)
        world.spawn(submit(queue_of(vm), write(b"x"), syncs=(pending.sync_in(),)), "waits")
        await world.sleep(100)
        await (await submit(queue_of(vm), read())).wait()
        fence.signal()
        await world.settle()
        assert await bo.read(0) == b"x"

    async def locked(self: Exec) -> None:
        async with self.queue.submission.group.mode_sem.writing():
            for fence in self.syncs.in_fences:
                await fence.wait()

    assert not found(scenario)
    monkeypatch.setattr(Exec, "wait_for_in_syncs", locked)
    assert found(scenario, 4) == {"deadlock"}


def test_a_fault_is_served_while_its_queue_is_being_stopped() -> None:
    """The exec that stops it holds nothing that the service needs."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        _fault_vm, fault_bo, fault_queue = await faulting(world)
        fault_job = await submit(fault_queue, Load(FAR), *adds(1))
        assert await (await submit(queue_of(vm), write(b"x"))).wait() == [None]
        assert (await fault_job.wait())[1:] == [0]
        assert (await bo.read(0), await fault_bo.read(0)) == (b"x", b"\1")

    runs = list(every(scenario, 30))
    assert hit(runs, "exec.group_switch")["exec.group_switch"]
