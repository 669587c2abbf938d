"""The engine: one run of one world, one task at a time.

Tasks announce what they will do next (:mod:`svm_actors.engine.op`); the strategy picks who goes
on; everything between two announcements is atomic.  The pick happens *before* the running task
parks, so picking it again costs no switch.  The engine knows nothing of trio: a back end
(:mod:`svm_actors.engine.backend`) moves control from one task to another.

Time is integer nanoseconds.  It moves only when nothing is enabled, or, with ``race_timers``,
when the strategy chooses to let the earliest timer fire.

Follows DESIGN section 3; the vocabulary is that of the exploration digest, section 1.1.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from svm_actors.engine.errors import EngineError, StepBudgetSpent
from svm_actors.engine.lockdep import LockDep
from svm_actors.engine.op import Op, render
from svm_actors.engine.report import deadlock
from svm_actors.engine.task import Task, Thread

if TYPE_CHECKING:
    from svm_actors.engine.backend import Backend
    from svm_actors.engine.op import Named

_number = attrgetter("number")

TIMELINE_LENGTH = 400
"""How many last steps a run remembers when it does not record its whole trace."""


async def _never() -> None:
    """Body of the task that stands for "nobody may go on"."""


_never_coro = _never()
_never_coro.close()
_NOBODY = Task(0, "nobody", None, _never_coro, Thread("nobody"))


class Chooser(Protocol):
    """Makes the choices of one run; strategies and replay implement it."""

    name: str

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Index of the candidate to run; ``len(candidates)`` fires the earliest timer if ``timer``."""
        ...

    def data(self, count: int, label: str) -> int:
        """A data choice in ``range(count)``."""
        ...


class Source:
    """Something tasks can wait on; re-evaluates their guards when it changes."""

    __slots__ = ("engine", "parked")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parked: list[tuple[Task, Callable[[], bool]]] = []

    def changed(self) -> None:
        """Call after every change of what the guards read."""
        for task, ready in self.parked:
            if ready():
                if not task.enabled:
                    self.engine.enable(task)
            elif task.enabled:
                self.engine.disable(task)


