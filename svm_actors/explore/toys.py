"""Toy programs with known answers, for testing strategies and search (exploration digest, section 2.1).

A toy is a handful of tasks over shared variables.  Its tasks are generators: each yields the op it
will do next and does it when it is resumed.  All tasks exist before the first choice and the first op
of each is announced by then, so no scheduling point is spent on starting: every op that a toy lists is
one point, and there is no other.  A failed final condition is the failure of the run; tasks that see
something wrong only note it, so that every run is maximal and can be counted.

Simplified: ``main``, which creates the tasks, runs before and after them and never beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

import attrs

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.source import Source
from svm_actors.engine.task import Task

Guard = Callable[[], bool]
STEP_BUDGET: Final = 10_000
"""Ops of one run; no toy needs more than a few hundred."""


@attrs.frozen(eq=False)
class Variable:
    """Something the tasks share; it has a name and no content of its own."""

    name: str
    """As shown in traces."""


@attrs.frozen
class Step:
    """One op, announced."""

    kind: str
    """``read``, ``write``, ``lock`` or ``unlock``."""
    variable: Variable
    """What it touches."""
    guard: Guard | None = None
    """What must hold before it can be done; None: nothing."""


Body = Generator[Step, None, None]


@attrs.frozen
class Instance:
    """A toy in its first state, for one run."""

    tasks: list[tuple[str, Body]]
    """Name and body, in creation order."""
    fails: Callable[[], bool]
    """The final condition: whether what happened is the bug."""


Toy = Callable[[], Instance]
"""Makes a toy afresh for every run."""


def run_toy(toy: Toy, chooser: Chooser) -> BaseException | None:
    """Run it once; what it failed with: PropertyFailed, Deadlock, or a chooser's own error."""
    home = DirectBackend()
    engine = Engine(home, chooser, step_budget=STEP_BUDGET)
    try:
        home.run(main(engine, toy()))
    except Exception as error:
        return error
    return None


async def main(engine: Engine, instance: Instance) -> None:
    """The program as a coroutine for either back end."""
    changes = Source(engine)
    async with engine.nursery() as nursery:
        for name, body in instance.tasks:
            _launch(nursery, changes, name, body)
    if instance.fails():
        raise PropertyFailed("toy", "final", "the final condition does not hold")


def _launch(nursery: Nursery, changes: Source, name: str, body: Body) -> None:
    """Create a task that has its first op announced already, guard and all."""
    first = next(body)
    parked: list[tuple[Task, Guard]] = []
    task = nursery.start_soon(_task, changes, body, parked, name=name)
    task.op = (first.kind, first.variable, None)
    if first.guard is not None:
        parked.append((task, first.guard))
        changes.parked.extend(parked)
        if not first.guard():
            nursery.engine.disable(task)


async def _task(changes: Source, body: Body, parked: list[tuple[Task, Guard]]) -> None:
    """Do the op announced last, announce the next one; whoever waits is told of every change."""
    engine = changes.engine
    for entry in parked:
        changes.parked.remove(entry)
    for step in body:
        if changes.parked:
            changes.changed()
        if step.guard is None:
            await engine.step(step.kind, step.variable)
        else:
            await engine.wait(step.kind, step.variable, changes, step.guard)
    if changes.parked:
        changes.changed()


# -- the programs ----------------------------------------------------------------------


def writes(variable: Variable, times: int) -> Body:
    """So many writes that mean nothing."""
    for _ in range(times):
        yield Step("write", variable)


def never() -> bool:
    """The final condition of a toy without a bug."""
    return False


def locals_of(count: int) -> list[Variable]:
    """One variable per task, for its local work."""
    return [Variable(f"local{index}") for index in range(count)]


def reorder(setters: int) -> Toy:
    """Setters write two variables one after the other; a checker must not see one write alone."""

    def toy() -> Instance:
        a, b = Variable("a"), Variable("b")
        value = {"a": 0, "b": 0}
        seen: list[int] = []

        def setter() -> Body:
            yield Step("write", a)
            value["a"] = 1
            yield Step("write", b)
            value["b"] = -1

        def checker() -> Body:
            yield Step("read", a)
            seen.append(value["a"])
            yield Step("read", b)
            seen.append(value["b"])

        tasks = [("setter", setter()) for _ in range(setters)]
        return Instance([*tasks, ("checker", checker())], lambda: seen not in ([0, 0], [1, -1]))

    return toy


