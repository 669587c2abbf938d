"""What a world costs: to start and tear down, per page touched, per operation in a large address space.

* a small world (1 process, 1 GPU, 4 pages mapped) starts, runs nothing and is torn down clean, against an empty
  12-task trio nursery; both on trio;
* time per page that first the CPU writes and then the GPU reads, in a mapping of 4 GiB, at growing page counts;
* time per operation with 1 GiB and with 1 TiB mapped, the operations spread over all of it.

The oracles are attached, as in every run.  Processor time is taken, the best of some repeats: what is asked is how
the cost grows, and other work on the machine must not answer.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Awaitable, Callable

import trio

from benchmarks import Result, medians
from svm_actors import Config, World, open_world
from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_scenario

PAGE = 4096
BLOCK = 512 * PAGE
GIB = 1 << 30
NURSERY_TASKS = 12
STARTS = 40
"""Worlds or nurseries in one measurement."""
PAGES = (1_000, 10_000, 100_000)
OPERATIONS = 60
"""Rounds of operations in one measurement."""
REPEATS = 3


# -- starting ----------------------------------------------------------------------


async def empty_nursery() -> None:
    """Twelve tasks that end at once."""

    async def nothing() -> None:
        pass

    async with trio.open_nursery() as nursery:
        for _ in range(NURSERY_TASKS):
            nursery.start_soon(nothing)


async def small_world() -> None:
    """One process with four pages mapped, one GPU with its driver."""
    async with open_world() as world:
        world.gpu()
        await world.process().mmap(4 * PAGE)


async def mirrored_world() -> None:
    """The same with a GPU VM that mirrors the process."""
    async with open_world() as world:
        process = world.process()
        await world.gpu().create_vm(process)
        await process.mmap(4 * PAGE)


def starts(work: Callable[[], Awaitable[None]], count: int = STARTS) -> float:
    """Seconds per start, in one trio run."""

    async def main() -> float:
        begin = time.process_time()
        for _ in range(count):
            await work()
        return (time.process_time() - begin) / count

    return trio.run(main)


# -- growing -----------------------------------------------------------------------


def touch(pages: int) -> Run:
    """The CPU writes so many pages of a 4 GiB mapping, then the GPU reads them."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        first = -(-await process.mmap(4 * GIB) // BLOCK) * BLOCK
        for page in range(pages):
            await process.write(first + page * PAGE, b"x")
        for page in range(pages):
            assert await vm.load(first + page * PAGE) == b"x"

    return held(scenario, Config(vram_pages=1 << 20))


def operate(mapped: int, rounds: int = OPERATIONS) -> Run:
    """System calls and accesses spread over one mapping of so many bytes."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, chunk_pages=(16, 1))
        start = await process.mmap(mapped)
        stride = mapped // (rounds + 1) // BLOCK * BLOCK
        for number in range(rounds):
            addr = start + number * stride
            await process.write(addr, b"x")
            assert await vm.load(addr) == b"x"
            await process.madvise(addr, stride, "dontneed")
            await vm.store(addr + PAGE, b"y")
            await process.mprotect(addr + 8 * PAGE, PAGE, "r")
            await process.munmap(addr, 4 * PAGE)
        await (await process.fork()).exit()

    return held(scenario, Config(vram_pages=1 << 16))


def held(scenario: Callable[[World], Awaitable[None]], config: Config) -> Run:
    """The run; a measurement of a run that failed would say nothing."""
    result = run_scenario(scenario, config=config, backend="direct", digest=False, step_budget=10**9)  # type: ignore[arg-type]
    assert result.failure is None, result.failure
    return result


def best(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the quickest repeat.

    What the process had before is kept out of the cycle collector's sight: walking it is not the work's cost.
    """
    taken = []
    for _ in range(repeats):
        gc.collect()
        gc.freeze()
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
        gc.unfreeze()
    return min(taken)


def per_page(pages: int, repeats: int) -> float:
    """Processor seconds per page touched by both; small counts are repeated more often."""
    return best(lambda: touch(pages), max(repeats, 20_000 // pages)) / pages


def peak_memory() -> float:
    """The most memory this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- all of it ---------------------------------------------------------------------


def run(pages: tuple[int, ...] = PAGES, repeats: int = REPEATS) -> list[Result]:
    """Measure everything; the page counts go up."""
    start = medians(
        {
            "nursery": lambda: starts(empty_nursery),
            "world": lambda: starts(small_world),
            "mirrored": lambda: starts(mirrored_world),
        },
        repeats,
    )
    micro = 1e6
    results = [
        Result("trio: small world / empty 12-task nursery", start["world"] / start["nursery"], 10, "x"),
        Result("trio: the same with a GPU VM", start["mirrored"] / start["nursery"], None, "x"),
    ]
    cost = {count: per_page(count, repeats) for count in pages}
    results += [
        Result(f"touch one page, {count} in all", seconds * micro, None, "us") for count, seconds in cost.items()
    ]
    results += [
        Result(f"touch one page, {count} / {pages[0]} in all", cost[count] / cost[pages[0]], 1.5, "x")
        for count in pages[1:]
    ]
    gib, tib = (best(lambda size=size: operate(size), repeats) for size in (GIB, 1024 * GIB))  # type: ignore[misc]
    results.append(Result("operation, 1 TiB / 1 GiB mapped", tib / gib, 1.5, "x"))
    results.append(Result("peak memory", peak_memory(), 2048, "MiB"))
    return results
