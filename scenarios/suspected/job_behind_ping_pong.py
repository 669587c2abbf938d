"""Two GPUs pull one page to and fro, and a job with a dma-fence waits for one of them as long as they do.

The model keeps what 7.3.4 does: before a dma-fence job runs, faulting queues of its engines are switched off, and a
context with a fault under way answers only when that was served.  Each of two faulting jobs wants the page in its own
device memory (RULE-11).
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import AtomicAdd, Store

PAGE = 4096
ADDR = 0x1_0000_0000
CONFIG = Config(gpus=2)
ROUNDS = 12
"""Atomics of each faulting job."""
PATIENCE = 3
"""Times the page may change its place before the job is through."""


async def scenario(world: World) -> None:
    """The job does nothing with that page, and should be through after a few moves of it."""
    process = world.process()
    await process.mmap(PAGE, addr=ADDR, fixed=True)
    faulting = []
    for index in range(2):
        vm = await world.gpu(index).create_vm(process, mirror=False, chunk_pages=(1,), check_pages_threshold=0)
        await vm.bind_mirror(ADDR, PAGE)
        faulting.append((vm, await vm.create_queue()))
    fenced = await world.gpu().create_vm(process, mode="dma_fence")
    bound = world.syncobj()
    await fenced.bind(ADDR, await fenced.create_bo(PAGE), syncs=[bound.sync_out()])
    await bound.wait()
    queue = await fenced.create_queue()
    jobs = [await vm.submit(each, [AtomicAdd(ADDR // PAGE, 0, 1)] * ROUNDS) for vm, each in faulting]
    counters = world.engine.counters
    while not counters["migrate.to_vram"]:
        await world.sleep(1_000)
    before = counters["migrate.to_vram"]
    job = await fenced.submit(queue, [Store(ADDR // PAGE, 0, b"x")])
    await job.wait()
    moves = counters["migrate.to_vram"] - before
    if moves > PATIENCE:
        raise PropertyFailed("suspected", "RULE-11", f"a job of another VM waited while a page moved {moves} times")
    for each in jobs:
        await each.wait()