class Engine:
    """Scheduler, clock, choice tape and event stream of one run."""

    def __init__(
        self,
        backend: Backend,
        chooser: Chooser,
        *,
        step_budget: int = 2_000_000,
        record: bool = False,
        race_timers: bool = False,
    ) -> None:
        self.backend = backend
        self.chooser = chooser
        self.step_budget = step_budget
        self.race_timers = race_timers
        self.now = 0
        """Virtual nanoseconds since the run began."""
        self.steps = 0
        self.enabled: list[Task] = []
        """Enabled tasks in creation order; the running task stays in it until it blocks."""
        self.tasks: dict[int, Task] = {}
        """Every task not done, by creation number."""
        self.current: Task | None = None
        self.failure: BaseException | None = None
        self.closing = False
        self.tape: list[int] = []
        """Choices made, ``value`` of each contested step and data draw, in order."""
        self.arity: list[int] = []
        """How many alternatives each of those choices had; strict replay compares it."""
        self.timeline: Any = [] if record else deque(maxlen=TIMELINE_LENGTH)
        """(task, op) of the steps run: all of them when recording, else the last ones."""
        self.counters: Counter[str] = Counter()
        """Window events and statistics by name."""
        self.lockdep = LockDep()
        self.listeners: list[Callable[[Any], None]] = []
        self._timers: list[tuple[int, int, int, Task]] = []
        self._created = 0
        self._queued = 0
        backend.engine = self

    # -- tasks ---------------------------------------------------------------------

    def spawn(
        self,
        coro: Coroutine[Any, Any, Any],
        name: str,
        *,
        parent: Task | None = None,
        thread: Thread | None = None,
        daemon: bool = False,
    ) -> Task:
        """Create a task.  Its id is ``parent's id/name.k``; without a thread it gets one of its own."""
        self._created += 1
        local = parent.child_name(name) if parent is not None else name
        task = Task(self._created, local, parent, coro, thread or Thread(""))
        if thread is None:
            task.thread.name = task.id
        task.daemon = daemon
        self.tasks[task.number] = task
        self.enable(task)
        self.backend.start(task)
        return task

    def enable(self, task: Task) -> None:
        """Put a task among the candidates."""
        task.enabled = True
        self._queued += 1
        task.ready_at = self._queued
        enabled = self.enabled
        if not enabled or enabled[-1].number < task.number:
            enabled.append(task)
        else:
            enabled.insert(bisect_left(enabled, task.number, key=_number), task)

    def disable(self, task: Task) -> None:
        """Take a task out of the candidates."""
        task.enabled = False
        enabled = self.enabled
        del enabled[bisect_left(enabled, task.number, key=_number)]

    # -- ops -----------------------------------------------------------------------

    async def step(self, kind: str, resource: Named | None = None, key: int | str | None = None) -> None:
        """Announce an op that is always enabled; return when this task has been picked to do it."""
        if self.closing:
            return
        task = self.current
        assert task is not None
        task.op = (kind, resource, key)
        chosen = self._pick()
        if chosen is not task:
            await self.backend.switch(task, chosen)

    async def wait(
        self,
        kind: str,
        resource: Named | None,
        source: Source,
        ready: Callable[[], bool],
        key: int | str | None = None,
        waits_for: Any = None,
    ) -> None:
        """Announce an op guarded by ``ready``; return when it holds and this task was picked.

        ``source.changed()`` must be called whenever the guard may have changed.
        """
        if self.closing:
            return
        task = self.current
        assert task is not None
        task.op = (kind, resource, key)
        task.waits_for = waits_for if waits_for is not None else source
        entry = (task, ready)
        source.parked.append(entry)
        try:
            if not ready():
                self.disable(task)
            chosen = self._pick()
            if chosen is not task:
                await self.backend.switch(task, chosen)
        finally:
            source.parked.remove(entry)
            task.waits_for = None

    async def sleep(self, nanoseconds: int, note: str = "", priority: int = 0) -> None:
        """Let virtual time pass.  Equal deadlines fire by (time, priority, creation number)."""
        if nanoseconds <= 0 or self.closing:
            return
        task = self.current
        assert task is not None
        task.op = ("sleep", None, note or None)
        heapq.heappush(self._timers, (self.now + nanoseconds, priority, task.number, task))
        self.disable(task)
        chosen = self._pick()
        if chosen is not task:
            await self.backend.switch(task, chosen)

    def choose(self, count: int, label: str) -> int:
        """A data choice in ``range(count)``, from the same tape as the schedule."""
        if count <= 1:
            return 0
        value = self.chooser.data(count, label)
        self.tape.append(value)
        self.arity.append(count)
        return value

    # -- the pick ------------------------------------------------------------------

    def _pick(self) -> Task:
        """Choose who runs next and make it current."""
        self.steps += 1
        enabled = self.enabled
        while True:
            count = len(enabled)
            if self.race_timers and self._timers and count:
                index = self._choose_task(count + 1)
                if index == count:
                    self._fire_timer()
                    continue
                chosen = enabled[index]
            elif count > 1:
                chosen = enabled[self._choose_task(count)]
            elif count:
                chosen = enabled[0]
            elif self._timers:
                self._fire_timer()
                continue
            else:
                return self._stuck(deadlock(self))
            break
        if self.steps > self.step_budget:
            return self._stuck(StepBudgetSpent(f"step budget of {self.step_budget} spent at virtual time {self.now} ns"))
        self.timeline.append((chosen, chosen.op))
        self.current = chosen
        return chosen

    def _choose_task(self, arity: int) -> int:
        running = self.current
        candidates = self.enabled
        index = self.chooser.schedule(running, candidates, arity > len(candidates))
        self.tape.append(index)
        self.arity.append(arity)
        return index

    def _fire_timer(self) -> None:
        deadline = self._timers[0][0]
        self.now = max(self.now, deadline)
        while self._timers and self._timers[0][0] <= self.now:
            self.enable(heapq.heappop(self._timers)[3])

    def _stuck(self, error: EngineError) -> Task:
        """End the run; nobody is picked, so the caller parks and never returns."""
        self.fail(error)
        return _NOBODY

    # -- ends ----------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """End the run with this error; the first one wins."""
        if self.failure is None:
            self.failure = error
        if not self.closing:
            self.closing = True
            self.backend.stop()

    def finished(self, task: Task) -> Task | None:
        """Book a task's end; return who runs next, None when the run is over."""
        task.done = True
        self.tasks.pop(task.number, None)
        if task.enabled:
            self.disable(task)
        if task.joiners is not None:
            task.joiners.changed()
        if self.closing:
            return None
        chosen = self._pick()
        return None if self.closing else chosen

    # -- the event stream ------------------------------------------------------------

    def emit(self, event: Any) -> None:
        """Hand a model event to every listener, in the order they subscribed."""
        for listener in self.listeners:
            listener(event)

    def count(self, name: str, amount: int = 1) -> None:
        """Count a window event or a statistic."""
        self.counters[name] += amount

    def trace(self) -> list[str]:
        """The recorded steps as text, one line each: ``task: op``."""
        return [f"{task.id}: {render(op)}" for task, op in self.timeline]

    def last_steps(self) -> list[tuple[Task, Op]]:
        """The steps remembered, oldest first."""
        return list(self.timeline)
