"""Attributes that go with the memory they were set for (gpusvm section 6.3)."""

from typing import Any

import pytest
from svm_bench import run

from svm_actors.engine.errors import EINVAL
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witnesses.svm_arena import BASE, ONE, arena, at, map_anew
from svm_actors.world import GpuVm, Process, World
from svm_actors.xe.vm_bind import BindFlag

FIRST = BASE // PAGE_SIZE


async def advised(world: World, npages: int, flags: int) -> tuple[Process, Any]:
    """A mirror of so many pages that the GPU has used, whose atomics are the device's."""
    process = await arena(world, npages)
    vm: GpuVm = await world.gpu().create_vm(process, mirror=False, **ONE)
    await vm.bind_mirror(at(0), npages * PAGE_SIZE, flags=flags)
    await vm.madvise(at(0), npages * PAGE_SIZE, atomic="device")
    for page in range(npages):
        await vm.load(at(page))
    return process, vm


async def answers(vm: Any, npages: int) -> list[tuple[int, int, str]]:
    """First page, one past the last, and whose the atomics are."""
    found = await vm.query_attributes(at(0), npages * PAGE_SIZE)
    return [(one.start // PAGE_SIZE - FIRST, one.end // PAGE_SIZE - FIRST, one.atomic.name) for one in found]


@pytest.mark.parametrize(
    ("flags", "first", "npages", "wanted", "resets"),
    [
        (0, 1, 1, [(0, 3, "DEVICE")], 0),
        (BindFlag.MADVISE_AUTORESET, 1, 1, [(0, 1, "DEVICE"), (1, 2, "UNDEFINED"), (2, 3, "DEVICE")], 1),
        (BindFlag.MADVISE_AUTORESET, 0, 1, [(0, 1, "UNDEFINED"), (1, 3, "DEVICE")], 1),
        (BindFlag.MADVISE_AUTORESET, 0, 3, [(0, 1, "UNDEFINED"), (1, 2, "UNDEFINED"), (2, 3, "UNDEFINED")], 3),
    ],
)
def test_what_an_munmap_leaves(flags: int, first: int, npages: int, wanted: list[Any], resets: int) -> None:
    """Range by range: the rest of the mirror keeps what it has."""

    async def scenario(world: World) -> None:
        process, vm = await advised(world, 3, flags)
        await process.munmap(at(first), npages * PAGE_SIZE)
        await world.settle()
        assert await answers(vm, 3) == wanted

    assert run(scenario).counters.get("madvise.reset", 0) == resets


def test_a_vma_that_goes_whole_is_not_replaced() -> None:
    async def scenario(world: World) -> None:
        process, vm = await advised(world, 1, BindFlag.MADVISE_AUTORESET)
        vma = vm.vm.mirror_vma
        async with vm.vm.lock.reading():
            before = vma(FIRST)
        await process.munmap(at(0), PAGE_SIZE)
        await world.settle()
        async with vm.vm.lock.reading():
            assert vma(FIRST) is before
        assert await answers(vm, 1) == [(0, 1, "UNDEFINED")]

    assert "SVM-R24" not in run(scenario).counters


def test_what_is_set_after_an_munmap_stays() -> None:
    """A prefetch collects without a reset, which then must not take what was set since."""

    async def scenario(world: World) -> None:
        process, vm = await advised(world, 2, BindFlag.MADVISE_AUTORESET)
        await map_anew(process, 0, 1)
        await vm.prefetch(at(0), PAGE_SIZE)
        await vm.madvise(at(0), PAGE_SIZE, atomic="global")
        await vm.load(at(0))
        await world.settle()
        assert await answers(vm, 2) == [(0, 1, "GLOBAL"), (1, 2, "DEVICE")]

    run(scenario)


def test_the_flag_is_for_mirrors() -> None:
    async def scenario(world: World) -> None:
        process = await arena(world, 1)
        vm = await world.gpu().create_vm(process, mirror=False, **ONE)
        bo = await vm.create_bo(PAGE_SIZE)
        with pytest.raises(EINVAL):
            await vm.bind(at(0), bo, flags=BindFlag.MADVISE_AUTORESET)

    run(scenario)
