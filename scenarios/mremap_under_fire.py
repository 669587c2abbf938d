"""mremap under fire: the CPU moves a mapping to and fro while the GPU works on it.

Shows: the data moves with the mapping; at either address the GPU gets the data or a refused fault, never
anything else.  The driver hears of the old address only: it has no pointer from a page to its address.
Races: migration against mremap (SVM-R19, PGM-R10), a fault on a mapping that goes (SVM-R01, SVM-R04), the
garbage collector against the next fault (SVM-R05).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.gpu.program import GpuFault

PAGE = 4096
PAGES = 2
MOVES = 3


async def scenario(world: World) -> None:
    """Page i holds the letter chr(97 + i), wherever it is; after an odd number of moves it is at ``new``."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    old = await process.mmap(PAGES * PAGE)
    new = old - 16 * PAGE
    for page in range(PAGES):
        await vm.store(old + page * PAGE, letter(page))

    async def move() -> None:
        for turn in range(MOVES):
            source, target = (new, old) if turn % 2 else (old, new)
            await process.mremap(source, PAGES * PAGE, PAGES * PAGE, to=target)

    async def fire() -> None:
        for page in range(PAGES):
            for base in (old, new):
                found = await vm.load(base + page * PAGE)
                assert found == letter(page) or isinstance(found, GpuFault), f"page {page} holds {found!r}"

    async with world.nursery() as nursery:
        nursery.start_soon(move)
        nursery.start_soon(fire)

    for page in range(PAGES):
        assert await process.read(new + page * PAGE) == letter(page)
        assert await vm.load(new + page * PAGE) == letter(page)
        assert isinstance(await vm.load(old + page * PAGE), GpuFault), "nothing is mapped there any more"


def letter(page: int) -> bytes:
    """What page ``page`` holds."""
    return bytes([97 + page])
