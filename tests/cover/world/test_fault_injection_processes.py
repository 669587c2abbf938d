"""Processes that are killed, by a user or by the OOM killer, wherever they are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from faulty import PAGE, fail_next, held, struck

from svm_actors.engine.errors import EINTR, ESRCH, KernelError
from svm_actors.explore.run import run
from svm_actors.gpu.program import GpuFault
from svm_actors.mm.page_table import Entry
from svm_actors.world import Process, World

PLACE = 1 << 30

each_death = pytest.mark.parametrize("kind", ["exit", "reaper"])


async def filled(process: Process, npages: int = 1) -> None:
    await process.mmap(npages * PAGE, addr=PLACE, fixed=True)
    for page in range(npages):
        await process.write(PLACE + page * PAGE, b"\7")


@each_death
def test_a_killed_process_makes_no_more_calls_and_leaves_nothing(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        fail_next(world, kind)
        with suppress(ESRCH):
            await process.munmap(PLACE, PAGE)
        await world.settle()
        assert struck(world)
        assert not world.core.mms
        with pytest.raises(ESRCH):
            await process.read(PLACE)

    held(scenario)


@each_death
def test_an_access_is_given_up_or_was_made(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await process.mmap(PAGE, addr=PLACE, fixed=True)
        fail_next(world, kind)
        try:
            await process.write(PLACE, b"a")
        except KernelError as error:
            world.engine.count(f"ended.{error.code}")

    ends = {name for result in held(scenario, seeds=40) for name in result.counters if name.startswith("ended.")}
    assert "ended.SIGKILL" in ends
    assert ends <= {"ended.SIGKILL", "ended.SIGBUS", "ended.ESRCH"}


@each_death
def test_the_gpu_of_a_killed_process_faults_or_reads_what_was_there(kind: str) -> None:
    """Never zeros: reaped memory is filled for nobody (MM-R22)."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 2)
        vm = await world.gpu().create_vm(process)
        await vm.load(PLACE)

        async def use() -> None:
            for page in (0, 1, 0):
                try:
                    answer = await vm.load(PLACE + page * PAGE)
                except KernelError:
                    return
                assert answer == b"\7" or isinstance(answer, GpuFault)

        async def work() -> None:
            fail_next(world, kind)
            try:
                await process.read(PLACE)
            except KernelError:
                return

        async with world.nursery() as nursery:
            nursery.start_soon(use, name="gpu")
            nursery.start_soon(work, name="cpu")
        await world.settle()
        assert world.gpu().driver.statistics()["vms"] == 0

    results = held(scenario, seeds=40)
    assert any(result.counters.get("gpu.fault.refused.EFAULT") for result in results)
    if kind == "reaper":
        assert any(result.counters.get("SVM-R32") for result in results)


def test_a_gpu_fault_on_reaped_memory_keeps_nobody_away() -> None:
    """It is tried again until the process is gone, also where the fault worker may always run first."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 2)
        vm = await world.gpu().create_vm(process)
        mm = process.mm
        assert await mm.mmget_not_zero()  # a driver at work

        async def use() -> None:
            with suppress(KernelError):
                await vm.load(PLACE)

        async def let_go() -> None:
            for _ in range(60):
                await world.engine.step("local")
            await mm.mmput()

        async with world.nursery() as nursery:
            nursery.start_soon(use, name="gpu")
            world.spawn(process.kill(reap=True), "killer")
            nursery.start_soon(let_go, name="driver")

    for seed in range(60):
        result = run(scenario, seed=seed, strategy="pct", step_budget=20_000, backend="direct", digest=False)
        assert result.failure is None, f"seed {seed}: {result.failure}"


def test_an_atomic_on_reaped_memory_keeps_the_clock_from_nobody() -> None:
    """It would be told after a few tries that it was served, and come back (SVM-S06); those whom it waits for sleep.

    The CPU fault that is under way waits for the timeslice of the page, and so the process cannot end.
    """
    retried = []

    async def scenario(world: World) -> None:
        engine, process = world.engine, world.process()
        addr = await process.mmap(PAGE)
        await process.write(addr, b"old")
        vm = await world.gpu().create_vm(process)

        async def add() -> None:
            await vm.atomic_add(addr, 1)

        async def write() -> None:
            while (pte := process.mm.page_table.get(addr // PAGE)) is None or pte.kind is not Entry.DEVICE_PRIVATE:
                await engine.step("local")
            with suppress(KernelError):
                await process.write(addr, b"new")

        async def kill() -> None:
            while not engine.counters["migrate.timeslice"]:
                await engine.step("local")
            await process.kill(reap=True)

        async with world.nursery() as nursery:
            for each in (add, write, kill):
                nursery.start_soon(each, name=each.__name__)
        retried.append(engine.counters["gpu.retry.get_pages.EFAULT"])

    for seed in range(60):
        result = run(scenario, seed=seed, strategy="random", backend="direct", digest=False, step_budget=20_000)
        assert result.failure is None, f"seed {seed}: {result.failure}"
    assert any(retried), "some atomic met reaped memory"


def test_the_reaper_does_not_wait_for_the_last_user() -> None:
    """A driver at work keeps the address space, and the pages go all the same."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 2)
        mm = process.mm
        assert await mm.mmget_not_zero()
        await process.kill(reap=True)
        await world.settle()
        assert mm.name in world.core.mms
        assert world.statistics()["core_mm"]["ram"] == mm.rss.anon == 0
        await mm.mmput()

    held(scenario)


def test_a_killed_process_forks_no_child() -> None:
    """What the reaper has taken would read as zeros in it."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        fail_next(world, "reaper")
        try:
            child = await process.fork()
        except (EINTR, ESRCH) as error:
            world.engine.count(f"fork.{error.code}")
            return
        assert await child.read(PLACE) == b"\7"

    ends = [result.counters for result in held(scenario, seeds=60)]
    assert any(each.get("fork.EINTR") for each in ends)


@each_death
def test_a_command_of_a_mirror_ends_before_the_address_space_does(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        mirror = await world.mirror(process)
        fail_next(world, kind)
        try:
            answer = await process.as_thread(mirror.read(PLACE, 1))
        except KernelError as error:
            world.engine.count(f"mirror.{error.code}")
        else:
            assert answer.data == (7,)
        await world.settle()
        with pytest.raises(ESRCH):
            await process.as_thread(mirror.read(PLACE, 1))

    ends = [result.counters for result in held(scenario, seeds=100)]
    if kind == "reaper":
        assert any(each.get("mirror.EFAULT") for each in ends)


def test_a_process_dies_once() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await process.kill()
        await process.kill(reap=True)
        await process.exit()

    assert all(result.counters.get("process.killed") == 1 for result in held(scenario, seeds=2))
