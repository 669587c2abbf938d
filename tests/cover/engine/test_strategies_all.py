"""What every strategy owes: the same run from the same seed on both back ends, and bugs that it finds."""

from __future__ import annotations

import pytest
from engine_toys import TOYS, run_on

from svm_actors.explore.run import learned, run
from svm_actors.explore.settings import Settings
from svm_actors.explore.strategies import STRATEGIES, make
from svm_actors.explore.strategies.profile import HORIZON_RUNS, RANDOM_RUNS, Profile, learn
from svm_actors.explore.subject import subject_of
from svm_actors.explore.toys import lost, run_toy
from svm_actors.world import World

PAGE = 4096
IN_STEP = {"batch"}
"""Everybody does one op per round, so of two equal tasks neither ever sees the other's result."""
SEARCHING = sorted(set(STRATEGIES) - {"fifo"})
"""Those that look for bugs."""


def profile_of(toy: str, random_runs: int) -> Profile:
    return learn(lambda chooser: run_on("direct", TOYS[toy], chooser), random_runs)


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("name", SEARCHING)
def test_equal_seeds_make_equal_runs_on_both_back_ends(name: str, toy: str) -> None:
    for seed in range(3):
        facts = [
            run_on(
                backend, TOYS[toy], make(name, seed, lambda runs: profile_of(toy, runs)), race_timers=seed > 0
            ).facts()
            for backend in ("direct", "trio", "direct")
        ]
        assert facts[0] == facts[1] == facts[2]


@pytest.mark.parametrize("name", SEARCHING)
def test_seeds_matter(name: str) -> None:
    profile = {runs: profile_of("locks", runs) for runs in (HORIZON_RUNS, RANDOM_RUNS)}
    tapes = {
        tuple(run_on("direct", TOYS["locks"], make(name, seed, profile.__getitem__)).engine.tape) for seed in range(30)
    }
    assert len(tapes) > 5


@pytest.mark.parametrize("name", SEARCHING)
def test_a_planted_bug_is_found(name: str) -> None:
    """A strategy that explores nothing, or a harness that ignores it, would find none."""

    def profile(runs: int) -> Profile:
        return learn(lambda chooser: run_toy(lost(2, 1), chooser), runs)

    failing = sum(run_toy(lost(2, 1), make(name, seed, profile)) is not None for seed in range(100))
    assert 10 < failing <= 100
    assert (failing == 100) is (name in IN_STEP)


async def lost_update(world: World) -> None:
    """Two threads raise a counter without a lock."""
    process = world.process()
    addr = await process.mmap(PAGE)
    await process.write(addr, b"\0")

    async def thread() -> None:
        value = (await process.read(addr))[0]
        await process.write(addr, bytes((value + 1,)))

    async with world.nursery() as nursery:
        nursery.start_soon(thread)
        nursery.start_soon(thread)
    assert await process.read(addr, 1) == b"\2", "an update was lost"


@pytest.mark.parametrize("name", SEARCHING)
def test_a_scenario_under_every_strategy(name: str) -> None:
    """By name, with whatever profile it wants, the bug is found; the same seed is the same run."""
    failing = [seed for seed in range(40) if run(lost_update, strategy=name, seed=seed, backend="direct").failure]
    assert 0 < len(failing) <= 40
    assert (len(failing) == 40) is (name in IN_STEP)
    first, second = (run(lost_update, strategy=name, seed=failing[0], backend="direct") for _ in range(2))
    assert first.tape == second.tape


# -- where profiles come from --------------------------------------------------------------------------


async def quiet(world: World) -> None:
    """Hardly a choice."""
    await world.process().mmap(PAGE)


def test_a_profile_belongs_to_one_program() -> None:
    """A horizon taken from another program would be wrong for this one."""
    settings = Settings("pct")
    long, short = (learned(subject_of(scenario), settings, (), 0) for scenario in (lost_update, quiet))
    assert 0 < short.horizon < long.horizon
    assert set(short.ops) < set(long.ops)


def test_a_profile_is_learned_once_and_does_not_depend_on_what_ran_before() -> None:
    """Not for every member of a family either: what they are called is nothing to learn."""
    subject = subject_of(lost_update, name="profile")
    learned.cache_clear()
    first = learned(subject, Settings("urw"), (), RANDOM_RUNS)
    for seed in range(5):
        run(lost_update, strategy="urw", seed=seed, backend="direct", name=f"lost_update@{seed}")
    assert learned.cache_info().misses == 1
    learned.cache_clear()
    assert learned(subject, Settings("urw"), (), RANDOM_RUNS) == first


def test_profiling_stops_at_a_step_budget_of_its_own() -> None:
    async def endless(world: World) -> None:
        while True:
            await world.sleep(1)

    found = learned(subject_of(endless), Settings("urw", step_budget=500), (), 0)
    assert 0 < sum(found.ops.values()) <= 2 * 500
    assert max(found.ops.values()) <= 500
