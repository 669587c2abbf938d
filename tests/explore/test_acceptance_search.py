"""Exhaustive counts: how many executions each search makes of each toy (exploration digest, 2.3 and 3.6)."""

from __future__ import annotations

import pytest

from svm_actors.explore.search import Bound, Found, rising, search
from svm_actors.explore.search.node import Cost
from svm_actors.explore.search.search import Reduction
from svm_actors.explore.toys import (
    Toy,
    indep,
    local_shared_local,
    lost,
    mailbox,
    order,
    philosophers,
    readers,
    reorder,
    run_toy,
    same,
    uneven,
)

Count = tuple[int, int, int]
"""Runs, failing ones among them, and runs that ended sleep-blocked."""


def explored(toy: Toy, reduction: Reduction) -> Count:
    found = search(lambda chooser: run_toy(toy, chooser), reduction, budget=40_000)
    assert found.complete
    return found.runs, found.failing, found.blocked


TABLE: dict[str, tuple[Toy, Count, Count, Count]] = {
    "indep(3,2)": (indep(3, 2), (90, 0, 0), (1, 0, 8), (1, 0, 0)),
    "same(3,2)": (same(3, 2), (90, 0, 0), (90, 0, 0), (90, 0, 0)),
    "local-shared-local": (local_shared_local, (1680, 0, 0), (6, 0, 38), (6, 0, 0)),
    "lost(2,0)": (lost(2, 0), (6, 4, 0), (4, 2, 0), (4, 2, 0)),
    "lost(3,0)": (lost(3, 0), (90, 84, 0), (36, 30, 0), (36, 30, 0)),
    "lost(3,1)": (lost(3, 1), (34_650, 34_380, 0), (36, 30, 26), (36, 30, 0)),
    "reorder(2)": (reorder(2), (90, 28, 0), (36, 16, 9), (36, 16, 0)),
    "reorder(3)": (reorder(3), (2520, 684, 0), (576, 216, 121), (576, 216, 0)),
    "readers": (readers, (24, 0, 0), (8, 0, 6), (8, 0, 0)),
    "mailbox(2,1,1)": (mailbox(2, 1, 1), (14, 7, 0), (4, 2, 2), (4, 2, 0)),
    "philosophers(2)": (philosophers(2), (6, 2, 0), (3, 1, 2), (3, 1, 1)),
    "philosophers(3)": (philosophers(3), (168, 6, 0), (7, 1, 25), (7, 1, 4)),
}


@pytest.mark.parametrize("name", TABLE)
def test_naive(name: str) -> None:
    toy, naive, _, _ = TABLE[name]
    assert explored(toy, "none") == naive


@pytest.mark.parametrize("name", TABLE)
def test_sleep_sets(name: str) -> None:
    toy, _, sleeping, _ = TABLE[name]
    assert explored(toy, "sleep") == sleeping


@pytest.mark.parametrize("name", TABLE)
def test_source_dpor(name: str) -> None:
    """Blocked runs of programs with locks are this search's own; the digest counts their traces only."""
    toy, _, _, dpor = TABLE[name]
    assert explored(toy, "dpor") == dpor


def test_four_philosophers() -> None:
    """98,184 schedules, 15 of them different, one of those the deadlock."""
    assert explored(philosophers(4), "sleep") == (15, 1, 155)
    assert explored(philosophers(4), "dpor")[:2] == (15, 1)


# -- bounds ------------------------------------------------------------------------------------


def within(toy: Toy, cost: Cost, limit: int | None) -> Found:
    return search(lambda chooser: run_toy(toy, chooser), "none", bound=Bound(cost, limit))


@pytest.mark.parametrize("toy", [same(3, 2), lost(3, 0)], ids=["same", "lost"])
def test_runs_by_cost(toy: Toy) -> None:
    preemptions = within(toy, "preemptions", None).costs
    delays = within(toy, "delays", None).costs
    assert [preemptions[cost] for cost in range(5)] == [6, 18, 36, 30, 0]
    assert [delays[cost] for cost in range(11)] == [1, 4, 10, 15, 19, 17, 13, 7, 3, 1, 0]


@pytest.mark.parametrize("limit", range(4))
def test_a_bound_makes_exactly_the_runs_within_it(limit: int) -> None:
    for cost in ("preemptions", "delays"):
        free, bounded = within(same(3, 2), cost, None), within(same(3, 2), cost, limit)
        assert bounded.complete
        assert bounded.costs == {at: count for at, count in free.costs.items() if at <= limit}


@pytest.mark.parametrize(
    ("toy", "preemptions", "delays"),
    [
        pytest.param(reorder(3), 1, 3, id="reorder(3)"),
        pytest.param(uneven(25), 0, 1, id="uneven(25)"),
        pytest.param(lost(2, 0), 1, 1, id="lost(2,0)"),
        pytest.param(order(1), 0, 3, id="order(1)"),
        pytest.param(philosophers(2), 1, 1, id="philosophers(2)"),
        pytest.param(philosophers(3), 1, 2, id="philosophers(3)"),
        pytest.param(philosophers(4), 1, 3, id="philosophers(4)"),
    ],
)
def test_cheapest_failing_run(toy: Toy, preemptions: int, delays: int) -> None:
    for cost, expected in (("preemptions", preemptions), ("delays", delays)):
        bound, found = rising(lambda chooser: run_toy(toy, chooser), cost, 5)  # type: ignore[arg-type]
        assert (bound, found.failing > 0) == (expected, True), cost
