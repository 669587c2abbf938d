"""The end of VMs and processes, with everything in flight (gpusvm section 6.4, RULE-34)."""

from __future__ import annotations

from typing import Any

import pytest
from svm_bench import BASE, PAGE, VPN, after_pause, assert_hit, attempt, every, page, pause, run, start, where

from svm_actors.engine.errors import ENOENT, EngineError, PropertyFailed
from svm_actors.gpu.fault import Access
from svm_actors.gpu.program import AtomicAdd, GpuFault, Load, Store
from svm_actors.mm.messages import SIGSEGV
from svm_actors.world import World
from svm_actors.xe.garbage import GarbageCollector

CHUNKS: dict[str, Any] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}


def test_the_steps_of_close_in_order() -> None:
    """Mark, drain, nuke, flush; then the work item; then page tables, pages, notifiers; the asid last."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world, placement="system")
        await vm.store(BASE, b"x")
        world.engine.timeline.clear()
        await vm.close()

    trace = run(scenario, record=True).trace
    assert trace is not None
    mine = [line.removeprefix("main: ") for line in trace[: trace.index("main: write gpu0.xe asid") + 1]]
    assert [line for line in mine if not line.startswith(("gpu0.tlb_inval: ", "core_mm: ", "main/"))] == [
        "lock gpu0.vm1.lock",
        "read_lock gpu0.vm1.svm.notifier_lock",
        "pte_write gpu0.vm1.pt",
        "lock gpu0.tlb_client.seqno_lock",
        "send gpu0.tlb_inval.ring InvalidateTlb",
        "fence_wait gpu0.tlb_client.fence.1",
        "wait gpu0.vm1.gc_work",
        "lock gpu0.vm1.lock",
        "read_lock gpu0.vm1.svm.notifier_lock",
        "write gpu0.iommu unmap",
        "send core_mm.mailbox IntervalNotifierRemove",
        "reply core_mm.IntervalNotifierRemove",
        "read_lock gpu0.vm1.svm.notifier_lock",
        "read_lock gpu0.vm1.svm.notifier_lock",
        "write gpu0.xe asid",
    ]


@pytest.mark.parametrize("bind_by_gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("placement", ["vram", "system"])
def test_close_with_faults_in_flight(placement: str, bind_by_gpu: bool) -> None:
    """SVM-R47, SVM-R22: every access goes through or is refused; the data is the process's to keep."""
    outcomes = set()

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement=placement, bind_by_gpu=bind_by_gpu, **CHUNKS)
        await process.write(BASE, b"c")

        async def use(index: int) -> None:
            try:
                results = await vm.run([Load(VPN), Store(VPN + index, 1, b"g"), Load(VPN + 3)])
            except ENOENT:
                return
            outcomes.update(result for result in results if isinstance(result, GpuFault))

        async def close() -> None:
            await pause(world, 400)
            await vm.close()

        async with world.nursery() as nursery:
            nursery.start_soon(close)
            nursery.start_soon(use, 1)
            nursery.start_soon(use, 2)
        assert await process.read(BASE) == b"c"
        assert vm.vm.refs == 0

    runs = list(every(scenario, 100))
    assert outcomes <= {GpuFault(2), GpuFault(22)}
    assert outcomes
    assert_hit(runs, "SVM-R47")


