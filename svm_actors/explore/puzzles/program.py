"""A small language for benchmark programs, and what runs them (exploration digest, part 3).

A program makes variables, locks and conditions, and then its tasks: generators that yield each op before
it is done and do it when they are resumed.  What stands after a ``yield`` up to the next one, checks and
branches included, belongs to the op yielded, so the text of a program is about as long as the digest's::

    def setter() -> Body:
        yield a.w
        a.v = 1
        yield b.w
        b.v = -1

``x.r``, ``x.w``, ``x.u`` read, write and update a variable; ``m.take`` and ``m.drop`` lock and unlock;
``yield from c.wait(m)`` and ``yield c.signal`` wait and wake; ``LOOP`` stands where the digest has the
mark of a loop; :func:`fail_if` is a check.

Two forms.  *Lean*: all tasks exist from the start and the first op of each is announced; there is no
scheduling point but the listed ones.  *Overlay*, to stand beside published figures, whose tools
instrument every memory access: a spawner task with ``spawn`` local ops before each spawn and each join,
local ops at the start of every task and every loop iteration, and one before every listed op.

A failed check ends the run, or, in a *maximal* run, its task alone: then the others go on, so that
schedules can be counted.

Simplified: a task that waits on a condition is woken by the signal and not spuriously.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, Literal

import attrs

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import Deadlock, PropertyFailed, StepBudgetSpent
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.source import Source
from svm_actors.engine.task import Task
from svm_actors.explore.strategies.pct import YIELD

Form = Literal["lean", "overlay"]
Guard = Callable[[], bool]
Step = tuple[str, Any, Guard | None, Source | None]
"""Kind of op, resource, what must hold before it can be done, and what announces that it may do so now."""
Body = Generator[Step, None, None]

LOOP: Final[Step] = ("loop", None, None, None)
"""Not an op: an iteration of a marked loop begins."""
LOCAL: Final[Step] = ("local", None, None, None)
SPIN: Final[Step] = ("local", YIELD, None, None)
"""A local op by which a task says that it only waits for others."""
SPAWN: Final[Step] = ("local", "spawn", None, None)

START_LOCALS: Final = 2
"""Overlay form: local ops at the start of every task."""
LOOP_LOCALS: Final = 4
"""Overlay form: local ops at the start of every iteration, each with its own one before it."""
STEP_BUDGET: Final = 20_000
"""Ops after which a run is given up: more than any program needs that is not spinning."""


class Failed(Exception):
    """A check of the program failed."""


def fail_if(bad: object) -> None:
    """A check: the run fails when this holds."""
    if bad:
        raise Failed


class Var:
    """A shared variable: ``v`` is its value, the rest are ops."""

    __slots__ = ("name", "r", "source", "u", "v", "w")

    def __init__(self, engine: Engine, name: str, value: Any = 0) -> None:
        self.name = name
        self.v = value
        self.source = Source(engine)
        """Where those wait who poll it."""
        self.r: Step = ("read", self, None, None)
        self.w: Step = ("write", self, None, None)
        self.u: Step = ("atomic", self, None, None)

    def when(self, guard: Guard) -> Step:
        """A read that is disabled until this holds: how a spinning task waits."""
        return "read", self, guard, self.source


class Lock:
    """A lock: ``take`` is guarded by its being free."""

    __slots__ = ("drop", "engine", "name", "owner", "source", "take")

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.owner: Task | None = None
        self.source = Source(engine)
        self.take: Step = ("lock", self, self.free, self.source)
        self.drop: Step = ("unlock", self, None, None)

    def free(self) -> bool:
        """Nobody holds it."""
        return self.owner is None

    @property
    def mine(self) -> bool:
        """The running task holds it."""
        return self.owner is not None and self.owner is self.engine.current

    def take_when(self, guard: Guard) -> Step:
        """Take it when it is free and this holds too."""
        return "lock", self, lambda: self.owner is None and guard(), self.source

    def let_go(self) -> None:
        """Unlock without an op on the lock itself: what waiting on a condition does."""
        self.owner = None
        if self.engine.touched is not None:
            self.engine.touched.append(self)
        self.source.changed()


class Condition:
    """A queue of waiters; a signal wakes the one that has waited longest."""

    __slots__ = ("name", "signal", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiters: list[tuple[Lock, list[bool]]] = []
        self.signal: Step = ("signal", self, None, None)

    def wait(self, lock: Lock) -> Body:
        """Two points: let the lock go and queue; take it again when woken."""
        woken: list[bool] = []
        yield "park", self, None, None
        self.waiters.append((lock, woken))
        lock.let_go()
        yield lock.take_when(lambda: bool(woken))

    def wake(self) -> None:
        """What a signal does; nothing when nobody waits."""
        if self.waiters:
            lock, woken = self.waiters.pop(0)
            woken.append(True)
            lock.source.changed()


class Program:
    """One instance of a puzzle, for one run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.bodies: list[tuple[str, Body]] = []
        self.fails: Guard = _never

    def var(self, name: str, value: Any = 0) -> Var:
        """A shared variable."""
        return Var(self.engine, name, value)

    def vars(self, names: str) -> Iterator[Var]:
        """Several of them, all 0."""
        return (self.var(name) for name in names.split())

    def lock(self, name: str) -> Lock:
        """A free lock."""
        return Lock(self.engine, name)

    def task(self, body: Body, name: str = "") -> None:
        """One more task, after those made before; named as the function that made the body."""
        self.bodies.append((name or str(getattr(body, "__name__", "task")), body))

    def tasks(self, *bodies: Body) -> None:
        """Several, in this order."""
        for body in bodies:
            self.task(body)

    def finally_fails(self, condition: Guard) -> None:
        """The final condition that makes a complete run fail."""
        self.fails = condition


