"""Objects that move, end, or are not there (vm_bind sections 3, 4 and 8.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.gpuvm import DrmGpuvmExec
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import FencePlace, signal
from svm_actors.workload.witnesses.vmb_machine import (
    MS,
    PAGE,
    US,
    VPN,
    at,
    bound,
    expect,
    load,
    lr_bound,
    machine,
    run,
    spin,
    store,
)
from svm_actors.world import Config, World
from svm_actors.xe.range_fence import RangeFenceTree
from svm_actors.xe.sync import Sync
from svm_actors.xe.vm_bind import BindFlag

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence


@witness("VMB-R04", Config(vram_pages=1))
async def an_object_in_its_fallback(world: World) -> None:
    """An object goes to system memory, and another one gets the device memory in which it was."""
    _process, vm = await machine(world)
    first = await vm.create_bo(PAGE, placement="vram_or_system")
    await bound(vm, at(0), first)
    queue = await vm.create_queue()
    await run(vm, queue, store(0, b"a"), rule="INV-VMB-13")
    await world.gpu().evict(PAGE)
    second = await vm.create_bo(PAGE, external=True)
    await second.write(0, b"b")
    found = await run(vm, queue, load(0), store(0, b"c"), rule="INV-VMB-13")
    expect(found == [b"a", None], "INV-VMB-13", f"a job reads {found}")
    expect((await first.read(0), await second.read(0)) == (b"c", b"b"), "INV-VMB-13", "a job writes elsewhere")


@witness("VMB-R20")
async def an_object_ends_beside_a_long_running_job(world: World) -> None:
    """A shared object is unbound and let go of while a long-running job of the VM uses another one."""
    process, vm = await machine(world, "lr")
    addr = await process.mmap(PAGE)
    kept, gone = await vm.create_bo(PAGE), await vm.create_bo(PAGE, external=True)
    await lr_bound(process, vm, at(0), kept, addr)
    queue = await vm.create_queue()
    await lr_bound(process, vm, at(1), gone, addr + 8)
    job = await vm.submit(queue, [store(0, b"a"), spin(20 * MS), load(0)])
    ufence = vm.user_fence(process, addr + 16, 1)
    await vm.unbind(at(1), PAGE, syncs=[Sync(user_fence=ufence, signal=True)])
    world.bos.remove(gone)
    await gone.put()
    await ufence.written.wait()
    await world.sleep(US)
    expect(not queue.suspend_count, "VMB-B29", "a long-running job is stopped for an object that nobody maps")
    expect((await job.wait())[-1] == b"a", "INV-VMB-13", "a job reads something else")


@witness("VMB-R10")
async def updates_that_are_through_at_once(world: World) -> None:
    """Updates of a page table end just when they are written down as under way."""
    async with FencePlace(world) as place:
        tree = world.engine.parts.of(RangeFenceTree)(world.engine, "ranges")

        async def insert(fence: Fence) -> None:
            await world.engine.step("write", tree)
            tree.insert(VPN, VPN + 1, fence)

        for number in range(3):
            fence = place.fence(f"update{number}")
            async with world.nursery() as nursery:
                nursery.start_soon(insert, fence)
                nursery.start_soon(signal, fence)
            fence.put()
        tree.fini()


@witness("VMB-R05")
async def a_range_with_a_null_mapping(world: World) -> None:
    """All objects of a range are locked, in which there is a mapping without one."""
    _process, vm = await machine(world)
    await bound(vm, at(0), await vm.create_bo(PAGE, external=True))
    await bound(vm, at(1), None, length=PAGE, flags=BindFlag.NULL)
    async with DrmGpuvmExec(vm.vm.gpuvm) as vm_exec:
        await vm_exec.lock_range(VPN, 2)
