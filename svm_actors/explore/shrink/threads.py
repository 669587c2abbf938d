"""Schedules of whole kernel threads: PCT whose priorities belong to threads and not to tasks.

The tasks that serve a thread's requests carry that thread (:class:`svm_actors.engine.task.Thread`); so a program of
six operations has some hundred tasks, but only a handful of threads that can race.  PCT over tasks draws a priority
for each of the hundred, and a delay of one thread through all its requests is then hardly ever drawn.  Here a thread
keeps its priority in whatever it asks others to do, and a message is taken as soon as it can be: an actor's own loop
decides nothing.  That finds a failure again in a smaller program (exploration digest, section 1.4), where the steps
have other names than in the program that failed.

Change points are drawn among the steps at which more than one *thread* can go on; with ``at`` only among those whose
thread is about to do one of these ops, as threads of the best run were when they were preempted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Final

from svm_actors.engine.op import render
from svm_actors.engine.task import Task, Thread
from svm_actors.explore.strategies.guided import Handover, first_delivery

SKIPPED: Final = (0, 0, 0, 0, 1, 1, 2, 3)
"""How many times a handover that is due may be put off."""
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")


class ThreadPct:
    """PCT(depth, horizon) over kernel threads."""

    name = "thread-pct"

    def __init__(
        self,
        seed: int | str,
        depth: int,
        horizon: int,
        *,
        at: frozenset[str] | None = None,
        eager: bool = True,
    ) -> None:
        self._random = Random(str(seed))
        steps = self._random.sample(range(1, horizon + 1), min(depth - 1, horizon))
        self._changes: dict[int, int] = {step: low for low, step in enumerate(steps, 1)}
        """Low priority by the counted step at which it is given."""
        self._at = at
        self._eager = eager
        self.counted = 0
        """Steps counted so far: what the horizon of the next run should be."""
        self._priorities: dict[Thread, float] = {}

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Messages first; then the thread of highest priority, after the change of this step if there is one."""
        delivery = first_delivery(candidates) if self._eager else None
        if delivery is not None:
            return delivery
        best = self._best(running, candidates)
        if self._contested(candidates) and self._changed(candidates, candidates[best]):
            best = self._best(running, candidates)
        return best

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)

    def _changed(self, candidates: list[Task], best: Task) -> bool:
        """Count the step; True when the thread about to run has lost its priority."""
        if self._at is not None and plain(render(best.op)) not in self._at:
            return False
        self.counted += 1
        low = self._changes.get(self.counted)
        if low is not None:
            self._priorities[best.thread] = -low
        return low is not None

    def _contested(self, candidates: list[Task]) -> bool:
        first = candidates[0].thread
        return any(task.thread is not first for task in candidates)

    def _best(self, running: Task | None, candidates: list[Task]) -> int:
        """Index of the highest priority; within a thread the running task goes on, else the oldest."""
        ranks = [(self._rank(task.thread), task is running) for task in candidates]
        return ranks.index(max(ranks))

    def _rank(self, thread: Thread) -> float:
        rank = self._priorities.get(thread)
        if rank is None:
            rank = self._priorities[thread] = self._random.random()
        return rank


class Handovers(ThreadPct):
    """The preemptions of another run's threads, in their order, each a few times later than it could be.

    One is due when its thread is about to do what it was about to do then; thread and op are told by their names
    without numbers.  The thread then has the lowest priority and the other one the highest.
    """

    name = "handovers"

    def __init__(self, seed: int | str, handovers: Sequence[Handover], *, eager: bool = True) -> None:
        super().__init__(seed, 1, 1, eager=eager)
        self._due = [Handover(plain(one.thread), plain(one.op), plain(one.other)) for one in reversed(handovers)]
        self._skipped = [self._random.choice(SKIPPED) for _ in self._due]

    def _changed(self, candidates: list[Task], best: Task) -> bool:
        if not self._due or not self._is_due(self._due[-1], best):
            return False
        if self._skipped[-1]:
            self._skipped[-1] -= 1
            return False
        self._skipped.pop()
        other = self._due.pop().other
        self.counted += 1
        self._priorities[best.thread] = -float(self.counted)
        for task in candidates:
            if task.thread is not best.thread and plain(task.thread.name) == other:
                self._priorities[task.thread] = 1.0 + self.counted
        return True

    def _is_due(self, handover: Handover, best: Task) -> bool:
        return plain(best.thread.name) == handover.thread and plain(render(best.op)) == handover.op


def plain(text: str) -> str:
    """An op as text without the numbers in it, which differ from program to program."""
    return _NUMBER.sub("N", text)
