"""Choices by name: deviations from the canonical schedule, and the recorder that writes them down.

The canonical schedule runs the task that is running as long as it is enabled, then the one created first; every
data draw is 0 and no timer fires early.  A run is then a short list of *deviations*: points at which something
else was chosen, and what.  This is the form in which a run is shrunk, and in which it survives small changes of
the program (exploration digest, section 1.4).

A point has a name that does not depend on what other tasks do: of a schedule choice, the running task, the
operation of its program that it is at and how many ops it has done there; of a data draw, the task, the
operation, the label and how many such draws it has made.  So leaving out one deviation, or one operation of a
program, hardly ever changes the meaning of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.op import Named, render
from svm_actors.engine.task import Task, Thread

TIMER: Final = "(timer)"
"""Stands for "fire the earliest timer" among the names of tasks; no task is called that."""
NOBODY_YET: Final = "main"
"""The task that runs before the first pick."""
RECEIVE: Final = "receive"
"""Kind of the op with which an actor's loop takes a message."""
START: Final = "start"
"""What it has announced then."""


class Point(NamedTuple):
    """Where a choice is made, by names; sorts and compares as plain data."""

    task: str
    """Id of the running task."""
    operation: int
    """The operation of its program that it is at; -1 outside of any."""
    label: str
    """Of a data draw; empty for a schedule choice."""
    done: int
    """Ops the task has done in that operation; of a data draw, draws of that label before it."""
    again: int
    """Schedule choices made at this very point before: more than none only when timers are raced."""


Event = tuple[str, int, int]
"""One step by name: task, operation, steps the task has made in it before."""
Value = int | str
"""What is chosen: a data value, or the id of a task."""
Plan = Mapping[Point, Value]


class Fork(NamedTuple):
    """A schedule choice that is to be made."""

    point: Point
    """Where."""
    options: list[str]
    """Ids of the candidates, the timer last."""
    canonical: int
    """Index of what the canonical schedule takes."""
    running: Task | None
    """Who made the last step."""
    candidates: list[Task]
    """Who can make the next one."""
    timer: bool
    """Whether firing the earliest timer is an alternative."""


class Handover(NamedTuple):
    """A preemption of a thread: it could go on, in whatever task works for it, and another thread does."""

    thread: str
    """Name of the thread that was at work."""
    op: str
    """What it would have done next."""
    other: str
    """Name of the thread that goes on."""


class Decision(NamedTuple):
    """One choice of a run, as it was made."""

    point: Point
    """Where."""
    options: tuple[str, ...]
    """Ids of the candidates, the timer last; empty for a data draw."""
    arity: int
    """How many alternatives there were."""
    canonical: int
    """Index of what the canonical schedule takes."""
    chosen: int
    """Index of what was taken."""
    preemption: bool
    """Whether this took the processor from a task that could have gone on."""
    step: int
    """Steps of the run made before it."""
    text: str
    """What the running task had announced, or the label of a data draw; empty unless asked for."""
    handover: Handover | None = None
    """The preemption of a thread that this is, if it is one; the canonical schedule has some too."""

    @property
    def value(self) -> Value:
        """What was chosen, by name."""
        return self.options[self.chosen] if self.options else self.chosen

    @property
    def deviates(self) -> bool:
        """Whether the canonical schedule would have chosen otherwise."""
        return self.chosen != self.canonical


