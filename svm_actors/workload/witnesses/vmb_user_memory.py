"""User memory of a process that changes while it is pinned, bound, cut and unbound (vm_bind section 5)."""

from __future__ import annotations

from svm_actors.engine.errors import EFAULT, EPERM
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.vmb_machine import (
    FAR,
    PAGE,
    at,
    bound,
    expect,
    faulting,
    gate,
    machine,
    open_gate,
    run,
    store,
    user_bound,
)
from svm_actors.world import World
from svm_actors.xe.vm_bind import BindFlag


@witness("VMB-R15")
async def a_pin_that_fails(world: World) -> None:
    """Of two user mappings one becomes read-only and the other goes: execs fail, and what failed is unbound."""
    process, vm = await machine(world)
    gone, kept = await process.mmap(PAGE), await process.mmap(PAGE)
    await vm.bind_userptr(at(0), gone, PAGE)
    await vm.bind_userptr(at(1), kept, PAGE)
    await bound(vm, at(2), await vm.create_bo(PAGE))
    queue = await vm.create_queue()
    await run(vm, queue, store(0, b"\1"), store(1, b"\2"), store(2, b"\3"), rule="INV-VMB-13")
    await process.madvise(gone, PAGE, "dontneed")
    await process.mprotect(kept, PAGE, "r")
    try:
        await vm.submit(queue, [store(2, b"\4")])
    except EPERM:
        pass
    else:
        expect(False, "VMB-R15", "an exec pins read-only memory that it may write")
    await process.munmap(gone, PAGE)
    if world.choose(2, "unbind"):
        await vm.unbind(at(1), PAGE)
    else:
        await process.mprotect(kept, PAGE, "rw")
    await run(vm, queue, store(2, b"\5"), rule="INV-VMB-13")


@witness("VMB-R02 VMB-R15 VMB-R16")
async def user_memory_changes_and_is_unbound(world: World) -> None:
    """Two pages of user memory are dropped by the process, used by jobs, and unbound, all at once."""
    process, vm = await machine(world)
    addr = await process.mmap(2 * PAGE)
    queue = await vm.create_queue()

    async def client(index: int) -> None:
        for turn in range(2):
            await user_bound(vm, at(index), addr + index * PAGE, PAGE)
            await run(vm, queue, store(index, bytes([turn])), rule="INV-VMB-13")
            await vm.unbind(at(index), PAGE)

    async def drop(index: int) -> None:
        for _ in range(3):
            await process.madvise(addr + index * PAGE, PAGE, "dontneed")

    async with world.nursery() as nursery:
        for index in range(2):
            nursery.start_soon(client, index)
            nursery.start_soon(drop, index)


# -- fault mode ----------------------------------------------------------------------------------


@witness("VMB-R09 VMB-R17")
async def a_zap_against_an_unbind(world: World) -> None:
    """Entries of user memory, the last of their page-table node, are unbound while a change of the memory zaps them."""
    process, vm = await faulting(world)
    addr = await process.mmap(2 * PAGE)
    for place in (0, FAR):
        await vm.bind_userptr(at(place), addr, 2 * PAGE)
        expect(await vm.store(at(place), b"x") is None, "INV-VMB-13", "user memory cannot be written")

    async def drop() -> None:
        for index in (1, 0):
            await process.madvise(addr + index * PAGE, PAGE, "dontneed")

    async with world.nursery() as nursery:
        nursery.start_soon(drop)
        nursery.start_soon(vm.unbind, at(0), 2 * PAGE)
        nursery.start_soon(vm.unbind, at(FAR), 2 * PAGE)


@witness("VMB-R18")
async def two_changes_before_a_queued_bind(world: World) -> None:
    """Entries are still to be written by a job, and two changes of the memory wait for it."""
    process, vm = await faulting(world)
    addr = await process.mmap(2 * PAGE)
    hold, held = gate(world)
    await vm.bind_userptr(at(0), addr, 2 * PAGE, flags=BindFlag.IMMEDIATE, syncs=[held.sync_in()])
    async with world.nursery() as nursery:
        for index in range(2):
            nursery.start_soon(process.madvise, addr + index * PAGE, PAGE, "dontneed")
        nursery.start_soon(open_gate, world, hold)
    await process.write(addr, b"cpu")
    expect(await vm.load(at(0), 3) == b"cpu", "INV-VMB-13", "the GPU reads a page that the process has dropped")


@witness("VMB-R23")
async def an_eviction_before_a_queued_bind(world: World) -> None:
    """Entries of an object are still to be written by a job when the object moves."""
    _process, vm = await faulting(world)
    bo = await vm.create_bo(PAGE)
    hold, held = gate(world)
    await vm.bind(at(0), bo, flags=BindFlag.IMMEDIATE, syncs=[held.sync_in()])
    async with world.nursery() as nursery:
        nursery.start_soon(world.gpu().evict, PAGE)
        nursery.start_soon(open_gate, world, hold)
    expect(await vm.store(at(0), b"new") is None, "INV-VMB-13", "the object cannot be written")
    expect(await bo.read(0, 3) == b"new", "INV-VMB-13", "a store to the object went elsewhere")


@witness("VMB-R02 VMB-R17")
async def a_prefetch_of_stale_memory(world: World) -> None:
    """User memory that the process has dropped is prefetched."""
    process, vm = await faulting(world)
    addr = await process.mmap(PAGE)
    await vm.bind_userptr(at(0), addr, PAGE)
    await process.madvise(addr, PAGE, "dontneed")
    await vm.prefetch(at(0), PAGE)


@witness("VMB-R08 VMB-R17")
async def a_bind_of_memory_that_goes(world: World) -> None:
    """User memory is unmapped by the process while it is bound, entries and all, in several VMs."""
    process = world.process()
    addr = await process.mmap(PAGE)

    async def bind() -> None:
        vm = await world.gpu().create_vm(process, "fault", mirror=False)
        try:
            await vm.bind_userptr(at(0), addr, PAGE, flags=BindFlag.IMMEDIATE)
        except EFAULT:
            expect(not vm.vm.vmas(), "INV-VMB-08", "a bind that was refused leaves a mapping")

    async with world.nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bind)
        nursery.start_soon(process.munmap, addr, PAGE)
