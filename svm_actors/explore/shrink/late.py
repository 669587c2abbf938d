"""The order of a failing run told from its end, for the same program with fewer operations.

:class:`~svm_actors.explore.strategies.guided.InOrder` makes every step in its recorded place, and a step is named by
how many its task has made before.  When an operation is gone that says little: an actor that serves everybody has made
fewer steps, so its work on the operations that are kept is taken for its work on those that came first; and a task that
serves an operation makes a step more where the one that is gone had left nothing to do.  So here a step is told by what
it does, without numbers.  Of a thread that does operations the n-th such step of the same task is the same; of an actor
the last one is, since what a failure needs is at the end of its run.  A step that the run did not make comes right
after the one before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.op import render
from svm_actors.engine.task import Task
from svm_actors.explore.shrink.threads import plain
from svm_actors.explore.strategies.guided import Fork, Guided, Plan, Recorder, first_delivery

LateStep = tuple[str, int | None, str, int]
"""Whose step it is, in which operation, what it does, and how many such steps came before; of an actor's the operation
is None and the number 0."""
Places = Mapping[LateStep, int]
"""Where a run made each step, an actor's for the last time."""


class StepNames:
    """Names the steps of one run."""

    def __init__(self) -> None:
        self._made: Counter[LateStep] = Counter()

    def name(self, task: Task) -> LateStep:
        """What the next step of a task is called."""
        return self._numbered(self._kind(task))

    def ran(self, task: Task) -> LateStep:
        """The same of a step that is made."""
        kind = self._kind(task)
        step = self._numbered(kind)
        self._made[kind] += 1
        return step

    @staticmethod
    def _kind(task: Task) -> LateStep:
        owner, does = task.thread.owner, plain(render(task.op))
        if owner is not None and owner.daemon:
            return task.thread.name, None, does, 0
        return task.id, -1 if task.operation is None else task.operation, does, 0

    def _numbered(self, kind: LateStep) -> LateStep:
        return kind if kind[1] is None else (*kind[:3], self._made[kind])


class LateRecorder(Recorder):
    """Writes down where each step came."""

    name = "late-recorder"

    def __init__(self, inner: Chooser) -> None:
        super().__init__(inner)
        self.places: dict[LateStep, int] = {}
        self._names = StepNames()

    def ran(self, task: Task) -> None:
        """A step is made."""
        super().ran(task)
        self.places[self._names.ran(task)] = self.steps


FIRST: Final = 0
"""Place of a task that has made no step that the run made, too."""


class InLateOrder(Guided):
    """Of the candidates the one whose next step comes first; a message is taken as soon as it can be.

    Data draws follow the plan.
    """

    name = "in-late-order"

    def __init__(self, plan: Plan, places: Places) -> None:
        super().__init__(plan)
        self._places = places
        self._names = StepNames()
        self._at: dict[int, int] = {}
        """Place of the last step of each task, by its number."""

    def ran(self, task: Task) -> None:
        """A step is made."""
        super().ran(task)
        place = self._places.get(self._names.ran(task))
        if place is not None:
            self._at[task.number] = place

    def pick(self, fork: Fork) -> int:
        """A message first; then the candidate whose next step comes first, the oldest of those that are equal."""
        delivery = first_delivery(fork.candidates)
        if delivery is not None:
            return delivery
        places = [self._place(task) for task in fork.candidates]
        return places.index(min(places))

    def _place(self, task: Task) -> int:
        place = self._places.get(self._names.name(task))
        return self._at.get(task.number, FIRST) if place is None else place
