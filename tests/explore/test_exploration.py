"""Exploration of scenarios: what is pruned is equivalent, bounds and stores keep what they promise.

The standard is the naive search, which trusts nobody: complete where the world is small enough, within one
preemption elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import svm_actors
from svm_actors.engine.errors import KernelError
from svm_actors.explore.exploration import Exploration, Seen, explore
from svm_actors.explore.run import replay
from svm_actors.explore.search import Bound, search
from svm_actors.explore.search.meter import Meter, watching
from svm_actors.explore.search.search import Options, Search
from svm_actors.explore.store import StoreError
from svm_actors.explore.targets import subject_named
from svm_actors.explore.toys import Toy, lost, order, philosophers, reorder, run_toy, same
from svm_actors.mm.messages import SIGBUS, SIGSEGV
from svm_actors.world import World

PAGE = 4096
LITMUS = Path(svm_actors.__file__).parents[2] / "shared" / "data" / "kernel_ground_truth" / "litmus.jsonl.gz"
Call = Callable[[], Coroutine[Any, Any, Any]]
Scenario = Callable[[World], Coroutine[Any, Any, Any]]


async def tried(call: Call, answers: dict[str, Any], name: str) -> None:
    try:
        answers[name] = await call()
    except (SIGSEGV, SIGBUS) as signal:
        answers[name] = type(signal).__name__
    except KernelError as error:
        answers[name] = error.code


async def both(world: World, one: Call, other: Call) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    async with world.nursery() as nursery:
        nursery.start_soon(tried, one, answers, "one")
        nursery.start_soon(tried, other, answers, "other")
    return answers


async def page(world: World, data: bytes = b"a") -> tuple[Any, int]:
    process = world.process()
    addr = await process.mmap(PAGE)
    if data:
        await process.write(addr, data)
    return process, addr


async def write_and_munmap(world: World) -> object:
    process, addr = await page(world, b"")
    return await both(world, lambda: process.write(addr, b"x"), lambda: process.munmap(addr, PAGE))


async def read_and_dontneed(world: World) -> object:
    process, addr = await page(world)
    return await both(world, lambda: process.read(addr), lambda: process.madvise(addr, PAGE, "dontneed"))


async def write_and_fork(world: World) -> object:
    process, addr = await page(world)
    answers = await both(world, lambda: process.write(addr, b"b"), lambda: process.fork())
    return await answers["other"].read(addr)


async def two_writes(world: World) -> object:
    process, addr = await page(world)
    await both(world, lambda: process.write(addr, b"x"), lambda: process.write(addr, b"y"))
    return await process.read(addr)


async def write_and_mprotect(world: World) -> object:
    process, addr = await page(world)
    await both(world, lambda: process.write(addr, b"x"), lambda: process.mprotect(addr, PAGE, "r"))
    return await process.read(addr)


async def read_and_mremap(world: World) -> object:
    process, addr = await page(world)
    to = addr - 16 * PAGE
    answers = await both(world, lambda: process.read(addr), lambda: process.mremap(addr, PAGE, PAGE, to=to))
    return answers["one"]


async def two_madvises(world: World) -> object:
    process, addr = await page(world)
    await both(world, lambda: process.madvise(addr, PAGE, "dontneed"), lambda: process.swap_out(addr, PAGE))
    return await process.read(addr)


async def mirror_read_and_write(world: World) -> object:
    process, addr = await page(world)
    mirror = await world.mirror(process)
    answers = await both(world, lambda: mirror.snapshot(addr, 1), lambda: process.munmap(addr, PAGE))
    return str(answers["one"])


async def two_processes(world: World) -> object:
    one, addr = await page(world)
    other, place = await page(world)
    await both(world, lambda: one.write(addr, b"x"), lambda: other.write(place, b"y"))
    return await one.read(addr), await other.read(place)


async def svm_fault_and_munmap(world: World) -> object:
    process, addr = await page(world)
    vm = await world.gpu().create_vm(process)
    answers = await both(world, lambda: vm.load(addr, 1), lambda: process.munmap(addr, PAGE))
    return str(answers["one"])


WORLDS: tuple[Scenario, ...] = (
    write_and_munmap,
    read_and_dontneed,
    write_and_fork,
    two_writes,
    write_and_mprotect,
    read_and_mremap,
    two_madvises,
    mirror_read_and_write,
    two_processes,
)


def outcomes(found: Exploration) -> set[str]:
    assert found.complete
    assert found.ok, [seen.failure for seen in found.failures.values()]
    return set(found.outcomes)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_reductions_lose_no_outcome_of_a_world(world: Scenario) -> None:
    """Within one preemption the reduced search finds what the naive one finds, and in fewer runs."""
    naive = explore(world, algorithm="naive", preemptions=1)
    bounded = explore(world, preemptions=1)
    assert outcomes(bounded) == outcomes(naive)
    assert bounded.executions <= naive.executions


@pytest.mark.parametrize("world", [read_and_dontneed, write_and_fork], ids=lambda world: world.__name__)
def test_complete_searches_agree(world: Scenario) -> None:
    whole = outcomes(explore(world))
    assert outcomes(explore(world, algorithm="sleep", state_hashing=True)) == whole
    assert outcomes(explore(world, algorithm="naive", preemptions=1)) <= whole


def test_a_gpu_fault_and_munmap() -> None:
    """Without any preemption the load comes first or last, and both reductions of it are found."""
    found = explore(svm_fault_and_munmap, preemptions=0)
    assert outcomes(found) == {"'GpuFault(errno=2)'", '"b\'a\'"'}


def test_announced_ops_alone_would_lose_outcomes() -> None:
    """Why footprints are measured: the sections behind the ops touch more than the ops say."""

    def search_it(meter: Meter | None) -> set[str]:
        from svm_actors.explore.run import run

        seen: set[str] = set()

        async def observed(world: World) -> None:
            seen.add(str(await read_and_dontneed(world)))

        searching = Search(Options("dpor", meter=meter))
        while not searching.found.complete:
            searching.advance(lambda chooser: run(observed, chooser=chooser, backend="direct", digest=False).failure)
        return seen

    meter = Meter()
    with watching(meter):
        measured = search_it(meter)
    assert search_it(None) < measured


@pytest.mark.skipif(not LITMUS.exists(), reason="recordings are not part of the package")
def test_the_outcomes_of_a_litmus() -> None:
    """Two writers of one page: either may be last."""
    found = explore(subject_named(f"litmus:{LITMUS}#2@0"), preemptions=0)
    assert len(outcomes(found)) == 2


# -- bounds ---------------------------------------------------------------------------------------


TOYS: tuple[tuple[str, Toy], ...] = (
    ("same", same(3, 2)),
    ("lost", lost(3, 0)),
    ("reorder", reorder(2)),
    ("order", order(1)),
    ("philosophers", philosophers(3)),
)


@pytest.mark.parametrize(("name", "toy"), TOYS, ids=[name for name, _ in TOYS])
@pytest.mark.parametrize("limit", range(3))
def test_a_bounded_reduction_fails_exactly_when_the_bounded_search_does(name: str, toy: Toy, limit: int) -> None:
    bound = Bound("preemptions", limit)
    whole = search(lambda chooser: run_toy(toy, chooser), "none", bound=bound)
    reduced = search(lambda chooser: run_toy(toy, chooser), "dpor", bound=bound)
    assert whole.complete
    assert reduced.complete
    assert (reduced.failing > 0) == (whole.failing > 0)
    assert reduced.runs <= whole.runs


def test_a_bound_on_steps_cuts_runs_and_counts_them() -> None:
    found = explore(write_and_munmap, steps=10)
    assert found.complete
    assert (found.runs, found.outcomes) == (0, {})
    assert found.too_long == found.executions


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"algorithm": "dpor", "state_hashing": True}, "state hashing goes with sleep or naive"),
        ({"algorithm": "sleep", "preemptions": 1}, "a bound on preemptions goes with dpor or naive"),
        ({"algorithm": "guess"}, "unknown algorithm 'guess'; known: dpor, sleep, naive"),
    ],
)
def test_options_that_do_not_go_together(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        explore(write_and_munmap, **options)


# -- failures, budget, stores -----------------------------------------------------------------------


async def lost_update(world: World) -> bytes:
    process, addr = await page(world, b"\0")

    async def thread() -> None:
        value = (await process.read(addr))[0]
        await process.write(addr, bytes((value + 1,)))

    async with world.nursery() as nursery:
        nursery.start_soon(thread)
        nursery.start_soon(thread)
    answer: bytes = await process.read(addr)
    assert answer == b"\2", "an update was lost"
    return answer


def test_each_failure_has_a_token_that_replays_it() -> None:
    told: list[Seen] = []
    found = explore(lost_update, on_failure=told.append)
    assert found.complete
    assert not found.ok
    assert set(found.outcomes) == {"b'\\x02'"}
    ((signature, seen),) = found.failures.items()
    assert told == [seen]
    assert found.failing_runs == seen.runs
    again = replay(lost_update, seen.token)
    assert again.failure is not None
    assert again.failure.signature == signature


def test_the_package_is_the_verb() -> None:
    assert svm_actors.explore(read_and_dontneed, runs=1).verdict == "budget spent"
    assert svm_actors.Exploration is Exploration


def summary(found: Exploration) -> tuple[object, ...]:
    books = [{name: seen.runs for name, seen in book.items()} for book in (found.outcomes, found.failures)]
    return found.executions, found.runs, found.sleep_blocked, found.pruned, found.states, books


@pytest.mark.parametrize("options", [{}, {"algorithm": "sleep", "state_hashing": True}, {"preemptions": 1}])
def test_a_search_goes_on_where_the_store_ends(options: Any, tmp_path: Path) -> None:
    whole = explore(lost_update, **options)
    budget, found = 0, None
    while found is None or not found.complete:
        budget += 3
        found = explore(lost_update, store=tmp_path / "store", runs=budget, **options)
    assert summary(found) == summary(whole)
    assert found.resumed > 0
    again = explore(lost_update, store=tmp_path / "store", **options)
    assert (summary(again), again.resumed) == (summary(whole), whole.executions)


def test_files_that_are_no_store_of_this_search(tmp_path: Path) -> None:
    store = tmp_path / "store"
    explore(lost_update, store=store, runs=1)
    with pytest.raises(StoreError, match="the file is of another one"):
        explore(lost_update, store=store, preemptions=1)
    (tmp_path / "junk").write_bytes(b"junk" * 300)
    with pytest.raises(StoreError, match="expected a file of `explore --store`"):
        explore(lost_update, store=tmp_path / "junk")
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE things (name TEXT)")
    with pytest.raises(StoreError, match="found another database"):
        explore(lost_update, store=tmp_path / "other")
