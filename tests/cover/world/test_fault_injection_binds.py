"""Injected faults on the way of a bind: each is hit, answers its error, and leaves the VM as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bind_injection_bench import PAGE, VPN, Planned, at, every, load, machine, run, snapshot, store, submitted

from svm_actors.engine.errors import ECANCELED, EFAULT, EINTR, ENOENT, ENOMEM
from svm_actors.gpu.program import GpuFault, Spin
from svm_actors.workload.bind_faults import excused
from svm_actors.world import BindVm, World
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp, vm_bind

Bind = Callable[[World, BindVm, Any], Awaitable[None]]


async def map_object(_world: World, vm: BindVm, bo: Any) -> None:
    await vm.bind(at(1), bo)


async def map_user_memory(world: World, vm: BindVm, _bo: Any) -> None:
    process = world.processes[0]
    await vm.bind_userptr(at(1), await process.mmap(PAGE), PAGE)


async def cut(_world: World, vm: BindVm, _bo: Any) -> None:
    await vm.unbind(at(1), PAGE)


async def unmap_all(_world: World, vm: BindVm, bo: Any) -> None:
    await vm.unbind_all(bo)


async def prefetch(_world: World, vm: BindVm, _bo: Any) -> None:
    await vm.prefetch(at(0), 3 * PAGE)


async def array(_world: World, vm: BindVm, bo: Any) -> None:
    await vm.bind_array(
        [
            vm.map_op(at(1), bo, PAGE),
            vm.unmap_op(at(2), PAGE),
            vm.map_op(at(0), None, PAGE, flags=BindFlag.NULL),
            BindOp(BindKind.UNMAP_ALL, bo=bo),
            vm.map_op(at(0), bo, 2 * PAGE),
        ]
    )


BINDS: tuple[Bind, ...] = (map_object, map_user_memory, cut, unmap_all, prefetch, array)


@pytest.mark.parametrize("mode", ["dma_fence", "lr", "fault"])
@pytest.mark.parametrize("bind", BINDS)
@pytest.mark.parametrize("kind", ["memory", "pgtable", "fence"])
def test_whichever_allocation_of_a_bind_fails_the_vm_is_as_it_was(kind: str, bind: Bind, mode: str) -> None:
    """-ENOMEM, and the same call goes through afterwards (INV-VMB-08)."""
    failed = []

    async def scenario(world: World) -> None:
        vm, bo = await machine(world, 3, mode)
        before = snapshot(vm)
        faults = Planned(world, **{kind: number})
        try:
            await bind(world, vm, bo)
        except ENOMEM:
            failed.append(number)
            await world.settle()
            assert snapshot(vm) == before
            await bind(world, vm, bo)
        asked.append(faults.asked[kind])

    for number in range(100):
        asked: list[int] = []
        run(scenario)
        if asked[0] <= number:
            break
    assert failed == list(range(number))
    assert failed


@pytest.mark.parametrize("mode", ["dma_fence", "lr"])
def test_an_exec_without_memory_runs_nothing(mode: str) -> None:
    """-ENOMEM for its syncs and its job; the queue is as good as before."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world, mode=mode)
        queue = await vm.create_queue()
        for number in range(2):
            Planned(world, memory=number)
            with pytest.raises(ENOMEM):
                await submitted(vm, store(0, b"x"), queue=queue)
        assert await (await submitted(vm, load(0), queue=queue)).wait() == [b"\0"]

    assert run(scenario).counters["inject.memory"] == 2


def test_an_exec_that_cannot_rebind_runs_nothing_and_the_next_one_does() -> None:
    """What was evicted stays listed until its entries are written."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        queue = await vm.create_queue()
        await (await submitted(vm, store(0, b"x"), queue=queue)).wait()
        await world.gpu().evict(2 * PAGE)
        Planned(world, pgtable=0)
        with pytest.raises(ENOMEM):
            await submitted(vm, load(0), queue=queue)
        assert bo.in_vram
        assert await (await submitted(vm, load(0), queue=queue)).wait() == [b"x"]

    every(scenario)


@pytest.mark.parametrize("kind", ["memory", "pgtable"])
def test_a_rebind_worker_without_memory_bans_the_vm(kind: str) -> None:
    """There is nobody to report it to: binds answer -ENOENT, execs -ECANCELED, its queues are dead (7.4)."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world, mode="lr")
        queue = await vm.create_queue()
        await (await submitted(vm, store(0, b"x"), queue=queue)).wait()
        await world.settle()
        await world.gpu().evict(2 * PAGE)
        await world.settle()
        Planned(world, **{kind: 2 if kind == "memory" else 0})  # the first two are the exec's
        job = await submitted(vm, load(0), queue=queue)
        await job.fence.wait()
        assert isinstance(job.fence.error, ECANCELED)
        assert vm.vm.banned
        assert queue.dead
        with pytest.raises(ENOENT):
            await vm.bind(at(4), bo)
        with pytest.raises(ECANCELED):
            await submitted(vm, load(0), queue=queue)

    assert all(result.counters["rebind.error.ENOMEM"] == 1 for result in every(scenario))


