"""GPUs whose pages are evicted, moved, protected and dropped under them (core_mm 5, 6 and 9.7)."""

from __future__ import annotations

from typing import Any

from svm_actors.gpu.program import GpuFault
from svm_actors.mm.messages import SIGSEGV
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.pgm_memory import MS, in_vram
from svm_actors.workload.witnesses.pgm_memory import at as page_at
from svm_actors.workload.witnesses.vmb_machine import PAGE, at, expect, load, spin, store, user_bound
from svm_actors.world import BindVm, GpuVm, Process, World


async def in_device_memory(world: World, pages: int = 2, **options: Any) -> tuple[Process, GpuVm, int]:
    """A process whose first pages a GPU has taken to its memory and written."""
    process = world.process()
    addr = await process.mmap(pages * PAGE)
    vm = await world.gpu().create_vm(process, "fault", **options)
    for page in range(pages):
        await process.write(addr + page * PAGE, bytes((1 + page,)))
    for page in range(pages):
        await vm.store(addr + page * PAGE, bytes((11 + page,)))
    return process, vm, addr


@witness("MM-R16 MM-R12")
async def pages_change_protection_under_eviction(world: World) -> None:
    """Device pages are evicted while the CPU makes them read-only and forks."""
    process, _vm, addr = await in_device_memory(world)
    async with world.nursery() as nursery:
        nursery.start_soon(_protect_and_fork, process, addr, name="cpu")
        nursery.start_soon(world.gpu().evict, 2 * PAGE, name="evictor")
    try:
        await process.write(addr, b"w")
    except SIGSEGV:
        return
    expect(False, "MM-R16", "a store to a read-only mapping went through")


async def _protect_and_fork(process: Process, addr: int) -> None:
    await process.mprotect(addr, 2 * PAGE, "r")
    child = await process.fork()
    await child.read(addr)
    await child.exit()


@witness("MM-R27")
async def gpu_at_the_place_left_behind(world: World) -> None:
    """A mapping is emptied by mremap and stays; the GPU goes on using the place while that happens and after it."""
    process, vm, addr = await in_device_memory(world, 1)
    async with world.nursery() as nursery:
        nursery.start_soon(_empty, process, addr, name="cpu")
        nursery.start_soon(vm.load, addr, name="gpu")
    for result in (await vm.load(addr), await vm.store(addr, b"n"), await vm.load(addr)):
        expect(not isinstance(result, GpuFault), "MM-R27", "a fault at an address that is mapped is refused")
    expect(await process.read(addr) == b"n", "INV-36", "the place left behind is not that of the process")


async def _empty(process: Process, addr: int) -> None:
    await process.mremap(addr, PAGE, PAGE, dontunmap=True)


@witness("MM-R09")
async def readers_of_one_allocation(world: World) -> None:
    """Threads read two pages of one allocation of device memory at the same time."""
    process, vm, addr = await in_device_memory(world, 2, chunk_pages=(2, 1))
    for _turn in range(2):
        async with world.nursery() as nursery:
            for page in range(2):
                nursery.start_soon(process.read, addr + page * PAGE, name=f"thread{page}")
        await vm.store(addr, b"g")


@witness("MM-R30 MM-R32 MM-R33")
async def user_memory_dropped_twice(world: World) -> None:
    """Two threads drop user memory that a job uses, while it is unbound."""
    process = world.process()
    user = await process.mmap(2 * PAGE)
    await process.write(user, b"u")
    vm: BindVm = await world.gpu().create_vm(process, "dma_fence")
    await user_bound(vm, at(0), user, 2 * PAGE)
    queue = await vm.create_queue()
    job = await vm.submit(queue, [spin(), store(0, b"a"), load(1), spin(), load(0)])
    async with world.nursery() as nursery:
        for page in range(2):
            nursery.start_soon(process.madvise, user + page * PAGE, PAGE, "dontneed", name=f"thread{page}")
        nursery.start_soon(vm.unbind, at(0), 2 * PAGE, name="client")
    await job.fence.wait()


@witness("MM-R11 MM-R08")
async def eviction_under_many_looks(world: World) -> None:
    """Threads look at device pages that may not come home yet, one reference each time, while they are evicted."""
    process = await in_vram(world, 6, timeslice=MS)
    async with world.nursery() as nursery:
        for page in range(6):
            nursery.start_soon(process.read, page_at(page), name=f"thread{page}")
        nursery.start_soon(world.gpu().evict, 6 * PAGE, name="evictor")
