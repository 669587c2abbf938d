"""A VM is closed while it is used, and while what it maps moves (vm_bind sections 11 and 12)."""

from __future__ import annotations

from svm_actors.engine.errors import EINVAL, ENOENT
from svm_actors.gpu.program import GpuFault
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.vmb_machine import PAGE, at, bound, expect, faulting, load, machine, store
from svm_actors.world import World

REFUSED = (ENOENT().errno, EINVAL().errno)
"""What a fault in a VM that goes, or has gone, is answered."""


@witness("VMB-R24 VMB-R25")
async def a_close_under_programs(world: World) -> None:
    """A VM in fault mode goes while programs use it, its object is evicted, and its user memory is dropped."""
    process, vm = await faulting(world)
    addr = await process.mmap(PAGE)
    await vm.bind_userptr(at(0), addr, PAGE)
    bo = await vm.create_bo(PAGE, external=True)
    await vm.bind(at(1), bo)
    for page in range(2):
        expect(await vm.store(at(page), b"x") is None, "INV-VMB-13", "nothing can be stored")

    async def use() -> None:
        last = (await vm.run([store(0, b"x"), load(0), store(1, b"x"), load(1)] * 2))[-1]
        refused = isinstance(last, GpuFault) and last.errno in REFUSED
        expect(refused or last in (b"x", b"\0"), "VMB-R24", f"a program in a VM that goes ends with {last!r}")

    async with world.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(use)
        nursery.start_soon(vm.close)
        nursery.start_soon(process.madvise, addr, PAGE, "dontneed")
        nursery.start_soon(world.gpu().evict, PAGE)


@witness("VMB-R24")
async def faults_in_a_vm_that_goes(world: World) -> None:
    """Programs fault where nothing is mapped, again and again, while their VM is closed."""
    _process, vm = await faulting(world)

    async def use() -> None:
        for _ in range(6):
            result = await vm.load(at(0))
            refused = isinstance(result, GpuFault) and result.errno in REFUSED
            expect(refused, "VMB-R24", f"a program reads {result!r} where nothing is mapped")

    async with world.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(use)
        nursery.start_soon(vm.close)


@witness("VMB-R14 VMB-R25")
async def a_close_with_mappings_left(world: World) -> None:
    """A VM with dma-fences is closed with mappings of its own and of shared objects, which workers then free."""
    process, vm = await machine(world)
    await bound(vm, at(0), await vm.create_bo(PAGE))
    await bound(vm, at(1), await vm.create_bo(PAGE, external=True))
    addr = await process.mmap(PAGE)
    await vm.bind_userptr(at(2), addr, PAGE)
    async with world.nursery() as nursery:
        nursery.start_soon(vm.close)
        nursery.start_soon(process.madvise, addr, PAGE, "dontneed")
