"""Uniform random walk (URW): tasks weighed by the ops they still have to do.

Zhao, Wolff, Mathur and Roychoudhury, "Selectively Uniform Concurrency Testing", ASPLOS 2025;
exploration digest, section 1.2.  With exact counts and nothing that blocks, every interleaving is as
likely as every other.  The counts are a profile of earlier runs; a child's belong to its parent until
the spawn.

Deviation: children are known by their creation path.  The earliest timer, where it is an alternative,
weighs as much as one op.  Without a profile every task weighs 1, which is a random walk.
"""

from __future__ import annotations

from random import Random

from svm_actors.engine.task import Task
from svm_actors.explore.strategies.profile import Profile, Remaining, weighted


class Urw:
    """A choice in proportion to what is left to do, never below 1."""

    name = "urw"

    def __init__(self, seed: int | str, profile: Profile | None = None) -> None:
        self.seed = str(seed)
        self._random = Random(self.seed)
        self._left = Remaining((profile or Profile()).ops)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Drawn by weight."""
        weights = [left or 1 for left in self._left.weights(candidates)] + [1] * timer
        return weighted(weights, self._random.random())

    def ran(self, task: Task) -> None:
        """One op less for it, chosen or not."""
        self._left.done_one(task)

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)
