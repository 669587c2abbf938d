"""The stack of a depth-first search: one node per step or data choice of the run it is at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

from svm_actors.engine.task import Task
from svm_actors.explore.search.footprint import Footprint
from svm_actors.explore.strategies.delay import first_in_turn

Cost = Literal["preemptions", "delays"]
"""What a bound counts."""

Clock = dict[int, int]
"""How many events of each task (by number) are known to come before."""


@attrs.define(eq=False)
class Event:
    """A step that was done."""

    task: int
    """Number of the task that did it."""
    turn: int
    """Its place among that task's events, from 1."""
    footprint: Footprint
    """What it touched."""
    clock: Clock
    """What it is ordered after, itself included."""
    node: StepNode
    """The state before it."""


@attrs.define(eq=False)
class StepNode:
    """A state in which a task is to be picked."""

    tasks: tuple[int, ...]
    """Numbers of the enabled tasks, in creation order."""
    costs: tuple[int, ...]
    """What picking each of them costs under the bound."""
    spent: int
    """What the picks so far have cost."""
    sleep: dict[int, Footprint]
    """Tasks whose next step leads to nothing new here."""
    backtrack: list[int]
    """Tasks to pick, each once, unless they sleep by then."""
    chosen: int = 0
    """The task picked now."""
    footprint: Footprint | None = None
    """What its step touched, as far as it has been seen."""
    event: Event | None = None
    """Its step, once it is done and ordered; forgotten when the pick changes."""
    tried: list[int] = attrs.field(factory=list)
    """Tasks picked here so far."""
    mail: tuple[str, str] | None = None
    """``send`` or ``receive``, and the mailbox, of a step that posts a request or hands one on."""
    causes: tuple[int, ...] | None = ()
    """Tasks whose last step had to come before this one; None: every task's."""
    forced: bool = False
    """No choice: an actor's loop hands its request on."""
    allowed: tuple[int, ...] = ()
    """Tasks whose pick the bound allows."""
    starts: bool = True
    """The pick before was of another thread: a bounded search may have to switch here instead of later."""

    @property
    def index(self) -> int:
        """Of the pick among the enabled tasks."""
        return self.tasks.index(self.chosen)

    @property
    def total(self) -> int:
        """What the picks up to and including this one have cost."""
        return self.spent + self.costs[self.index]

    def add(self, numbers: Iterable[int]) -> None:
        """Tasks to pick here, too."""
        if not self.forced:
            self.backtrack += [number for number in numbers if number not in self.backtrack]

    def pick(self) -> bool:
        """Pick the next task to try; False when there is none left."""
        for number in sorted(self.backtrack):
            if number not in self.tried and number not in self.sleep and number in self.allowed:
                self.chosen = number
                self.tried.append(number)
                self.footprint = self.event = None
                return True
        return False

    def advance(self, sleeping: bool) -> bool:
        """All runs through this pick are made: go on to the next one."""
        if sleeping and self.footprint is not None:
            self.sleep[self.chosen] = self.footprint
        return self.pick()


@attrs.define(eq=False)
class DataNode:
    """A data choice; every value is tried."""

    count: int
    """How many values there are."""
    value: int = 0
    """The one tried now."""

    def advance(self, sleeping: bool) -> bool:
        """The next value; False when there is none."""
        self.value += 1
        return self.value < self.count


def costs_of(kind: Cost | None, running: Task | None, candidates: list[Task]) -> tuple[int, ...]:
    """What picking each candidate costs: leaving a thread that could go on, or places skipped.

    A request is served on its caller's thread, so going on in the task that serves it is no switch.
    """
    count = len(candidates)
    if kind == "preemptions" and running is not None:
        mine = [task.thread is running.thread for task in candidates]
        return tuple(int(any(mine) and not own) for own in mine)
    if kind == "delays":
        first = first_in_turn(running, candidates)
        return tuple((index - first) % count for index in range(count))
    return (0,) * count
