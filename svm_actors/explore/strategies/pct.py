"""Probabilistic concurrency testing (PCT): random priorities and a few random changes of them.

Burckhardt, Kothari, Musuvathi and Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees
of Finding Bugs", ASPLOS 2010; exploration digest, section 1.2.  The enabled task of highest priority
runs.  At d-1 of the k contested steps, drawn before the run, the task about to run is demoted below
all others *before* the choice.  A bug of depth d among n tasks is hit by a run with probability at
least 1/(n * k**(d-1)).

Only contested steps are counted.  A task that appears later may get any rank, top and bottom included.
Past step k there are no more changes.  Priorities never tie.  Unfair: it may let one task spin for
ever, so liveness cannot be judged by it.

Deviation: none for tasks.  The earliest timer, where it is an alternative, has a priority like a task,
and draws a new one each time it has fired.  Data choices are uniform.
"""

from __future__ import annotations

from random import Random
from typing import Final

from svm_actors.engine.task import Task
from svm_actors.explore.strategies.profile import DEFAULT_HORIZON

YIELD: Final = "yield"
"""Key of a ``local`` op by which a task says that it only spins: it is demoted below everything."""
DEPTHS: Final = (2, 3, 4, 5, 6)
"""Depths worth trying when that of the bug is unknown."""
_TIMER: Final = -1
"""Stands for the earliest timer among task numbers."""

Priority = tuple[int, float, int]
"""(class, value, tie breaker): 1 as drawn, 0 changed, -1 yielding; higher runs first."""


class Pct:
    """PCT of one depth; ``horizon`` is k, the contested steps expected of a run."""

    name = "pct"

    def __init__(self, seed: int | str, depth: int = 3, horizon: int = DEFAULT_HORIZON) -> None:
        if depth < 1 or horizon < 1:
            raise ValueError(f"expected a depth and a horizon of at least 1, got {depth} and {horizon}")
        self.seed = str(seed)
        self.depth = depth
        self.contested = 0
        """Contested steps so far; the next run's horizon should not be less."""
        self._random = Random(self.seed)
        # A sample comes in random order, so the low priorities are dealt out at random.
        steps = self._random.sample(range(1, horizon + 1), min(depth - 1, horizon))
        self.changes: dict[int, int] = {step: low for low, step in enumerate(steps, 1)}
        """Low priority by the contested step at which it is given."""
        self._priorities: dict[int, Priority] = {}

    def draw_priority(self) -> float:
        """Where a newcomer ranks among all that were not demoted."""
        return self._random.random()

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The highest priority, after the change of this step if there is one."""
        self.contested += 1
        if running is not None and running.enabled and yields(running):
            self._priorities[running.number] = (-1, -float(self.contested), running.number)
        best = self._best(candidates, timer)
        low = self.changes.get(self.contested)
        if low is not None:
            self._priorities[_TIMER if best == len(candidates) else candidates[best].number] = (0, low, 0)
            best = self._best(candidates, timer)
        if best == len(candidates):
            del self._priorities[_TIMER]
        return best

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)

    def _best(self, candidates: list[Task], timer: bool) -> int:
        """Index of the highest priority; the timer's index is one past the last candidate."""
        get = self._priorities.get
        ranks = [get(task.number) or self._enter(task.number) for task in candidates]
        if timer:
            ranks.append(get(_TIMER) or self._enter(_TIMER))
        return ranks.index(max(ranks))

    def _enter(self, number: int) -> Priority:
        """A newcomer."""
        self._priorities[number] = rank = (1, self.draw_priority(), number)
        return rank


def yields(task: Task) -> bool:
    """The task says that it only waits for others."""
    kind, _resource, key = task.op
    return key == YIELD and kind == "local"


def cycled_depth(seed: int | str) -> int:
    """One of :data:`DEPTHS`, by the seed: runs are numbered in their seeds, so all depths get their turn."""
    return Random(f"depth/{seed}").choice(DEPTHS)
