"""The benchmark programs do what the exploration digest says of them (sections 2.4 and 3).

All rates with 10,000 runs each are checked by ``python -m benchmarks puzzles --rates 10000``; here a part.
"""

from __future__ import annotations

import attrs
import pytest

from benchmarks import _rates
from benchmarks._published import LEAN, LEAN_COLUMNS, PAPER, PAPER_COLUMNS
from svm_actors.explore.puzzles import PUZZLES, maximal_run, run_puzzle
from svm_actors.explore.puzzles.program import Form
from svm_actors.explore.search import Bound, search
from svm_actors.explore.strategies import Pos, RandomWalk, Surw, Urw

MAIN = "main"
"""The engine's own task: it waits for the others, once."""


def ops(name: str, form: Form) -> int:
    """Ops of the program's own tasks in its canonical run."""
    profile = _rates.counted(PUZZLES[name], form).profile()
    return sum(count for path, count in profile.ops.items() if path != MAIN)


# -- lean form -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEAN)
def test_steps_and_contested_steps(name: str) -> None:
    assert (ops(name, "lean"), _rates.counted(PUZZLES[name], "lean").contested) == (
        LEAN[name].steps,
        LEAN[name].contested,
    )


QUICK = {
    "reorder_4": 500,
    "deadlock01": 400,
    "account": 400,
    "stringbuffer": 400,
    "IWSQWS": 300,
    "qsort": 400,
    "bug4": 400,
    "bug6": 400,
    "CVE-2015-7550": 800,
    "CVE-2016-1973": 400,
    "phil3": 400,
}
"""Runs of each program per strategy; together they have locks, conditions, spins and deadlocks."""


@pytest.mark.parametrize("name", QUICK)
def test_failing_rates(name: str) -> None:
    missed = [str(rate) for rate in _rates.rates(PUZZLES[name], QUICK[name]) if not rate.held]
    assert missed == []


def test_the_rates_can_tell_strategies_apart() -> None:
    """A random walk under the name of URW is noticed."""
    puzzle = PUZZLES["account"]
    found = _rates.failing_share(puzzle, RandomWalk, 800)
    assert not _rates.Rate("URW", found, LEAN["account"].failing["URW"] / 100, 800).held


# -- programs that always fail, and those that never do --------------------------------------


def explored(name: str, reduction: str) -> tuple[int, int]:
    """Runs and failing ones among them, of a complete search."""
    found = search(lambda chooser: maximal_run(PUZZLES[name], chooser), reduction, budget=20_000)  # type: ignore[arg-type]
    assert found.complete
    return found.runs, found.failing


@pytest.mark.parametrize(
    ("name", "schedules", "traces"),
    [
        pytest.param("phase01", (6, 6), (6, 6), id="phase01"),
        pytest.param("sync01", (5, 5), (3, 3), id="sync01"),
        pytest.param("sync02", (32, 32), (9, 9), id="sync02"),
        pytest.param("arithmetic_prog", (2, 2), (2, 2), id="arithmetic_prog"),
        pytest.param("fsbench", (140, 140), (1, 1), id="fsbench"),
        pytest.param("din_phil2", (440, 344), (16, 8), id="din_phil2"),
        pytest.param("phil2", (6, 2), (3, 1), id="phil2"),
        pytest.param("phil3", (168, 6), (7, 1), id="phil3"),
    ],
)
def test_exhaustive_counts(name: str, schedules: tuple[int, int], traces: tuple[int, int]) -> None:
    assert explored(name, "none") == schedules
    assert explored(name, "sleep") == traces
    assert explored(name, "dpor") == traces


def test_larger_counts() -> None:
    assert explored("din_phil3", "dpor") == (1296, 216)
    assert explored("phil4", "sleep") == (15, 1)
    assert explored("sync02, num=0, N=3", "none") == (7242, 0)
    assert explored("sync02, num=0, N=3", "dpor") == (58, 0)