def test_a_page_fault_without_memory_is_refused_and_costs_its_queue_alone() -> None:
    """-ENOMEM to whoever touched it; the mapping stays, and the next touch binds it."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world, mode="fault")
        queue = await vm.create_queue()
        Planned(world, pgtable=0)
        job = await submitted(vm, load(0), queue=queue)
        await job.fence.wait()
        assert job.batch.results == [GpuFault(ENOMEM().errno)]
        assert queue.dead
        assert vm.vm.faults == [(VPN, "ENOMEM")]  # type: ignore[attr-defined]
        assert await (await submitted(vm, load(0))).wait() == [b"\0"]

    every(scenario)


@pytest.mark.parametrize("kind", ["fence", "page", "dma"])
def test_an_object_that_cannot_be_moved_out_stays_where_it_is(kind: str) -> None:
    """And its new memory goes back, whatever it was that failed."""
    stayed = []

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        queue = await vm.create_queue()
        job = await submitted(vm, Spin(10), store(0, b"x"), queue=queue)
        faults = Planned(world, **{kind: number})
        await world.gpu().evict(2 * PAGE)
        asked.append(faults.asked[kind])
        faults.plan.clear()
        stayed.append(bo.in_vram)
        await job.wait()
        assert await (await submitted(vm, load(0), queue=queue)).wait() == [b"x"]

    for number in range(20):
        asked: list[int] = []
        run(scenario)
        if asked[0] <= number:
            break
    assert stayed == [True] * number + [False]
    assert number


def test_a_page_fault_without_room_for_its_fence_leaves_no_lock() -> None:
    """Mirrored memory in a VM that has objects too: one reservation for both."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, "fault", mirror=False)
        addr = await process.mmap(PAGE)
        await vm.bind_mirror(addr, PAGE)
        for number in range(4):
            Planned(world, fence=number)
            await vm.load(addr)
            assert not vm.vm.resv_dma.is_locked()
        assert await vm.load(addr) == b"\0"

    every(scenario)


def test_an_object_that_cannot_be_made_leaves_nothing() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        Planned(world, memory=0)
        with pytest.raises(ENOMEM):
            await vm.create_bo(PAGE)
        assert len(world.bos) == 1

    run(scenario)


# -- contention ---------------------------------------------------------------------------------


def test_contention_where_there_is_none_runs_the_preparation_again() -> None:
    """VMB-B01: a bind of two external objects backs off, and begins anew."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        first, second = await vm.create_bo(PAGE, external=True), await vm.create_bo(PAGE, external=True)
        Planned(world, contention=(2, 4))
        await vm.bind_array([vm.map_op(at(4), first, PAGE), vm.map_op(at(5), second, PAGE)])
        job = await submitted(vm, store(4, b"a"), store(5, b"b"), load(4), load(5))
        assert (await job.wait())[2:] == [b"a", b"b"]
        assert vm.vm.pt_tree.statistics()["staged"] == 0

    results = every(scenario)
    assert all(result.counters["exec.retry"] == result.counters["inject.contention"] == 2 for result in results)


# -- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", [map_object, cut, array])
def test_a_bind_that_a_signal_interrupts_is_made_again(bind: Bind) -> None:
    """It sleeps for a reservation; -EINTR undoes what it has done to the tree, and the call runs unchanged."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world, 3)
        before = snapshot(vm)
        Planned(world, signal=0)
        busy = world.spawn(hold(world, bo), "holder")
        await world.sleep(1)
        await bind(world, vm, bo)
        await world.engine.join(busy)
        assert snapshot(vm) != before

    results = every(scenario)
    assert all(result.counters["syscall.interrupted"] for result in results)


def test_the_ioctl_itself_answers_eintr_and_has_changed_nothing() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world, 3)
        before = snapshot(vm)
        Planned(world, signal=0)
        busy = world.spawn(hold(world, bo), "holder")
        await world.sleep(1)
        with pytest.raises(EINTR):
            await vm_bind(vm.vm, [vm.unmap_op(at(1), PAGE)])
        await world.engine.join(busy)
        await world.settle()
        assert snapshot(vm) == before

    run(scenario)


async def hold(world: World, bo: Any) -> None:
    """Keep its reservation for a moment."""
    await bo.resv.lock()
    await world.sleep(10)
    bo.resv.unlock()


def test_user_memory_that_cannot_be_mapped_for_dma_refuses_the_fault_of_a_job() -> None:
    """The job has a reason to fail then, as where a rebind fails so."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, "fault", mirror=False)
        addr = await process.mmap(PAGE)
        await vm.bind_userptr(at(1), addr, PAGE)
        await process.madvise(addr, PAGE, "dontneed")
        Planned(world, dma=(0, 1))  # in one piece, and page by page
        job = await submitted(vm, load(1))
        await job.fence.wait()
        assert job.batch.results == [GpuFault(EFAULT().errno)]
        assert excused(world.engine, job)

    for result in every(scenario, 10):
        assert result.counters["userptr.efault"] == 1
