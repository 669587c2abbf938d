"""Suspected behaviour of 7.3.4 that can be planted: it goes wrong where it is said to, and nowhere else."""

from __future__ import annotations

import pytest
from svm_bench import PAGE, attempt, page, run, start

from svm_actors.gpu.program import GpuFault
from svm_actors.world import FaultVm, Process, World
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp

SCHEDULES = 30
OBJECT = 16
"""Page at which objects are bound."""


async def mirrored(
    world: World, npages: int = 2, *, chunks: tuple[int, ...] = (1,), flags: int = 0
) -> tuple[Process, FaultVm]:
    """Memory of a process in a VM that is bound by hand."""
    process, other = await start(world, npages)
    await other.close()
    vm = await world.gpu().create_vm(process, mirror=False, chunk_pages=chunks, check_pages_threshold=0)
    await vm.bind_mirror(page(0), npages * PAGE, flags=flags)
    return process, vm


# -- SVM-S03 ----------------------------------------------------------------------------------


def test_a_vma_that_others_remove_is_forgotten() -> None:
    """The removal clears the cache, whoever removes it; only the fault's own collection comes before the store."""

    async def scenario(world: World) -> None:
        process, vm = await mirrored(world)
        assert await vm.load(page(0)) == bytes(1)
        await process.munmap(page(0), 2 * PAGE)
        await world.settle()
        await vm.unbind(page(0), 2 * PAGE)
        await world.settle()
        assert isinstance(await vm.load(page(0)), GpuFault)

    for seed in range(SCHEDULES):
        run(scenario, "random", seed, bugs=("SVM-S03",))


async def replaced_by_the_fault(world: World) -> None:
    """Memory of one page goes; of two faults that follow the first one may be who collects it."""
    process, vm = await mirrored(world, flags=BindFlag.MADVISE_AUTORESET)
    await vm.madvise(page(0), 2 * PAGE, preferred_location="system")
    await vm.load(page(0))
    async with world.nursery() as nursery:
        nursery.start_soon(process.munmap, page(0), PAGE)
        nursery.start_soon(vm.load, page(1))
    await process.madvise(page(1), PAGE, "dontneed")
    await vm.load(page(1))


def test_a_vma_that_the_fault_itself_has_replaced_is_looked_at_once_more() -> None:
    failures = [attempt(replaced_by_the_fault, "pct", seed, bugs=("SVM-S03",)).failure for seed in range(60)]
    assert {failure.rule for failure in failures if failure is not None} == {"INV-VMB-10"}
    assert not all(failures)


# -- SVM-S10 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("vram_pages", "reached"), [(64, False), (2, True)])
def test_an_array_is_abandoned_only_where_its_prefetch_cannot_migrate(vram_pages: int, reached: bool) -> None:
    async def scenario(world: World) -> None:
        _process, vm = await mirrored(world, 4, chunks=(4, 1))
        await vm.bind(page(OBJECT), await vm.create_bo(PAGE, placement="system"))
        await vm.store(page(OBJECT), b"x")
        prefetch = BindOp(BindKind.PREFETCH, page(0) // PAGE, 4, region="vram")
        await vm.bind_array([vm.unmap_op(page(OBJECT), PAGE), prefetch])
        await world.settle()
        assert isinstance(await vm.load(page(OBJECT)), GpuFault) is not reached

    failure = attempt(scenario, bugs=("SVM-S10",), vram_pages=vram_pages).failure
    if not reached:
        assert failure is None
    else:
        assert failure is not None
        assert failure.rule == "INV-VMB-03", "entries are alive whose mapping is out of the tree"


# -- SVM-S13 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("advised", "rule"), [(1, "INV-05"), (2, None)])
def test_advice_on_all_of_an_object_flushes_all_that_it_zaps(advised: int, rule: str | None) -> None:
    async def scenario(world: World) -> None:
        _process, vm = await mirrored(world)
        await vm.bind(page(OBJECT), await vm.create_bo(2 * PAGE))
        for number in range(2):
            await vm.store(page(OBJECT + number), b"x")
        await vm.madvise(page(OBJECT), advised * PAGE, atomic="device")
        await world.gpu().evict(2 * PAGE)
        assert await vm.load(page(OBJECT + 1)) == b"x"

    failure = attempt(scenario, bugs=("SVM-S13",)).failure
    assert (None if failure is None else failure.rule) == rule
    run(scenario)
