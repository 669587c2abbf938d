"""What random programs over VM_BIND have found, as small as it gets: queues and VMs that end at the same time.

Each test fails when the rule it names is taken out of the model again.
"""

from __future__ import annotations

from typing import Any

import pytest
from exec_bench import ADDR, PAGE, VPN, every, hit, run
from exec_bench import calm as calm_schedules

from svm_actors.engine.errors import EBUSY, ENOENT, ENOMEM, KernelError
from svm_actors.gpu.program import Load, Spin, Store
from svm_actors.world import World
from svm_actors.xe.userptr_pages import UserptrPages

MODES = ["dma_fence", "lr"]
SLOW = 80
"""Schedules of a strategy that holds one task up for long, until it has done so at every step of interest."""
each_mode = pytest.mark.parametrize("mode", MODES)


@each_mode
def test_a_closed_vm_gets_no_queue(mode: Any) -> None:
    """-ENOENT (7.4); a queue made now would hold the VM for ever, as its end has come already."""

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), mode)
        await vm.close()
        with pytest.raises(ENOENT):
            await vm.create_queue()

    assert run(scenario).failure is None


@each_mode
def test_a_queue_is_made_before_the_close_or_not_at_all(mode: Any) -> None:
    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), mode)

        async def create() -> None:
            try:
                await vm.create_queue()
            except ENOENT:
                world.engine.count("refused")

        async with world.nursery() as nursery:
            nursery.start_soon(create)
            nursery.start_soon(vm.close)

    runs = list(every(scenario, 40))
    assert {bool(result.counters.get("refused")) for result in runs} == {False, True}


@each_mode
def test_an_object_is_made_before_the_close_or_not_at_all(mode: Any) -> None:
    """Found by random programs: the VM was freed between the look at it and the first reference of the object."""

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), mode)

        async def create() -> None:
            try:
                await vm.create_bo(PAGE)
            except ENOENT:
                world.engine.count("refused")

        async with world.nursery() as nursery:
            nursery.start_soon(create)
            nursery.start_soon(vm.close)

    runs = list(every(scenario, 40))
    assert {bool(result.counters.get("refused")) for result in runs} == {False, True}


@each_mode
def test_a_queue_is_destroyed_once_when_its_vm_is_closed_meanwhile(mode: Any) -> None:
    """Whoever comes second waits until it is gone, and touches nothing."""

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), mode)
        queue = await vm.create_queue()
        await vm.submit(queue, [Spin(1000)])
        async with world.nursery() as nursery:
            nursery.start_soon(queue.destroy)
            nursery.start_soon(vm.close)
        assert queue.destroyed

    for result in every(scenario, 40):
        assert result.failure is None


def test_user_memory_that_stays_busy_is_no_user_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """-EBUSY of a bind means a user fence; pages that cannot be had for a second are -ENOMEM (gpusvm section 7)."""

    async def busy(*_: Any) -> None:
        raise EBUSY

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        vm = await world.gpu().create_vm(process, "dma_fence")
        monkeypatch.setattr(UserptrPages, "get_pages", busy)
        with pytest.raises(ENOMEM):
            await vm.bind_userptr(ADDR, addr, PAGE)
        assert vm.vm.vmas() == []

    assert run(scenario).failure is None


@each_mode
def test_a_job_that_faults_ends_although_the_one_before_it_is_not_freed_yet(mode: Any) -> None:
    """The handler finds the one before it first, which is done; it must come again for the one that faulted."""

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), mode)
        queue = await vm.create_queue()
        jobs = [await vm.submit(queue, program) for program in ([Spin(1)], [Store(VPN, 0, b"x")])]
        await jobs[0].wait()
        with pytest.raises(KernelError):
            await jobs[1].wait()

    for result in calm_schedules(scenario, 40):
        assert result.failure is None


@each_mode
def test_jobs_end_when_the_gt_is_reset_twice(mode: Any) -> None:
    """Those begun are lost with their queue, all others are run; none is forgotten."""

    async def scenario(world: World) -> None:
        gpu = world.gpu()
        vm = await gpu.create_vm(world.process(), mode)
        bo = await vm.create_bo(PAGE)
        await vm.bind(ADDR, bo)
        await world.settle()
        queue = await vm.create_queue()

        async def work() -> None:
            for value in range(3):
                try:
                    job = await vm.submit(queue, [Store(VPN, 0, bytes([value])), Spin(3), Load(VPN)])
                    assert (await job.wait())[2] == bytes([value])
                except KernelError:
                    world.engine.count("lost")

        async def reset() -> None:
            for _ in range(2):
                await world.sleep(4)
                gpu.driver.submission.reset.queue()

        async with world.nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(reset)
            nursery.start_soon(gpu.evict, PAGE)

    assert hit(list(calm_schedules(scenario, 40)), "lost")["lost"]


def test_a_flush_during_a_gt_reset_is_done_when_the_translations_are_gone() -> None:
    """VMB-R26, INV-01: a notifier that meets a reset does not return while the TLB still has the page."""

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        gpu = world.gpu()
        vm = await gpu.create_vm(process)
        await vm.store(addr, b"x")
        async with world.nursery() as nursery:
            nursery.start_soon(gpu.driver.tlb_inval.reset)
            nursery.start_soon(process.munmap, addr, PAGE)

    for seed in range(SLOW):
        assert run(scenario, "pct", seed).failure is None
