"""RP and POS: which ops draw a new score, and when."""

from __future__ import annotations

from typing import Any

import pytest
from strategy_tasks import LOCK, X, Y, announce, task

from svm_actors.engine.task import Task
from svm_actors.explore.strategies import Pos, RandomPriority
from svm_actors.explore.toys import Variable


def scores(strategy: Any, tasks: list[Task]) -> list[float]:
    """The score of each task's op, drawn now if it has none."""
    return [strategy._scores.of(each) for each in tasks]


def kept(strategy: Any, first: Task, others: list[Task]) -> list[bool]:
    """Let ``first`` run; which of the others keep their score."""
    before = scores(strategy, others)
    # What ran is whoever has the highest score: make sure it is the first.
    strategy._scores._drawn[first.number] = (2.0, first.op)
    assert strategy.schedule(None, [first, *others], False) == 0
    strategy.ran(first)
    return [old == new for old, new in zip(before, scores(strategy, others), strict=True)]


DEPENDENT = [
    ("write", X, "write", X, True),
    ("write", X, "read", X, True),
    ("read", X, "read", X, False),
    ("write", X, "write", Y, False),
    ("get", X, "put", X, False),
    ("lock", LOCK, "lock", LOCK, True),
    ("lock", LOCK, "trylock", LOCK, True),
    ("lock", LOCK, "unlock", LOCK, True),
    ("read_lock", LOCK, "lock", LOCK, True),
    ("read_lock", LOCK, "read_lock", LOCK, False),
    ("send", X, "receive", X, True),
    ("local", None, "write", X, False),
]


@pytest.mark.parametrize(("kind", "resource", "other_kind", "other_resource", "races"), DEPENDENT)
def test_pos_redraws_exactly_what_races(
    kind: str, resource: Any, other_kind: str, other_resource: Any, races: bool
) -> None:
    """Lock ops are races like any other; independent ops always keep their score."""
    for seed in range(10):
        bystander = task(3, "write", Variable("elsewhere"))
        others = [task(2, other_kind, other_resource), bystander]
        assert kept(Pos(seed), task(1, kind, resource), others) == [not races, True]


def test_other_pages_of_one_resource_do_not_race() -> None:
    strategy = Pos(0)
    others = [task(2, "pte_write", X, 1), task(3, "pte_write", X, 2), task(4, "pte_write", X)]
    assert kept(strategy, task(1, "pte_write", X, 1), others) == [False, True, False]


def test_random_priority_redraws_nobody_else() -> None:
    strategy = RandomPriority(0)
    assert kept(strategy, task(1), [task(2), task(3)]) == [True, True]


@pytest.mark.parametrize("make", [Pos, RandomPriority])
def test_whoever_ran_draws_again(make: Any) -> None:
    """Also at a step without a choice, and where two ops share one tuple."""
    strategy = make(1)
    one = task(1)
    before = scores(strategy, [one])
    assert scores(strategy, [one]) == before
    strategy.ran(one)
    after = scores(strategy, [one])
    assert after != before
    announce(one)
    assert scores(strategy, [one]) != after


@pytest.mark.parametrize("make", [Pos, RandomPriority])
def test_an_op_that_waits_keeps_its_score(make: Any) -> None:
    """Disabled and enabled again, it is still the same op."""
    strategy = make(3)
    one, other, late = task(1), task(2, "write", Y), task(3, "lock", LOCK)
    before = scores(strategy, [late])
    for _ in range(5):
        index = strategy.schedule(None, [one, other], False)
        strategy.ran([one, other][index])
        announce([one, other][index], "write", X if index == 0 else Y)
    assert scores(strategy, [late]) == before


@pytest.mark.parametrize("make", [Pos, RandomPriority])
def test_the_timer_is_chosen_by_its_score_and_draws_again(make: Any) -> None:
    first = [make(seed).schedule(None, [task(1)], True) for seed in range(400)]
    assert 160 < sum(first) < 240, "one of two"
    waiting, strategy = task(1), make(first.index(1))
    seen = [strategy.schedule(None, [waiting], True) for _ in range(200)]
    assert seen[0] == 1
    assert 0 in seen, "it draws again until the task that waits is ahead"
