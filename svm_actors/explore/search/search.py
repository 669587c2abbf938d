"""Systematic search: every schedule of a program, or one of each class (exploration digest, section 1.3).

Depth first and without stored states: the program runs from its beginning for every schedule, and the
search is the strategy that makes the choices.  Data choices are searched like those of schedule.

* ``none``: every schedule.
* ``sleep``: sleep sets; every class of equivalent schedules once, some runs are cut short.
* ``dpor``: source-DPOR with sleep sets; only races found in the runs made are followed up.

A bound on preemptions or delays goes with ``none`` only: with a reduction it would lose schedules
without saying so.  A failure ends its run; what the failing step would have led to is not searched.

Requires what the engine asks of a model anyway: all that tasks share is announced, and a name means the
same thing in every run.  Racing timers are not supported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.errors import EngineError
from svm_actors.engine.op import Named, Op
from svm_actors.engine.task import Task
from svm_actors.explore.search.footprint import Footprint, Names, dependent
from svm_actors.explore.search.node import Cost, DataNode, StepNode, costs_of
from svm_actors.explore.search.races import Races

Reduction = Literal["none", "sleep", "dpor"]
Runner = Callable[[Chooser], object]
"""Makes one run with these choices; answers what it failed with, or None."""


class Cut(EngineError):
    """The search ends a run that can only repeat another one."""


class SearchError(EngineError):
    """The program cannot be searched; the message says why."""


@attrs.frozen
class Bound:
    """A limit on what the picks of one run may cost."""

    cost: Cost
    """What is counted."""
    limit: int | None = None
    """At most so many; None counts without a limit."""


@attrs.define
class Found:
    """What a search has come to."""

    runs: int = 0
    """Runs that came to their end."""
    blocked: int = 0
    """Runs cut short: everything enabled slept."""
    failing: int = 0
    """Runs that failed."""
    costs: Counter[int] = attrs.field(factory=Counter)
    """Runs by what their picks cost, under a bound."""
    first: object = None
    """What the first failing run failed with."""
    choices: tuple[int, ...] = ()
    """Its choices, of schedule and data, and ..."""
    arities: tuple[int, ...] = ()
    """... how many alternatives each of them had: what a strict replay takes."""
    complete: bool = False
    """Every run within the bound was made."""

    @property
    def verdict(self) -> Literal["complete within this bound", "budget spent"]:
        """How the search ended."""
        return "complete within this bound" if self.complete else "budget spent"


def search(run: Runner, reduction: Reduction = "dpor", *, bound: Bound | None = None, budget: int = 10_000) -> Found:
    """Make all runs, at most ``budget`` of them.  ValueError for a bound together with a reduction."""
    if bound is not None and reduction != "none":
        raise ValueError(f"a bound on {bound.cost} needs reduction 'none', got {reduction!r}")
    names = Names()
    stack: list[StepNode | DataNode] = []
    found = Found()
    while found.runs + found.blocked < budget:
        walk = Walk(stack, names, reduction, bound)
        failure = run(walk)
        walk.end(failed=failure is not None)
        _book(found, walk, failure)
        if not _next(stack, reduction):
            found.complete = True
            break
    return found


def rising(run: Runner, cost: Cost, limit: int, *, budget: int = 10_000) -> tuple[int, Found]:
    """Search with bound 0, 1, ... up to ``limit``, until something fails; the last bound and its search."""
    for bound in range(limit + 1):
        found = search(run, "none", bound=Bound(cost, bound), budget=budget)
        if found.failing or not found.complete:
            break
    return bound, found


def _book(found: Found, walk: Walk, failure: object) -> None:
    if walk.refused is not None:
        raise walk.refused
    if walk.cut:
        found.blocked += 1
        return
    found.runs += 1
    if walk.bound is not None:
        found.costs[walk.spent] += 1
    if failure is not None:
        found.failing += 1
        if found.failing == 1:
            found.first, found.choices, found.arities = failure, tuple(walk.choices), tuple(walk.arities)


def _next(stack: list[StepNode | DataNode], reduction: Reduction) -> bool:
    """Change the deepest choice that can be changed; False when all are made."""
    while stack:
        if stack[-1].advance(reduction != "none"):
            if isinstance(stack[-1], DataNode):
                _forget_event(stack)
            return True
        stack.pop()
    return False


def _forget_event(stack: list[StepNode | DataNode]) -> None:
    """The step that makes another data choice now may touch something else."""
    for node in reversed(stack):
        if isinstance(node, StepNode):
            node.event = None
            return


class Walk:
    """One run of a search: follows the stack, then adds to it."""

    name = "search"

    def __init__(
        self, stack: list[StepNode | DataNode], names: Names, reduction: Reduction, bound: Bound | None
    ) -> None:
        self.touched: list[Named] = []
        """Filled by the engine: locks handled without an op of their own."""
        self.bound = bound
        self.cut = False
        """The run was ended because it could only repeat another one."""
        self.refused: SearchError | None = None
        """Why the program cannot be searched."""
        self.spent = 0
        """What the picks have cost."""
        self.choices: list[int] = []
        self.arities: list[int] = []
        self._stack = stack
        self._names = names
        self._reduction = reduction
        self._races = Races() if reduction == "dpor" else None
        self._depth = 0
        self._step: StepNode | None = None
        """The last step's node."""
        self._picked = False
        """The choice of the step at hand was asked for."""
        self._tasks: dict[int, Task] = {}
        self._last_op: dict[int, Op] = {}
        """What each task did last; a task with another op has announced that and not done it."""
        self._running: Task | None = None

    # -- what the engine asks --------------------------------------------------------

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The pick of this node."""
        if timer:
            raise self._refuse("racing timers cannot be searched: run without race_timers")
        node = self._enter(candidates)
        self._picked = True
        self._note(node.index, len(candidates))
        return node.index

    def ran(self, task: Task) -> None:
        """A step, also one without a choice."""
        if not self._picked:
            self._enter([task])
        self._picked = False
        self._running = task
        self._last_op[task.number] = task.op
        node = self._step
        assert node is not None
        if node.footprint is None:
            node.footprint = self._names.footprint(task.op)

    def data(self, count: int, label: str) -> int:
        """Every value in turn."""
        if self._depth == len(self._stack):
            self._stack.append(DataNode(count))
        node = self._stack[self._depth]
        if not isinstance(node, DataNode) or node.count != count:
            raise self._refuse(f"the program is not deterministic: data choice {label!r} where there was none")
        self._depth += 1
        self._note(node.value, count)
        return node.value

    def end(self, *, failed: bool) -> None:
        """The run is over: order its last event, and what was announced and never done.

        A failure hides what the others would have done, and with it their races: so they all get
        their turn before the step that failed.
        """
        self._close()
        if self._races is None:
            return
        if failed and not self.cut and self._step is not None:
            self._step.backtrack = list(self._step.tasks)
        for number in sorted(self._tasks):
            task = self._tasks[number]
            if not task.done and task.op is not self._last_op.get(number):
                self._races.pending(number, self._names.footprint(task.op))

    # -- inside ------------------------------------------------------------------------

    def _note(self, value: int, count: int) -> None:
        self.choices.append(value)
        self.arities.append(count)

    def _refuse(self, text: str) -> SearchError:
        self.refused = SearchError(text)
        return self.refused

    def _enter(self, candidates: list[Task]) -> StepNode:
        """The node of this state, made if it is new."""
        self._close()
        for task in candidates:
            self._tasks[task.number] = task
        numbers = tuple(task.number for task in candidates)
        if self._depth == len(self._stack):
            self._stack.append(self._new(numbers, candidates))
        node = self._stack[self._depth]
        if not isinstance(node, StepNode) or node.tasks != numbers:
            raise self._refuse("the program is not deterministic: the same choices led to another state")
        self._depth += 1
        self._step = node
        self.spent = node.total
        if self._races is not None:
            self._races.enter(node)
        return node

    def _new(self, numbers: tuple[int, ...], candidates: list[Task]) -> StepNode:
        """A state not seen before.  Raises Cut when everything in it sleeps."""
        kind, limit = (None, None) if self.bound is None else (self.bound.cost, self.bound.limit)
        costs = costs_of(kind, self._running, candidates)
        allowed = [
            number for number, cost in zip(numbers, costs, strict=True) if limit is None or self.spent + cost <= limit
        ]
        node = StepNode(numbers, costs, self.spent, self._sleepers(numbers), allowed)
        if not node.pick():
            self.cut = True
            raise Cut("everything that could run here has been tried elsewhere")
        if self._reduction == "dpor":
            node.backtrack = [node.chosen]
        return node

    def _sleepers(self, numbers: tuple[int, ...]) -> dict[int, Footprint]:
        """Who still sleeps after the last step: those that do not depend on it."""
        last = self._step
        if last is None or last.footprint is None:
            return {}
        return {
            number: footprint
            for number, footprint in last.sleep.items()
            if number in numbers and not dependent(footprint, last.footprint)
        }

    def _close(self) -> None:
        """The last step is over; now it is known what it touched."""
        node = self._step
        if node is None or node.footprint is None:
            return
        if self.touched:
            node.footprint = node.footprint.with_touched(self._names.of(lock) for lock in self.touched)
            self.touched.clear()
        if self._races is not None and (not self._races.events or self._races.events[-1].node is not node):
            self._races.add(node)
