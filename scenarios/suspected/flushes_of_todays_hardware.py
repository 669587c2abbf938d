"""SVM-S08, the other side: with flushes as today's hardware rounds them nothing of it is to be seen.

The defect is planted (``--bug SVM-S08``): of two ranges that one event hits, the flush covers the last one only.  Here
commands are rounded to a naturally aligned power of two, which takes the first range in again.
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.gpu.tlb_inval import power_of_two

PAGE = 4096
ADDR = 0x1_0000_0000


async def scenario(world: World) -> None:
    """An event from the middle of one range into the next, while the GPU uses both."""
    process = world.process()
    await process.mmap(8 * PAGE, addr=ADDR, fixed=True)
    device = world.gpu()
    device.gpu.tlb_inval.widen = power_of_two
    vm = await device.create_vm(process, placement="system", chunk_pages=(4, 1), check_pages_threshold=0)
    await vm.store(ADDR, b"x")
    await vm.store(ADDR + 4 * PAGE, b"y")

    async def use() -> None:
        for page in (0, 7, 0):
            await vm.load(ADDR + page * PAGE)

    async with world.nursery() as nursery:
        nursery.start_soon(process.munmap, ADDR + 3 * PAGE, 2 * PAGE)
        nursery.start_soon(use)
    assert await vm.load(ADDR) == b"x"
