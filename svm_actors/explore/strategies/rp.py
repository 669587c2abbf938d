"""Random priority (RP): every announced op draws a score, the highest one runs.

The baseline that POS is measured against (Yuan, Yang and Gu, "Partial Order Aware Concurrency
Sampling", CAV 2018; exploration digest, section 1.2).  The task that ran draws a new score for its next
op; every other op keeps the one it has.

Deviation: scores are drawn when a choice first needs them, which changes the order of the draws and
nothing else.  The earliest timer, where it is an alternative, has a score of its own, drawn afresh each
time it fires.  Data choices are uniform.
"""

from __future__ import annotations

from random import Random

from svm_actors.engine.op import Op
from svm_actors.engine.task import Task


class Scores:
    """One uniform score per announced op; an op is known by its tuple, which is made anew each time."""

    def __init__(self, random: Random) -> None:
        self._random = random.random
        self._drawn: dict[int, tuple[float, Op | None]] = {}
        """By task number: the score, and the op it is for; None: for whatever comes next."""
        self._timer = -1.0

    def of(self, task: Task) -> float:
        """The score of what it announced."""
        known = self._drawn.get(task.number)
        op = task.op
        if known is not None and (known[1] is op or known[1] is None):
            return known[0]
        score = self._random()
        self._drawn[task.number] = (score, op)
        return score

    def drop(self, task: Task) -> None:
        """It draws again."""
        self._drawn.pop(task.number, None)

    def keep(self, task: Task) -> None:
        """Its next ops have the score of this one, until it is dropped."""
        self._drawn[task.number] = (self.of(task), None)

    def best(self, candidates: list[Task], timer: bool) -> int:
        """Index of the highest score; the timer's index is one past the last candidate."""
        drawn = self._drawn
        scores = []
        for task in candidates:  # one look per candidate and step: not worth a call
            known = drawn.get(task.number)
            scores.append(
                known[0] if known is not None and (known[1] is task.op or known[1] is None) else self.of(task)
            )
        if timer:
            if self._timer < 0:
                self._timer = self._random()
            scores.append(self._timer)
        index = scores.index(max(scores))
        if index == len(candidates):
            self._timer = -1.0
        return index


class RandomPriority:
    """The highest score runs."""

    name = "rp"

    def __init__(self, seed: int | str) -> None:
        self.seed = str(seed)
        self._random = Random(self.seed)
        self._scores = Scores(self._random)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The op with the highest score."""
        return self._scores.best(candidates, timer)

    def ran(self, task: Task) -> None:
        """Its next op is another one, even where the engine shares one tuple between ops."""
        self._scores.drop(task)

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)
