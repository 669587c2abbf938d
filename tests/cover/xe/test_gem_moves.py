"""Buffer objects move: what a move waits for, who is told, and what happens under pressure."""

from __future__ import annotations

import pytest
from bo_bench import counted
from gem_bench import Device, Machine, Vm, add_job, every, fill, holds, letter, make, put, run, validate

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import ENOMEM, PropertyFailed
from svm_actors.xe.evict import evict_all
from svm_actors.xe.gem import XeBo

# -- what a move waits for -----------------------------------------------------------------------


@pytest.mark.parametrize("usage", list(Usage))
def test_a_move_waits_for_every_fence(usage: Usage) -> None:
    """Section 3: BOOKKEEP, that is everything; its own fence is KERNEL."""

    async def body(machine: Machine, device: Device) -> None:
        (bo,) = await make(device, 1)
        gate = Fence(machine.engine, "job")
        await add_job(bo, gate, usage)
        old = bo.folios[0]

        async def evict() -> None:
            await bo.resv.lock()
            await bo.evict()
            bo.resv.unlock()

        task = machine.engine.spawn(evict(), "evict")
        await machine.engine.sleep(1)
        assert not old.freed
        # The job still writes; the copy must take it along.
        old.content = old.content.write(0, b"\x63")
        gate.signal()
        await machine.engine.join(task)
        assert (old.freed, letter(bo)) == (True, "r")
        await holds(bo, 99, 2, 3, 4)
        await put(bo)

    for _ in every(body, 20):
        pass


def test_a_first_clear_waits_for_moves_only() -> None:
    """A job of the VM that has not ended must not keep a new object from being made."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        gate = Fence(machine.engine, "job")
        await vm.resv_dma.lock()
        vm.resv_dma.reserve(1)
        vm.resv_dma.add(gate, Usage.BOOKKEEP)
        vm.resv_dma.unlock()
        bo = await XeBo.create(device, "bo", 4, vm=vm)
        await holds(bo, 0, 0, 0, 0)
        gate.signal()
        await put(bo)
        await vm.close()

    run(body)


def test_a_fence_that_has_to_be_asked_is_asked_at_once() -> None:
    """A preempt fence only signals once somebody wants it: the move does, before it queues its copy."""

    asked: list[str] = []

    class Preempt(Fence):
        def ops_enable_signaling(self) -> bool:
            asked.append(self.name)
            return True

    async def body(machine: Machine, device: Device) -> None:
        asked.clear()
        (bo,) = await make(device, 1)
        preempt = Preempt(machine.engine, "preempt")
        await add_job(bo, preempt)
        assert not asked
        task = machine.engine.spawn(evict_all(device.region.vram), "evict")
        await machine.engine.sleep(1)
        assert asked == ["preempt"]
        preempt.signal()
        await machine.engine.join(task)
        await put(bo)

    run(body)


def test_ram_is_given_back_when_the_copy_has_read_it() -> None:
    async def body(machine: Machine, device: Device) -> None:
        (bo,) = await make(device, 1)
        await evict_all(device.region.vram)
        await holds(bo, 1, 2, 3, 4)
        assert machine.core.allocator.statistics() == {"live": 4}
        assert await validate(bo) == "ok"
        await holds(bo, 1, 2, 3, 4)
        await device.region.flush()
        assert machine.core.allocator.statistics() == {"live": 0}
        assert device.gpu.iommu.statistics() == {"mappings": 0, "reservations": 0}
        await put(bo)

    for _ in every(body, 20):
        pass


# -- who is told -----------------------------------------------------------------------------------


def test_a_local_object_goes_on_the_evict_list() -> None:
    """4.1: the reservation is the VM's, so its list is in reach."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        (bo,) = await make(device, 1, vm=vm)
        vm_bo = await vm.attach(bo)
        await evict_all(device.region.vram)
        assert vm_bo.evicted
        assert list(vm.gpuvm.evicted) == [vm_bo]
        await vm.close()
        await put(bo)

    run(body)


