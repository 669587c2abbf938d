"""Opposite locks: two VMs share buffer objects and lock them in opposite order, with eviction in between.

Shows: an exec needs the reservations of all objects of its VM, and nobody can say in which order they come.
Whoever meets an older transaction lets go of everything and starts again; the oldest always gets through.
What was evicted meanwhile is made resident before the job, so no job sees foreign memory.
Races: two execs in opposite order (FEN-R12), exec against eviction of objects of the VM (VMB-R04) and of
objects shared with others (VMB-R05, VMB-R06).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.gpu.program import AtomicAdd
from svm_actors.world import BindVm

PAGE = 4096
ADDR = 0x10_0000
VPN = ADDR // PAGE
ROUNDS = 2


async def scenario(world: World) -> None:
    """Every job adds one to both shared objects and to one of its own; nothing gets lost."""
    gpu = world.gpu()
    process = world.process()
    vms = [await gpu.create_vm(process, "dma_fence") for _ in range(2)]
    shared = [await vms[0].create_bo(PAGE, external=True) for _ in range(2)]
    own = [await vm.create_bo(PAGE) for vm in vms]
    for vm, local, order in zip(vms, own, (shared, shared[::-1]), strict=True):
        for page, bo in enumerate([local, *order]):
            bound = world.syncobj()
            await vm.bind(ADDR + page * PAGE, bo, syncs=[bound.sync_out()])
        await bound.wait()  # binds of one queue are through in order

    async def work(vm: BindVm) -> None:
        queue = await vm.create_queue()
        for _ in range(ROUNDS):
            job = await vm.submit(queue, [AtomicAdd(VPN + page, 0, 1) for page in range(3)])
            assert len(await job.wait()) == 3

    async with world.nursery() as nursery:
        for vm in vms:
            nursery.start_soon(work, vm)
        for _ in range(2):
            nursery.start_soon(gpu.evict, PAGE)

    assert [await bo.read(0) for bo in own] == [bytes([ROUNDS])] * 2
    assert [await bo.read(0) for bo in shared] == [bytes([2 * ROUNDS])] * 2
