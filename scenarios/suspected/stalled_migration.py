"""PGM-S13: one process that insists on device memory holds up the migrations of all others.

The model keeps what 7.3.4 does: the second of two GPUs that want a page loses its first attempt, takes the driver-wide
lock exclusively, and brings the page home with it, which waits for the end of the page's timeslice.
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.engine.errors import PropertyFailed

PAGE = 4096
ADDR = 0x1_0000_0000
CONFIG = Config(gpus=2)
PATIENCE = 1_000_000
"""Virtual ns: what a first store may take."""


async def scenario(world: World) -> None:
    """A process that has nothing to do with that page should get its own into device memory."""
    one, two = world.process(), world.process()
    for process in (one, two):
        await process.mmap(PAGE, addr=ADDR, fixed=True)
    rivals = [await world.gpu(index).create_vm(one, chunk_pages=(1,)) for index in range(2)]
    other = await world.gpu().create_vm(two, chunk_pages=(1,))
    await rivals[0].atomic_add(ADDR, 1)

    async def store() -> None:
        await world.sleep(1_000)
        before = world.engine.now
        await other.store(ADDR, b"x")
        waited = world.engine.now - before
        if waited > PATIENCE:
            raise PropertyFailed("suspected", "PGM-S13", f"the first store of another process took {waited} ns")

    async with world.nursery() as nursery:
        nursery.start_soon(rivals[1].atomic_add, ADDR, 1)
        nursery.start_soon(store)
