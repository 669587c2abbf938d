"""Pages that have been on the swap device and are clean until somebody writes them (core_mm sections 3 and 4)."""

from __future__ import annotations

from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.mm.content import FILLED
from svm_actors.mm.messages import MigrateVmaFinalize, MigrateVmaPages, MigrateVmaSetup
from svm_actors.mm.migrate_types import MigrateVma, Select
from svm_actors.workload.witness import witness
from svm_actors.world import Config, Process, World

ONE = Config(mirrors=1)


async def _read_back_from_swap(world: World, pages: int = 1) -> tuple[Process, int]:
    """A process whose pages were written, swapped out and read: they are in RAM and still on the swap device."""
    process = world.process()
    addr = await process.mmap(pages * PAGE_SIZE)
    for page in range(pages):
        await process.write(addr + page * PAGE_SIZE, b"a")
    await process.swap_out(addr, pages * PAGE_SIZE)
    for page in range(pages):
        await process.read(addr + page * PAGE_SIZE)
    return process, addr


@witness("MM-R18", ONE)
async def reclaim_met_by_a_writing_device(world: World) -> None:
    """A device writes a page that reclaim takes for clean."""
    process, addr = await _read_back_from_swap(world)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(_write, mirror, addr, name="device")
        nursery.start_soon(process.swap_out, addr, PAGE_SIZE, name="reclaim")
    await process.swap_out(addr, PAGE_SIZE)
    await process.read(addr)


async def _write(mirror: Mirror, addr: int) -> None:
    await mirror.write(addr, (FILLED[7],))


@witness("MM-R18")
async def reclaim_met_by_a_writing_gpu(world: World) -> None:
    """A GPU writes a page in RAM that reclaim takes for clean."""
    process, addr = await _read_back_from_swap(world)
    vm = await world.gpu().create_vm(process, placement="system")
    async with world.nursery() as nursery:
        nursery.start_soon(vm.store, addr, b"g", name="gpu")
        nursery.start_soon(process.swap_out, addr, PAGE_SIZE, name="reclaim")
    await process.swap_out(addr, PAGE_SIZE)
    await process.read(addr)


@witness("MM-R11 MM-R41", ONE)
async def swapped_page_that_stays(world: World) -> None:
    """A page read back from swap is written, is to migrate, finds no place, and is reclaimed again."""
    process, addr = await _read_back_from_swap(world)
    async with world.nursery() as nursery:
        nursery.start_soon(process.write, addr, b"b", name="cpu")
        nursery.start_soon(_try_to_migrate, world, process, addr, name="device")
    await process.swap_out(addr, PAGE_SIZE)
    await process.read(addr)


async def _try_to_migrate(world: World, process: Process, addr: int) -> None:
    """A driver that has no memory for what it has collected."""
    mm, vpn = process.mm, addr >> PAGE_SHIFT
    async with mm.mmap_lock.reading():
        args = MigrateVma(mm, mm.find_vma(vpn), vpn, vpn + 1, None, Select.SYSTEM)
        for step in (MigrateVmaSetup, MigrateVmaPages, MigrateVmaFinalize):
            await world.core.call(step(args))


@witness("MM-R41", ONE)
async def swapped_page_that_moves(world: World) -> None:
    """A page read back from swap goes to a device, leaving the swap cache on its way."""
    process, addr = await _read_back_from_swap(world)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(mirror.migrate_to_dev, addr, 1, name="device")
        nursery.start_soon(process.read, addr, name="cpu")
    await process.write(addr, b"b")
