"""Buffer objects: placement, contents, moves, references."""

from __future__ import annotations

import pytest
from gem_bench import Device, Machine, Vm, every, fill, holds, letter, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.errors import EFAULT, EINVAL, ENOMEM, EngineError, PropertyFailed
from svm_actors.gpu.address import Proto
from svm_actors.gpu.copy_engine import SubmitCopy
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.gpu.program import Load, Store
from svm_actors.gpu.vram import LEFT_OVER
from svm_actors.xe.gem import XeBo


@pytest.mark.parametrize(("placement", "proto"), [("vram", Proto.VRAM), ("system", Proto.SYSTEM)])
def test_the_gpu_and_the_cpu_see_the_same_bytes(placement: str, proto: Proto) -> None:
    """The thinnest real path: make it, address it through the GPU, read it back; and the other way round."""

    async def body(machine: Machine, device: Device) -> None:
        bo = await XeBo.create(device, "bo", 2, placement=placement)
        await fill(bo, 7, 8)
        table = GpuPageTable("pt")
        for page in range(2):
            assert bo.dma_addr(page).proto is proto
            table.set(page, GpuPte.of(bo.dma_addr(page), True, bo.folios[page]))
        device.gpu.attach_vm(1, table)
        assert await device.gpu.compute.run(1, [Load(1, 0, 1), Store(0, 0, b"\x09")]) == [b"\x08", None]
        await holds(bo, 9, 8)
        device.gpu.tlb.flush(1, 0, 2)
        device.gpu.detach_vm(1)
        await bo.put()

    run(body)


@pytest.mark.parametrize("placement", ["vram", "system", "vram_or_system"])
def test_a_new_object_reads_zero_for_whoever_waits_for_kernel_fences(placement: str) -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = await XeBo.create(device, "bo", 4, placement=placement)
        await holds(bo, 0, 0, 0, 0)
        await bo.put()

    for machine in every(body, 10):
        assert machine.gpus[0].vram.plain == {}


def test_without_waiting_the_last_owners_bytes_are_seen() -> None:
    """What VMB-B02 would read: the clear is a job, and until it is through the memory is as it was left."""

    async def body(machine: Machine, device: Device) -> None:
        bo = await XeBo.create(device, "bo", 1)
        machine.results["byte"] = device.gpu.vram.resolve(bo.dma_addr(0).addr).content.byte(0)
        await bo.put()

    seen = {machine.results["byte"] for machine in every(body, 10)}
    assert LEFT_OVER.byte(0) in seen


def test_the_clear_is_a_kernel_fence() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = XeBo(device, "bo", 1)
        assert letter(bo) == "-"
        await bo.resv.lock()
        await bo.validate()
        assert len(bo.resv.iter(Usage.KERNEL)) == 1
        await bo.validate()
        assert len(bo.resv.iter(Usage.BOOKKEEP)) == 1
        bo.resv.unlock()
        await bo.put()

    run(body)


def test_backing_comes_with_the_first_validation() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = XeBo(device, "bo", 4)
        assert device.region.vram.statistics() == {"bos": 1, "vram_pages": 0, "works": 0}
        with pytest.raises(EngineError):
            bo.dma_addr(0)
        await holds(bo, 0, 0)
        assert device.region.vram.statistics() == {"bos": 1, "vram_pages": 4, "works": 0}
        await bo.put()

    run(body)


@pytest.mark.parametrize(("npages", "placement"), [(0, "vram"), (-1, "system"), (1, "moon")])
def test_what_cannot_be_made(npages: int, placement: str) -> None:
    async def body(machine: Machine, device: Device) -> None:
        with pytest.raises(EINVAL):
            XeBo(device, "bo", npages, placement=placement)

    run(body)


def test_an_object_larger_than_vram() -> None:
    """VRAM only: -ENOMEM and nothing is left; with RAM as a second choice it goes there."""

    async def body(machine: Machine, device: Device) -> None:
        with pytest.raises(ENOMEM):
            await XeBo.create(device, "big", 17)
        bo = await XeBo.create(device, "either", 17, placement="vram_or_system")
        assert letter(bo) == "r"
        await bo.put()

    run(body)


def test_ram_is_a_fallback() -> None:
    """A new object evicts; what was evicted stays where it is until there is VRAM that nobody has."""

    async def validate(bo: XeBo) -> None:
        await bo.resv.lock()
        await bo.validate()
        bo.resv.unlock()

    async def body(machine: Machine, device: Device) -> None:
        first = await XeBo.create(device, "first", 16, placement="vram_or_system")
        second = await XeBo.create(device, "second", 4, placement="vram_or_system")
        assert letter(first, second) == "rv"
        await validate(first)
        assert letter(first, second) == "rv"
        await second.put()
        await machine.engine.quiesce()
        await validate(first)
        assert letter(first) == "v"
        await first.put()

    assert run(body).engine.counters["bo.evict"] == 1


