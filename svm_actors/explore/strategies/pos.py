"""Partial order sampling (POS): random scores, drawn again where ops race.

Yuan, Yang and Gu, "Partial Order Aware Concurrency Sampling", CAV 2018; exploration digest, section
1.2.  As random priority, and one rule more: after an op ran, every other enabled op that is dependent
with it draws a new score too.  Dependent is what :func:`svm_actors.engine.op.conflicts` says: the same
resource (and key), not both reading, lock ops included.  No parameter.

Weak where all tasks contend for one thing all the time: every score is new at every step, and POS is
exactly a random walk.

Deviation: a lock that is released without an op of its own redraws nothing; those who wait for it were
redrawn when it was taken.  Firing a timer redraws nothing but the timer.
"""

from __future__ import annotations

from random import Random

from svm_actors.engine.op import conflicts
from svm_actors.engine.task import Task
from svm_actors.explore.strategies.rp import Scores


class Pos:
    """The highest score runs; whoever raced with it draws again."""

    name = "pos"

    def __init__(self, seed: int | str) -> None:
        self.seed = str(seed)
        self._random = Random(self.seed)
        self._scores = Scores(self._random)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The op with the highest score."""
        index = self._scores.best(candidates, timer)
        if index < len(candidates):
            op = candidates[index].op
            resource = op[1]
            if resource is not None:
                for task in candidates:
                    if task.op[1] is resource and conflicts(op, task.op):
                        self._scores.drop(task)
        return index

    def ran(self, task: Task) -> None:
        """The task that ran draws again, also at a step without a choice."""
        self._scores.drop(task)

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)
