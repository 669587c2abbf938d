"""Batch: trio's own scheduling, the baseline that every strategy has to beat.

Trio takes everything that is runnable as one batch, in an order shuffled by the seed, and runs each task of
the batch to its next checkpoint; what becomes runnable meanwhile is for the next batch.  With one checkpoint
per op that is: in every round each enabled task does one op.  So tasks go on in step, and nobody is ever
delayed by more than a round: races that need one task to stay behind for long are out of reach.

A task whose guard turned false before its turn loses the turn.  With ``timer`` the earliest timer is due
at the end of a batch, as likely as one more task.

Deviation: outside of its tests trio reverses a batch or does not, with even odds; shuffling it, as it does
under test, is the stronger baseline.
"""

from __future__ import annotations

from random import Random

from svm_actors.engine.task import Task


class Batch:
    """One op of everybody, in a shuffled order, and again."""

    name = "batch"

    def __init__(self, seed: int | str) -> None:
        self.seed = str(seed)
        self._random = Random(self.seed)
        self._left: list[Task] = []
        """Tasks of this batch that have not had their turn, last one first."""

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The next of the batch; a new batch when it is through."""
        while self._left:
            task = self._left.pop()
            if task.enabled:
                return candidates.index(task)
        if timer and self._random.random() * (len(candidates) + 1) < 1:
            return len(candidates)
        self._left = list(candidates)
        self._random.shuffle(self._left)
        return candidates.index(self._left.pop())

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)
