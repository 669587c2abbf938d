"""Locked memory and huge pages from a pool, by their system calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from svm_actors.engine.errors import EINVAL, ENOMEM, KernelError
from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_world
from svm_actors.mm.messages import SIGBUS
from svm_actors.mm.page_table import Entry
from svm_actors.world import Config, Process, World

PAGE = 4096
HUGE = 512 * PAGE
BASE = 1 << 30

Scenario = Callable[[World], Coroutine[Any, Any, None]]


def hold(scenario: Scenario, seeds: int = 1, **config: Any) -> list[Run]:
    """The default schedule, and random ones."""
    runs = []
    for seed in range(seeds):
        strategy = "random" if seed else "fifo"
        result = run_world(scenario, seed=seed, strategy=strategy, config=Config(**config), backend="direct")
        assert result.failure is None, f"{strategy} {seed}: {result.failure}"
        runs.append(result)
    return runs


def present(process: Process, addr: int, npages: int) -> list[bool]:
    """Which pages have entries for the CPU."""
    found = [process.mm.page_table.get(addr // PAGE + page) for page in range(npages)]
    return [pte is not None and pte.kind is Entry.PRESENT for pte in found]


# -- mlock -----------------------------------------------------------------------------------------


def test_mlock_faults_in_and_keeps_reclaim_away() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(4 * PAGE)
        await process.write(addr, b"a")
        await process.mlock(addr + PAGE + 1, PAGE)
        assert present(process, addr, 4) == [True, True, True, False]
        assert len(process.mm.vmas) == 3
        assert await process.swap_out(addr, 4 * PAGE) == 1
        await process.munlock(addr + PAGE, 2 * PAGE)
        assert await process.swap_out(addr, 4 * PAGE) == 2
        assert len(process.mm.vmas) == 1

    hold(scenario)


def test_mlock_stops_at_a_hole() -> None:
    """What lies before it stays locked; nothing is locked beyond it."""

    async def scenario(world: World) -> None:
        process = world.process()
        await process.mmap(PAGE, addr=BASE, fixed=True)
        await process.mmap(PAGE, addr=BASE + 2 * PAGE, fixed=True)
        for call in (process.mlock, process.munlock):
            with pytest.raises(ENOMEM):
                await call(BASE, 3 * PAGE)
        await process.mlock(BASE, 0)
        with pytest.raises(ENOMEM):
            await process.mlock(await process.mmap(PAGE, prot="none"), PAGE)

    hold(scenario)


def test_one_locked_mapping_keeps_a_shared_page() -> None:
    """A child does not inherit the lock, and cannot undo its parent's by having none."""

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        await process.mlock(addr, PAGE)
        await process.write(addr, b"x")
        child = await process.fork()
        for _ in range(2):
            await child.swap_out(addr, PAGE)
            await process.swap_out(addr, PAGE)
        assert present(process, addr, 1) == [True]
        await process.munlock(addr, PAGE)
        assert await child.swap_out(addr, PAGE) == 1
        assert await process.read(addr) == await child.read(addr) == b"x"

    hold(scenario)


def test_locked_memory_migrates_and_comes_home() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        addr = await process.mmap(PAGE)
        await process.mlock(addr, PAGE)
        assert await vm.store(addr, b"g") is None
        assert present(process, addr, 1) == [False]
        await process.mlock(addr, PAGE)
        assert present(process, addr, 1) == [True]
        assert await process.read(addr) == b"g"

    hold(scenario, 20)


def test_mlock_against_reclaim_and_the_gpu() -> None:
    """Whatever comes first, nothing is lost, and what is locked at the end is there."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        addr = await process.mmap(2 * PAGE)
        await process.write(addr, b"a" * 2 * PAGE)
        async with world.nursery() as nursery:
            nursery.start_soon(process.mlock, addr, 2 * PAGE)
            nursery.start_soon(process.swap_out, addr, 2 * PAGE)
            nursery.start_soon(vm.store, addr, b"b")
        await process.mlock(addr, 2 * PAGE)
        assert await process.swap_out(addr, 2 * PAGE) == 0
        assert await process.read(addr, 2 * PAGE) == b"b" + b"a" * (2 * PAGE - 1)

    hold(scenario, 30)


# -- huge pages ------------------------------------------------------------------------------------


def test_a_huge_page_comes_all_at_once() -> None:
    """Also for a read, as there is no huge zero page; the next 2 MiB are another page."""

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(HUGE + 1, huge=True)
        assert addr % HUGE == 0
        assert await process.read(addr + 5 * PAGE) == b"\0"
        assert present(process, addr, 1024) == [True] * 512 + [False] * 512
        await process.write(addr + PAGE, b"x")
        assert world.core.statistics()["ram"] == 512

    (result,) = hold(scenario)
    assert result.counters["cpu.fault"] == 2, "one to get it, one to write to what was only read"


def test_huge_pages_are_not_cut() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        for bad in (BASE + PAGE, BASE + HUGE // 2):
            with pytest.raises(EINVAL):
                await process.mmap(HUGE, addr=bad, fixed=True, huge=True)
        await process.mmap(2 * HUGE, addr=BASE, fixed=True, huge=True)
        await process.write(BASE, b"a")
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: process.munmap(BASE, PAGE),
            lambda: process.munmap(BASE - PAGE, 2 * PAGE),
            lambda: process.mmap(PAGE, addr=BASE, fixed=True),
            lambda: process.mprotect(BASE + PAGE, PAGE, "r"),
            lambda: process.mremap(BASE, PAGE, PAGE, to=BASE + 8 * HUGE),
            lambda: process.mremap(BASE, HUGE, HUGE, to=BASE + 8 * HUGE + PAGE),
            lambda: process.madvise(BASE + PAGE, PAGE, "dontneed"),
            lambda: process.madvise(BASE, HUGE, "free"),
        ]
        for call in calls:
            with pytest.raises(EINVAL):
                await call()
        assert await process.read(BASE) == b"a"
        await process.madvise(BASE, HUGE + PAGE, "dontneed")
        assert await process.read(BASE) == b"\0"
        await process.munmap(BASE, HUGE)
        await process.write(BASE + HUGE, b"b")

    hold(scenario)


def test_huge_pages_stay_in_ram() -> None:
    """Neither a device nor reclaim gets them, locked or not; a GPU reaches them where they are, in one range."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        addr = await process.mmap(HUGE, huge=True)
        assert await vm.store(addr, b"g") is None
        assert await process.read(addr) == b"g"
        assert await process.swap_out(addr, HUGE) == 0
        await process.mlock(addr, HUGE)
        assert world.gpu().driver.statistics()["vram_pages"] == 0
        assert [found.npages for found in vm.vm.svm.gpusvm.ranges(0, 1 << 40)] == [512]

    hold(scenario)


def test_a_child_has_its_own_copy() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(HUGE, huge=True)
        await process.write(addr, b"old")
        child = await process.fork()
        await process.write(addr, b"new")
        assert (await child.read(addr, 3), await process.read(addr, 3)) == (b"old", b"new")

    hold(scenario)


def test_no_huge_page_is_left() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(HUGE, huge=True)
        with pytest.raises(SIGBUS):
            await process.write(addr, b"x")
        assert world.core.statistics()["ram"] == 0
        with pytest.raises(KernelError):
            await process.read(addr)

    hold(scenario, ram_pages=511)
