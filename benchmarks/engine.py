"""What a scheduling point costs, on both back ends, against one bare trio checkpoint.

* a switch: two tasks, each op hands over to the other one;
* no switch: the same tasks and ops under ``fifo``, which never preempts.
"""

from __future__ import annotations

import trio

from benchmarks import Result, medians, seconds
from svm_actors.engine.backend import DirectBackend, TrioBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Task
from svm_actors.explore.strategies import Fifo

STEPS = 20_000
"""Ops per task in one measurement."""
REPEATS = 7


class Alternate:
    """Two tasks take turns: every op is a switch."""

    name = "alternate"

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The other one."""
        return 1 if candidates[0] is running else 0

    def data(self, count: int, label: str) -> int:
        """No data choice is made here."""
        return 0


async def _announce(engine: Engine, steps: int) -> None:
    for _ in range(steps):
        await engine.step("local")


def direct(chooser: Chooser, steps: int) -> float:
    """Seconds per op on the direct back end."""
    backend = DirectBackend()
    engine = Engine(backend, chooser)

    async def main() -> None:
        engine.spawn(_announce(engine, steps), "other")
        await _announce(engine, steps)

    return seconds(lambda: backend.run(main())) / engine.steps


def hosted(chooser: Chooser, steps: int) -> float:
    """Seconds per op on the trio back end."""
    backend = TrioBackend()
    engine = Engine(backend, chooser)

    async def main() -> None:
        async with backend:
            backend.adopt_host()
            engine.spawn(_announce(engine, steps), "other")
            await _announce(engine, steps)

    return seconds(lambda: trio.run(main)) / engine.steps


def checkpoint(steps: int) -> float:
    """Seconds per bare trio checkpoint."""

    async def main() -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()

    return seconds(lambda: trio.run(main)) / steps


def run(steps: int = STEPS, repeats: int = REPEATS) -> list[Result]:
    """Measure, as medians of several repeats."""
    cost = medians(
        {
            "checkpoint": lambda: checkpoint(steps),
            "trio switch": lambda: hosted(Alternate(), steps),
            "trio stay": lambda: hosted(Fifo(), steps),
            "direct switch": lambda: direct(Alternate(), steps),
            "direct stay": lambda: direct(Fifo(), steps),
        },
        repeats,
    )
    micro = 1e6
    return [
        Result("trio back end: switch / bare checkpoint", cost["trio switch"] / cost["checkpoint"], 2.5, "x"),
        Result("trio back end: no switch / bare checkpoint", cost["trio stay"] / cost["checkpoint"], 0.3, "x"),
        Result(
            "switch rate, direct / trio back end", cost["trio switch"] / cost["direct switch"], 6.0, "x", at_least=True
        ),
        Result("bare trio checkpoint", cost["checkpoint"] * micro, None, "us"),
        Result("direct back end: switch", cost["direct switch"] * micro, None, "us"),
        Result("direct back end: no switch", cost["direct stay"] * micro, 0.5, "us"),
    ]
