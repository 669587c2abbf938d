"""VMB-B02, the other side: of moves alone nothing is to be seen, as every move brings a rebind that waits.

The deviation is planted (``--bug VMB-B02``): a job depends on the KERNEL fences of its VM and not on those of external
objects.  An object that was moved is bound again before the job, by an update that waits for the move, and whose own
fence is in the VM's reservation.
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.gpu.program import Load, Store

PAGE = 4096
ADDR = 0x100_000
CONFIG = Config(vram_pages=4)


async def scenario(world: World) -> None:
    """An external object is used and evicted, again and again; its bytes are what was stored."""
    vm = await world.gpu().create_vm(world.process(), mode="dma_fence")
    bo = await vm.create_bo(PAGE, external=True)
    bound = world.syncobj()
    await vm.bind(ADDR, bo, syncs=[bound.sync_out()])
    await bound.wait()
    queue = await vm.create_queue()

    async def use() -> None:
        for value in (b"a", b"b", b"c"):
            job = await vm.submit(queue, [Store(ADDR // PAGE, 0, value), Load(ADDR // PAGE)])
            assert await job.wait() == [None, value]

    async with world.nursery() as nursery:
        nursery.start_soon(use)
        for _ in range(2):
            nursery.start_soon(world.gpu().evict, PAGE)
    assert await bo.read(0) == b"c"