def test_an_external_object_leaves_a_mark_in_every_vm() -> None:
    """4.2, VMB-R06: only the object's reservation is held, so no list of a VM is touched."""

    async def body(machine: Machine, device: Device) -> None:
        vms = [Vm(machine, f"vm{number}") for number in range(2)]
        (bo,) = await make(device, 1)
        marks = [await vm.attach(bo) for vm in vms]
        await evict_all(device.region.vram)
        assert [mark.evicted for mark in marks] == [True, True]
        assert [list(vm.gpuvm.evicted) for vm in vms] == [[], []]
        for vm in vms:
            await vm.close()
        await put(bo)

    assert run(body).engine.counters["VMB-R06"] == 2


def test_coming_back_is_told_too() -> None:
    """The other VM has addresses of the place in RAM by then; they are just as wrong."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        (bo,) = await make(device, 1)
        vm_bo = await vm.attach(bo)
        await evict_all(device.region.vram)
        vm_bo.evicted = False
        assert await validate(bo) == "ok"
        assert vm_bo.evicted
        await vm.close()
        await put(bo)

    run(body)


def test_without_the_gate_a_job_loses_its_write() -> None:
    """What the guard is for: a move that does not wait copies the bytes too early."""

    class Hasty(XeBo):
        def move_waits_for(self) -> Fence | None:
            return None

    async def body(machine: Machine, device: Device) -> None:
        bo = await Hasty.create(device, "bo", 1)
        await fill(bo, 1)
        gate = Fence(machine.engine, "job")
        await add_job(bo, gate)
        task = machine.engine.spawn(evict_all(device.region.vram), "evict")
        where = bo.dma_addr(0)
        await machine.engine.sleep(1)
        device.gpu.bus.resolve(where, True)
        gate.signal()
        await machine.engine.join(task)

    with pytest.raises(PropertyFailed, match="INV-05"):
        run(body)


# -- pressure ----------------------------------------------------------------------------------------


async def user(machine: Machine, device: Device, bo: XeBo, number: int, rounds: int) -> None:
    """Validates its object and lets a job use it, again and again; each job finds what the last one left."""
    value = 10 * number
    for turn in range(rounds):
        await bo.resv.lock()
        try:
            await bo.validate()
        except ENOMEM:
            machine.results["refused"] = machine.results.get("refused", 0) + 1
            bo.resv.unlock()
            continue
        job = Fence(machine.engine, f"job{number}.{turn}")
        for _ in range(4):
            await machine.engine.step("local")
        bo.resv.reserve(1)
        bo.resv.add(job, Usage.BOOKKEEP)
        waits_for = bo.resv.get_singleton(Usage.KERNEL)
        where = bo.dma_addr(0)
        bo.resv.unlock()
        if waits_for is not None:
            await waits_for.wait()
        await machine.engine.step("store", bo)
        folio = device.gpu.bus.resolve(where, True)
        assert folio.content.byte(0) == value
        value += 1
        folio.content = folio.content.write(0, bytes([value]))
        await machine.engine.step("fence_signal", job)
        job.signal()


def test_more_objects_than_room_lose_no_data() -> None:
    """VMB-R05: three users, room for two; every job finds what its last one left."""

    async def body(machine: Machine, device: Device) -> None:
        bos = [XeBo(device, f"bo{number}", 8) for number in range(3)]
        for number, bo in enumerate(bos):
            await fill(bo, 10 * number)
        async with machine.engine.nursery() as nursery:
            for number, bo in enumerate(bos):
                nursery.start_soon(user, machine, device, bo, number, 3)
        await put(*bos)

    machines = list(every(body))
    assert counted(machines, "bo.evict")
    assert counted(machines, "VMB-R05")


def test_equal_schedules_give_equal_traces() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bos = [XeBo(device, f"bo{number}", 8) for number in range(3)]
        for number, bo in enumerate(bos):
            await fill(bo, 10 * number)
        async with machine.engine.nursery() as nursery:
            for number, bo in enumerate(bos):
                nursery.start_soon(user, machine, device, bo, number, 1)
        await put(*bos)

    def trace(seed: int) -> list[str]:
        return run(body, "random", seed).engine.trace()

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)