class Recorder:
    """Makes the choices of another chooser and writes each of them down."""

    name = "recorder"

    def __init__(self, inner: Chooser | None = None, *, texts: bool = False) -> None:
        self.inner = inner
        self.texts = texts
        """Whether decisions say what the running task had announced.  A name may change later in the run."""
        if inner is not None:
            self.name = inner.name
        self.decisions: list[Decision] = []
        """One per entry of the engine's tape."""
        self.steps: int = 0
        """Steps seen."""
        self.switches: list[tuple[int, str, str]] = []
        """Context switches: the number of the step, counted from 1, that is another task's; both tasks' ids."""
        self.order: dict[Event, int] = {}
        """Every step by name, with its place in the run."""
        self._running: Task | None = None
        self._at_work: Thread | None = None
        """Whose step was the last one; an actor's loop that hands on a request works for nobody."""
        self._done: dict[tuple[int, int | None], int] = {}
        """Steps by creation number of the task and operation."""
        self._drawn: dict[tuple[str, int, str], int] = {}
        self._last: Point | None = None
        self._tell = getattr(inner, "ran", None)
        self.touched: list[Named] | None = getattr(inner, "touched", None)

    def ran(self, task: Task) -> None:
        """A step is made."""
        self.steps += 1
        before = self._running
        if not delivers(task):
            self._at_work = task.thread
        if before is not task:
            self.switches.append((self.steps, NOBODY_YET if before is None else before.id, task.id))
            self._running = task
        key = (task.number, task.operation)
        done = self._done.get(key, 0)
        self._done[key] = done + 1
        self.order[task.id, _operation(task), done] = self.steps
        if self._tell is not None:
            self._tell(task)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The choice of :meth:`pick`, written down."""
        point = self._schedule_point(running)
        goes_on = running is not None and running.enabled
        canonical = candidates.index(running) if goes_on and running is not None else 0
        options = [task.id for task in candidates]
        if timer:
            options.append(TIMER)
        chosen = self.pick(Fork(point, options, canonical, running, candidates, timer))
        preemption = goes_on and chosen != canonical
        text = "" if not self.texts else START if running is None else render(running.op)
        handover = None if chosen == len(candidates) else self._handover(candidates, candidates[chosen])
        self.decisions.append(
            Decision(point, tuple(options), len(options), canonical, chosen, preemption, self.steps, text, handover)
        )
        return chosen

    def data(self, count: int, label: str) -> int:
        """The choice of :meth:`draw`, written down."""
        task = self._running
        name, operation = (NOBODY_YET, -1) if task is None else (task.id, _operation(task))
        number = self._drawn.get((name, operation, label), 0)
        self._drawn[name, operation, label] = number + 1
        point = Point(name, operation, label, number, 0)
        value = self.draw(point, count, label)
        self.decisions.append(Decision(point, (), count, 0, value, False, self.steps, label if self.texts else ""))
        return value

    def pick(self, fork: Fork) -> int:
        """Who is to run: what the other chooser says."""
        if self.inner is None:
            return fork.canonical
        return self.inner.schedule(fork.running, fork.candidates, fork.timer)

    def draw(self, point: Point, count: int, label: str) -> int:
        """The value drawn: what the other chooser says."""
        return 0 if self.inner is None else self.inner.data(count, label)

    def next_of(self, task: Task) -> Event:
        """The name of the step that a task would make now."""
        return task.id, _operation(task), self._done.get((task.number, task.operation), 0)

    def _handover(self, candidates: list[Task], chosen: Task) -> Handover | None:
        here = self._at_work
        if here is None or chosen.thread is here or delivers(chosen):
            return None
        passed = next((task for task in candidates if task.thread is here), None)
        return None if passed is None else Handover(here.name, render(passed.op), chosen.thread.name)

    def _schedule_point(self, running: Task | None) -> Point:
        if running is None:
            point = Point(NOBODY_YET, -1, "", 0, 0)
        else:
            done = self._done.get((running.number, running.operation), 0)
            point = Point(running.id, _operation(running), "", done, 0)
        last = self._last
        if last is not None and last[:4] == point[:4]:
            point = point._replace(again=last.again + 1)
        self._last = point
        return point


class Guided(Recorder):
    """The canonical schedule, but for the deviations of a plan.

    A deviation whose point is not reached, or whose choice is not among the alternatives there, does nothing.
    """

    name = "guided"

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def pick(self, fork: Fork) -> int:
        """Whom the plan names, if that one is a candidate."""
        wanted = self.plan.get(fork.point)
        return fork.options.index(wanted) if isinstance(wanted, str) and wanted in fork.options else fork.canonical

    def draw(self, point: Point, count: int, label: str) -> int:
        """What the plan says, if there are so many alternatives."""
        wanted = self.plan.get(point)
        return wanted if isinstance(wanted, int) and wanted < count else 0


class InOrder(Guided):
    """The order of another run, as far as its steps are there: of the candidates' next steps the one it made first.

    Made for runs of a program without some of its operations: what is gone is simply not waited for.  Steps that
    the other run does not have come last, in canonical order.  Data draws follow the plan.
    """

    name = "in-order"

    def __init__(self, plan: Plan, order: Mapping[Event, int]) -> None:
        super().__init__(plan)
        self._order = order

    def pick(self, fork: Fork) -> int:
        """The candidate whose next step comes first."""
        best, chosen = -1, fork.canonical
        for index, task in enumerate(fork.candidates):
            place = self._order.get(self.next_of(task))
            if place is not None and (best < 0 or place < best):
                best, chosen = place, index
        return chosen


def delivers(task: Task) -> bool:
    """Whether it is an actor's loop that is about to take a message."""
    return task.daemon and task.op[0] == RECEIVE


def first_delivery(candidates: list[Task]) -> int | None:
    """Which of these would take a message; None when nobody would."""
    return next((index for index, task in enumerate(candidates) if delivers(task)), None)


def _operation(task: Task) -> int:
    return -1 if task.operation is None else task.operation
