"""Strategies: order of fifo, distribution of the random walk, strictness of replay, the registry."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from engine_toys import TOYS, Outcome, Program, Scripted, gather, run_on, same

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ReplayMismatch
from svm_actors.engine.locks import Mutex
from svm_actors.explore.strategies import PORTFOLIO, STRATEGIES, Fifo, RandomWalk, Replay, make
from svm_actors.explore.strategies.portfolio import MEMBERS

# -- registry --------------------------------------------------------------------------


def test_make_gives_a_fresh_strategy_each_time() -> None:
    first, second = make("random", 1), make("random", 1)
    assert first is not second
    assert first.name == "random"
    assert [first.data(100, "") for _ in range(20)] == [second.data(100, "") for _ in range(20)]
    assert all(make(name, 0).name == name for name in STRATEGIES if name != PORTFOLIO)
    assert {make(PORTFOLIO, seed).name for seed in range(40)} == set(MEMBERS)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown strategy 'rondom'; known: .*fifo.*random"):
        make("rondom", 0)


# -- fifo ------------------------------------------------------------------------------


def test_fifo_runs_to_block_then_oldest_first() -> None:
    log: list[str] = []

    async def program(engine: Engine) -> None:
        async def body(name: str, nap: int) -> None:
            for turn in range(2):
                for _ in range(3):
                    await engine.step("local")
                    log.append(f"{name}{turn}")
                await engine.sleep(nap)

        await gather(engine, lambda: body("a", 20), lambda: body("b", 10), lambda: body("c", 10))

    assert run_on("direct", program, Fifo()).error is None
    expected = ["a0", "b0", "c0", "b1", "c1", "a1"]
    assert log == [entry for entry in expected for _ in range(3)]


def test_fifo_gives_a_lock_to_whoever_has_waited_longest() -> None:
    order: list[str] = []

    async def program(engine: Engine) -> None:
        mutex = Mutex(engine, "m", "m")

        async def body(name: str, delay: int) -> None:
            await engine.sleep(delay)
            async with mutex:
                order.append(name)
                await engine.sleep(50)

        await gather(engine, lambda: body("a", 3), lambda: body("b", 1), lambda: body("c", 2))

    run_on("direct", program, Fifo())
    assert order[0] == "b"
    assert sorted(order) == ["a", "b", "c"]


def test_fifo_prefers_the_woken_to_none_and_a_task_that_slept_lost_its_turn() -> None:
    """A task whose own timer brings it back at once queues up behind those that were due with it."""
    order: list[str] = []

    async def program(engine: Engine) -> None:
        async def body(name: str, first: int, second: int) -> None:
            await engine.sleep(first)
            await engine.sleep(second)
            order.append(name)

        # "b" is the last to run before both timers fire; "a" was created first.
        await gather(engine, lambda: body("a", 1, 9), lambda: body("b", 5, 5))

    run_on("direct", program, Fifo())
    assert order == ["a", "b"]


def test_fifo_draws_zero_and_never_races_a_timer() -> None:
    async def program(engine: Engine) -> None:
        engine.spawn(engine.sleep(5), "sleeper")
        for _ in range(5):
            assert engine.choose(7, "fault") == 0
            await engine.step("local")
        assert engine.now == 0

    outcome = run_on("direct", program, Fifo(), race_timers=True)
    assert outcome.error is None


# -- random walk -----------------------------------------------------------------------


def walk_probability(order: tuple[int, ...], length: int) -> float:
    """Probability of one interleaving: one over the tasks not yet done, at each step."""
    left = Counter(dict.fromkeys(set(order), length))
    probability = 1.0
    for task in order:
        probability /= sum(1 for count in left.values() if count)
        left[task] -= 1
    return probability


def test_random_walk_over_the_90_interleavings_of_three_tasks_with_two_writes() -> None:
    """Exploration digest, 2.2: all are seen; the likeliest at 1/36, the rarest at 1/162."""
    runs = 45_000
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        log: list[int] = []
        run_on("direct", same(3, 2, log), make("random", seed))
        seen[tuple(log)] += 1

    every = set(itertools.permutations([0, 0, 1, 1, 2, 2]))
    assert len(every) == 90
    assert set(seen) == every
    by_probability: dict[float, list[tuple[int, ...]]] = {}
    for order in every:
        by_probability.setdefault(round(walk_probability(order, 2), 12), []).append(order)
    extremes = [min(by_probability), max(by_probability)]
    assert extremes == [round(1 / 162, 12), round(1 / 36, 12)]
    for probability, orders in by_probability.items():
        # Each interleaving within 4.5 standard errors, and the group of equally likely ones within 4.
        for group, errors in [([order], 4.5) for order in orders] + [(orders, 4.0)]:
            share = probability * len(group)
            expected, error = runs * share, math.sqrt(runs * share * (1 - share))
            assert abs(sum(seen[order] for order in group) - expected) < errors * error
    squares = sum((seen[o] - runs * walk_probability(o, 2)) ** 2 / (runs * walk_probability(o, 2)) for o in every)
    assert 40 < squares < 150  # chi square with 89 degrees of freedom


def test_random_walk_counts_the_timer_as_one_alternative() -> None:
    walk = RandomWalk(7)
    picks = Counter(walk.schedule(None, [None, None], True) for _ in range(6_000))  # type: ignore[list-item]
    assert set(picks) == {0, 1, 2}
    assert all(abs(count - 2_000) < 4 * math.sqrt(6_000 * 2 / 9) for count in picks.values())
    picks = Counter(walk.schedule(None, [None, None], False) for _ in range(1_000))  # type: ignore[list-item]
    assert set(picks) == {0, 1}


def test_random_data_is_uniform() -> None:
    walk = RandomWalk("data")
    draws = Counter(walk.data(10, "size") for _ in range(10_000))
    assert set(draws) == set(range(10))
    assert all(abs(count - 1_000) < 4 * 30 for count in draws.values())


def test_random_choices_depend_on_the_text_of_the_seed_alone() -> None:
    draws = [[RandomWalk(seed).data(1 << 30, "") for _ in range(3)] for seed in (12, "12", "012")]
    assert draws[0] == draws[1] != draws[2]


def test_random_choices_are_the_same_under_every_hash_seed() -> None:
    code = (
        "from svm_actors.explore.strategies import make; s = make('random', 'x'); print([s.data(99, '') for _ in 'ab'])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "77")
    }
    walk = make("random", "x")
    assert outputs == {f"{[walk.data(99, '') for _ in 'ab']}\n".encode()}


# -- replay ----------------------------------------------------------------------------


def recorded(program: Program, seed: int = 3) -> Outcome:
    outcome = run_on("direct", program, make("random", seed), race_timers=True)
    assert outcome.engine.tape
    return outcome


@pytest.mark.parametrize("name", TOYS)
def test_replay_makes_the_same_run(name: str) -> None:
    first = recorded(TOYS[name])
    replay = Replay(first.engine.tape, first.engine.arity)
    assert run_on("direct", TOYS[name], replay, race_timers=True).facts() == first.facts()
    replay.check_finished()


def mismatch(program: Program, choices: list[int], arity: list[int], **options: Any) -> str:
    error = run_on("direct", program, Replay(choices, arity), **options).error
    assert isinstance(error, ReplayMismatch)
    assert "\n" not in str(error)
    return str(error)


async def two_sleepers(engine: Engine) -> None:
    await gather(engine, lambda: engine.sleep(5), lambda: engine.sleep(6))


def test_replay_names_the_choice_both_arities_and_the_candidates() -> None:
    assert mismatch(two_sleepers, [0], [3]) == (
        "replay differs at choice 0: the record has 3 alternatives, the run has 2: schedule choice between "
        "main/a.0: start, main/b.0: start; model or scenario differ from the recorded run"
    )


def test_replay_counts_and_names_the_timer() -> None:
    assert mismatch(two_sleepers, [0, 0], [2, 5], race_timers=True) == (
        "replay differs at choice 1: the record has 5 alternatives, the run has 2: schedule choice between "
        "main/b.0: start, fire the earliest timer; model or scenario differ from the recorded run"
    )


def test_replay_of_a_record_that_is_too_short() -> None:
    assert mismatch(two_sleepers, [], []) == (
        "replay differs at choice 0: the record ends after 0 choices, the run has 2: schedule choice between "
        "main/a.0: start, main/b.0: start; model or scenario differ from the recorded run"
    )


def test_replay_of_a_record_that_is_too_long() -> None:
    replay = Replay([0, 0, 0], [2, 2, 2])
    assert run_on("direct", two_sleepers, replay).error is None
    assert not replay.finished
    with pytest.raises(ReplayMismatch, match="the run ended after 1 choices, but 3 are recorded"):
        replay.check_finished()


def test_replay_compares_data_choices_too() -> None:
    async def program(engine: Engine) -> None:
        engine.choose(4, "allocation fails")
        engine.choose(6, "size")

    assert mismatch(program, [1, 1], [4, 5]) == (
        "replay differs at choice 1: the record has 5 alternatives, the run has 6: data choice 'size'; "
        "model or scenario differ from the recorded run"
    )


def test_mismatch_cannot_be_swallowed_by_the_model() -> None:
    async def program(engine: Engine) -> None:
        try:
            engine.choose(4, "fault")
        except Exception:
            engine.count("swallowed")
        await engine.step("local")
        engine.count("went on")

    outcome = run_on("direct", program, Replay([1], [3]))
    assert isinstance(outcome.error, ReplayMismatch)
    assert not outcome.engine.counters


def test_replay_needs_an_arity_for_each_choice() -> None:
    with pytest.raises(ValueError, match="2 choices but 1 arities"):
        Replay([0, 0], [2])


def test_changed_program_is_noticed() -> None:
    """One op more in one task: strict replay must not drift silently."""
    first = recorded(same(3, 2, []))
    replay = Replay(first.engine.tape, first.engine.arity)
    outcome = run_on("direct", same(3, 3, []), replay, race_timers=True)
    assert isinstance(outcome.error, ReplayMismatch)


def test_scripted_toy_chooser_is_replayable_as_any_other() -> None:
    first = run_on("direct", TOYS["locks"], Scripted(2, 1, 2))
    again = run_on("trio", TOYS["locks"], Replay(first.engine.tape, first.engine.arity))
    assert again.facts() == first.facts()
