"""Queues, workers and acknowledgements (gpusvm section 5, RULE-30)."""

from __future__ import annotations

import pytest
from svm_bench import BASE, PAGE, VPN, every, page, ranges, run, start

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.fault import Access
from svm_actors.gpu.program import GpuFault, Load, Store
from svm_actors.world import World
from svm_actors.xe.pagefault import QUEUE_COUNT


def workers(world: World) -> set[str]:
    """Fault workers that exist."""
    names = {task.id for task in world.engine.tasks.values()}
    return {name for name in names if name.startswith("gpu0.pagefault") and not name.endswith("irq")}


def test_nothing_runs_before_it_is_needed() -> None:
    """No task of the driver's fault path before the first VM, no worker before the first fault of its queue."""

    async def scenario(world: World) -> None:
        device = world.gpu()
        await world.settle()
        assert not [task.id for task in world.engine.tasks.values() if "pagefault" in task.id]
        _process, vm = await start(world)
        await device.create_vm(world.process())
        await world.settle()
        assert not workers(world)
        assert len([task.id for task in world.engine.tasks.values() if "pagefault" in task.id]) == 1
        await vm.load(BASE)
        assert workers(world) == {f"gpu0.pagefault{vm.vm.asid % QUEUE_COUNT}"}

    run(scenario)


def test_faults_go_to_the_queue_of_their_address_space() -> None:
    async def scenario(world: World) -> None:
        process, _vm = await start(world)
        vms = [await world.gpu().create_vm(process) for _ in range(5)]
        assert [vm.vm.asid for vm in vms] == [2, 3, 4, 5, 6]
        async with world.nursery() as nursery:
            for vm in vms[:2]:
                nursery.start_soon(vm.load, BASE)
        assert workers(world) == {"gpu0.pagefault2", "gpu0.pagefault3"}
        await vms[-1].load(BASE)
        assert workers(world) == {"gpu0.pagefault2", "gpu0.pagefault3"}

    run(scenario)


def test_vms_do_not_wait_for_each_other() -> None:
    """A VM that cannot be served holds up its own faults only."""

    async def scenario(world: World) -> None:
        _process, blocked = await start(world)
        _process, free = await start(world)
        await blocked.vm.lock.write()
        async with world.nursery() as nursery:
            nursery.start_soon(blocked.load, BASE)
            await free.store(BASE, b"x")
            assert not ranges(blocked)
            blocked.vm.lock.release()

    for _ in every(scenario, 20):
        pass


def test_a_fault_of_nobody_is_refused() -> None:
    """SVM-R47: -EINVAL when the number means nothing."""

    async def scenario(world: World) -> None:
        await start(world)
        assert await world.gpu().gpu.fault_queue.report(77, VPN, Access.READ) == 22

    assert run(scenario).counters["SVM-R47"] == 1


def test_every_fault_is_answered_once() -> None:
    """Refused or served: as many answers as faults, none twice (a second one is an error by itself)."""

    async def scenario(world: World) -> None:
        process, vm = await start(world)
        async with world.nursery() as nursery:
            for index in range(3):
                nursery.start_soon(vm.run, [Load(VPN + index), Store(VPN + 9, 0, b"x"), Load(VPN)])
            nursery.start_soon(process.munmap, page(1), PAGE)
        statistics = world.gpu().gpu.fault_queue.statistics()
        assert (statistics["queued"], statistics["outstanding"]) == (0, 0)

    for result in every(scenario, fault_queue_size=1):
        refused = sum(count for name, count in result.counters.items() if name.startswith("gpu.fault.refused"))
        assert result.counters["gpu.fault"] == refused + result.counters.get("gpu.replay", 0)


def test_a_full_queue_stalls_the_hardware_and_loses_nothing() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start(world, 8)
        async with world.nursery() as nursery:
            for index in range(8):
                nursery.start_soon(vm.store, page(index), bytes([index]))
        assert [await vm.load(page(index)) for index in range(8)] == [bytes([index]) for index in range(8)]

    counted = [result.counters["gpu.fault_queue_full"] for result in every(scenario, 20, fault_queue_size=1)
               if "gpu.fault_queue_full" in result.counters]
    assert counted


def test_refused_faults_are_remembered() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        assert await vm.load(page(9)) == GpuFault(2)
        assert await vm.load(page(8)) == GpuFault(2)
        assert vm.vm.faults == [(VPN + 9, "ENOENT"), (VPN + 8, "ENOENT")]

    run(scenario)


def test_a_second_acknowledgement_is_noticed() -> None:
    async def scenario(world: World) -> None:
        await start(world)
        queue = world.gpu().gpu.fault_queue
        worker = world.gpu().driver.pagefaults
        seen = []
        original = worker.service

        async def service(fault: object) -> None:
            seen.append(fault)
            await original(fault)  # type: ignore[arg-type]

        worker.service = service  # type: ignore[method-assign, assignment]
        assert await queue.report(77, VPN, Access.READ) == 22
        with pytest.raises(PropertyFailed, match="RULE-30"):
            seen[0].ack(0)  # type: ignore[attr-defined]

    run(scenario)
