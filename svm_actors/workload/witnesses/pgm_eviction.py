"""Witnesses of eviction by physical pages (pagemap section 5)."""

from __future__ import annotations

from typing import Final

from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.pgm_memory import MS, at, expect, in_vram, read_pages, try_populate
from svm_actors.world import Config, Process, World

SMALL: Final = Config(vram_pages=16)


async def evicted(world: World, npages: int, rule: str, *, wanted: int | None = None) -> None:
    """So many pages go when so many are wanted."""
    gone = await world.gpu().evict((npages if wanted is None else wanted) * PAGE_SIZE)
    expect(gone == npages, rule, f"{gone} pages of device memory could be had, not {npages}")


@witness("PGM-R32", SMALL)
async def eviction_in_a_timeslice(world: World) -> None:
    """Device memory is wanted while what lies there has a minimum stay, and nobody else is about."""
    process = await in_vram(world, 2, timeslice=MS)
    await evicted(world, 2, "PGM-R32")
    expect(world.engine.now < MS, "PGM-R32", "the eviction has waited for the timeslice")
    await read_pages(process, (0, 1))


@witness("PGM-R03 PGM-R11 PGM-R27", SMALL)
async def eviction_and_looks(world: World) -> None:
    """A CPU thread looks at pages in their timeslice again and again, locking each, while they are evicted."""
    process = await in_vram(world, 2, timeslice=MS)
    async with world.nursery() as nursery:
        nursery.start_soon(read_pages, process, (1, 0))
        nursery.start_soon(world.gpu().evict, 2 * PAGE_SIZE)


@witness("PGM-R20 PGM-R07", SMALL)
async def eviction_and_exit(world: World) -> None:
    """A process ends while its pages are evicted; a child may keep some of them."""
    process = await in_vram(world, 2)
    child = await process.fork()
    async with world.nursery() as nursery:
        nursery.start_soon(process.exit)
        nursery.start_soon(world.gpu().evict, 2 * PAGE_SIZE)
        nursery.start_soon(read_pages, child, (0,))


@witness("PGM-R03", SMALL)
async def eviction_of_shared_pages(world: World) -> None:
    """Pages that two processes map are evicted, and nobody else is about."""
    process = await in_vram(world, 2)
    child = await process.fork()
    await evicted(world, 2, "PGM-R03")
    await read_pages(process, (0, 1))
    await read_pages(child, (0, 1))


@witness("PGM-R03 PGM-R06", SMALL)
async def eviction_of_a_held_page(world: World) -> None:
    """One page of an allocation is held by a scanner for as long as it takes the eviction to give up."""
    process = await in_vram(world, 2)
    async with process.holding(at(0)), process.holding(at(0)):
        await evicted(world, 0, "PGM-R06", wanted=2)
    await read_pages(process, (0, 1))


@witness("PGM-R03 PGM-R06", SMALL)
async def eviction_beside_a_scanner(world: World) -> None:
    """A scanner takes and puts the pages of an allocation while it is evicted."""
    process = await in_vram(world, 2)

    async def scan() -> None:
        for page in (0, 1, 0):
            async with process.holding(at(page)):
                await world.engine.step("local", None, "look")

    async with world.nursery() as nursery:
        nursery.start_soon(scan)
        nursery.start_soon(world.gpu().evict, 2 * PAGE_SIZE)
    await read_pages(process, (0, 1))


@witness("PGM-R20", Config(vram_pages=4))
async def allocation_beside_a_dying_process(world: World) -> None:
    """A process ends while another one wants the device memory both of them have."""
    dying = await in_vram(world, 2)
    living = await in_vram(world, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(dying.exit)
        nursery.start_soon(more_memory, world, living)
    await read_pages(living, (0, 1))


async def more_memory(world: World, process: Process) -> None:
    """Two fresh pages of a process go to device memory, if there is any to be had."""
    await process.mmap(2 * PAGE_SIZE, addr=at(16), fixed=True)
    await try_populate(world, process, 16, 2)


@witness("PGM-R34", Config(vram_pages=16, ram_pages=5))
async def eviction_without_ram(world: World) -> None:
    """There is too little RAM to bring an allocation home, until another process gives some up."""
    process = await in_vram(world, 3)
    other = world.process()
    await other.mmap(3 * PAGE_SIZE, addr=at(0), fixed=True)
    for page in range(3):
        await other.write(at(page), b"\x09")
    await evicted(world, 0, "PGM-R34", wanted=3)
    await other.munmap(at(0), 3 * PAGE_SIZE)
    await read_pages(process, (0, 1, 2))


@witness("PGM-R26 PGM-R34", SMALL)
async def eviction_that_cannot_map(world: World) -> None:
    """The second page of the destination cannot be mapped for the device in the first pass."""
    process = await in_vram(world, 2)
    iommu = world.gpu().gpu.iommu
    iommu.fail_next, iommu.fail_after = 1, 1
    await evicted(world, 2, "PGM-R26")
    await read_pages(process, (0, 1))
