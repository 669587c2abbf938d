"""Strategies: who makes the choices of a run, one per file (exploration digest, section 1.2).

A strategy implements :class:`svm_actors.engine.chooser.Chooser` and lives for one run.  It draws
from a generator seeded by text, so its choices do not depend on PYTHONHASHSEED or on the machine.

Some want to know the program: they are given a way to learn its profile, and what they then do depends
on the seed and on the program, never on which runs this process has made before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.strategies.batch import Batch
from svm_actors.explore.strategies.delay import Delay
from svm_actors.explore.strategies.fair_pct import FairPct, prefix_of
from svm_actors.explore.strategies.fifo import Fifo
from svm_actors.explore.strategies.pct import Pct, cycled_depth
from svm_actors.explore.strategies.portfolio import NAME as PORTFOLIO
from svm_actors.explore.strategies.portfolio import member_of
from svm_actors.explore.strategies.pos import Pos
from svm_actors.explore.strategies.profile import DEFAULT_HORIZON, HORIZON_RUNS, RANDOM_RUNS, Profile
from svm_actors.explore.strategies.random_walk import RandomWalk
from svm_actors.explore.strategies.replay import Replay
from svm_actors.explore.strategies.rp import RandomPriority
from svm_actors.explore.strategies.surw import Surw
from svm_actors.explore.strategies.urw import Urw

__all__ = [
    "PORTFOLIO",
    "STRATEGIES",
    "Basis",
    "Batch",
    "Delay",
    "FairPct",
    "Fifo",
    "Learn",
    "Pct",
    "Pos",
    "Profile",
    "RandomPriority",
    "RandomWalk",
    "Replay",
    "Surw",
    "Urw",
    "make",
]

DEFAULT_BUDGET: Final = 2_000_000
"""Ops in one run when nobody says otherwise."""

Learn = Callable[[int], Profile]
"""The program's profile, from the canonical run and so many random walks."""


def nothing_known(random_runs: int) -> Profile:
    """The profile of a program that cannot be run beforehand."""
    return Profile()


@attrs.frozen
class Basis:
    """What a strategy is made from."""

    seed: int | str
    """Seed of its draws."""
    learn: Learn = nothing_known
    """Where its profile comes from, if it wants one."""
    step_budget: int = DEFAULT_BUDGET
    """Ops after which the run is given up."""

    @property
    def horizon(self) -> int:
        """Contested steps to expect, from three runs."""
        return self.learn(HORIZON_RUNS).horizon or DEFAULT_HORIZON

    @property
    def profile(self) -> Profile:
        """The full profile."""
        return self.learn(RANDOM_RUNS)


STRATEGIES: dict[str, Callable[[Basis], Chooser]] = {
    Batch.name: lambda basis: Batch(basis.seed),
    Delay.name: lambda basis: Delay(basis.seed, horizon=basis.horizon),
    FairPct.name: lambda basis: FairPct(
        basis.seed, prefix_of(basis.horizon, basis.step_budget), cycled_depth(basis.seed), basis.horizon
    ),
    Fifo.name: lambda basis: Fifo(basis.seed),
    Pct.name: lambda basis: Pct(basis.seed, cycled_depth(basis.seed), basis.horizon),
    Pos.name: lambda basis: Pos(basis.seed),
    RandomWalk.name: lambda basis: RandomWalk(basis.seed),
    RandomPriority.name: lambda basis: RandomPriority(basis.seed),
    Surw.name: lambda basis: Surw(basis.seed, basis.profile),
    Urw.name: lambda basis: Urw(basis.seed, basis.profile),
    PORTFOLIO: lambda basis: STRATEGIES[member_of(basis.seed)](basis),
}
"""What a name on the command line stands for."""


def make(name: str, seed: int | str, learn: Learn = nothing_known, step_budget: int = DEFAULT_BUDGET) -> Chooser:
    """A fresh strategy for one run; ValueError, listing the known names, for an unknown one."""
    try:
        factory = STRATEGIES[name]
    except KeyError:
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(sorted(STRATEGIES))}") from None
    return factory(Basis(seed, learn, step_budget))
