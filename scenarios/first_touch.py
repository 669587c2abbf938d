"""First touch: the CPU and the GPU meet on pages that nobody has touched before.

Shows: memory needs no registration; a GPU fault fills a hole as a CPU fault does, and no byte that either
side writes is lost, whoever comes first and wherever the page is at that moment.
Races: hole fill against the CPU's first touch (PGM-R22), migration of a page that the CPU writes (SVM-R16,
PGM-R02), a CPU fault on a page that is on its way (PGM-R25).
"""

from __future__ import annotations

from svm_actors import World

PAGE = 4096
PAGES = 4


async def scenario(world: World) -> None:
    """Both write every page, the CPU its first bytes and the GPU others, from opposite ends."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = await process.mmap((PAGES + 1) * PAGE)

    async def cpu() -> None:
        for page in range(PAGES):
            await process.write(addr + page * PAGE, b"cpu")

    async def gpu() -> None:
        for page in reversed(range(PAGES)):
            await vm.store(addr + page * PAGE + 8, b"gpu")

    async with world.nursery() as nursery:
        nursery.start_soon(cpu)
        nursery.start_soon(gpu)

    for page in range(PAGES):
        both = b"cpu" + bytes(5) + b"gpu"
        assert await process.read(addr + page * PAGE, 11) == both
        assert await vm.load(addr + page * PAGE, 11) == both
    assert await vm.load(addr + PAGES * PAGE, 4) == bytes(4), "nobody wrote the last page"
