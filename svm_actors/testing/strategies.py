"""Hypothesis strategies: the schedule of a run is data, drawn and shrunk like any other input.

::

    @given(size=st.integers(1, 8), schedule=schedules())
    def test_copy(size, schedule):
        run = schedule.run(partial(copy, size=size))
        assert run.ok, run.failure.headline

Hypothesis then looks for the smallest inputs *and* the smallest schedule that fail: a choice shrinks
towards the canonical one, which goes on with the task that ran last or, when it cannot go on, takes the
one that was created first.  What is left of a shrunk schedule are the switches that matter, and the
final report names them.

How it is done: a choice with n alternatives is one draw below n from ``st.randoms``, which draws from
Hypothesis when it is asked, so the length of a run need not be known before.  A run that asks for more
than ``limit`` choices goes on canonically: examples stay within what Hypothesis can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, Final

import attrs
from hypothesis import note
from hypothesis import strategies as st

from svm_actors.engine.task import Task
from svm_actors.explore.determinism import digest
from svm_actors.explore.run import Run, execute
from svm_actors.explore.settings import STEP_BUDGET, Settings
from svm_actors.explore.subject import Subject, subject_of
from svm_actors.world import Config, World

__all__ = ["Schedule", "schedules", "world_runs"]

NAME: Final = 1_000
"""Characters of a subject's name."""
LIMIT: Final = 2_000
"""Choices drawn for one run; Hypothesis gives up an example of more than about 8,000."""


@attrs.frozen
class Switch:
    """A choice that was not the canonical one."""

    number: int
    """Which of the run's choices, counted from 0."""
    chosen: str
    """The task that was run, ``timer``, or ``label=value`` of a data choice."""
    instead_of: str
    """The canonical choice."""

    def __str__(self) -> str:
        return f"choice {self.number}: {self.chosen} instead of {self.instead_of}"


class Drawn:
    """A chooser that draws from Hypothesis."""

    name = "hypothesis"

    def __init__(self, random: Random, limit: int) -> None:
        self.switches: list[Switch] = []
        """Choices that were not canonical, in their order."""
        self.stopped: BaseException | None = None
        """What Hypothesis raised to end the example; raised again when the run, canonical from there, is over."""
        self._random = random
        self._limit = limit
        self._drawn = 0

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The task that ran last goes first, then the others in the order of their creation, then the timer."""
        last = candidates.index(running) if running in candidates else 0
        order = [last, *(index for index in range(len(candidates)) if index != last)]
        if timer:
            order.append(len(candidates))
        picked = self._pick(len(order))
        if picked:
            chosen = "timer" if order[picked] == len(candidates) else candidates[order[picked]].id
            self.switches.append(Switch(self._drawn - 1, chosen, candidates[last].id))
        return order[picked]

    def data(self, count: int, label: str) -> int:
        """The first alternative is the canonical one."""
        picked = self._pick(count)
        if picked:
            self.switches.append(Switch(self._drawn - 1, f"{label}={picked}", f"{label}=0"))
        return picked

    def _pick(self, count: int) -> int:
        if self._drawn >= self._limit or count < 2 or self.stopped is not None:
            return 0
        self._drawn += 1
        try:
            return self._random.randrange(count)
        except BaseException as error:  # tearing a run down in the middle would be a failure of its own
            self.stopped = error
            return 0


@attrs.frozen(repr=False)
class Schedule:
    """One schedule, drawn while it is used; good for one run."""

    random: Random
    """Where choices are drawn from."""
    limit: int = LIMIT
    """Choices that are drawn; the rest is canonical."""

    def __repr__(self) -> str:
        return "Schedule(drawn as the run goes)"

    def run(
        self,
        scenario: Callable[[World], Coroutine[Any, Any, None]] | Subject,
        *,
        bugs: Sequence[str] = (),
        config: Config | None = None,
        race_timers: bool = False,
        step_budget: int = STEP_BUDGET,
    ) -> Run:
        """Run a scenario in a world of its own; a failure is in the result, and noted for the report."""
        subject = _subject(scenario, config)
        chooser = Drawn(self.random, self.limit)
        settings = Settings(chooser.name, race_timers, step_budget)
        run = execute(subject, settings, chooser, "drawn", tuple(bugs), "direct", record=False, digest=True)
        if chooser.stopped is not None:
            raise chooser.stopped
        if run.failure is not None:
            note("\n".join([run.failure.headline, *map(str, chooser.switches), run.token]))
        return run


def _subject(scenario: Callable[[World], Coroutine[Any, Any, None]] | Subject, config: Config | None) -> Subject:
    """A partial is called what it calls; its arguments are part of what a token stands for."""
    subject = subject_of(scenario, config)
    if not isinstance(scenario, partial):
        return subject
    inner = subject_of(Subject(scenario, "", ""), config)
    values = ", ".join(f"{name}={value!r}" for name, value in sorted(scenario.keywords.items()))
    name = f"{scenario.func.__module__}:{scenario.func.__qualname__}({values})"
    return attrs.evolve(inner, name=name[:NAME], digest=digest(name.encode()))


def schedules(*, limit: int = LIMIT) -> st.SearchStrategy[Schedule]:
    """Schedules; ``limit`` is how many choices of a run are drawn."""
    return st.randoms(use_true_random=False).map(lambda random: Schedule(random, limit))


@st.composite
def world_runs(
    draw: st.DrawFn,
    /,
    scenario: Callable[..., Coroutine[Any, Any, None]],
    *,
    bugs: Sequence[str] = (),
    config: Config | None = None,
    limit: int = LIMIT,
    **inputs: st.SearchStrategy[Any],
) -> Run:
    """Finished runs of ``scenario(world, **inputs)``: inputs and schedule are drawn, and shrunk, together."""
    values = {name: draw(strategy) for name, strategy in inputs.items()}
    return draw(schedules(limit=limit)).run(partial(scenario, **values), bugs=bugs, config=config)
