"""PCT and fair PCT: each fault found in published implementations has a test that would show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from engine_toys import gather, run_on
from strategy_tasks import X, announce, task

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import StepBudgetSpent
from svm_actors.explore.strategies import FairPct, Pct
from svm_actors.explore.strategies.pct import DEPTHS, YIELD, cycled_depth
from svm_actors.explore.toys import run_toy, same, uneven


class Dealt(Pct):
    """Priorities in order of appearance, and changes, as given."""

    def __init__(self, ranks: list[float], changes: dict[int, int]) -> None:
        super().__init__(0, 1)
        self.changes = changes
        self._ranks: Iterator[float] = iter(ranks)

    def draw_priority(self) -> float:
        return next(self._ranks)


def winners(strategy: Pct, ranks: int, steps: int) -> list[int]:
    """Index of the pick at each of so many steps with the same tasks, each with a new op every time."""
    tasks = [task(number) for number in range(1, ranks + 1)]
    picks = []
    for _ in range(steps):
        picks.append(strategy.schedule(None, tasks, False))
        announce(tasks[picks[-1]])
    return picks


# -- changes ---------------------------------------------------------------------------------


def test_the_change_comes_before_the_choice() -> None:
    """At step 3 the top task is demoted and does not run that step any more."""
    assert winners(Dealt([0.9, 0.5, 0.1], {3: 1}), 3, 5) == [0, 0, 1, 1, 1]


def test_the_low_priorities_keep_their_order() -> None:
    """A task demoted to 1 runs after one demoted to 2, whichever was demoted first."""
    assert winners(Dealt([0.9, 0.5], {2: 1, 3: 2}), 2, 4) == [0, 1, 1, 1]
    assert winners(Dealt([0.9, 0.5], {2: 2, 3: 1}), 2, 4) == [0, 1, 0, 0]


def test_past_the_horizon_there_are_no_more_changes() -> None:
    for seed in range(50):
        picks = winners(Pct(seed, 4, 6), 4, 60)
        assert len(set(picks[6:])) == 1


def test_uncontested_steps_do_not_count() -> None:
    """The long task is alone for 24 of its steps: one step of the run is contested."""
    made = Dealt([0.9, 0.5], {2: 1})
    assert run_toy(uneven(25), made) is None
    assert made.contested == 1


@pytest.mark.parametrize(("depth", "horizon"), [(1, 5), (3, 5), (6, 5), (9, 5), (10, 1000)])
def test_changes_are_distinct_steps_with_distinct_priorities(depth: int, horizon: int) -> None:
    for seed in range(30):
        changes = Pct(seed, depth, horizon).changes
        assert len(changes) == min(depth - 1, horizon)
        assert all(1 <= step <= horizon for step in changes)
        assert sorted(changes.values()) == list(range(1, len(changes) + 1))


def test_every_step_and_every_order_of_changes_is_drawn_alike() -> None:
    runs = 3000
    seen = Counter(tuple(sorted(Pct(seed, 3, 3).changes.items(), key=lambda pair: pair[1])) for seed in range(runs))
    assert len(seen) == 6
    assert all(abs(count - runs / 6) < 4 * (runs / 6) ** 0.5 for count in seen.values())


@pytest.mark.parametrize(("depth", "horizon"), [(0, 5), (2, 0)])
def test_nonsense_is_refused(depth: int, horizon: int) -> None:
    with pytest.raises(ValueError, match="of at least 1"):
        Pct(0, depth, horizon)


# -- priorities -----------------------------------------------------------------------------------


def test_a_newcomer_gets_any_rank() -> None:
    """Top, middle and bottom among two old tasks that have run already: a third of the runs each."""
    runs = 1500
    ranks: Counter[int] = Counter()
    for seed in range(runs):
        strategy = Pct(seed, 1)
        tasks = [task(1), task(2)]
        strategy.schedule(None, tasks, False)
        tasks.append(task(3))
        order = []
        while tasks:
            order.append(tasks.pop(strategy.schedule(None, tasks, False)).number)
        ranks[order.index(3)] += 1
    assert set(ranks) == {0, 1, 2}
    assert all(abs(count - runs / 3) < 4 * (runs / 3) ** 0.5 for count in ranks.values())


def test_equal_draws_are_no_tie() -> None:
    """Even where the generator repeats itself the order of two tasks is the same wherever they stand."""
    strategy = Dealt([0.5] * 2, {})
    one, other = task(1), task(2)
    first = [one, other][strategy.schedule(None, [one, other], False)]
    assert [other, one][strategy.schedule(None, [other, one], False)] is first


def test_a_newcomer_outranks_whoever_was_demoted() -> None:
    strategy = Dealt([0.9, 0.5, 0.0], {1: 1})
    one, other = task(1), task(2)
    assert strategy.schedule(None, [one, other], False) == 1
    late = task(3)
    assert strategy.schedule(None, [one, late], False) == 1


def test_whoever_yields_is_demoted_below_everything() -> None:
    strategy = Dealt([0.9, 0.5, 0.1], {1: 1})
    tasks = [task(1), task(2), task(3)]
    assert strategy.schedule(None, tasks, False) == 1
    announce(tasks[1], "local", None, YIELD)
    assert strategy.schedule(tasks[1], tasks, False) == 2
    announce(tasks[2], "local", None, YIELD)
    assert strategy.schedule(tasks[2], tasks, False) == 0, "even the one that a change has demoted goes first"


def test_the_timer_has_a_rank_of_its_own_and_a_new_one_each_time() -> None:
    strategy = Dealt([0.5, 0.9, 0.1], {})
    tasks = [task(1)]
    assert strategy.schedule(None, tasks, True) == 1
    assert strategy.schedule(None, tasks, True) == 0


# -- the horizon and the depth ------------------------------------------------------------------------


def test_depths_take_turns() -> None:
    depths = Counter(cycled_depth(f"0/target/{number}") for number in range(1000))
    assert set(depths) == set(DEPTHS)
    assert min(depths.values()) > 140


def test_contested_counts_what_the_next_run_should_expect() -> None:
    made = Pct(1, 2, 1)
    run_toy(same(3, 2), made)
    assert 4 <= made.contested <= 5


# -- fairness ------------------------------------------------------------------------------------------


async def spin(engine: Engine) -> None:
    """One task waits, by polling, for what the other one does."""
    done: list[bool] = []

    async def waiter() -> None:
        while not done:
            await engine.step("read", X)

    async def setter() -> None:
        await engine.step("write", X)
        done.append(True)

    await gather(engine, waiter, setter)


def test_pct_starves_and_its_fair_form_does_not() -> None:
    spent = [
        isinstance(run_on("direct", spin, Pct(seed, 1), step_budget=400).error, StepBudgetSpent) for seed in range(20)
    ]
    assert any(spent)
    assert not all(spent)
    for seed in range(20):
        assert run_on("direct", spin, FairPct(seed, 200, 1), step_budget=400).error is None


def test_the_prefix_of_fair_pct_is_pct() -> None:
    """With a prefix as long as the run both make the same choices; with none it is a walk."""
    for seed in range(20):
        unfair, fair = (
            run_on("direct", gathered, Pct(seed, 3, 10)),
            run_on("direct", gathered, FairPct(seed, 99, 3, 10)),
        )
        assert unfair.engine.tape == fair.engine.tape
    walks = {tuple(run_on("direct", gathered, FairPct(seed, 0, 3, 10)).engine.tape) for seed in range(20)}
    assert len(walks) > 15


async def gathered(engine: Engine) -> None:
    async def body() -> None:
        for _ in range(4):
            await engine.step("write", X)

    await gather(engine, body, body, body)