def test_no_ram() -> None:
    async def body(machine: Machine, device: Device) -> None:
        machine.core.allocator.limit = 3
        with pytest.raises(ENOMEM):
            await XeBo.create(device, "bo", 4, placement="system")
        machine.core.allocator.limit = None
        assert machine.core.allocator.statistics() == {"live": 0}

    run(body)


def test_a_dma_mapping_that_fails_takes_nothing() -> None:
    async def body(machine: Machine, device: Device) -> None:
        device.gpu.iommu.fail_next = 1
        bo = XeBo(device, "bo", 2, placement="system")
        await bo.resv.lock()
        with pytest.raises(EFAULT):
            await bo.validate()
        bo.resv.unlock()
        assert (letter(bo), machine.core.allocator.statistics()) == ("-", {"live": 0})
        await bo.put()

    run(body)


def test_a_local_object_shares_the_reservation_and_keeps_the_vm() -> None:
    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        bo = await XeBo.create(device, "bo", 1, vm=vm)
        assert bo.resv is vm.resv_dma
        assert not vm.gpuvm.is_extobj(bo.gem)
        await vm.close()
        assert vm.gpuvm.refs == 1
        await bo.resv.wait(Usage.KERNEL)
        await bo.put()
        assert vm.gpuvm.refs == 0

    run(body)


def test_validation_needs_the_reservation() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo, other = XeBo(device, "bo", 1), XeBo(device, "other", 1)
        with pytest.raises(EngineError):
            await bo.validate()
        with DrmExec(machine.engine) as exec_:
            await exec_.until_all_locked(lambda exec_: exec_.lock_obj(other))
            await other.validate(exec_)
            assert await bo.resv.trylock()
            with pytest.raises(EngineError, match="has not locked it"):
                await bo.validate(exec_)
            bo.resv.unlock()
        await bo.put()
        await other.put()

    run(body)


def test_cpu_access_outside() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = XeBo(device, "bo", 1)
        for offset in (-1, 4096):
            with pytest.raises(EINVAL):
                await bo.read(offset)
        await bo.put()

    run(body)


# -- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
def test_a_busy_object_keeps_its_memory_until_it_is_idle(local: bool) -> None:
    """The last put does not wait, and does not hold up the VM whose reservation it shared."""

    async def body(machine: Machine, device: Device) -> None:
        vm = Vm(machine)
        bo = await XeBo.create(device, "bo", 4, vm=vm if local else None)
        gate = Fence(machine.engine, "job")
        await bo.resv.lock()
        bo.resv.reserve(1)
        bo.resv.add(gate, Usage.BOOKKEEP)
        bo.resv.unlock()
        await bo.put()
        assert device.region.vram.statistics()["vram_pages"] == 4
        await vm.resv_dma.lock()
        await machine.engine.sleep(1)
        assert device.region.vram.statistics()["vram_pages"] == 4
        gate.signal()
        await device.region.flush()
        assert device.region.vram.statistics() == {"bos": 0, "vram_pages": 0, "works": 0}
        vm.resv_dma.unlock()
        await vm.close()

    for _ in every(body, 20):
        pass


def test_freed_memory_is_found_out() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = await XeBo.create(device, "bo", 1)
        await bo.resv.wait(Usage.KERNEL)
        where = bo.dma_addr(0)
        await bo.put()
        with pytest.raises(PropertyFailed, match="INV-05"):
            device.gpu.bus.resolve(where, False)

    run(body)


def test_memory_freed_under_a_copy_is_found_out() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = await XeBo.create(device, "bo", 1)
        await bo.resv.wait(Usage.KERNEL)
        await device.gpu.copy.call(SubmitCopy(((None, bo.dma_addr(0)),)))
        await bo.put()
        await machine.engine.sleep(1)

    with pytest.raises(PropertyFailed, match="INV-05"):
        run(body)


def test_freed_as_often_as_taken() -> None:
    async def body(machine: Machine, device: Device) -> None:
        bo = XeBo(device, "bo", 1)
        bo.get()
        await bo.put()
        await bo.put()
        with pytest.raises(PropertyFailed, match="INV-VMB-07"):
            bo.get()
        with pytest.raises(PropertyFailed, match="INV-VMB-07"):
            await bo.put()
        bo.refs = 0

    run(body)
