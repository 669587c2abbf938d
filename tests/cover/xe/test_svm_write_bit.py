"""Read-only CPU entries of device pages: the two policies (SVM-S02, SVM-R38, docs/design/svm_s02.md)."""

from __future__ import annotations

from typing import Any

from svm_bench import BASE, PAGE, after_pause, assert_hit, attempt, bound, every, page, run, start, where

from svm_actors.world import World

CHUNKS: dict[str, Any] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}


async def shared_with_a_child(world: World, **options: Any) -> tuple[Any, Any, Any]:
    """Four pages in device memory, written by the GPU, then a fork."""
    process, vm = await start(world, **CHUNKS, **options)
    for index in range(4):
        await vm.store(page(index), bytes([index + 1]))
    assert where(process) == "vvvv"
    return process, vm, await process.fork()


def test_a_read_after_fork_moves_nothing() -> None:
    """The GPU gets read-only entries; the pages stay shared and on the device."""

    async def scenario(world: World) -> None:
        process, vm, child = await shared_with_a_child(world)
        assert bound(vm) == "----"
        assert await vm.load(page(2)) == b"\x03"
        assert bound(vm) == "rrrr"
        assert where(process) == where(child) == "vvvv"

    assert "SVM-R38" not in run(scenario).counters


def test_a_write_after_fork_gets_pages_of_its_own() -> None:
    async def scenario(world: World) -> None:
        process, vm, child = await shared_with_a_child(world)
        await vm.load(BASE)
        await vm.store(BASE, b"g")
        assert bound(vm) == "wwww"
        assert await child.read(BASE) == b"\x01"
        assert await process.read(BASE) == b"g"
        assert await vm.load(page(3)) == await child.read(page(3)) == b"\x04"

    assert run(scenario).counters["SVM-R38"] == 1


def test_an_atomic_after_fork_ends_in_device_memory() -> None:
    """Home, copied, and back, in one fault service: the tries are enough."""

    async def scenario(world: World) -> None:
        process, vm, child = await shared_with_a_child(world)
        assert await vm.atomic_add(BASE, 1) == 1
        assert where(process) == "vvvv"
        assert await child.read(BASE) == b"\x01"

    counters = run(scenario).counters
    assert counters["SVM-R38"] == 1
    assert "SVM-S06" not in counters


def test_an_mprotect_round_trip_costs_one_trip_home() -> None:
    """No child: the page is exclusive, so it is reused, not copied."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        await vm.store(BASE, b"g")
        await process.mprotect(BASE, 4 * PAGE, "r")
        await process.mprotect(BASE, 4 * PAGE, "rw")
        assert await vm.load(BASE) == b"g"
        assert bound(vm) == "rrrr"
        await vm.store(BASE, b"h")
        assert await process.read(BASE) == b"h"

    counters = run(scenario).counters
    assert counters["SVM-R38"] == 1
    assert "cpu.cow" not in counters


def test_the_kernel_as_it_is_shows_the_child_the_new_data() -> None:
    """SVM-S02 reproduced: 7.3.4's policy binds the shared page writable."""

    async def scenario(world: World) -> None:
        _process, vm, child = await shared_with_a_child(world, write_bit="7.3.4")
        await vm.store(BASE, b"g")
        await child.read(BASE)

    failure = attempt(scenario).failure
    assert failure is not None
    assert (failure.oracle, failure.rule) == ("coherence", "INV-14")


def test_without_fork_or_mprotect_the_policies_are_the_same() -> None:
    """Step by step: the same trace."""

    def scenario_with(policy: str) -> Any:
        async def scenario(world: World) -> None:
            process, vm = await start(world, **CHUNKS, write_bit=policy)
            await vm.store(BASE, b"a")
            await process.write(page(1), b"b")
            assert await vm.atomic_add(page(1), 1) == 0x62
            await process.munmap(page(2), PAGE)
            assert await vm.load(page(3)) == bytes(1)

        return scenario

    traces = [run(scenario_with(policy), record=True).trace for policy in ("capped", "7.3.4")]
    assert traces[0] == traces[1]


def test_two_vms_write_what_a_child_shares() -> None:
    """Both upgrade, one of them for nothing; the child keeps what it had."""

    async def scenario(world: World) -> None:
        process, vm, child = await shared_with_a_child(world)
        other = await world.gpu().create_vm(process, chunk_pages=(1,))
        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, vm.store, BASE + 1, b"x")
            nursery.start_soon(after_pause, world, other.store, BASE + 2, b"y")
            nursery.start_soon(after_pause, world, child.write, BASE + 3, b"z")
        assert await process.read(BASE, 4) == b"\x01xy\0"
        assert await child.read(BASE, 4) == b"\x01\0\0z"

    assert_hit(list(every(scenario)), "SVM-R38")
