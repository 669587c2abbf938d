"""Fair PCT: PCT for a prefix of the run, a random walk from there on (exploration digest, section 1.2).

PCT may starve a task for ever; so a run that spends its step budget under PCT says nothing about
liveness.  After the prefix every enabled task has its chance at every choice, and a run that still
does not come to an end is suspect.

The combination is that of Mudduluru, Deligiannis, Desai, Lal and Qadeer, "Lasso Detection using
Partial-State Caching", FMCAD 2017.

Deviations: the prefix is counted in contested steps, as PCT's own change points are, because a step
without a choice starves nobody; and it is :data:`PREFIX` horizons long where that is less than half the
step budget.  The last change of priorities lies within the first horizon.  A run a hundred times as long,
with priorities that do not change any more, is one that starves: two faults that took a page from each
other used up two million steps while a third task, which they kept waiting, would have ended it.
"""

from __future__ import annotations

from typing import Final

from svm_actors.engine.task import Task
from svm_actors.explore.strategies.pct import Pct
from svm_actors.explore.strategies.profile import DEFAULT_HORIZON
from svm_actors.explore.strategies.random_walk import RandomWalk

PREFIX: Final = 100
"""Horizons after which PCT has had its say."""


def prefix_of(horizon: int, step_budget: int) -> int:
    """Contested steps made by PCT, in runs that may take so many steps."""
    return min(PREFIX * horizon, step_budget // 2)


class FairPct:
    """PCT up to so many contested steps, then fair."""

    name = "fair_pct"

    def __init__(self, seed: int | str, prefix: int, depth: int = 3, horizon: int = DEFAULT_HORIZON) -> None:
        self.seed = str(seed)
        self.prefix = prefix
        """Contested steps after which the walk begins."""
        self._pct = Pct(seed, depth, horizon)
        self._walk = RandomWalk(f"{seed}/suffix")

    @property
    def fair(self) -> bool:
        """True once the prefix is over: only what happens from now on bears on liveness."""
        return self._pct.contested >= self.prefix

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """By priority in the prefix, at random after it."""
        return (self._walk if self.fair else self._pct).schedule(running, candidates, timer)

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return self._pct.data(count, label)
