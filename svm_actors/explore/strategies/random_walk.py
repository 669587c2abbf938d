"""Random walk (RW): a uniform choice at every contested step (exploration digest, section 1.2).

Uniform over the alternatives of a step, not over interleavings: with tasks of unequal length the
long ones are favoured geometrically, and a task that must stay delayed for long rarely does.
Probabilistically fair, so liveness may be judged by it.  With ``timer`` the earliest timer is one
more alternative, as likely as any task.

Deviation: none.  One draw per choice, of schedule and of data alike, from one generator.
"""

from __future__ import annotations

from random import Random

from svm_actors.engine.task import Task


class RandomWalk:
    """Uniform choices drawn from a generator seeded with the text of ``seed``."""

    name = "random"

    def __init__(self, seed: int | str) -> None:
        self.seed = str(seed)
        # Text is hashed by the generator itself (sha512), hence the same everywhere.
        self._random = Random(self.seed).random

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Any of them, each as likely."""
        return int(self._random() * (len(candidates) + timer))

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random() * count)
