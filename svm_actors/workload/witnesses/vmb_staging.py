"""Binds and flushes that are not through while something else of their VM changes (vm_bind sections 6, 11 and 13)."""

from __future__ import annotations

from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.vmb_machine import FAR, PAGE, at, bound, expect, faulting, machine, run, store
from svm_actors.world import World
from svm_actors.xe.vm_bind import BindFlag


@witness("VMB-R08")
async def a_bind_beside_a_zap(world: World) -> None:
    """An object is bound at two places while the process drops the user memory at a third, which zaps its entries."""
    process, vm = await faulting(world)
    addr = await process.mmap(PAGE)
    await vm.bind_userptr(at(0), addr, PAGE, flags=BindFlag.IMMEDIATE)
    bo = await vm.create_bo(2 * PAGE)

    async def bind() -> None:
        for number in (1, 2):
            await vm.bind(at(number * FAR), bo, flags=BindFlag.IMMEDIATE)

    async with world.nursery() as nursery:
        nursery.start_soon(bind)
        nursery.start_soon(process.madvise, addr, PAGE, "dontneed")
    for number in range(3):
        expect(await vm.store(at(number * FAR), b"z") is None, "VMB-R08", "what is bound cannot be written")
    expect(await process.read(addr) == b"z", "VMB-R08", "a store to user memory went elsewhere")
    expect(await bo.read(0) == b"z", "VMB-R08", "a store to the object went elsewhere")


@witness("VMB-R33 VMB-R05")
async def a_shared_object_joins_under_submissions(world: World) -> None:
    """Jobs that use a shared object are submitted while another one is bound; both are thrown out meanwhile."""
    _process, vm = await machine(world)
    bos = [await vm.create_bo(PAGE, external=True) for _ in range(2)]
    await bound(vm, at(0), bos[0])
    queue = await vm.create_queue()

    async def submit() -> None:
        for value in (b"a", b"b"):
            await run(vm, queue, store(0, value), rule="VMB-R33")

    async with world.nursery() as nursery:
        nursery.start_soon(submit)
        nursery.start_soon(bound, vm, at(1), bos[1])
        nursery.start_soon(world.gpu().evict, 2 * PAGE)
    await run(vm, queue, store(1, b"c"), rule="VMB-R33")
    expect([await bo.read(0) for bo in bos] == [b"b", b"c"], "VMB-R33", "a store to a shared object went elsewhere")


@witness("VMB-R27 VMB-R26")
async def flushes_answered_out_of_order(world: World) -> None:
    """Two VMs map the same user memory, which goes page by page; the worker reads some of the answers, late."""
    process = world.process()
    addr = await process.mmap(2 * PAGE)
    vms = [await world.gpu().create_vm(process, "fault", mirror=False) for _ in range(2)]
    for vm in vms:
        for page in range(2):
            await vm.bind_userptr(at(page), addr + page * PAGE, PAGE, flags=BindFlag.IMMEDIATE)
    world.gpu().driver.tlb_inval.shares_channel = True
    async with world.nursery() as nursery:
        for page in range(2):
            nursery.start_soon(process.madvise, addr + page * PAGE, PAGE, "dontneed")
    for vm in vms:
        expect(await vm.store(at(0), b"x") is None, "INV-VMB-13", "user memory cannot be written")
