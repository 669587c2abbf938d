"""One run of a search: it follows the choices on the stack to their end, then makes new ones."""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import attrs

from svm_actors.engine.actor import Mailbox
from svm_actors.engine.channel import Reply
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.op import Named, Op
from svm_actors.engine.task import Task
from svm_actors.explore.search.footprint import Footprint, Names, dependent
from svm_actors.explore.search.meter import Meter
from svm_actors.explore.search.node import Cost, DataNode, StepNode, costs_of
from svm_actors.explore.search.races import Races
from svm_actors.explore.search.visited import Visited

Reduction = Literal["none", "sleep", "dpor"]
Ending = Literal["", "asleep", "visited", "too long"]
Stack = list[StepNode | DataNode]

UNKNOWN: Final = Footprint(("sleep", None, None))
"""Of a step that was not made: depends on everything, as a sleep does."""


QUIET: Final[Op] = ("wait", None, "quiescence")
"""The op of whoever goes on when nothing else can."""


class Cut(EngineError):
    """The search ends a run that can only repeat another one, or that has become too long."""


class SearchError(EngineError):
    """The program cannot be searched; the message says why."""


@attrs.frozen
class Bound:
    """A limit on what the picks of one run may cost."""

    cost: Cost
    """What is counted."""
    limit: int | None = None
    """At most so many; None counts without a limit."""


@attrs.frozen
class Options:
    """What a search leaves out, and how it knows that it may."""

    reduction: Reduction = "dpor"
    """Which of several equivalent runs are made."""
    bound: Bound | None = None
    """A limit on preemptions or delays."""
    steps: int | None = None
    """A limit on the ops of one run."""
    visited: Visited | None = None
    """States seen before; None does not look."""
    meter: Meter | None = None
    """Measures what steps touch; None believes the ops."""

    def __attrs_post_init__(self) -> None:
        if self.bound is not None and self.bound.limit is not None and self.reduction != "none":
            if self.reduction != "dpor" or self.bound.cost != "preemptions":
                raise ValueError(f"a bound on {self.bound.cost} needs reduction 'none', got {self.reduction!r}")
        elif self.bound is not None and self.reduction != "none":
            raise ValueError(f"counting {self.bound.cost} needs reduction 'none', got {self.reduction!r}")
        if self.visited is not None and self.reduction == "dpor":
            raise ValueError("states can be remembered with reduction 'none' or 'sleep': dpor must see every run's end")

    @property
    def conservative(self) -> bool:
        """Race reversal under a bound."""
        return self.reduction == "dpor" and self.bound is not None

    @property
    def sleeping(self) -> bool:
        """Whether tasks sleep."""
        return self.reduction != "none" and not self.conservative


