"""Failing rates of the lean benchmark programs against the table of the exploration digest, section 2.4.

A rate holds when it is within four standard errors of both samples together.  Seeds are fixed, so what
holds once holds always.

The digest's profile is a sample of ten runs like ours, and the checker of reorder_N does three ops in some
runs and four in others.  Its figures for URW and SURW are those of a profile that had seen three, and
four for reorder_5; the profiles here are set to what its figures say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from benchmarks._published import LEAN
from svm_actors.engine.chooser import Chooser
from svm_actors.explore.puzzles import Puzzle, run_puzzle
from svm_actors.explore.puzzles.program import Form
from svm_actors.explore.strategies import Pct, Pos, Profile, RandomWalk, Surw, Urw
from svm_actors.explore.strategies.profile import Canonical, Counting, learn

MEASURED: Final = 10_000
"""Runs behind each published rate."""
THREE_OPS: Final = ("reorder_3", "reorder_4", "reorder_10")
"""Programs whose checker did at most three ops in the digest's profile."""

Maker = Callable[[int | str], Chooser]


class GrowingPct:
    """Makes PCT choosers whose horizon is the largest number of contested steps seen so far."""

    def __init__(self, depth: int, horizon: int) -> None:
        self.depth = depth
        self.horizon = max(1, horizon)
        self._last: Pct | None = None

    def __call__(self, seed: int | str) -> Pct:
        """One for the next run."""
        if self._last is not None:
            self.horizon = max(self.horizon, self._last.contested)
        self._last = Pct(seed, self.depth, self.horizon)
        return self._last


def counted(puzzle: Puzzle, form: Form) -> Counting:
    """The canonical run, counted."""
    counting = Counting(Canonical())
    run_puzzle(puzzle, counting, form)
    return counting


def profile_of(puzzle: Puzzle, form: Form) -> Profile:
    """The full profile."""
    return learn(lambda chooser: run_puzzle(puzzle, chooser, form))


def measured_profile(puzzle: Puzzle) -> Profile:
    """The profile of the lean form, as the digest's sample had it."""
    profile = profile_of(puzzle, "lean")
    if puzzle.name not in THREE_OPS:
        return profile
    checker = "main/checker.0"
    return attrs.evolve(
        profile, ops={**profile.ops, checker: 3}, touches={**profile.touches, (checker, "a"): 2, (checker, "b"): 1}
    )


def lean_makers(puzzle: Puzzle) -> dict[str, Maker]:
    """The strategies of the table's columns."""
    profile = measured_profile(puzzle)
    contested = counted(puzzle, "lean").contested
    return {
        "RW": RandomWalk,
        "POS": Pos,
        "PCT3": GrowingPct(3, contested),
        "PCT10": GrowingPct(10, contested),
        "URW": lambda seed: Urw(seed, profile),
        "SURW": lambda seed: Surw(seed, profile, locks=puzzle.locks),
    }


def tolerance(share: float, runs: int) -> float:
    """Four standard errors; a share measured as zero or one may be off by a few runs."""
    near = min(max(share, 10 / MEASURED), 1 - 10 / MEASURED)
    return 4 * math.sqrt(near * (1 - near) * (1 / runs + 1 / MEASURED))


def failing_share(puzzle: Puzzle, maker: Maker, runs: int) -> float:
    """Share of failing runs under seeds 0, 1, ..."""
    return sum(run_puzzle(puzzle, maker(seed)).failing for seed in range(runs)) / runs


@attrs.frozen
class Rate:
    """One cell of the table, measured again."""

    column: str
    """Strategy."""
    found: float
    """Share of failing runs here."""
    expected: float
    """Share of failing runs there."""
    runs: int
    """Runs made here."""

    @property
    def held(self) -> bool:
        """Within four standard errors."""
        return abs(self.found - self.expected) <= tolerance(self.expected, self.runs)

    def __str__(self) -> str:
        return f"{self.column} {100 * self.found:.2f} ({100 * self.expected:.2f}){'' if self.held else ' MISSED'}"


def rates(puzzle: Puzzle, runs: int, columns: tuple[str, ...] | None = None) -> list[Rate]:
    """The row of a program, or some of its columns."""
    makers = lean_makers(puzzle)
    expected = LEAN[puzzle.name].failing
    return [
        Rate(column, failing_share(puzzle, makers[column], runs), expected[column] / 100, runs)
        for column in columns or tuple(expected)
    ]
