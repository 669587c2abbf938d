"""Equal choices give equal runs: on both back ends, run again, replayed, and in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import engine_toys
import pytest
from engine_toys import BACKENDS, TOYS, run_on

from svm_actors.explore.strategies import Replay, make

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("race_timers", [False, True])
def test_back_ends_agree(name: str, race_timers: bool) -> None:
    for seed in range(8):
        runs = [run_on(back, TOYS[name], make("random", seed), race_timers=race_timers) for back in BACKENDS]
        assert runs[0].facts() == runs[1].facts()
        assert len(runs[0].engine.tape) == len(runs[0].engine.arity) > 0


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("back", BACKENDS)
def test_twice_the_same_and_replayed_the_same(name: str, back: str) -> None:
    for seed in range(3):
        first = run_on(back, TOYS[name], make("random", seed), race_timers=True)
        second = run_on(back, TOYS[name], make("random", seed), race_timers=True)
        chooser = Replay(first.engine.tape, first.engine.arity)
        third = run_on(back, TOYS[name], chooser, race_timers=True)
        assert first.facts() == second.facts() == third.facts()
        assert chooser.finished


def test_toys_show_more_than_one_schedule() -> None:
    """Equality would prove nothing if every seed gave the same run."""
    for name, program in TOYS.items():
        traces = {tuple(run_on("direct", program, make("random", seed)).trace) for seed in range(8)}
        assert len(traces) > 3, name


def test_failing_toys_fail_in_some_schedules_only() -> None:
    for name in ("dining", "failing"):
        errors = {type(run_on("direct", TOYS[name], make("random", seed)).error) for seed in range(12)}
        assert len(errors) == 2
        assert type(None) in errors


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_another_process_with_another_hash_seed(hash_seed: str) -> None:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    ran = subprocess.run(
        [sys.executable, "-m", "engine_toys"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        check=True,
    )
    assert ran.stdout.decode().splitlines() == engine_toys.digests()