def uneven(length: int) -> Toy:
    """One write against many: the bug is that the short task runs last."""

    def toy() -> Instance:
        x = Variable("x")
        last = [1]

        def body(value: int, times: int) -> Body:
            for _ in range(times):
                yield Step("write", x)
                last[0] = value

        return Instance([("short", body(0, 1)), ("long", body(1, length))], lambda: last == [0])

    return toy


def lost(tasks: int, quiet: int) -> Toy:
    """Each task adds one in two steps, with local work before and between: an update is lost."""

    def toy() -> Instance:
        v = Variable("v")
        total = [0]

        def body(local: Variable) -> Body:
            yield from writes(local, quiet)
            yield Step("read", v)
            read = total[0]
            yield from writes(local, quiet)
            yield Step("write", v)
            total[0] = read + 1

        return Instance([("adder", body(local)) for local in locals_of(tasks)], lambda: total != [tasks])

    return toy


def order(quiet: int) -> Toy:
    """Three tasks log their number once, amid local work; one order of the six is the bug."""

    def toy() -> Instance:
        shared = Variable("log")
        log: list[int] = []

        def body(index: int, local: Variable) -> Body:
            yield from writes(local, quiet)
            yield Step("write", shared)
            log.append(index)
            yield from writes(local, quiet)

        tasks = [("logger", body(index, local)) for index, local in enumerate(locals_of(3))]
        return Instance(tasks, lambda: log == [2, 1, 0])

    return toy


def mailbox(clients: int, rounds: int, quiet: int) -> Toy:
    """Clients send to one server; the bug is that the first is done before the last begins."""

    def toy() -> Instance:
        queue = Variable("queue")
        waiting: list[tuple[int, int]] = []
        log: list[tuple[int, int]] = []

        def client(index: int, local: Variable) -> Body:
            for turn in range(rounds):
                yield from writes(local, quiet)
                yield Step("write", queue)
                waiting.append((index, turn))

        def server() -> Body:
            for _ in range(clients * rounds):
                yield Step("write", queue, lambda: bool(waiting))
                log.append(waiting.pop(0))

        def fails() -> bool:
            return log.index((0, rounds - 1)) < log.index((clients - 1, 0))

        tasks = [("client", client(index, local)) for index, local in enumerate(locals_of(clients))]
        return Instance([*tasks, ("server", server())], fails)

    return toy


def same(tasks: int, times: int, log: list[int] | None = None) -> Toy:
    """All write one variable; ``log`` gets the number of each writer, in order."""

    def toy() -> Instance:
        x = Variable("x")
        seen: list[int] = [] if log is None else log
        seen.clear()

        def body(index: int) -> Body:
            for _ in range(times):
                yield Step("write", x)
                seen.append(index)

        return Instance([("writer", body(index)) for index in range(tasks)], never)

    return toy


def indep(tasks: int, times: int) -> Toy:
    """Each writes a variable of its own: all schedules are equivalent."""
    return lambda: Instance([("writer", writes(local, times)) for local in locals_of(tasks)], never)


def local_shared_local() -> Instance:
    """Three tasks, one shared write each between two local ones."""
    x = Variable("x")

    def body(local: Variable) -> Body:
        yield from writes(local, 1)
        yield from writes(x, 1)
        yield from writes(local, 1)

    return Instance([("writer", body(local)) for local in locals_of(3)], never)


def readers() -> Instance:
    """Three readers and a writer of one variable."""
    x = Variable("x")

    def read() -> Body:
        yield Step("read", x)

    return Instance([*(("reader", read()) for _ in range(3)), ("writer", writes(x, 1))], never)


def philosophers(count: int) -> Toy:
    """Each takes the left fork, then the right one (digest section 3.6): deadlock when all have one."""

    def toy() -> Instance:
        forks = [Variable(f"fork{index}") for index in range(count)]
        taken = [False] * count

        def body(index: int) -> Body:
            mine = [index, (index + 1) % count]
            for fork in mine:
                yield Step("lock", forks[fork], lambda fork=fork: not taken[fork])  # type: ignore[misc]
                taken[fork] = True
            for fork in reversed(mine):
                yield Step("unlock", forks[fork])
                taken[fork] = False

        return Instance([("philosopher", body(index)) for index in range(count)], never)

    return toy
