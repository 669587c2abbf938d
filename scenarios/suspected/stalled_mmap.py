"""PGM-S13: a walk waits for the end of a page's timeslice with mmap_lock held, and so does every mmap.

The model keeps what 7.3.4 does: a page that the first GPU insists on is wanted by a second one that cannot reach it.
The walk of the second faults it home, again and again, until its time is over.
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.engine.errors import PropertyFailed

PAGE = 4096
ADDR = 0x1_0000_0000
CONFIG = Config(gpus=2)
PATIENCE = 1_000_000
"""Virtual ns: what an mmap may take that has nothing to do with device memory."""


async def scenario(world: World) -> None:
    """A thread that maps memory of its own should not wait for the timeslice of a page."""
    process = world.process()
    await process.mmap(PAGE, addr=ADDR, fixed=True)
    one, two = [await world.gpu(index).create_vm(process, chunk_pages=(1,)) for index in range(2)]
    await one.atomic_add(ADDR, 1)

    async def elsewhere() -> None:
        await world.sleep(1_000)
        before = world.engine.now
        await process.mmap(PAGE)
        waited = world.engine.now - before
        if waited > PATIENCE:
            raise PropertyFailed("suspected", "PGM-S13", f"an mmap of other memory took {waited} ns")

    async with world.nursery() as nursery:
        nursery.start_soon(two.load, ADDR)
        nursery.start_soon(elsewhere)
