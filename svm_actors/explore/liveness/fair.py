"""Fair schedules: every task that can go on goes on after a bounded, or a finite, number of steps."""

from __future__ import annotations

from random import Random
from typing import Protocol

from svm_actors.engine.task import Task


class Fair(Protocol):
    """Picks among enabled tasks, fairly."""

    def pick(self, candidates: list[Task]) -> int:
        """Index of the next one."""
        ...

    def order(self, tasks: list[Task]) -> tuple[int, ...]:
        """What the policy remembers, as places in this list: part of the state of a fair run."""
        ...


class Turns:
    """Who has waited longest goes next; who has never run comes before those who have.

    ``youngest`` says which of several newcomers goes first: two fair schedules.
    """

    def __init__(self, *, youngest: bool = False) -> None:
        self.youngest = youngest
        self._last: dict[int, int] = {}
        self._step = 0

    def ran(self, task: Task) -> None:
        """A step was made, also one without a choice."""
        self._step += 1
        self._last[task.number] = self._step

    def pick(self, candidates: list[Task]) -> int:
        """The longest waiting one."""
        sign = -1 if self.youngest else 1
        return min(
            range(len(candidates)),
            key=lambda index: (self._last.get(candidates[index].number, 0), sign * candidates[index].number),
        )

    def order(self, tasks: list[Task]) -> tuple[int, ...]:
        """The tasks by how long they have waited."""
        return tuple(sorted(range(len(tasks)), key=lambda place: (self._last.get(tasks[place].number, 0), place)))


class Walks:
    """Any enabled task, each as likely: fair with probability 1."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def ran(self, task: Task) -> None:
        """Nothing is remembered."""

    def pick(self, candidates: list[Task]) -> int:
        """Any."""
        return self._random.randrange(len(candidates))

    def order(self, tasks: list[Task]) -> tuple[int, ...]:
        """A walk has no turns."""
        return ()
