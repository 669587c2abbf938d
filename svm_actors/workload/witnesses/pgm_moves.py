"""Witnesses of the way into device memory (pagemap section 3), and between two devices (section 8)."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

from svm_actors.engine.errors import EBUSY, KernelError
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.pgm_memory import (
    BASE,
    at,
    evict_in_between,
    expect,
    in_ram,
    in_vram,
    read_pages,
    try_populate,
    write_pages,
)
from svm_actors.world import Config, Process, World

SMALL: Final = Config(vram_pages=16)
TWO: Final = Config(gpus=2, vram_pages=16)
THREE: Final = Config(gpus=3, vram_pages=16)


async def refused(world: World, process: Process, first: int, npages: int) -> str:
    """The error of a migration to device memory; empty when it went through."""
    try:
        await world.gpu().populate(process, at(first), npages * PAGE_SIZE)
    except KernelError as error:
        return error.code
    return ""


@witness("PGM-R34", SMALL)
async def populate_and_unmap(world: World) -> None:
    """A range is unmapped and mapped again while it is brought into device memory."""
    process = await in_ram(world, 2)

    async def renew() -> None:
        await process.munmap(at(0), 2 * PAGE_SIZE)
        await process.mmap(2 * PAGE_SIZE, addr=BASE, fixed=True)

    async with world.nursery() as nursery:
        nursery.start_soon(refused, world, process, 0, 2)
        nursery.start_soon(renew)


@witness("PGM-R02 PGM-R25", SMALL)
async def populate_and_write(world: World) -> None:
    """The CPU writes pages while they are brought into device memory."""
    process = await in_ram(world, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(try_populate, world, process, 0, 2)
        nursery.start_soon(write_pages, process, (1, 0))
        nursery.start_soon(read_pages, process, (0, 1))
    await read_pages(process, (0, 1))


@witness("PGM-R22 PGM-R30", SMALL)
async def populate_untouched_memory(world: World) -> None:
    """The CPU touches memory for the first time while device memory is put there."""
    process = world.process()
    await process.mmap(2 * PAGE_SIZE, addr=BASE, fixed=True)
    async with world.nursery() as nursery:
        nursery.start_soon(try_populate, world, process, 0, 2)
        nursery.start_soon(write_pages, process, (1, 0))
    await read_pages(process, (0, 1))


@witness("PGM-R02 PGM-R06", SMALL)
async def populate_beside_a_scanner(world: World) -> None:
    """A scanner takes and puts pages while they are brought into device memory and home again."""
    process = await in_ram(world, 2)

    async def scan() -> None:
        for page in (0, 1, 0):
            async with process.holding(at(page)):
                await world.engine.step("local", None, "look")

    async with world.nursery() as nursery:
        nursery.start_soon(scan)
        nursery.start_soon(try_populate, world, process, 0, 2)
    await read_pages(process, (0, 1))


@witness("PGM-R06", SMALL)
async def populate_under_a_late_scanner(world: World) -> None:
    """A scanner gets hold of a page that has been taken apart already to be brought into device memory."""
    process = await in_ram(world, 2)

    async def scan() -> None:
        for _ in range(world.choose(10, "delay") * 4):
            await world.engine.step("local", None, "elsewhere")
        for _ in range(3):
            async with process.holding(at(1)):
                await world.engine.step("local", None, "look")

    async with world.nursery() as nursery:
        nursery.start_soon(scan)
        nursery.start_soon(scan)
        nursery.start_soon(try_populate, world, process, 0, 2)
    await read_pages(process, (0, 1))


@witness("PGM-R02", SMALL)
async def populate_what_comes_home(world: World) -> None:
    """The CPU faults on pages in one allocation while they and more are brought into the next one."""
    process = await in_vram(world, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(read_pages, process, (0, 1))
        nursery.start_soon(try_populate, world, process, 0, 2)
        nursery.start_soon(world.gpu().evict, 2 * PAGE_SIZE)
    await read_pages(process, (0, 1))


@witness("PGM-R05 PGM-R08 PGM-R21", TWO)
async def device_to_device(world: World) -> None:
    """Pages go straight from one GPU to another while the first one's memory is wanted by somebody else."""
    world.connect(0, 1)
    world.gpu(1)
    process = await in_vram(world, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(partial(try_populate, world, process, 0, 2, gpu=1))
        nursery.start_soon(world.gpu().evict, 2 * PAGE_SIZE)
    await read_pages(process, (0, 1))


@witness("PGM-R05 PGM-R21", TWO)
async def device_to_device_and_eviction(world: World) -> None:
    """Pages go straight from one GPU to another while the first one is evicted in between."""
    world.connect(0, 1)
    world.gpu(1)
    process = await in_vram(world, 4)
    async with world.nursery() as nursery:
        nursery.start_soon(partial(try_populate, world, process, 0, 4, gpu=1))
        nursery.start_soon(evict_in_between, world, 4)


@witness("PGM-R23", TWO)
async def half_from_another_device(world: World) -> None:
    """A range of which one half is in RAM and one on another GPU is brought together while the CPU reads it."""
    world.connect(0, 1)
    process = await in_ram(world, 2)
    await world.gpu(1).populate(process, at(1), PAGE_SIZE)
    async with world.nursery() as nursery:
        nursery.start_soon(try_populate, world, process, 0, 2)
        nursery.start_soon(read_pages, process, (1, 0))
    await read_pages(process, (0, 1))


@witness("", THREE)
async def chain_of_devices(world: World) -> None:
    """Of three GPUs the first and the last reach the one between them but not each other."""
    world.connect(0, 1)
    world.connect(1, 2)
    process = await in_ram(world, 2)
    gpus = [world.gpu(index) for index in range(3)]
    await gpus[0].populate(process, BASE, 2 * PAGE_SIZE)
    async with world.nursery() as nursery:
        nursery.start_soon(partial(try_populate, world, process, 0, 2, gpu=2))
        nursery.start_soon(partial(try_populate, world, process, 0, 2, gpu=1))
    await read_pages(process, (0, 1))


@witness("PGM-R28 PGM-R33", SMALL)
async def unbind_under_a_page(world: World) -> None:
    """The driver is unbound while a scanner holds one page, which the CPU wants only afterwards."""
    process = await in_vram(world, 2)
    async with process.holding(at(0)), process.holding(at(0)):
        expect(await world.gpu().remove() == 1, "PGM-R28", "a page that somebody holds has left")
    unload(world)
    await read_pages(process, (0, 1))
    await world.settle()
    unload(world)
    expect(world.xe.module.unloaded, "RULE-52", "the module is in use and nothing uses it")


def unload(world: World) -> None:
    """Unload the driver, unless it is in use."""
    with suppress(EBUSY):
        world.xe.module.unload()


@witness("PGM-R28", SMALL)
async def unbind_and_populate(world: World) -> None:
    """The driver is unbound, and somebody who still has its region wants memory brought there."""
    process = await in_ram(world, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(world.gpu().remove)
        nursery.start_soon(refused, world, process, 0, 1)
    expect(await refused(world, process, 0, 2) == "ENODEV", "PGM-R28", "there is a way to memory that has gone")
    await read_pages(process, (0, 1))
