"""Witnesses of suspected issues that nothing else comes by (gpusvm section 12)."""

from __future__ import annotations

from svm_actors.gpu.program import GpuFault
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.svm_arena import FOUR, ONE, arena, at, expect, map_anew, must_succeed
from svm_actors.world import Config, World
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp


@witness("SVM-R24")
async def faults_after_a_replaced_vma(world: World) -> None:
    """A fault collects memory that is gone, which cuts its mirror and resets a part; then the GPU faults again."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    await vm.bind_mirror(at(0), 2 * PAGE_SIZE, flags=BindFlag.MADVISE_AUTORESET)
    await vm.madvise(at(0), 2 * PAGE_SIZE, preferred_location="system")
    must_succeed(await vm.load(at(0)))

    async def use() -> None:
        for page in (1, 0, 1):
            await vm.load(at(page))

    async with world.nursery() as nursery:
        nursery.start_soon(map_anew, process, 0, 1)
        nursery.start_soon(use)
    await process.madvise(at(1), PAGE_SIZE, "dontneed")
    must_succeed(await vm.load(at(1)))


@witness("SVM-R28", Config(vram_pages=2))
async def an_unmap_and_a_prefetch(world: World) -> None:
    """One ioctl unmaps an object and prefetches mirrored memory that is too large for the device."""
    process = await arena(world, 4)
    vm = await world.gpu().create_vm(process, mirror=False, **FOUR)
    await vm.bind_mirror(at(0), 4 * PAGE_SIZE)
    await vm.bind(at(8), await vm.create_bo(PAGE_SIZE, placement="system"))
    must_succeed(await vm.store(at(8), b"x"))
    prefetch = BindOp(BindKind.PREFETCH, at(0) // PAGE_SIZE, 4, region="vram")
    await vm.bind_array([vm.unmap_op(at(8), PAGE_SIZE), prefetch])
    await world.settle()
    reached = not isinstance(await vm.load(at(8)), GpuFault)
    expect(not reached, "SVM-S10", "the GPU reaches an object that was unmapped without an error")


@witness("SVM-R25", Config(vram_pages=4))
async def advice_on_a_part_of_an_object(world: World) -> None:
    """madvise on the first page of an object's mapping, an eviction, and a GPU that goes on with the second page."""
    process = await arena(world, 1)
    device = world.gpu()
    vm = await device.create_vm(process, mirror=False, **ONE)
    bo = await vm.create_bo(2 * PAGE_SIZE)
    await vm.bind(at(8), bo)
    for page in range(2):
        must_succeed(await vm.store(at(8 + page), b"x"))
    await vm.madvise(at(8), PAGE_SIZE, atomic="device")
    await device.evict(2 * PAGE_SIZE)
    expect(await vm.load(at(9)) == b"x", "SVM-S13", "the second page has lost what was stored there")