class Walk:
    """The chooser of one run."""

    name = "search"

    def __init__(self, stack: Stack, names: Names, options: Options) -> None:
        self.touched: list[Named] = []
        """Filled by the engine: locks handled without an op of their own."""
        self.options = options
        self.ending: Ending = ""
        """Why the search ended the run itself."""
        self.refused: SearchError | None = None
        """Why the program cannot be searched."""
        self.spent = 0
        """What the picks have cost."""
        self.steps = 0
        self.choices: list[int] = []
        self.arities: list[int] = []
        self._stack = stack
        self._names = names
        self._races = Races(conservative=options.conservative) if options.reduction == "dpor" else None
        self._depth = 0
        self._step: StepNode | None = None
        """The last step's node."""
        self._picked = False
        """The choice of the step at hand was asked for."""
        self._tasks: dict[int, Task] = {}
        self._last_op: dict[int, Op] = {}
        """What each task did last; a task with another op has announced that and not done it."""
        self._turns: Counter[int] = Counter()
        self._running: Task | None = None
        self._engine: Engine | None = None

    @property
    def cut(self) -> bool:
        """The run was ended by the search."""
        return bool(self.ending)

    # -- what the engine asks --------------------------------------------------------

    def watch(self, engine: Engine) -> None:
        """The run begins."""
        self._engine = engine
        if self.options.meter is not None:
            self.options.meter.begin(engine)

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
        self._count_step()
        self._last_op[task.number] = task.op
        self._turns[task.number] += 1
        node = self._step
        assert node is not None
        if not node.forced:
            node.starts = self._running is None or self._running.thread is not task.thread
            self._running = task
        node.causes = self._causes(task)
        node.mail = (task.op[0], task.op[1].name) if isinstance(task.op[1], Mailbox) else None
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
        their turn before the step that failed.  What would have come after a run that was too long
        is not known, so it is taken to depend on everything.
        """
        self._close()
        if self._races is None:
            return
        if failed and not self.cut and self._step is not None:
            self._step.add(self._step.tasks)
        for number in sorted(self._tasks):
            task = self._tasks[number]
            if not task.done and task.op is not self._last_op.get(number):
                known = self._names.footprint(task.op)
                self._races.pending(number, UNKNOWN if self.ending == "too long" else known)

    # -- inside ------------------------------------------------------------------------

    def _causes(self, task: Task) -> tuple[int, ...] | None:
        """Tasks that had to end before this step, however it was scheduled."""
        kind, resource, _key = task.op
        if isinstance(resource, Reply):
            return () if resource.server is None else (resource.server.number,)
        if kind == "join" and isinstance(resource, Task):
            return (resource.number,)
        if kind == "join" and isinstance(resource, Nursery):
            return tuple(number for number, each in self._tasks.items() if each.done and resource.started(each))
        return None if task.op == QUIET else ()

    def _note(self, value: int, count: int) -> None:
        self.choices.append(value)
        self.arities.append(count)

    def _refuse(self, text: str) -> SearchError:
        self.refused = SearchError(text)
        return self.refused

    def _stop(self, ending: Ending, text: str) -> Cut:
        self.ending = ending
        return Cut(text)

    def _count_step(self) -> None:
        self.steps += 1
        if self.options.steps is not None and self.steps > self.options.steps:
            raise self._stop("too long", f"the run has come to more than {self.options.steps} steps")

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
        """A state not met on this path.  Raises Cut when everything in it sleeps, or it is known."""
        bound = self.options.bound
        kind, limit = (None, None) if bound is None else (bound.cost, bound.limit)
        costs = costs_of(kind, self._running, candidates)
        allowed = tuple(
            number for number, cost in zip(numbers, costs, strict=True) if limit is None or self.spent + cost <= limit
        )
        node = StepNode(numbers, costs, self.spent, self._sleepers(numbers), list(allowed), allowed=allowed)
        loop = next((task.number for task in candidates if _hands_on(task)), None)
        if loop is not None:
            node.forced, node.starts, node.backtrack = True, False, [loop]
            node.costs, node.allowed = (0,) * len(numbers), numbers
        elif self.options.conservative:
            node.backtrack = [next(number for number, cost in zip(numbers, costs, strict=True) if not cost)]
        if not node.pick():
            raise self._stop("asleep", "everything that could run here has been tried elsewhere")
        if self.options.reduction == "dpor":
            node.backtrack = [node.chosen]
        if not node.forced and len(numbers) > 1:
            self._look_up(node)
        return node

    def _look_up(self, node: StepNode) -> None:
        """Raises Cut when all that can come from here has come already."""
        visited = self.options.visited
        if visited is None or self._engine is None:
            return
        sleep = frozenset(self._tasks[number].id for number in node.sleep)
        depth = self.steps if self.options.steps is not None else 0
        current = self._engine.current
        at_work = "" if current is None else f"{current.id} {self._turns[current.number]}"
        thread = "" if self._running is None or self.options.bound is None else self._running.thread.name
        if visited.covers(self._engine, f"{at_work} {thread}", sleep, self.spent, depth):
            raise self._stop("visited", "all that can come from this state has come already")

    def _sleepers(self, numbers: tuple[int, ...]) -> dict[int, Footprint]:
        """Who still sleeps after the last step: those that do not depend on it."""
        last = self._step
        if last is None or last.footprint is None or not self.options.sleeping:
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
        if self.options.meter is not None:
            fields = self.options.meter.take()
            if not node.forced:
                node.footprint = node.footprint.with_fields(*fields)
        if self._races is not None and (not self._races.events or self._races.events[-1].node is not node):
            self._races.add(node)


def _hands_on(task: Task) -> bool:
    """An actor's loop with a request at hand: its order decides nothing, so it goes first."""
    return task.op[0] == "receive" and isinstance(task.op[1], Mailbox)
