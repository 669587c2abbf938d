"""Attributes of mirrored memory change while the GPU uses it and the process gives it back."""

from __future__ import annotations

from svm_actors.gpu.program import GpuFault
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.page_table import Entry
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.svm_arena import FOUR, ONE, TWO, arena, at, expect, map_anew, must_succeed
from svm_actors.world import World
from svm_actors.xe.vm_bind import BindFlag


@witness("SVM-R26 SVM-R41 SVM-R48")
async def advice_splits_a_range(world: World) -> None:
    """Attributes are set on half of a range that the GPU uses, and the process unmaps what lies in it."""
    process = await arena(world, 4)
    vm = await world.gpu().create_vm(process, mirror=False, **FOUR)
    await vm.bind_mirror(at(0), 4 * PAGE_SIZE, placement="system")
    must_succeed(await vm.load(at(0)))

    async def advise() -> None:
        await vm.madvise(at(0), 2 * PAGE_SIZE, atomic="device")

    async def use() -> None:
        for page in (1, 3):
            must_succeed(await vm.load(at(page)))

    async with world.nursery() as nursery:
        nursery.start_soon(advise, name="advice")
        nursery.start_soon(process.madvise, at(0), PAGE_SIZE, "dontneed", name="cpu0")
        nursery.start_soon(process.madvise, at(2), PAGE_SIZE, "dontneed", name="cpu2")
        nursery.start_soon(use, name="gpu")


@witness("SVM-R25 SVM-R51")
async def advice_against_callbacks(world: World) -> None:
    """Attributes change, which zaps, while the process drops the very pages, which zaps too."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **TWO)
    await vm.bind_mirror(at(0), 2 * PAGE_SIZE, placement="system")
    must_succeed(await vm.load(at(0)))
    must_succeed(await vm.load(at(1)))

    async def advise() -> None:
        for atomic in ("device", "global"):
            await vm.madvise(at(0), 2 * PAGE_SIZE, atomic=atomic)

    async def drop() -> None:
        for _ in range(2):
            await process.madvise(at(0), PAGE_SIZE, "dontneed")

    async def use() -> None:
        for page in (0, 1, 0):
            must_succeed(await vm.load(at(page)))

    async with world.nursery() as nursery:
        nursery.start_soon(advise, name="advice")
        nursery.start_soon(drop, name="cpu")
        nursery.start_soon(use, name="gpu")


@witness("SVM-R26")
async def advice_on_read_only_memory(world: World) -> None:
    """Attributes are set on half of a mirror that the GPU may only read; it may only read both halves afterwards."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    await vm.bind_mirror(at(0), 2 * PAGE_SIZE, flags=BindFlag.READONLY)
    await vm.madvise(at(0), PAGE_SIZE, atomic="device")
    for page in range(2):
        must_succeed(await vm.load(at(page)))
        refused = isinstance(await vm.store(at(page), b"x"), GpuFault)
        expect(refused, "SVM-B21", f"the GPU writes page {page} of a mirror it may only read")


@witness("SVM-R04 SVM-R26")
async def advice_outlives_memory(world: World) -> None:
    """Memory whose atomics are the CPU's is unmapped, and other memory mapped in its place: they still are."""
    process = await arena(world, 1)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    await vm.bind_mirror(at(0), PAGE_SIZE)
    await vm.madvise(at(0), PAGE_SIZE, atomic="cpu")
    must_succeed(await vm.load(at(0)))
    await process.munmap(at(0), PAGE_SIZE)
    await world.settle()
    await map_anew(process, 0, 1)
    refused = isinstance(await vm.atomic_add(at(0), 1), GpuFault)
    expect(refused, "SVM-B22", "an attribute is gone with the memory that was there")


@witness("SVM-R24")
async def advice_goes_with_memory(world: World) -> None:
    """Attributes of a mirror go with its memory: part of it is mapped anew, and that part has the default ones."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False, **ONE)
    await vm.bind_mirror(at(0), 2 * PAGE_SIZE, flags=BindFlag.MADVISE_AUTORESET)
    await vm.madvise(at(0), 2 * PAGE_SIZE, preferred_location="system")
    for page in range(2):
        must_succeed(await vm.load(at(page)))
    await map_anew(process, 0, 1)
    await process.write(at(0), b"x")
    must_succeed(await vm.load(at(0)))
    for page, kind in ((0, Entry.DEVICE_PRIVATE), (1, Entry.PRESENT)):
        entry = process.mm.page_table.get(at(page) // PAGE_SIZE)
        expect(entry is not None and entry.kind is kind, "SVM-R24", f"page {page} is not where its attributes say")
