"""Exec: from a program to its result (vm_bind sections 4 and 9)."""

from __future__ import annotations

from typing import Any

import pytest
from exec_bench import ADDR, PAGE, VPN, every, hit, machine, queue_of, read, run, submit, write

from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import EAGAIN, ECANCELED, EINVAL, ENOENT, ETIME
from svm_actors.gpu.program import AtomicAdd, GpuFault, Load, Spin
from svm_actors.world import World
from svm_actors.xe.exec import Exec


def test_a_program_runs_and_its_out_fence_signals() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        queue = queue_of(vm)
        out = world.syncobj()
        execution = await submit(queue, write(b"hello"), read(0, 5), syncs=(out.sync_out(),))
        await out.wait()
        assert execution.batch.results == [None, b"hello"]
        assert await bo.read(0, 5) == b"hello"
        await vm.unbind(ADDR, PAGE)

    for result in every(scenario):
        assert result.counters["exec"] == 1


def test_nothing_runs_before_the_in_sync() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        gate, out = world.syncobj(), world.syncobj()
        first, second = queue_of(vm), queue_of(vm)
        slow = await submit(first, Spin(1000), write(b"1"), syncs=(gate.sync_out(),))
        fast = await submit(second, read(), syncs=(gate.sync_in(), out.sync_out()))
        await out.wait()
        assert slow.fence.signaled
        assert await fast.wait() == [b"1"]

    list(every(scenario))


def test_an_empty_in_syncobj_is_refused() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        with pytest.raises(EINVAL):
            await submit(queue, read(), syncs=(world.syncobj().sync_in(),))
        with pytest.raises(EINVAL):
            await submit(queue, Load(VPN, 4095, 2))
        assert await (await submit(queue, read())).wait() == [b"\0"]

    run(scenario)


def test_jobs_of_one_queue_run_in_order_and_see_each_other() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        jobs = [await submit(queue, AtomicAdd(VPN, 0, 1)) for _ in range(4)]
        assert [(await job.wait())[0] for job in jobs] == [0, 1, 2, 3]
        stamps = [job.fence.seqno for job in jobs]
        assert stamps == sorted(stamps)

    list(every(scenario, 20))


def test_a_call_without_program_answers_the_last_fence() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        out = world.syncobj()
        job = await submit(queue, Spin(50), write(b"x"))
        await submit(queue, syncs=(out.sync_out(),))
        assert not out.done
        await out.wait()
        assert job.fence.signaled

    run(scenario)


def test_the_fence_of_an_exec_is_bookkeeping_in_every_reservation() -> None:
    """INV-VMB-06, VMB-B03."""

    async def scenario(world: World) -> None:
        vm, _local = await machine(world)
        shared = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR + PAGE, shared)
        job = await submit(queue_of(vm), Spin(100), write(b"x", 1))
        for resv in (vm.vm.resv_dma, shared.resv):
            assert [slot.usage for slot in resv.fences.slots if slot.fence is job.fence] == [Usage.BOOKKEEP]
        await job.wait()

    run(scenario)


def test_errors_of_the_call() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue, other = queue_of(vm), queue_of(vm)
        queue.submission.limits.job_limit = 1
        gate = world.syncobj()
        await submit(other, Spin(100), syncs=(gate.sync_out(),))
        job = await submit(queue, read(), syncs=(gate.sync_in(),))
        with pytest.raises(EAGAIN):
            await submit(queue, read())
        await job.wait()
        queue.kill()
        with pytest.raises(ECANCELED):
            await submit(queue, read())
        await vm.close()
        last = other
        last.killed = last.destroyed = False
        with pytest.raises(ENOENT):
            await submit(last, read())

    run(scenario)


def test_a_refused_fault_resets_the_queue() -> None:
    """A page fault cannot be served behind a dma-fence: the context is lost, its VM lives on."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        bad, good = queue_of(vm), queue_of(vm)
        job = await submit(bad, Load(0x9999))
        behind = await submit(bad, write(b"n"))
        with pytest.raises(ETIME):
            await job.wait()
        assert isinstance(job.batch.results[-1], GpuFault)
        with pytest.raises(ECANCELED):
            await behind.wait()
        with pytest.raises(ECANCELED):
            await submit(bad, read())
        assert await (await submit(good, read())).wait() == [b"\0"]

    for result in every(scenario, 30):
        assert result.counters["exec.fault_reset"] == 1


def test_two_queues_and_an_unbind_behind_them() -> None:
    """The unbind carries the jobs' fences; everything can be queued before anything runs."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        done = [world.syncobj() for _ in range(2)]
        gone = world.syncobj()
        jobs = [
            await submit(queue_of(vm), Spin(100), AtomicAdd(VPN, 0, 1), syncs=(out.sync_out(),)) for out in done
        ]
        await vm.unbind(ADDR, PAGE, syncs=(*(out.sync_in() for out in done), gone.sync_out()))
        await gone.wait()
        assert sorted([(await job.wait())[1] for job in jobs]) == [0, 1]
        assert await bo.read(0) == b"\2"

    list(every(scenario))


def test_exec_against_eviction_of_local_and_external_objects() -> None:
    """VMB-R04, VMB-R05, INV-VMB-13: a job never runs on what eviction has taken away."""

    async def scenario(world: World) -> None:
        vm, local = await machine(world)
        shared = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR + PAGE, shared)

        async def work(queue: Any) -> None:
            for _ in range(3):
                await (await submit(queue, AtomicAdd(VPN, 0, 1), AtomicAdd(VPN + 1, 0, 1))).wait()

        async with world.nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(work, queue_of(vm))
            for _ in range(3):
                nursery.start_soon(world.gpu().evict, 2 * PAGE)
        assert await local.read(0) == await shared.read(0) == b"\6"

    runs = list(every(scenario, 60))
    numbers = hit(runs, "VMB-R04", "VMB-R05")
    assert all(numbers.values()), numbers


def test_opposite_lock_orders_of_two_vms_do_not_deadlock() -> None:
    """FEN-R12: two VMs that map the same two objects in opposite order."""

    async def scenario(world: World) -> None:
        vms = [(await machine(world))[0] for _ in range(2)]
        shared = [await vms[0].create_bo(PAGE, external=True) for _ in range(2)]
        for vm, order in zip(vms, (shared, shared[::-1]), strict=True):
            for number, bo in enumerate(order, 1):
                await vm.bind(ADDR + number * PAGE, bo)

        async def work(vm: Any) -> None:
            queue = queue_of(vm)
            for _ in range(3):
                await (await submit(queue, AtomicAdd(VPN + 1, 0, 1), AtomicAdd(VPN + 2, 0, 1))).wait()

        async with world.nursery() as nursery:
            for vm in vms:
                nursery.start_soon(work, vm)
        for bo in shared:
            assert await bo.read(0) == b"\6"

    runs = list(every(scenario, 60))
    assert hit(runs, "exec.retry")["exec.retry"]


def test_the_stale_check_is_repeated_until_nothing_is_stale() -> None:
    """VMB-R02: pages taken between the pin and the check make the exec start over."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        answers = [False, True, True, False]

        class Stale(Exec):
            def still_valid(self) -> bool:
                return not answers.pop(0) if answers else super().still_valid()

        queue.exec_class = Stale
        answers[:] = [True, True]
        assert await (await submit(queue, read())).wait() == [b"\0"]
        assert world.engine.counters["exec.stale"] == 2

    run(scenario)
