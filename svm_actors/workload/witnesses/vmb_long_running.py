"""Long-running queues that are stopped and resumed; dma-fence jobs beside faulting ones; a night (vm_bind 10, 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.vmb_machine import (
    MS,
    PAGE,
    US,
    at,
    bound,
    expect,
    faulting,
    gate,
    later,
    load,
    lr_bound,
    machine,
    open_gate,
    run,
    spin,
    store,
)
from svm_actors.world import World

if TYPE_CHECKING:
    from svm_actors.world import BindVm


async def long_running(world: World) -> BindVm:
    """A VM with two objects of a page."""
    process, vm = await machine(world, "lr")
    addr = await process.mmap(PAGE)
    for index in range(2):
        await lr_bound(process, vm, at(index), await vm.create_bo(PAGE), addr + 8 * index)
    return vm


@witness("VMB-R19 VMB-R04")
async def a_queue_comes_while_others_stop(world: World) -> None:
    """A long-running VM gets a second queue while the first one is stopped for an eviction."""
    vm = await long_running(world)
    first = await vm.create_queue()
    job = await vm.submit(first, [store(0, b"a"), spin(), store(0, b"b"), load(0)])

    async def second() -> None:
        queue = await vm.create_queue()
        found = await run(vm, queue, store(1, b"c"), load(1), rule="VMB-R19")
        expect(found == [None, b"c"], "INV-VMB-13", f"a job reads {found}")

    async with world.nursery() as nursery:
        nursery.start_soon(world.gpu().evict, 2 * PAGE)
        nursery.start_soon(second)
    expect(await job.wait() == [None, None, None, b"b"], "INV-VMB-13", "a job reads something else")


@witness("VMB-R22 VMB-R20 FEN-R30")
async def two_queues_stop_at_once(world: World) -> None:
    """Both queues of a long-running VM are stopped for an eviction, and resumed.

    A queue is left alone for 5 ms, so jobs take longer.
    """
    vm = await long_running(world)
    jobs = []
    for index in range(2):
        queue = await vm.create_queue()
        jobs.append(await vm.submit(queue, [store(index, b"a"), spin(20 * MS), load(index)]))
    await world.gpu().evict(2 * PAGE)
    for job in jobs:
        expect((await job.wait())[-1] == b"a", "INV-VMB-13", "a job reads something else")


@witness("VMB-R35 VMB-R20")
async def a_night(world: World) -> None:
    """A long-running job, a job with a dma-fence, and a system suspend."""
    vm = await long_running(world)
    _process, other = await machine(world)
    await bound(other, at(0), await other.create_bo(PAGE))
    queue, lr_queue = await other.create_queue(), await vm.create_queue()

    async def use() -> None:
        await run(other, queue, store(0, b"x"), rule="VMB-R35")

    job = await vm.submit(lr_queue, [store(0, b"a"), spin(20 * MS), load(0)])
    await world.sleep(10 * MS)

    async def sleep() -> None:
        await world.suspend()
        await world.sleep(US)
        await world.resume()

    async with world.nursery() as nursery:
        nursery.start_soon(use)
        nursery.start_soon(sleep)
        nursery.start_soon(later, world, use)
    await job.fence.wait()
    expect(job.fence.error is None, "VMB-B37", "a job that was begun in the evening is not there in the morning")
    expect(job.batch.results[-1] == b"a", "INV-VMB-13", "a job reads something else")


@witness("VMB-R34")
async def a_job_with_an_in_sync_beside_faulting_work(world: World) -> None:
    """A job has to wait for somebody who submits a job first, while faulting work runs."""
    _process, vm = await machine(world)
    await bound(vm, at(0), await vm.create_bo(PAGE))
    _process, fault_vm = await faulting(world)
    bo = await fault_vm.create_bo(PAGE)
    await fault_vm.bind(at(0), bo)
    queues, fault_queue = [await vm.create_queue() for _ in range(2)], await fault_vm.create_queue()
    hold, held = gate(world)
    work = await fault_vm.submit(fault_queue, [store(0, b"a"), spin(20 * MS), load(0)])
    # Once it has begun the engines are those of faulting work.
    while await bo.read(0) != b"a":
        await world.sleep(US)

    async def waits() -> None:
        await (await vm.submit(queues[0], [store(0, b"x")], [held])).wait()

    async def signals() -> None:
        await run(vm, queues[1], load(0), rule="VMB-R34")
        await open_gate(world, hold)

    async with world.nursery() as nursery:
        nursery.start_soon(waits)
        nursery.start_soon(signals)
    expect((await work.wait())[-1] == b"a", "INV-VMB-13", "a job reads something else")


@witness("VMB-R26")
async def flushes_at_a_reset(world: World) -> None:
    """The GT is reset while several mappings of user memory are zapped."""
    process, vm = await faulting(world)
    addr = await process.mmap(3 * PAGE)
    for index in range(3):
        await vm.bind_userptr(at(index), addr + index * PAGE, PAGE)
        expect(await vm.store(at(index), b"x") is None, "INV-VMB-13", "user memory cannot be written")

    async def reset() -> None:
        world.gpu().driver.submission.reset.queue()

    async with world.nursery() as nursery:
        for index in range(3):
            nursery.start_soon(process.madvise, addr + index * PAGE, PAGE, "dontneed")
        nursery.start_soon(reset)


@witness("VMB-R26")
async def a_flush_in_the_night(world: World) -> None:
    """User memory that is bound goes while its device is off, which needs no flush."""
    process, vm = await faulting(world)
    addr = await process.mmap(PAGE)
    await vm.bind_userptr(at(0), addr, PAGE)
    expect(await vm.store(at(0), b"x") is None, "INV-VMB-13", "user memory cannot be written")
    await world.suspend()
    await process.munmap(addr, PAGE)
    await world.resume()
