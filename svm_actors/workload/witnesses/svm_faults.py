"""A GPU fault against the process that changes the very pages: each witness widens one window of get_pages or bind."""

from __future__ import annotations

from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.svm_arena import FOUR, ONE, TWO, arena, at, map_anew, must_succeed
from svm_actors.world import Config, GpuVm, Process, World


async def _load(vm: GpuVm, pages: tuple[int, ...]) -> None:
    """One program per page: a refused fault ends only that."""
    for page in pages:
        await vm.load(at(page))


async def _drop(process: Process, page: int, times: int) -> None:
    for value in range(times):
        await process.madvise(at(page), PAGE_SIZE, "dontneed")
        await process.write(at(page), bytes((50 + value,)))


@witness("SVM-R01 SVM-R31 MM-R04")
async def pages_change_in_a_walk(world: World) -> None:
    """Pages of a range are dropped and made anew while hmm walks it for the GPU."""
    process = await arena(world, 4)
    vm = await world.gpu().create_vm(process, placement="system", **FOUR)
    async with world.nursery() as nursery:
        nursery.start_soon(_drop, process, 0, 3, name="cpu0")
        nursery.start_soon(_drop, process, 1, 3, name="cpu1")
        nursery.start_soon(_load, vm, (0, 1, 0), name="gpu")


@witness("SVM-R01 SVM-R04 SVM-R05")
async def memory_replaced_under_a_fault(world: World) -> None:
    """Memory is unmapped and other memory mapped in its place while the GPU faults on it."""
    process = await arena(world, 1)
    vm = await world.gpu().create_vm(process, **ONE)
    await vm.load(at(0))

    async def replace() -> None:
        for value in range(3):
            await process.munmap(at(0), PAGE_SIZE)
            await map_anew(process, 0, 1)
            await process.write(at(0), bytes((50 + value,)))

    async with world.nursery() as nursery:
        nursery.start_soon(replace, name="cpu")
        nursery.start_soon(_load, vm, (0, 0, 0), name="gpu")


@witness("SVM-R21 SVM-R01")
async def exit_under_fault(world: World) -> None:
    """The process exits while the GPU faults on its memory."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, placement="system", **ONE)
    await _load(vm, (0, 1))
    await process.swap_out(at(0), 2 * PAGE_SIZE)
    async with world.nursery() as nursery:
        nursery.start_soon(process.exit, name="exit")
        nursery.start_soon(_load, vm, (0, 1), name="gpu0")
        nursery.start_soon(_load, vm, (1, 0), name="gpu1")


@witness("SVM-R02 SVM-R03 SVM-R49 SVM-R51")
async def invalidation_against_bind_jobs(world: World) -> None:
    """Entries are written by jobs, and the pages they lead to are dropped meanwhile."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, placement="system", bind_by_gpu=True, **TWO)
    async with world.nursery() as nursery:
        nursery.start_soon(_drop, process, 0, 3, name="cpu")
        nursery.start_soon(_load, vm, (0, 1, 0), name="gpu")


@witness("SVM-R22 SVM-R23 SVM-R42 SVM-R50")
async def close_under_callbacks(world: World) -> None:
    """A VM is closed while programs run in it and the memory it mirrors is unmapped."""
    process = await arena(world, 3)
    vm = await world.gpu().create_vm(process, placement="system", **ONE)
    await _load(vm, (0, 1, 2))

    async def unmap() -> None:
        for page in range(3):
            await process.munmap(at(page), PAGE_SIZE)

    async with world.nursery() as nursery:
        nursery.start_soon(vm.close, name="close")
        nursery.start_soon(unmap, name="cpu")
        nursery.start_soon(_load_while_open, vm, name="gpu")


async def _load_while_open(vm: GpuVm) -> None:
    for page in (0, 1, 2):
        if vm.open:
            await vm.load(at(page))


@witness("SVM-R05 SVM-R52")
async def unmapped_in_parts(world: World) -> None:
    """A range is unmapped page by page while it is collected, and what is left of it is used afterwards."""
    process = await arena(world, 4)
    vm = await world.gpu().create_vm(process, placement="system", **FOUR)
    must_succeed(await vm.load(at(0)))
    for pages in ((0, 1), (2,)):
        for page in pages:
            await process.munmap(at(page), PAGE_SIZE)
        await world.settle()
    must_succeed(await vm.load(at(3)))


@witness("SVM-R06 SVM-R01")
async def first_fault_in_an_invalidation(world: World) -> None:
    """The GPU faults on pages for the first time, each with a notifier of its own, while all of them are dropped."""
    process = await arena(world, 6)
    vm = await world.gpu().create_vm(process, placement="system", notifier_pages=1, **ONE)

    async def drop() -> None:
        for _ in range(2):
            await process.madvise(at(0), 6 * PAGE_SIZE, "dontneed")

    async with world.nursery() as nursery:
        nursery.start_soon(drop, name="cpu")
        nursery.start_soon(_load, vm, (5, 4, 3), name="gpu")
        nursery.start_soon(_load, vm, (2, 1, 0), name="gpu")


@witness("SVM-R04 SVM-R05 SVM-R48")
async def memory_changes_at_one_go(world: World) -> None:
    """Other memory takes the place of what the GPU faults on, again and again, and the old range is still about."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, placement="system", **ONE)
    await _load(vm, (0, 1))

    async def replace(page: int) -> None:
        for _ in range(5):
            await map_anew(process, page, 1)

    async with world.nursery() as nursery:
        for page in range(2):
            nursery.start_soon(replace, page, name="cpu")
            nursery.start_soon(_load, vm, (page, page, page), name="gpu")


@witness("SVM-R07 SVM-R27")
async def faults_beside_a_callback(world: World) -> None:
    """The process drops pages that the GPU has used, while the GPU faults on others, some of them twice at once."""
    process = await arena(world, 8)
    vm = await world.gpu().create_vm(process, placement="system", **TWO)
    await _load(vm, (0,))

    async def drop() -> None:
        for _ in range(4):
            await process.madvise(at(0), PAGE_SIZE, "dontneed")
            await vm.load(at(0))

    async with world.nursery() as nursery:
        nursery.start_soon(drop, name="cpu")
        nursery.start_soon(_load, vm, (2, 4, 6), name="gpu")
        nursery.start_soon(_load, vm, (3, 5, 7), name="gpu")


@witness("SVM-R22 SVM-R50")
async def close_of_many_notifiers(world: World) -> None:
    """A VM whose memory is watched by many notifiers is closed while the process drops all of it."""
    process = await arena(world, 4)
    vm = await world.gpu().create_vm(process, placement="system", notifier_pages=1, **ONE)
    await _load(vm, (0, 1, 2, 3))

    async def drop() -> None:
        for _ in range(4):
            await process.madvise(at(0), 4 * PAGE_SIZE, "dontneed")

    async with world.nursery() as nursery:
        nursery.start_soon(vm.close, name="close")
        nursery.start_soon(drop, name="cpu")


@witness("SVM-R12 SVM-R49", Config(vram_pages=2))
async def eviction_under_faults(world: World) -> None:
    """The GPU faults on pages that go to device memory, from where they are evicted before it can use them."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, **ONE)

    async def evict() -> None:
        for _ in range(3):
            for _ in range(world.choose(8, "delay") * 5):
                await world.engine.step("local", None, "elsewhere")
            await world.gpu().evict(2 * PAGE_SIZE)

    async with world.nursery() as nursery:
        nursery.start_soon(_load, vm, (0, 1, 0), name="gpu")
        nursery.start_soon(evict, name="evict")
