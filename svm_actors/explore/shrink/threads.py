"""Schedules of whole kernel threads: PCT whose priorities belong to threads and not to tasks.

The tasks that serve a thread's requests carry that thread (:class:`svm_actors.engine.task.Thread`); so a program of
six operations has some hundred tasks, but only a handful of threads that can race.  PCT over tasks draws a priority
for each of the hundred, and a delay of one thread through all its requests is then hardly ever drawn.  Here a thread
keeps its priority in whatever it asks others to do, and a message is taken as soon as it can be: an actor's own loop
decides nothing.  That finds a failure again in a smaller program (exploration digest, section 1.4), where the steps
have other names than in the program that failed.

Change points are drawn among the steps at which more than one *thread* can go on; with ``at`` only among those whose
thread is about to do one of these ops, as the best run was when it was preempted.
"""

from __future__ import annotations

import re
from random import Random
from typing import Final

from svm_actors.engine.op import render
from svm_actors.engine.task import Task, Thread

RECEIVE: Final = "receive"
_DIGITS: Final = re.compile(r"[0-9a-f]*\d[0-9a-f]*")


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
        self._counted = 0
        self._priorities: dict[Thread, float] = {}

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Messages first; then the thread of highest priority, after the change of this step if there is one."""
        if self._eager:
            for index, task in enumerate(candidates):
                if delivers(task):
                    return index
        best = self._best(running, candidates)
        if self._contested(candidates) and (self._at is None or plain(render(candidates[best].op)) in self._at):
            self._counted += 1
            low = self._changes.get(self._counted)
            if low is not None:
                self._priorities[candidates[best].thread] = -low
                best = self._best(running, candidates)
        return best

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)

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


def delivers(task: Task) -> bool:
    """Whether it is an actor's loop that is about to take a message."""
    return task.daemon and task.op[0] == RECEIVE


def plain(text: str) -> str:
    """An op as text without the numbers in it, which differ from program to program."""
    return _DIGITS.sub("N", text)