def _never() -> bool:
    return False


@attrs.frozen
class Puzzle:
    """A benchmark program."""

    name: str
    """As in the digest's tables."""
    build: Callable[[Program], None] = attrs.field(repr=False)
    """Makes its variables and tasks."""
    spawn: int = 1
    """Overlay form: local ops of the spawner before each spawn and each join."""
    published: str = ""
    """Its name in the published table; empty when it is not in it."""
    locks: bool = False
    """SURW selects a lock here, as the published runs did."""


@attrs.frozen
class Outcome:
    """How a run ended."""

    failing: bool
    """A failed check, a false final condition or a deadlock."""
    spent: bool
    """The step budget ended it: no verdict."""
    steps: int
    """Scheduling points it had."""


def run_puzzle(puzzle: Puzzle, chooser: Chooser, form: Form = "lean", step_budget: int = STEP_BUDGET) -> Outcome:
    """Make one run that ends with its first failure.  What is wrong with the chooser or the program is raised."""
    engine = Engine(DirectBackend(), chooser, step_budget=step_budget)
    error = _run(puzzle, engine, form, maximal=False)
    failing = isinstance(error, PropertyFailed | Deadlock)
    if error is not None and not failing and not isinstance(error, StepBudgetSpent):
        raise error
    return Outcome(failing, error is not None and not failing, engine.steps)


def maximal_run(puzzle: Puzzle, chooser: Chooser) -> BaseException | None:
    """Make one run in which only the failing task stops; what it failed with.  The form a search takes."""
    return _run(puzzle, Engine(DirectBackend(), chooser, step_budget=STEP_BUDGET), "lean", maximal=True)


def _run(puzzle: Puzzle, engine: Engine, form: Form, *, maximal: bool) -> BaseException | None:
    host = Host(engine, Program(engine), maximal)
    puzzle.build(host.program)
    try:
        engine.backend.run(host.main(puzzle.spawn if form == "overlay" else None))  # type: ignore[attr-defined]
    except Exception as error:
        return error
    return None


class Host:
    """Runs the bodies of one program as engine tasks."""

    def __init__(self, engine: Engine, program: Program, maximal: bool) -> None:
        self.engine = engine
        self.program = program
        self.maximal = maximal
        self.failed = False

    async def main(self, spawn: int | None) -> None:
        """All tasks, or with a number of ``spawn`` locals the spawner."""
        async with self.engine.nursery() as nursery:
            if spawn is None:
                for name, body in self.program.bodies:
                    self._launch(nursery, name, _lean(body))
            else:
                self._launch(nursery, "spawner", self._spawner(nursery, spawn))
        if self.failed or self.program.fails():
            raise _failure()

    def _spawner(self, nursery: Nursery, locals_: int) -> Body:
        """Start every task, then wait for every one, in order."""
        started = []
        for name, body in self.program.bodies:
            for _ in range(locals_):
                yield LOCAL
            yield SPAWN
            started.append(self._launch(nursery, name, _overlaid(body)))
        for task in filter(None, started):
            for _ in range(locals_):
                yield LOCAL
            yield "join", task, lambda task=task: task.done, task.joiners  # type: ignore[misc]

    def _launch(self, nursery: Nursery, name: str, body: Body) -> Task | None:
        """Create a task that has its first op announced already, guard and all; None for one without ops."""
        first = next(body, None)
        if first is None:
            return None
        parked: list[tuple[Source, tuple[Task, Guard]]] = []
        task = nursery.start_soon(self._strand, body, first, parked, name=name)
        task.op = _op(first)
        _kind, _resource, guard, source = first
        if guard is not None and source is not None:
            entry = (task, guard)
            parked.append((source, entry))
            source.parked.append(entry)
            if not guard():
                self.engine.disable(task)
        return task

    async def _strand(self, body: Body, step: Step, parked: list[tuple[Source, tuple[Task, Guard]]]) -> None:
        """Do the op announced last, announce the next one."""
        for where, entry in parked:
            where.parked.remove(entry)
        engine = self.engine
        while True:
            kind, resource, _guard, _source = step
            if kind == "lock":
                resource.owner = engine.current
            elif kind == "unlock":
                resource.owner = None
            elif kind == "signal":
                resource.wake()
            try:
                following = next(body, None)
            except Failed:
                following = None
                self.fail()
            if kind in _CHANGING and resource.source.parked:
                resource.source.changed()
            if following is None:
                return
            step = following
            kind, resource, guard, source = step
            if guard is not None and source is not None:
                await engine.wait(kind, resource, source, guard)
            elif resource.__class__ is str:
                await engine.step(kind, None, resource)
            else:
                await engine.step(kind, resource)

    def fail(self) -> None:
        """A check failed."""
        self.failed = True
        if not self.maximal:
            raise _failure()


_CHANGING: Final = frozenset({"write", "atomic", "lock", "unlock"})
"""Kinds that may change what somebody else waits for."""


def _failure() -> PropertyFailed:
    return PropertyFailed("puzzle", "check", "a check of the program failed")


def _op(step: Step) -> tuple[str, Any, Any]:
    kind, resource, _guard, _source = step
    return (kind, None, resource) if isinstance(resource, str) else (kind, resource, None)


def _lean(body: Body) -> Body:
    return (step for step in body if step is not LOOP)


def _overlaid(body: Body) -> Body:
    """With the local ops of instrumented code."""
    for _ in range(START_LOCALS):
        yield LOCAL
    for step in body:
        if step is LOOP:
            for _ in range(2 * LOOP_LOCALS):
                yield LOCAL
        else:
            yield LOCAL
            yield step
