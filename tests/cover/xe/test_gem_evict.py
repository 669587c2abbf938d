"""No room in VRAM for buffer objects: who has to go, who stays, who is waited for."""

from __future__ import annotations

import pytest
from gem_bench import Device, Machine, Vm, add_job, check, every, letter, make, put, run, validate

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import ENOMEM
from svm_actors.xe.evict import evict_all, lock_victim
from svm_actors.xe.gem import XeBo

# -- who goes ---------------------------------------------------------------------------------


def test_the_least_recently_used_goes_with_its_bytes() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bos = await make(device, 5)
        assert letter(*bos) == "rvvvv"
        await check(bos)
        assert await validate(bos[0]) == "ok"
        assert letter(*bos) == "vrvvv"
        await check(bos)
        await put(*bos)

    counters = run(body).engine.counters
    assert (counters["bo.evict"], counters["bo.moved_in"], counters["bo.moved_out"]) == (2, 1, 2)


def test_validation_is_use() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bos = await make(device, 4)
        await validate(bos[0])
        bos += await make(device, 1)
        assert letter(*bos) == "vrvvv"
        await put(*bos)

    run(body)


def test_one_lru_for_mirror_memory_and_buffer_objects() -> None:
    """A buffer object throws out pages of a process, and a page fault of a process throws out a buffer object."""

    async def body(machine: Machine, device: Device) -> None:
        at = await machine.map(8)
        await machine.write(at, *range(20, 28))
        assert await machine.populate(at, 8) == "ok"
        bos = await make(device, 3)
        assert (machine.where(at, 8), letter(*bos)) == ("r" * 8, "vvv")
        assert await machine.populate(at, 8) == "ok"
        assert (machine.where(at, 8), letter(*bos)) == ("0" * 8, "rvv")
        await check(bos)
        assert await machine.read(at, 8) == list(range(20, 28))
        await put(*bos)

    run(body)


@pytest.mark.parametrize("local", [True, False])
def test_what_an_exec_has_locked_stays(local: bool) -> None:
    """VMB-R04, VMB-R05: the walk skips it, its transaction is older, and so there is no room; both times."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        bo = await XeBo.create(device, "busy", 16, vm=vm if local else None)

        async def other() -> None:
            with pytest.raises(ENOMEM):
                await XeBo.create(device, "newcomer", 4)

        with await vm.locked(bo):
            await machine.engine.join(machine.engine.spawn(other(), "other"))
        assert letter(bo) == "v"
        await put(bo)
        await vm.close()

    counters = run(body).engine.counters
    assert (counters["VMB-R04" if local else "VMB-R05"], counters["vram.exclusive"]) == (2, 1)


def test_an_object_somebody_holds_for_a_moment_is_waited_for() -> None:
    """With an acquire context the second walk sleeps for one victim, instead of giving up."""

    async def body(machine: Machine, device: Device) -> None:
        (bo,) = await make(device, 1)
        big = await XeBo.create(device, "big", 8)
        await bo.resv.lock()
        assert await big.resv.trylock()

        async def other() -> None:
            late = await XeBo.create(device, "late", 16)
            assert letter(bo, big, late) == "rrv"
            await late.put()

        task = machine.engine.spawn(other(), "other")
        await machine.engine.sleep(1)
        big.resv.unlock()
        bo.resv.unlock()
        await machine.engine.join(task)
        await check([bo])
        await put(bo, big)

    for machine in every(body, 20):
        assert machine.engine.counters["evict.ticket"]
        assert not machine.engine.counters["vram.exclusive"]


def test_an_object_that_goes_while_it_is_waited_for() -> None:
    """Its last reference is put by whoever holds it, or by the walk itself; a worker frees it either way."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        bo = await XeBo.create(device, "bo", 16, vm=vm)
        await bo.resv.wait(Usage.KERNEL)
        await vm.resv_dma.lock()

        async def other() -> None:
            late = await XeBo.create(device, "late", 16)
            await late.put()

        task = machine.engine.spawn(other(), "other")
        await machine.engine.sleep(1)
        await bo.put()
        vm.resv_dma.unlock()
        await machine.engine.join(task)
        await device.region.flush()
        assert device.region.vram.statistics() == {"bos": 0, "vram_pages": 0, "works": 0}
        await vm.close()

    for _ in every(body, 30):
        pass

def test_objects_of_the_own_reservation_only_on_offer() -> None:
    """VMB-B16: an exec never throws out what it has just validated; making a new object may."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        bos = await make(device, 4, vm=vm)
        late = XeBo(device, "late", 4, vm=vm)
        assert (await validate(late), letter(*bos, late)) == ("ENOMEM", "vvvv-")
        made = await XeBo.create(device, "made", 4, vm=vm)
        assert letter(*bos, made) == "rvvvv"
        await check(bos)
        await put(*bos, late, made)
        await vm.close()

    run(body)


def test_no_ram_ends_the_walk() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bos = await make(device, 4)
        machine.core.allocator.limit = 0
        with pytest.raises(ENOMEM):
            await XeBo.create(device, "newcomer", 4)
        machine.core.allocator.limit = None
        assert letter(*bos) == "vvvv"
        await check(bos)
        await put(*bos)

    run(body)


def test_device_removal_and_pressure() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bos = await make(device, 4)
        assert await evict_all(device.region.vram) == 0
        assert letter(*bos) == "rrrr"
        assert device.region.vram.statistics()["vram_pages"] == 0
        await check(bos)
        await put(*bos)

    run(body)


def test_a_dead_object_gives_its_memory_without_a_copy() -> None:
    """The walk waits for its jobs and takes the memory; the worker finds nothing left to free."""

    async def body(machine: Machine, device: Device) -> None:
        (bo,) = await make(device, 1)
        gate = Fence(machine.engine, "job")
        await add_job(bo, gate)
        await bo.put()
        task = machine.engine.spawn(evict_all(device.region.vram), "evict")
        await machine.engine.sleep(1)
        assert device.region.vram.statistics()["vram_pages"] == 4
        gate.signal()
        await machine.engine.join(task)
        await device.region.flush()
        assert device.region.vram.statistics() == {"bos": 0, "vram_pages": 0, "works": 0}

    for machine in every(body, 20):
        assert not machine.engine.counters["bo.evict"]


def test_a_victim_that_dies_while_it_is_being_locked() -> None:
    """Its reservation is another one by then: the walk lets go of the old one and goes on."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        (bo,) = await make(device, 1, vm=vm)
        gate = Fence(machine.engine, "job")
        await add_job(bo, gate)

        async def walk() -> None:
            if await lock_victim(bo):
                bo.unlock()

        async with machine.engine.nursery() as nursery:
            nursery.start_soon(walk)
            nursery.start_soon(bo.put)
        assert not vm.resv_dma.is_locked()
        assert not bo.resv.is_locked()
        gate.signal()
        await device.region.flush()
        await vm.close()

    for _ in every(body):
        pass
