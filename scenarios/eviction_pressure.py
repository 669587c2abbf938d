"""Eviction pressure: another client takes the device memory while GPU and CPU work on what lies there.

Shows: eviction knows only physical pages, and still no GPU translation survives it and no data is lost.
Races: eviction against GPU faults (SVM-R12), against CPU faults on the same allocation (SVM-R14, PGM-R03),
against munmap of the pages that it moves.
"""

from __future__ import annotations

from svm_actors import World

PAGE = 4096
PAGES = 3


async def scenario(world: World) -> None:
    """Every page has one writer, so its last value is known whatever is evicted when."""
    process = world.process()
    gpu = world.gpu()
    vm = await gpu.create_vm(process)
    addr = await process.mmap(PAGES * PAGE)
    spare = await process.mmap(PAGE)
    await vm.store(spare, b"x")

    async with world.nursery() as nursery:

        async def work(page: int) -> None:
            for value in (b"1", b"2"):
                await vm.store(addr + page * PAGE, value)
                nursery.start_soon(gpu.evict, PAGES * PAGE)
                assert await vm.load(addr + page * PAGE) == value

        async def look() -> None:
            for page in range(PAGES):
                assert await process.read(addr + page * PAGE) in (b"\0", b"1", b"2")

        nursery.start_soon(gpu.evict, PAGES * PAGE)
        nursery.start_soon(process.munmap, spare, PAGE)
        nursery.start_soon(work, 0)
        nursery.start_soon(work, 1)
        nursery.start_soon(look)

    assert [await process.read(addr + page * PAGE) for page in range(PAGES)] == [b"2", b"2", b"\0"]
