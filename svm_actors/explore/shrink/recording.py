"""A run with its choices by name, and how good it is as a shrunk failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import attrs

from svm_actors.explore.run import Run, execute
from svm_actors.explore.settings import Settings
from svm_actors.explore.strategies.guided import Decision, Event, Point, Recorder, Value
from svm_actors.explore.subject import Subject
from svm_actors.workload.program import PROGRAM, Operation


class Merit(NamedTuple):
    """What makes one failing run better than another, most important first; less is better."""

    operations: int
    """Operations of the program that are kept."""
    faults: int
    """Data draws that are not 0: injected failures, pauses, sizes.  What made the program is not counted."""
    deviations: int
    """Schedule choices unlike the canonical schedule."""
    preemptions: int
    """Switches away from a task that could have gone on."""
    steps: int
    """Ops announced."""
    tape: tuple[int, ...]
    """The choices themselves: the least in lexicographic order is the simplest."""


@attrs.frozen
class Case:
    """What is run, apart from the choices."""

    subject: Subject
    """The whole scenario."""
    settings: Settings
    """Timers and step budget; the strategy's name means nothing here."""
    seed: str
    """Seed of the run that is shrunk; data for the token."""
    bugs: tuple[str, ...]
    """Planted bugs."""
    judging: bool = True
    """Whether it matters if a spent step budget is a livelock; finding out costs more than the run."""

    def record(self, kept: frozenset[int] | None, recorder: Recorder, *, trace: bool = False) -> Recording:
        """Run once; with a ``trace`` keep every step."""
        subject = self.subject if kept is None else self.subject.keeping(kept)
        run = execute(
            subject,
            self.settings,
            recorder,
            self.seed,
            self.bugs,
            "direct",
            record=trace,
            digest=False,
            judging=self.judging,
        )
        switches = tuple(Switch(*each) for each in recorder.switches)
        return Recording(run, tuple(recorder.decisions), switches, recorder.order, kept)


@attrs.frozen
class Switch:
    """A context switch: from here on another task runs."""

    step: int
    """Number of the first step of the new task, counted from 1."""
    before: str
    """The task that ran."""
    after: str
    """The task that runs now."""


@attrs.frozen
class Recording:
    """One run, written down by name."""

    run: Run
    """It."""
    decisions: tuple[Decision, ...] = attrs.field(repr=False)
    """Its choices, one per entry of its tape."""
    switches: tuple[Switch, ...] = attrs.field(repr=False)
    """Its context switches."""
    order: Mapping[Event, int] = attrs.field(repr=False)
    """Its steps by name, with their place."""
    kept: frozenset[int] | None
    """The operations kept; None for all of them, and for what is no program."""

    @property
    def signature(self) -> str | None:
        """Class of the failure; None when it held."""
        return None if self.run.failure is None else self.run.failure.signature

    @property
    def draws(self) -> list[int]:
        """What the program is made of."""
        return [one.chosen for one in self.decisions if one.point.label == PROGRAM]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations of the program by number, whether kept or not."""
        return self.run.subject.operations(self.draws)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the operations kept."""
        return list(range(len(self.operations))) if self.kept is None else sorted(self.kept)

    @property
    def given(self) -> dict[Point, Value]:
        """The draws the program is made of: part of what runs, never shrunk."""
        return {one.point: one.value for one in self.decisions if one.point.label == PROGRAM and one.deviates}

    @property
    def deviations(self) -> list[Decision]:
        """Everything that was not chosen canonically, in order."""
        return [one for one in self.decisions if one.deviates and one.point.label != PROGRAM]

    @property
    def plan(self) -> dict[Point, Value]:
        """What makes the same run again."""
        return {one.point: one.value for one in self.decisions if one.deviates}

    @property
    def merit(self) -> Merit:
        """How good it is."""
        found = self.deviations
        return Merit(
            operations=len(self.numbers),
            faults=sum(not one.options for one in found),
            deviations=sum(bool(one.options) for one in found),
            preemptions=sum(one.preemption for one in found),
            steps=self.run.steps,
            tape=self.run.tape,
        )
