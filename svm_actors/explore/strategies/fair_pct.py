"""Fair PCT: PCT for a prefix of the run, a random walk from there on (exploration digest, section 1.2).

PCT may starve a task for ever; so a run that spends its step budget under PCT says nothing about
liveness.  After the prefix, half the step budget, every enabled task has its chance at every choice,
and a run that still does not come to an end is suspect.

The combination is that of Mudduluru, Deligiannis, Desai, Lal and Qadeer, "Lasso Detection using
Partial-State Caching", FMCAD 2017.  Deviation: none known.
"""

from __future__ import annotations

from svm_actors.engine.task import Task
from svm_actors.explore.strategies.pct import Pct
from svm_actors.explore.strategies.profile import DEFAULT_HORIZON
from svm_actors.explore.strategies.random_walk import RandomWalk


class FairPct:
    """PCT up to so many steps, then fair."""

    name = "fair_pct"

    def __init__(self, seed: int | str, prefix: int, depth: int = 3, horizon: int = DEFAULT_HORIZON) -> None:
        self.seed = str(seed)
        self.prefix = prefix
        """Steps, contested or not, after which the walk begins."""
        self._pct = Pct(seed, depth, horizon)
        self._walk = RandomWalk(f"{seed}/suffix")
        self._steps = 0

    @property
    def fair(self) -> bool:
        """True once the prefix is over: only what happens from now on bears on liveness."""
        return self._steps >= self.prefix

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """By priority in the prefix, at random after it."""
        return (self._walk if self.fair else self._pct).schedule(running, candidates, timer)

    def ran(self, task: Task) -> None:
        """Count the step."""
        self._steps += 1

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return self._pct.data(count, label)
