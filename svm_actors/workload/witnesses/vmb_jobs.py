"""Jobs against binds and evictions in a VM with dma-fences (vm_bind sections 3, 4, 7 and 9)."""

from __future__ import annotations

from svm_actors.engine.errors import ENOMEM
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.vmb_machine import (
    FAR,
    PAGE,
    at,
    bound,
    expect,
    gate,
    load,
    machine,
    open_gate,
    results,
    run,
    spin,
    store,
)
from svm_actors.world import Config, World


@witness("VMB-R05 VMB-R13")
async def rewrite_of_a_shared_object(world: World) -> None:
    """One VM rewrites the entries of a shared object under its own job; another one submits a job that uses it."""
    process, vm = await machine(world)
    other = await world.gpu().create_vm(process, "dma_fence")
    bo = await vm.create_bo(PAGE, external=True)
    for each in (vm, other):
        await bound(each, at(0), bo)
    queue, other_queue = await vm.create_queue(), await other.create_queue()
    first = await vm.submit(queue, [spin(), store(0, b"a")])
    await vm.prefetch(at(0), PAGE)
    second = await other.submit(other_queue, [store(0, b"b")])
    await results(first, "VMB-R13")
    await results(second, "VMB-R13")


@witness("VMB-R11 VMB-R12 VMB-R14")
async def unbinds_behind_a_job(world: World) -> None:
    """One mapping goes when a job is through, another one when its queue has come so far."""
    _process, vm = await machine(world)
    bos = [await vm.create_bo(PAGE) for _ in range(2)]
    for index, bo in enumerate(bos):
        await bound(vm, at(FAR * index), bo)
    done, gone = world.syncobj(), world.syncobj()
    queue = await vm.create_queue()
    job = await vm.submit(queue, [spin(), store(0, b"x"), store(FAR, b"y"), load(0), load(FAR)], outs=[done])
    await vm.unbind(at(0), PAGE, syncs=[done.sync_in()])
    await vm.unbind(at(FAR), PAGE, syncs=[gone.sync_out()])
    expect(await results(job, "VMB-R12") == [None, None, None, b"x", b"y"], "INV-VMB-13", "a job reads something else")
    await gone.wait()


@witness("VMB-R13")
async def cuts_of_user_memory_under_jobs(world: World) -> None:
    """A mapping of user memory is cut again and again, which rewrites what stays, while jobs use that."""
    process, vm = await machine(world)
    addr = await process.mmap(6 * PAGE)
    await vm.bind_userptr(at(0), addr, 6 * PAGE)
    queue = await vm.create_queue()
    await run(vm, queue, store(0, b"\1"), rule="VMB-R13")

    async def jobs() -> None:
        for _ in range(4):
            found = await run(vm, queue, *(load(index) for index in range(3)), rule="VMB-R13")
            expect(found == [b"\1", b"\0", b"\0"], "INV-VMB-13", f"a job reads {found}")

    async def cuts() -> None:
        for index in (5, 4, 3):
            await vm.unbind(at(index), PAGE)

    async with world.nursery() as nursery:
        nursery.start_soon(jobs)
        nursery.start_soon(cuts)


@witness("VMB-R07", Config(vram_pages=4))
async def an_array_that_does_not_fit(world: World) -> None:
    """Two objects of which only one fits are bound in one array: it is refused, and nothing is bound."""
    _process, vm = await machine(world)
    bos = [await vm.create_bo(3 * PAGE) for _ in range(2)]
    try:
        await vm.bind_array([vm.map_op(at(4 * index), bo, 3 * PAGE) for index, bo in enumerate(bos)])
    except ENOMEM:
        expect(not vm.vm.vmas(), "INV-VMB-08", "a bind that was refused leaves mappings")
    else:
        expect(False, "INV-VMB-13", "an array is bound whose objects are never in memory together")


@witness("VMB-R10")
async def entries_for_two_commands(world: World) -> None:
    """A job writes more entries than one command of the copy engine holds."""
    _process, vm = await machine(world)
    bo = await vm.create_bo(520 * PAGE, placement="system")
    hold, held = gate(world)
    out = world.syncobj()
    await vm.bind(at(0), bo, syncs=[held.sync_in(), out.sync_out()])
    await open_gate(world, hold)
    await out.wait()
