"""Binds and prefetches of mirrored memory."""

from __future__ import annotations

from svm_actors.engine.errors import EBUSY
from svm_actors.gpu.program import GpuFault
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.svm_arena import ONE, TWO, arena, at, expect, map_anew, must_succeed
from svm_actors.world import World
from svm_actors.xe.vm_bind import BindFlag


@witness("SVM-R28 SVM-R01 SVM-R02")
async def prefetch_under_changes(world: World) -> None:
    """Mirrored memory is prefetched while the process drops it, unmaps it and maps it anew."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **TWO)
    await vm.bind_mirror(at(0), 2 * PAGE_SIZE)

    async def change() -> None:
        await process.madvise(at(0), PAGE_SIZE, "dontneed")
        await process.munmap(at(0), 2 * PAGE_SIZE)
        await map_anew(process, 0, 2)
        await process.write(at(1), b"x")

    async def prefetch() -> None:
        for region in ("vram", "system", "vram"):
            await vm.prefetch(at(0), 2 * PAGE_SIZE, region=region)

    async with world.nursery() as nursery:
        nursery.start_soon(change, name="cpu")
        nursery.start_soon(prefetch, name="client")


@witness("SVM-R28")
async def prefetch_over_an_object(world: World) -> None:
    """One prefetch of an object and of mirrored memory behind it: neither needs a fault afterwards."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    bo = await vm.create_bo(PAGE_SIZE)
    await vm.bind(at(0), bo)
    await vm.bind_mirror(at(1), PAGE_SIZE)
    await vm.prefetch(at(0), 2 * PAGE_SIZE)
    faults = world.engine.counters["gpu.fault"]
    for page in range(2):
        must_succeed(await vm.load(at(page)))
    expect(world.engine.counters["gpu.fault"] == faults, "SVM-S15", "what was prefetched in peace faults")


@witness("SVM-R53")
async def an_array_over_a_mirror(world: World) -> None:
    """An array maps a mirror anew and unmaps another one, in which the GPU has ranges: the latter is refused."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    for page, placement in ((0, "vram"), (1, "system")):
        await vm.bind_mirror(at(page), PAGE_SIZE, placement=placement)
        must_succeed(await vm.load(at(page)))
    ops = [vm.mirror_op(at(0), PAGE_SIZE), vm.unmap_op(at(1), PAGE_SIZE)]
    try:
        await vm.bind_array(ops)
    except EBUSY:
        must_succeed(await vm.load(at(1)))
    else:
        expect(False, "RULE-33", "mirrored memory that is in use was unmapped")


@witness("SVM-R53")
async def a_mirror_beside_a_read_only_one(world: World) -> None:
    """A writable mirror is mapped right beside one that the GPU may only read."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    await vm.bind_mirror(at(0), PAGE_SIZE, flags=BindFlag.READONLY)
    await vm.bind_mirror(at(1), PAGE_SIZE)
    must_succeed(await vm.store(at(1), b"x"))
    expect(isinstance(await vm.store(at(0), b"x"), GpuFault), "SVM-S11", "the GPU writes what it may only read")
