"""Shared object, evicted: two VMs use one object, and a third VM that knows nothing of it needs the memory.

Shows: whoever evicts an object holds its reservation only, so it cannot touch the lists of the VMs that map it.  It
leaves a mark; the next exec of each VM finds the mark, brings the object back and writes its entries again.  The copy
waits for the jobs of both VMs, and the jobs after it wait for the copy.
Races: an exec against the eviction of an object that is not the VM's own (VMB-R05, VMB-R06), execs of two VMs
that lock the object and each other's way (FEN-R12).
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.gpu.program import AtomicAdd, Load, Store
from svm_actors.world import BindVm
from svm_actors.xe.gem import XeBo

PAGE = 4096
ADDR = 0x10_0000
VPN = ADDR // PAGE
ROUNDS = 3
CONFIG = Config(vram_pages=4)
"""Room for the shared object, or for that of the third VM."""


async def bind(world: World, vm: BindVm, bo: XeBo) -> None:
    """Bind an object and wait until jobs find it."""
    bound = world.syncobj()
    await vm.bind(ADDR, bo, syncs=[bound.sync_out()])
    await bound.wait()


async def scenario(world: World) -> None:
    """Everybody counts in the shared object; the third VM keeps what it has written."""
    gpu = world.gpu()
    vms = [await gpu.create_vm(world.process(), "dma_fence") for _ in range(3)]
    third = vms.pop()
    shared = await vms[0].create_bo(2 * PAGE, external=True)
    for vm in vms:
        await bind(world, vm, shared)
    await bind(world, third, await third.create_bo(3 * PAGE))

    async def count(vm: BindVm) -> None:
        queue = await vm.create_queue()
        for _ in range(ROUNDS):
            await (await vm.submit(queue, [AtomicAdd(VPN + page, 0, 1) for page in range(2)])).wait()

    async def press() -> None:
        queue = await third.create_queue()
        for number in range(ROUNDS):
            job = await third.submit(queue, [Load(VPN + 2), Store(VPN + 2, 0, bytes([number + 1]))])
            assert (await job.wait())[0] == bytes([number])

    async with world.nursery() as nursery:
        for vm in vms:
            nursery.start_soon(count, vm)
        nursery.start_soon(press)

    assert [await shared.read(page * PAGE) for page in range(2)] == [bytes([2 * ROUNDS])] * 2
