"""Random delay bounding: a deterministic scheduler, told a few times to skip whoever is next.

Emmi, Qadeer and Rakamaric, "Delay-Bounded Scheduling", POPL 2011; exploration digest, section 1.2.
The scheduler underneath is non-preemptive round robin: candidates in cyclic order of creation,
beginning with the task that ran last.  Up to D delays fall on contested steps drawn before the run; each
skips one candidate.  What that costs depends on D and not on the number of tasks.

Deviation: a step may be drawn twice and then skips two.  The earliest timer, where it is an
alternative, stands behind the last created task.  Data choices are uniform.  The systematic form is
:mod:`svm_actors.explore.search`.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from svm_actors.engine.task import Task
from svm_actors.explore.strategies.profile import DEFAULT_HORIZON


class Delay:
    """Round robin with at most ``delays`` delays among ``horizon`` contested steps."""

    name = "delay"

    def __init__(self, seed: int | str, delays: int = 3, horizon: int = DEFAULT_HORIZON) -> None:
        self.seed = str(seed)
        self._random = Random(self.seed)
        self.delays: Counter[int] = Counter(
            self._random.randint(1, max(1, horizon)) for _ in range(self._random.randint(0, delays))
        )
        """How many candidates to skip, by contested step."""
        self._contested = 0

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The next in turn, after the delays of this step."""
        self._contested += 1
        skipped = self.delays.get(self._contested, 0)
        return (first_in_turn(running, candidates) + skipped) % (len(candidates) + timer)

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)


def first_in_turn(running: Task | None, candidates: list[Task]) -> int:
    """Index of the task that ran last, or of the first one created after it, cyclically."""
    if running is None:
        return 0
    for index, task in enumerate(candidates):
        if task.number >= running.number:
            return index
    return 0
