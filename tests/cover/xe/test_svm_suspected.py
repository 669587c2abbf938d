"""Suspected issues of 7.3.4 that the model shares: they are there, they are counted, and they can be left.

None of them is a confirmed kernel bug.  What keeps other tests away from the endless ones is a bound of
the hardware (``ComputeEngine.replay_limit``) or of the run (its step budget), never the driver.
"""

from __future__ import annotations

from typing import Any

import pytest
from svm_bench import BASE, PAGE, VPN, attempt, bound, page, run, start, where

from svm_actors.gpu.program import GpuFault, GpuStuck, Load
from svm_actors.gpu.tlb_inval import power_of_two
from svm_actors.world import World

CHUNKS: dict[str, Any] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}


# -- SVM-S01 ----------------------------------------------------------------------------------


async def mprotect_under_a_range(world: World, prot: str) -> tuple[Any, Any]:
    """The GPU maps a range of four pages; the CPU protects the last one."""
    process, vm = await start(world, placement="system", **CHUNKS)
    await vm.store(BASE, b"x")
    await process.mprotect(page(3), PAGE, prot)
    return process, vm


@pytest.mark.parametrize(("prot", "error"), [("r", "EPERM"), ("none", "EFAULT")])
def test_a_split_vma_under_a_range_is_retried_for_ever(prot: str, error: str) -> None:
    """SVM-S01 (a): find_or_insert sees a good VMA and an old range, get_pages fails over all of it."""

    async def scenario(world: World) -> None:
        _process, vm = await mprotect_under_a_range(world, prot)
        await vm.load(BASE)

    result = attempt(scenario, step_budget=5000)
    assert result.failure is not None
    assert result.failure.kind == "livelock"
    assert result.counters["SVM-S01"] > 50
    assert result.counters[f"gpu.retry.get_pages.{error}"] == result.counters["SVM-S01"] + 1


@pytest.mark.parametrize("way_out", ["mprotect", "munmap", "exit"])
def test_the_endless_retry_ends_when_the_mapping_changes(way_out: str) -> None:
    async def scenario(world: World) -> None:
        process, vm = await mprotect_under_a_range(world, "r")

        async def rescue() -> None:
            while world.engine.counters["SVM-S01"] < 5:
                await world.engine.step("local")
            if way_out == "mprotect":
                await process.mprotect(page(3), PAGE, "rw")
            elif way_out == "munmap":
                await process.munmap(BASE, 4 * PAGE)
            else:
                await process.exit()

        async with world.nursery() as nursery:
            nursery.start_soon(vm.run, [Load(VPN)])
            nursery.start_soon(rescue)
        faults = [error for _page, error in vm.vm.faults]
        assert faults == {"mprotect": [], "munmap": ["ENOENT"], "exit": ["EFAULT"]}[way_out]

    for seed in range(20):
        assert run(scenario, "random", seed).counters["SVM-S01"] >= 5


def test_other_vms_are_served_meanwhile() -> None:
    """The loop holds its own vm->lock and one worker, nothing else."""

    async def scenario(world: World) -> None:
        process, vm = await mprotect_under_a_range(world, "r")
        other = await world.gpu().create_vm(process, placement="system", chunk_pages=(1,))

        async def use() -> None:
            assert await other.load(BASE) == b"x"
            await process.mprotect(page(3), PAGE, "rw")

        async with world.nursery() as nursery:
            nursery.start_soon(vm.load, BASE)
            nursery.start_soon(use)

    for seed in range(10):
        run(scenario, "random", seed)


def test_memory_nobody_may_read_under_a_read_only_mirror() -> None:
    """SVM-S01 (d), with a range of one page: find_or_insert does not ask for read permission."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system", read_only=True)
        await process.mprotect(BASE, 4 * PAGE, "none")
        await vm.load(BASE)

    result = attempt(scenario, step_budget=5000)
    assert result.failure is not None
    assert result.failure.kind == "livelock"
    assert result.counters["SVM-S01"] > 50


# -- SVM-S06, SVM-S07 -------------------------------------------------------------------------


def test_an_error_is_acknowledged_as_success() -> None:
    """SVM-S06: no memory for the page; the hardware replays until there is some."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world, placement="system")
        world.allocator.fail_next = 3
        await vm.store(BASE, b"x")

    counters = run(scenario).counters
    assert counters["SVM-S06"] == 3
    assert counters["gpu.replay"] == 4


def test_the_hardware_gives_a_program_up() -> None:
    """The bound for campaigns that are about something else."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world, placement="system")
        world.gpu().gpu.compute.replay_limit = 8
        world.allocator.fail_next = 1000
        assert await vm.run([Load(VPN + 9)]) == [GpuFault(2)]
        assert (await vm.run([Load(VPN), Load(VPN)])) == [GpuStuck(8)]
        world.allocator.fail_next = 0
        assert await vm.load(BASE) == bytes(1)

    counters = run(scenario).counters
    assert (counters["gpu.stuck"], counters["SVM-S06"]) == (1, 8)


def test_an_atomic_is_bound_to_system_memory() -> None:
    """SVM-S07: the pages are mapped already, device memory has no room, and nobody asks where they are."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system", **CHUNKS)
        world.gpu().gpu.compute.replay_limit = 8
        await vm.store(BASE, b"x")
        assert await vm.atomic_add(BASE, 1) == GpuStuck(8)
        assert where(process) == "rrrr"
        assert bound(vm) == "wwww"

    assert run(scenario, vram_pages=2).counters["SVM-S07"] == 8


# -- SVM-S08 ----------------------------------------------------------------------------------


async def event_over_two_ranges(world: World) -> None:
    """An event from the middle of one range into the next; then the GPU uses the first page again."""
    process, vm = await start(world, 8, placement="system", **CHUNKS)
    await vm.store(page(0), b"x")
    await vm.store(page(4), b"y")
    await process.munmap(page(3), 2 * PAGE)
    assert await vm.load(page(0)) == b"x"


def test_the_flush_of_two_ranges_covers_both() -> None:
    run(event_over_two_ranges)


def test_the_lost_widening_is_noticed_by_exact_hardware() -> None:
    """SVM-S08 as 7.3.4 has it: the TLB still knows the first page, whose DMA mapping is gone."""
    failure = attempt(event_over_two_ranges, bugs=("SVM-S08",)).failure
    assert failure is not None
    assert (failure.oracle, failure.rule) == ("lifetime", "RULE-18")


def test_the_lost_widening_is_hidden_by_todays_hardware() -> None:
    """Commands rounded to a power of two flush the first range again, as long as that reaches its start."""

    async def scenario(world: World) -> None:
        world.gpu().gpu.tlb_inval.widen = power_of_two
        await event_over_two_ranges(world)

    assert attempt(scenario, bugs=("SVM-S08",)).failure is None


# -- SVM-S17 ----------------------------------------------------------------------------------


def test_survivors_of_a_partial_unmap_stay_on_the_device() -> None:
    """SVM-S17: the range is destroyed, its pages are not brought home."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        await vm.store(BASE, b"x")
        await process.munmap(page(1), PAGE)
        await world.settle()
        assert where(process) == "v-vv"
        assert await vm.load(BASE) == b"x"
        assert where(process) == "v-vv"

    run(scenario)
