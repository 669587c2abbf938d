"""Partial munmap of a 2 MiB range: the GPU loses exactly what the process gave up.

Shows: one GPU fault maps 2 MiB; when a piece is unmapped the whole range goes, and smaller ones are built on
the next faults, over pages that are still where they were.
Races: partial munmap against faults on the survivors (SVM-R52), against a fault that finds the old range
(SVM-R01, SVM-R04), a CPU fault on an allocation with a hole in it (PGM-R09).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.gpu.program import GpuFault

PAGE = 4096
BLOCK = 512 * PAGE
HOLE = 100 * PAGE


async def scenario(world: World) -> None:
    """The survivors keep their data; the hole answers data before the munmap, a refused fault after it."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = 0x7E00_0000_0000
    await process.mmap(BLOCK, addr=addr, fixed=True)
    await vm.store(addr, b"first")
    await vm.store(addr + HOLE, b"hole")
    await vm.store(addr + BLOCK - PAGE, b"last")

    async def use() -> None:
        for _ in range(3):
            found = await vm.load(addr + HOLE, 4)
            assert found == b"hole" or isinstance(found, GpuFault), f"the hole holds {found!r}"
            assert await vm.load(addr, 5) == b"first"

    async with world.nursery() as nursery:
        nursery.start_soon(process.munmap, addr + HOLE, PAGE)
        nursery.start_soon(use)

    assert isinstance(await vm.load(addr + HOLE), GpuFault), "nothing is mapped there any more"
    assert await vm.load(addr + BLOCK - PAGE, 4) == b"last"
    assert await process.read(addr, 5) == b"first"
