"""Pipelined scenes: three scenes use one address range, all of them queued before the first bind has run.

Shows: VM_BIND with in- and out-fences; each unbind waits for the job of its scene, each bind for that unbind.
A second bind queue fills a range of its own meanwhile, under the same page-table node.
Races: updates of two bind queues in one page-table node (VMB-R10), an object that lives until its unbind is
through (VMB-R14), unbinding under a running job, closed by the in-fence (VMB-R12).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.gpu.program import AtomicAdd, Load, Store

PAGE = 4096
SCENE = 0x1_0000_0000
SHARED = SCENE + 16 * PAGE
SCENES = 3


async def scenario(world: World) -> None:
    """Every job finds the data of its own scene, and counts in a page that all scenes share."""
    vm = await world.gpu().create_vm(world.process(), mode="dma_fence")
    queue = await vm.create_queue()
    scenes = [await vm.create_bo(2 * PAGE) for _ in range(SCENES)]
    for number, bo in enumerate(scenes):
        await bo.write(PAGE, bytes([number + 1]))

    shared, ready = await vm.create_bo(PAGE, external=True), world.syncobj()
    await vm.bind(SHARED, shared, queue=vm.bind_queue(), syncs=[ready.sync_out()])

    jobs, before = [], ready
    for number, bo in enumerate(scenes):
        bound, done, gone = world.syncobj(), world.syncobj(), world.syncobj()
        await vm.bind(SCENE, bo, syncs=[before.sync_in(), bound.sync_out()])
        program = [
            Load(SCENE // PAGE + 1),
            Store(SCENE // PAGE, 0, bytes([16 + number])),
            AtomicAdd(SHARED // PAGE, 0, 1),
        ]
        jobs.append(await vm.submit(queue, program, [bound], [done]))
        await vm.unbind(SCENE, 2 * PAGE, syncs=[done.sync_in(), gone.sync_out()])
        before = gone

    await before.wait()
    for number, (bo, job) in enumerate(zip(scenes, jobs, strict=True)):
        assert await job.wait() == [bytes([number + 1]), None, number]
        assert await bo.read(0) == bytes([16 + number])
    assert await shared.read(0) == bytes([SCENES])
