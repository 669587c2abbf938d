"""Why a run fails: the shrunk run, and the nearest schedule that passes.

A shrunk run needs every one of its deviations, so leaving out any one of them gives a run that does not fail this
way.  The nearest is the one that goes the same way for longest: without the last deviation.  A failure that needs
no schedule deviation at all is one of the canonical schedule; then one deviation is *added*, as late as possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import attrs

from svm_actors.explore.determinism import Difference, first_difference
from svm_actors.explore.failure import Failure
from svm_actors.explore.shrink.minimise import SECONDS, STRATEGY, shrink
from svm_actors.explore.shrink.recording import Case, Recording
from svm_actors.explore.shrink.result import Shrunk
from svm_actors.explore.shrink.sameness import FailureClass
from svm_actors.explore.shrink.shrinker import Progress
from svm_actors.explore.strategies.guided import Decision, Guided, Plan
from svm_actors.explore.subject import Scenario, Subject
from svm_actors.explore.token import Token
from svm_actors.world import Config

LATEST: Final = 60
"""Choices before the failure at which another one is tried."""
OTHERS: Final = 3
"""Alternatives tried at each of them."""
Change = Literal["left out", "added"]


@attrs.frozen
class Passing:
    """A run like the shrunk one but for one choice, which does not fail this way."""

    change: Change
    """Whether a deviation of the failing run is left out, or one more is made."""
    step: int
    """Steps before the choice that differs."""
    task: str
    """Who ran when it was made."""
    failing: str
    """What the failing run chose there: a task, or a value of a draw."""
    passing: str
    """What this one chose."""
    failure: Failure | None
    """How it ends: None when it held, else another failure."""
    trace: tuple[str, ...] = attrs.field(repr=False)
    """Every step."""
    difference: Difference | None
    """The first step at which the two runs differ."""


@attrs.frozen
class Explanation:
    """A failure, shrunk, beside the nearest run without it."""

    shrunk: Shrunk
    """The failure."""
    passing: Passing | None
    """The nearest run without it; None when no single choice avoids it."""


def explain(
    scenario: Scenario | Subject,
    token: str | Token,
    *,
    config: Config | None = None,
    seconds: float | None = SECONDS,
    runs: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Shrink a recorded failure and find the nearest passing schedule.  Raises what :func:`shrink` raises."""
    shrunk = shrink(scenario, token, config=config, seconds=seconds, runs=runs, progress=progress)
    return explain_shrunk(shrunk)


def explain_shrunk(shrunk: Shrunk) -> Explanation:
    """The same for what is shrunk already."""
    other: Passing | None = None
    for candidate in _neighbours(shrunk):
        if candidate.failure is None:
            return Explanation(shrunk, candidate)
        other = other or candidate
    return Explanation(shrunk, other)


def _neighbours(shrunk: Shrunk) -> Iterator[Passing]:
    """Runs that differ in one choice and do not fail this way, the nearest first."""
    deviations = list(reversed(shrunk.recording.deviations))
    of_schedule = [one for one in deviations if one.options]
    yield from _omissions(shrunk, of_schedule)
    if not of_schedule:
        yield from _additions(shrunk)
    yield from _omissions(shrunk, [one for one in deviations if not one.options])


def _omissions(shrunk: Shrunk, deviations: list[Decision]) -> Iterator[Passing]:
    for one in deviations:
        plan = {at: value for at, value in shrunk.recording.plan.items() if at != one.point}
        yield from _try(shrunk, "left out", one, one.canonical, plan)


def _additions(shrunk: Shrunk) -> Iterator[Passing]:
    found = shrunk.recording
    latest = [one for one in found.decisions if one.options][-LATEST:]
    for one in reversed(latest):
        others = [index for index in range(one.arity) if index != one.chosen]
        for index in others[:OTHERS]:
            yield from _try(shrunk, "added", one, index, {**found.plan, one.point: one.options[index]})


def _try(shrunk: Shrunk, change: Change, one: Decision, chosen: int, plan: Plan) -> Iterator[Passing]:
    again = _run(shrunk, plan)
    failure = again.run.failure
    if FailureClass.of(shrunk.failure).holds(failure):
        return
    trace = again.run.trace or ()
    yield Passing(
        change=change,
        step=one.step,
        task=one.point.task,
        failing=_name(one, one.chosen),
        passing=_name(one, chosen),
        failure=failure,
        trace=trace,
        difference=first_difference(shrunk.run.trace or (), trace),
    )


def _name(one: Decision, index: int) -> str:
    return one.options[index] if one.options else f"{one.point.label} = {index}"


def _run(shrunk: Shrunk, plan: Plan) -> Recording:
    """The shrunk run with another plan."""
    run = shrunk.run
    whole = run.subject.keeping(None) if shrunk.recording.kept is not None else run.subject
    settings = attrs.evolve(run.settings, strategy=STRATEGY)
    return Case(whole, settings, run.seed, run.bugs).record(shrunk.recording.kept, Guided(plan), trace=True)