@pytest.mark.parametrize("name", ["bbuf", "WSQ, correct bound", "sync02, num=0, N=3"])
@pytest.mark.parametrize("form", ["lean", "overlay"])
def test_controls_stay_silent(name: str, form: Form) -> None:
    puzzle = PUZZLES[name]
    profile = _rates.profile_of(puzzle, form)
    for seed in range(20):
        for chooser in (RandomWalk(seed), Pos(seed), Urw(seed, profile), Surw(seed, profile)):
            outcome = run_puzzle(puzzle, chooser, form)
            assert (outcome.failing, outcome.spent) == (False, False)


def test_the_correct_bound_holds_within_two_preemptions() -> None:
    """The control can fail: the published bound does within the same search."""
    bound = Bound("preemptions", 2)
    assert search(lambda chooser: maximal_run(PUZZLES["WSQ, correct bound"], chooser), "none", bound=bound).failing == 0
    assert search(lambda chooser: maximal_run(PUZZLES["WSQ"], chooser), "none", bound=bound).failing > 0


def test_a_failed_check_stops_the_task_alone_in_a_maximal_run() -> None:
    """fsbench: the task without a lock stops, the two others go on to their end."""
    counting = _rates.Counting(_rates.Canonical())
    assert maximal_run(PUZZLES["fsbench"], counting) is not None
    assert [counting.profile().ops[f"main/user.{index}"] for index in range(3)] == [3, 3, 1]
    assert run_puzzle(PUZZLES["fsbench"], RandomWalk(0)).failing


# -- overlay form ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "listed", "tasks", "spawn", "iterations"),
    [("reorder_3", 7, 3, 8, 0), ("account", 15, 3, 1, 0), ("stack", 160, 2, 1, 20), ("bbuf", 152, 2, 8, 20)],
)
def test_what_the_overlay_adds(name: str, listed: int, tasks: int, spawn: int, iterations: int) -> None:
    """Each listed op is doubled, an iteration has eight local ops more, a task two and its spawn and join."""
    assert ops(name, "overlay") == 2 * listed + 8 * iterations + tasks * (2 + 2 * (spawn + 1))


def test_the_spawner_starts_every_task() -> None:
    paths = _rates.counted(PUZZLES["account"], "overlay").profile().ops
    assert sorted(path for path in paths if path != MAIN) == [
        "main/spawner.0",
        "main/spawner.0/check.0",
        "main/spawner.0/deposit.0",
        "main/spawner.0/withdraw.0",
    ]


@pytest.mark.parametrize("name", [puzzle.name for puzzle in PUZZLES.values() if puzzle.published])
def test_every_program_runs_in_overlay_form(name: str) -> None:
    """Run twice, same outcome; nobody spins for ever under a fair strategy."""
    outcomes = [run_puzzle(PUZZLES[name], RandomWalk(7), "overlay") for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert not outcomes[0].spent


def test_a_spinning_task_gives_the_intention_away() -> None:
    """SafeStack: who finds the stack empty waits for somebody that selection may be holding back."""
    puzzle = PUZZLES["SafeStack"]
    profile = _rates.profile_of(puzzle, "overlay")
    for seed in range(12):
        assert run_puzzle(puzzle, Surw(seed, profile), "overlay").steps < 2_000


# -- the published tables --------------------------------------------------------------------


def test_every_published_program_is_here() -> None:
    assert sorted(PAPER) == sorted(puzzle.published for puzzle in PUZZLES.values() if puzzle.published)
    assert all(name in PUZZLES for name in LEAN)
    assert len(LEAN) == 37
    assert all(tuple(row.failing) == LEAN_COLUMNS for row in LEAN.values())
    assert all(tuple(row) == PAPER_COLUMNS for row in PAPER.values())


def test_puzzles_are_plain_data() -> None:
    assert attrs.has(type(PUZZLES["account"]))
    assert len({puzzle.name for puzzle in PUZZLES.values()}) == len(PUZZLES)
