"""Witnesses of the way home: CPU faults on one allocation, its window, its timeslice (pagemap sections 2 and 4)."""

from __future__ import annotations

from functools import partial
from typing import Final

from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.pgm_memory import (
    MS,
    at,
    evict_in_between,
    expect,
    in_ram,
    in_vram,
    read_pages,
    try_populate,
    write_pages,
)
from svm_actors.world import Config, World

SMALL: Final = Config(vram_pages=16)


@witness("PGM-R01 PGM-R03 PGM-R15 PGM-R29", SMALL)
async def faults_and_eviction(world: World) -> None:
    """Two CPU threads fault on one allocation from both ends while it is evicted."""
    process = await in_vram(world, 4)
    async with world.nursery() as nursery:
        nursery.start_soon(read_pages, process, (0, 1, 2))
        nursery.start_soon(read_pages, process, (2, 1, 0))
        nursery.start_soon(world.gpu().evict, 4 * PAGE_SIZE)


@witness("PGM-R15", SMALL)
async def fault_and_eviction_of_the_same(world: World) -> None:
    """A CPU fault brings home what is evicted in between."""
    process = await in_vram(world, 4)
    async with world.nursery() as nursery:
        nursery.start_soon(process.read, at(3))
        nursery.start_soon(evict_in_between, world, 4)


@witness("PGM-R01 PGM-R25", SMALL)
async def faults_and_writes(world: World) -> None:
    """Two CPU threads read and write what comes home, each page as soon as it is there."""
    process = await in_vram(world, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(read_pages, process, (0, 1))
        nursery.start_soon(write_pages, process, (1, 0))
    await read_pages(process, (0, 1))


@witness("PGM-R01", SMALL)
async def fault_on_dropped_pages(world: World) -> None:
    """A page is dropped and touched anew while the CPU faults on it."""
    process = await in_vram(world, 1)

    async def renew() -> None:
        await process.madvise(at(0), PAGE_SIZE, "dontneed")
        await process.write(at(0), b"\x07")

    async with world.nursery() as nursery:
        nursery.start_soon(process.read, at(0))
        nursery.start_soon(renew)


@witness("PGM-R09", SMALL)
async def fault_in_a_cut_window(world: World) -> None:
    """Half of an allocation is unmapped while the CPU faults on the other half."""
    process = await in_vram(world, 4)
    async with world.nursery() as nursery:
        nursery.start_soon(read_pages, process, (0, 1))
        nursery.start_soon(process.munmap, at(2), 2 * PAGE_SIZE)


@witness("PGM-R10", SMALL)
async def fault_in_a_shifted_window(world: World) -> None:
    """Two allocations, one in its timeslice, are moved by a page, so that the window of a fault reaches into both."""
    process = await in_ram(world, 4)
    await world.gpu().populate(process, at(0), 2 * PAGE_SIZE)
    await world.gpu().populate(process, at(2), 2 * PAGE_SIZE, timeslice=MS)
    await process.mremap(at(0), 4 * PAGE_SIZE, 4 * PAGE_SIZE, to=at(17))
    async with world.nursery() as nursery:
        nursery.start_soon(process.read, at(17))
        nursery.start_soon(process.write, at(18), b"\x02")
        nursery.start_soon(world.gpu().evict, 2 * PAGE_SIZE)
    expect(await process.read(at(19)) == b"\x03", "RULE-46", "the page next door holds something else")


@witness("PGM-R11 PGM-R24 PGM-R32", SMALL)
async def fault_in_a_timeslice(world: World) -> None:
    """CPU threads want pages that come to stay for a while, the first of them as soon as it is there."""
    process = await in_ram(world, 4)
    async with world.nursery() as nursery:
        nursery.start_soon(partial(try_populate, world, process, 0, 4, timeslice=MS))
        nursery.start_soon(read_pages, process, (0,) * 8)
        nursery.start_soon(read_pages, process, (1, 0, 1, 0, 2))