def test_close_against_the_garbage_collector() -> None:
    """SVM-R23, SVM-R22: munmap queues work while the VM closes; nothing runs on a closed VM."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system")
        for index in range(4):
            await vm.store(page(index), b"x")
        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, vm.close)
            for index in range(4):
                nursery.start_soon(after_pause, world, process.munmap, page(index), PAGE)

    runs = list(every(scenario, 100))
    assert_hit(runs, "SVM-R22", "SVM-R23", "gc.range")


class Late(GarbageCollector):
    """The work item is queued, but its thread gets to it late."""

    async def _work(self) -> None:
        await self.engine.sleep(1000)
        await super()._work()


class NotStopped(Late):
    """SVM-B14: neither stopped by the close nor aware of it."""

    async def run(self) -> None:
        while (range_ := await self._pop()) is not None:
            await self._collect(range_)

    async def disable_sync(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize("collector", [Late, NotStopped])
def test_close_waits_for_the_work_item(collector: type[GarbageCollector]) -> None:
    """SVM-R23: otherwise it meets a VM that is gone."""

    async def scenario(world: World) -> None:
        world.engine.parts.replace(GarbageCollector, lambda _: collector)
        process, vm = await start(world, placement="system")
        await vm.store(BASE, b"x")
        await process.munmap(BASE, PAGE)
        await vm.close()
        await world.sleep(2000)

    failure = attempt(scenario).failure
    if collector is Late:
        assert failure is None
    else:
        assert failure is not None
        assert failure.rule == "SVM-R47"


def test_process_exit_with_programs_running() -> None:
    """SVM-R21: faults of a dying process are refused; its memory goes once, whoever drops the last user."""
    outcomes = set()

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        other, second = world.process(), None
        await other.mmap(4 * PAGE, addr=BASE, fixed=True)
        second = await world.gpu().create_vm(other, **CHUNKS)

        async def use() -> None:
            results = await vm.run([Store(VPN, 0, b"x"), AtomicAdd(VPN + 1, 0, 1), Load(VPN + 3)])
            outcomes.update(result for result in results if isinstance(result, GpuFault))

        async with world.nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(second.run, [Store(VPN, 0, b"y"), Load(VPN)])
            nursery.start_soon(after_pause, world, process.exit)
        assert await other.read(BASE) == b"y"
        await world.settle()
        assert process.mm.exited
        assert not vm.vm.svm.gpusvm.statistics()["ranges"]

    runs = list(every(scenario))
    assert outcomes <= {GpuFault(14)}
    assert_hit(runs, "SVM-R21")


def test_exit_and_close_at_once() -> None:
    """Both orders of teardown, and everything between; several VMs of several processes."""

    async def scenario(world: World) -> None:
        process, first = await start(world, placement="system")
        second = await world.gpu().create_vm(process)
        third = await world.gpu().create_vm(world.process())
        for vm in (first, second):
            await vm.store(BASE, b"x")
            await vm.store(page(2), b"x")
        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, first.close)
            nursery.start_soon(after_pause, world, second.close)
            nursery.start_soon(third.close)
            nursery.start_soon(after_pause, world, process.exit)
        await world.settle()
        driver = world.gpu().driver
        assert (driver.vms, driver.live_vms) == ({}, 0)
        assert process.mm.count == 0

    for _ in every(scenario):
        pass


def test_a_vm_outlives_its_process() -> None:
    """The gpusvm keeps the structure of the address space, not its contents."""

    async def scenario(world: World) -> None:
        process, vm = await start(world)
        await vm.store(BASE, b"x")
        await process.exit()
        assert process.mm.exited
        assert await vm.load(BASE) == GpuFault(14)
        assert process.mm.count == 1
        await vm.close()
        assert process.mm.count == 0

    run(scenario)


def test_a_process_outlives_its_vm() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world)
        await vm.store(BASE, b"x")
        await vm.close()
        assert where(process) == "v---"
        assert await process.read(BASE) == b"x"
        await process.munmap(BASE, 4 * PAGE)
        with pytest.raises(SIGSEGV):
            await process.read(BASE)

    run(scenario)


def test_references() -> None:
    """SVM-R47, SVM-R48: a freed VM is not touched, a VM is closed once."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        xe = vm.vm
        await vm.store(BASE, b"x")
        assert xe.refs == 2
        await vm.close()
        for touch in (xe.get, xe.put):
            with pytest.raises(PropertyFailed, match="SVM-R47"):
                touch()
        with pytest.raises(EngineError, match="closed twice"):
            await xe.close()
        xe.svm.gpusvm.notifier_lock.release()
        xe.lock.release()

    run(scenario)


def test_a_killed_vm_serves_nothing() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        await vm.store(BASE, b"x")
        vm.vm.kill()
        assert await world.gpu().gpu.fault_queue.report(vm.vm.asid, VPN + 1, Access.READ) == 2

    assert run(scenario).counters["vm.killed"] == 1
