"""The engine: one run of one world, one task at a time.

Tasks announce what they will do next (:mod:`svm_actors.engine.op`); the strategy picks who goes
on; everything between two announcements is atomic.  The pick happens *before* the running task
parks, so picking it again costs no switch.  The engine knows nothing of trio: a back end
(:mod:`svm_actors.engine.backend`) moves control from one task to another.

Time is integer nanoseconds.  It moves only when nothing is enabled, or, with ``race_timers``,
when the strategy chooses to let the earliest timer fire.

A run ends once: when ``main`` returns, or at the first failure of any task, oracle or strategy.
From then on the engine is *closing*: every op a task announces raises what unwinds it (GeneratorExit
on the direct back end, trio.Cancelled on the other), so cleanup code runs but schedules nothing.

Follows DESIGN section 3; the vocabulary is that of the exploration digest, section 1.1.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.errors import EngineError
from svm_actors.engine.faults import Faults
from svm_actors.engine.listeners import Listeners
from svm_actors.engine.lockdep import LockDep
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.op import render
from svm_actors.engine.parts import Parts
from svm_actors.engine.report import budget_spent, deadlock
from svm_actors.engine.source import Source
from svm_actors.engine.task import NOBODY, Task, Thread

if TYPE_CHECKING:
    from svm_actors.engine.backend import Backend
    from svm_actors.engine.op import Named

__all__ = ["TIMELINE_LENGTH", "Chooser", "Engine", "Source"]

_number = attrgetter("number")

TIMELINE_LENGTH = 400
"""How many last steps a run remembers when it does not record its whole trace."""


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
        """Ops announced so far, by all tasks together."""
        self.enabled: list[Task] = []
        """Enabled tasks in creation order; the running task stays in it until it blocks."""
        self.tasks: dict[int, Task] = {}
        """Every task not done, by creation number."""
        self.current: Task | None = None
        self.failure: BaseException | None = None
        self.closing = False
        self.halted = False
        """No op may be announced now: the run is closing, or a section is atomic."""
        self.atomic: list[Named] = []
        """What forbids sleeping now, outermost first: spinlocks held.  Such a section holds no op."""
        self.tape: list[int] = []
        """Choices made, ``value`` of each contested step and data draw, in order."""
        self.arity: list[int] = []
        """How many alternatives each of those choices had; strict replay compares it."""
        self.timeline: Any = [] if record else deque(maxlen=TIMELINE_LENGTH)
        """(task, op) of the steps run: all of them when recording, else the last ones."""
        self.counters: Counter[str] = Counter()
        """Window events and statistics by name."""
        self.lockdep = LockDep()
        self.parts = Parts()
        self.faults = Faults(self.choose, self.count)
        self.listeners = Listeners()
        self._timers: list[tuple[int, int, int, Task]] = []
        self._idler: Task | None = None
        self._created = self._queued = 0
        self._roots: dict[str, int] = {}
        self._identify = backend.identify
        self._switch = backend.switch
        self._ran: Callable[[Task], None] | None = getattr(chooser, "ran", None)
        self.touched: list[Named] | None = getattr(chooser, "touched", None)  # see Chooser
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
        """Create a task.  Its id is ``parent's id/name.k``; without a thread it gets one of its own.

        Without a parent the id is ``name``, a second one of that name ``name.1``: give a parent
        where the order of such spawns depends on the schedule.
        """
        self._created += 1
        local = parent.child_name(name) if parent is not None else self._root_name(name)
        task = Task(self._created, local, parent, coro, thread or Thread(""))
        if thread is None:
            task.thread.name = task.id
            task.thread.owner = task
        task.daemon = daemon
        if self.closing:
            coro.close()
            task.done = True
            return task
        self.tasks[task.number] = task
        self.enable(task)
        self.backend.start(task)
        return task

    def _root_name(self, name: str) -> str:
        self._roots[name] = count = self._roots.get(name, -1) + 1
        return f"{name}.{count}" if count else name

    def nursery(self) -> Nursery:
        """``async with engine.nursery() as nursery:`` leaves when every task started in it is done."""
        return Nursery(self)

    async def join(self, task: Task) -> None:
        """Wait until ``task`` is done.  Nothing is re-raised: a failed task ends the run anyway."""
        if task.joiners is None:
            task.joiners = Source(self)
        await self.wait("join", task, task.joiners, lambda: task.done, waits_for=task)

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
        if self.halted:
            await self._halt(kind, resource)
        task = self.current
        assert task is not None
        if self._identify is not None:
            self._identify(task)
        task.op = (kind, resource, key)
        chosen = self._pick()
        if chosen is not task:
            await self._switch(task, chosen)

    async def wait(
        self,
        kind: str,
        resource: Named | None,
        source: Source,
        ready: Callable[[], bool],
        key: int | str | None = None,
        waits_for: Any = None,
        timeout: int | None = None,
    ) -> bool:
        """Announce an op guarded by ``ready``; return when it holds and this task was picked.

        ``source.changed()`` must be called whenever the guard may have become true.  If it turned
        false again before the pick, unannounced, the task waits on: what a kernel wait loop does.

        With ``timeout`` (ns) the wait also ends when that much virtual time has passed.  The result
        says whether the guard holds.
        """
        if timeout is not None:
            return await self._wait_timeout(kind, resource, source, ready, key, waits_for, timeout)
        while True:
            if self.halted:
                await self._halt(kind, resource)
            task = self.current
            assert task is not None
            if self._identify is not None:
                self._identify(task)
            task.op = (kind, resource, key)
            task.waits_for = source if waits_for is None else waits_for
            task.guard = ready
            entry = (task, ready)
            source.parked.append(entry)
            try:
                if not ready():
                    self.disable(task)
                chosen = self._pick()
                if chosen is not task:
                    await self._switch(task, chosen)
            finally:
                source.parked.remove(entry)
                task.waits_for = task.guard = None
            if ready():
                return True

    async def _wait_timeout(
        self,
        kind: str,
        resource: Named | None,
        source: Source,
        ready: Callable[[], bool],
        key: int | str | None,
        waits_for: Any,
        timeout: int,
    ) -> bool:
        """A wait whose guard is "ready or expired", with a timer that enables the task."""
        task = self.current
        assert task is not None
        task.expired = timeout <= 0
        timer = (self.now + timeout, 0, task.number, task)
        if not task.expired:
            heapq.heappush(self._timers, timer)
        try:
            await self.wait(kind, resource, source, lambda: task.expired or ready(), key, waits_for)
        finally:
            if not task.expired:
                self._timers.remove(timer)
                heapq.heapify(self._timers)
        return ready()

    async def sleep(self, nanoseconds: int, note: str = "", priority: int = 0) -> None:
        """Let virtual time pass.  Equal deadlines fire by (time, priority, creation number)."""
        if nanoseconds <= 0:
            return
        if self.halted:
            await self._halt("sleep", None)
        task = self.current
        assert task is not None
        if self._identify is not None:
            self._identify(task)
        task.op = ("sleep", None, note or None)
        heapq.heappush(self._timers, (self.now + nanoseconds, priority, task.number, task))
        self.disable(task)
        chosen = self._pick()
        if chosen is not task:
            await self._switch(task, chosen)

    async def quiesce(self) -> None:
        """Sleep until nothing else can run and no timer is pending.

        Tasks that are blocked then, daemons apart, will never go on: that is a deadlock.
        """
        if self.halted:
            await self._halt("wait", None)
        task = self.current
        assert task is not None
        if self._identify is not None:
            self._identify(task)
        if self._idler is not None:
            raise EngineError(f"{task.id} waits for quiescence, but {self._idler.id} does already")
        task.op = ("wait", None, "quiescence")
        self._idler = task
        self.disable(task)
        chosen = self._pick()
        if chosen is not task:
            await self._switch(task, chosen)
        if any(other is not task and not other.daemon for other in self.tasks.values()):
            raise deadlock(self)

    def enter_atomic(self, lock: Named) -> None:
        """A section begins in which nothing may sleep."""
        self.atomic.append(lock)
        self.halted = True

    def leave_atomic(self, lock: Named) -> None:
        """It ends; sections may end in any order."""
        if lock in self.atomic:
            self.atomic.remove(lock)
        self.halted = self.closing or bool(self.atomic)

    async def _halt(self, kind: str, resource: Named | None) -> None:
        """An op was announced where none may be."""
        if self.closing:
            await self.backend.ended()
        raise EngineError(
            f"{self.current} announces {render((kind, resource, None))!r} in an atomic section: "
            f"it holds {', '.join(lock.name for lock in self.atomic)}, and whoever holds a spinlock must not sleep"
        )

    def choose(self, count: int, label: str) -> int:
        """A data choice in ``range(count)``, from the same tape as the schedule."""
        if count <= 1 or self.closing:
            return 0
        try:
            value = self.chooser.data(count, label)
            if not 0 <= value < count:
                raise self._out_of_range(value, count)
        except Exception as error:
            self.fail(error)
            raise
        self.tape.append(value)
        self.arity.append(count)
        return value

    # -- the pick ------------------------------------------------------------------

    def _pick(self) -> Task:
        """Choose who runs next and make it current."""
        self.steps = steps = self.steps + 1
        enabled = self.enabled
        count = len(enabled)
        try:
            if self._timers and (self.race_timers or not count):
                chosen = self._pick_timed()
            elif count > 1:
                index = self.chooser.schedule(self.current, enabled, False)
                if not 0 <= index < count:
                    raise self._out_of_range(index, count)
                chosen = enabled[index]
                self.tape.append(index)
                self.arity.append(count)
            elif count:
                chosen = enabled[0]
            elif self._idler is not None:
                chosen, self._idler = self._idler, None
                self.enable(chosen)
            else:
                return self._stuck(deadlock(self))
            if self._ran is not None:
                self._ran(chosen)
        except Exception as error:  # a strategy or a replay that cannot go on ends the run
            return self._stuck(error)
        if steps > self.step_budget:
            return self._stuck(budget_spent(self))
        self.timeline.append((chosen, chosen.op))
        self.current = chosen
        return chosen

    def _pick_timed(self) -> Task:
        """The pick where firing the earliest timer is the only way on, or one of the choices."""
        enabled = self.enabled
        while True:
            count = len(enabled)
            timer = bool(self._timers) and (self.race_timers or not count)
            if count + timer == 1:
                index = 0
            else:
                index = self.chooser.schedule(self.current, enabled, timer)
                if not 0 <= index < count + timer:
                    raise self._out_of_range(index, count + timer)
                self.tape.append(index)
                self.arity.append(count + timer)
            if index < count:
                return enabled[index]
            self._fire_timer()

    def _out_of_range(self, value: int, count: int) -> EngineError:
        return EngineError(f"strategy {self.chooser.name} chose {value}, but there are {count} alternatives")

    def _fire_timer(self) -> None:
        """Move to the earliest deadline; everything due then becomes enabled at once."""
        timers = self._timers
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            task = heapq.heappop(timers)[3]
            task.expired = True
            if not task.enabled:
                self.enable(task)

    def _stuck(self, error: BaseException) -> Task:
        """End the run; nobody is picked, so the caller parks and never returns."""
        self.fail(error)
        return NOBODY

    # -- ends ----------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """End the run with this error; the first one wins."""
        if self.failure is None:
            self.failure = error
        self.close()

    def close(self) -> None:
        """End the run: no task may do anything more."""
        if not self.closing:
            self.closing = self.halted = True
            self.backend.stop()

    def finished(self, task: Task) -> Task | None:
        """Book a task's end; return who runs next, None when the run is over."""
        self.retire(task)
        if self.closing:
            return None
        chosen = self._pick()
        return None if self.closing else chosen

    def retire(self, task: Task) -> None:
        """Take a task that ended off the books.  It may leave no lock of its own thread behind."""
        task.done = True
        self.tasks.pop(task.number, None)
        if task.enabled:
            self.disable(task)
        if self.closing:
            return
        thread = task.thread
        if self.atomic or (thread.held and thread.owner is task):
            held = self.atomic or list(thread.held)
            self.fail(EngineError(f"{task.id} ended while holding {', '.join(lock.name for lock in held)}"))
        elif task.joiners is not None:
            task.joiners.changed()

    # -- the event stream ------------------------------------------------------------

    def emit(self, event: Any) -> None:
        """Hand a model event to every listener that hears its kind, in the order they subscribed.

        A listener that raises (an oracle) ends the run, whatever the emitting code does with it.
        """
        if self.closing:
            return
        try:
            for listener in self.listeners.of(type(event)):
                listener(event)
        except Exception as error:
            self.fail(error)
            raise

    def count(self, name: str, amount: int = 1) -> None:
        """Count a window event or a statistic."""
        if not self.closing:
            self.counters[name] += amount

    def trace(self) -> list[str]:
        """The recorded steps as text, one line each: ``task: op``."""
        return [f"{task.id}: {render(op)}" for task, op in self.timeline]
