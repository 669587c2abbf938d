"""The searches agree: whatever can happen in any schedule happens in one that the reductions keep.

Small random programs over every lock, channels, data choices and spawned tasks; their outcomes under
the full search are the standard.
"""

from __future__ import annotations

from typing import Any

import pytest
from search_programs import Outcome, Script, random_script, run_script

from svm_actors.engine.op import Named
from svm_actors.explore.search.search import Bound, Found, Reduction, Walk, search

SEEDS = range(60)


def outcomes(script: Script, reduction: Reduction, budget: int = 20_000) -> tuple[Found, set[Outcome]]:
    seen: list[Outcome] = []
    return search(lambda chooser: run_script(script, chooser, seen), reduction, budget=budget), set(seen)


@pytest.mark.parametrize("seed", SEEDS)
def test_reductions_lose_no_outcome(seed: int) -> None:
    script = random_script(seed, 2, 2)
    full, expected = outcomes(script, "none")
    assert full.complete
    for reduction in ("sleep", "dpor"):
        found, seen = outcomes(script, reduction)  # type: ignore[arg-type]
        assert found.complete
        assert seen == expected, (reduction, script)
        assert found.runs <= full.runs


CROWDED: list[Script] = [
    (("lock",), ("trylock",), ("lock",)),
    (("sem_read",), ("sem_write",), ("sem_read",)),
    (("nested", "read"), ("nested", "write")),
    (("bit", "spin"), ("clear", "spin")),
    (("send", "send"), ("receive",), ("receive",)),
    (("spawn", "read"), ("write", "draw")),
    (("sem_read", "sem_write"), ("spin", "sem_write")),
    (("page", "page"), ("page",), ("add", "add")),
]


@pytest.mark.parametrize("script", CROWDED, ids=lambda script: "-".join("+".join(each) for each in script))
def test_reductions_lose_no_outcome_of_a_contended_program(script: Script) -> None:
    full, expected = outcomes(script, "none")
    assert full.complete
    assert outcomes(script, "sleep")[1] == expected
    dpor, seen = outcomes(script, "dpor")
    assert seen == expected
    assert dpor.runs + dpor.blocked <= full.runs


def test_both_reductions_make_one_run_of_each_class() -> None:
    for seed in SEEDS:
        script = random_script(seed, 2, 2)
        assert outcomes(script, "sleep")[0].runs == outcomes(script, "dpor")[0].runs, script


class Forgetful(list[Named]):
    """Takes no notes: what a search would see without the engine's help."""

    def append(self, item: Named) -> None:
        pass


def test_the_comparison_notices_footprints_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases and places in queues that are not booked make the reductions cut too much."""
    scripts = [*CROWDED, *(random_script(seed, 2, 2) for seed in SEEDS)]
    expected = [outcomes(script, "sleep")[1] for script in scripts]
    init = Walk.__init__

    def forgetful(walk: Walk, *args: Any) -> None:
        init(walk, *args)
        walk.touched = Forgetful()

    monkeypatch.setattr(Walk, "__init__", forgetful)
    lost = [script for script, seen in zip(scripts, expected, strict=True) if outcomes(script, "sleep")[1] != seen]
    assert lost


def bounded(script: Script, reduction: Reduction, bound: Bound) -> set[Outcome]:
    seen: list[Outcome] = []
    assert search(lambda chooser: run_script(script, chooser, seen), reduction, bound=bound).complete
    return set(seen)


@pytest.mark.parametrize("limit", range(3))
def test_a_bounded_reduction_loses_no_outcome(limit: int) -> None:
    """Backtrack points at the previous switch: without them a bound loses schedules."""
    bound = Bound("preemptions", limit)
    for script in (*CROWDED, *(random_script(seed, 2, 2) for seed in range(20))):
        full, reduced = bounded(script, "none", bound), bounded(script, "dpor", bound)
        assert full <= reduced, script
