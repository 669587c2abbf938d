"""First touch: the CPU and the GPU meet on pages that nobody has touched before.

Shows: memory needs no registration; a GPU fault fills a hole like a CPU fault does, and both see zeros
until somebody writes.
Races: hole fill against first touch (PGM-R22), two faults on one page (SVM-R08), migration of a page that
the CPU is writing (SVM-R16).
"""

from __future__ import annotations

from svm_actors import World

PAGE = 4096


async def scenario(world: World) -> None:
    """Each page has one writer, so what it holds in the end does not depend on the schedule."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = await process.mmap(4 * PAGE)

    async def cpu() -> None:
        await process.write(addr, b"cpu")
        assert await process.read(addr + 2 * PAGE, 3) == bytes(3), "page 2 is never written"
        assert await process.read(addr + PAGE, 3) in (bytes(3), b"gpu"), "before or after the store, nothing else"

    async def gpu() -> None:
        await vm.store(addr + PAGE, b"gpu")
        assert await vm.load(addr + 2 * PAGE, 3) == bytes(3), "page 2 is never written"
        assert await vm.load(addr, 3) in (bytes(3), b"cpu"), "before or after the write, nothing else"

    async with world.nursery() as nursery:
        nursery.start_soon(cpu)
        nursery.start_soon(gpu)

    assert await vm.load(addr, 3) == b"cpu"
    assert await process.read(addr + PAGE, 3) == b"gpu"
    assert await vm.load(addr + 3 * PAGE) == b"\0", "page 3 is touched by the GPU alone"
