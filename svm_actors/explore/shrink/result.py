"""What shrinking comes to: a smaller run that fails the same way, and why it cannot be smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run
from svm_actors.explore.shrink.recording import Merit, Recording
from svm_actors.explore.strategies.guided import Decision, Point
from svm_actors.workload.program import Operation

SwitchKind = Literal["preemption", "choice", "forced"]
"""``preemption``: the task before could have gone on; ``choice``: it could not, and another than the canonical
one was taken; ``forced``: it could not, and the canonical one goes on: there is nothing to leave out."""


Needed = Mapping[Point, bool | None]
"""Whether the failure vanishes with the canonical choice at a point; None when that was not tried."""


@attrs.frozen
class ContextSwitch:
    """From this step on another task runs."""

    step: int
    """Number of the first step after it, counted from 1."""
    before: str
    """Id of the task that ran."""
    after: str
    """Id of the task that runs now."""
    kind: SwitchKind
    """Why it is there."""
    necessary: bool | None
    """Whether the failure vanishes without it; True of forced ones, None when there was no time to try."""


@attrs.frozen
class KeptDraw:
    """A data draw that is not 0."""

    step: int
    """Steps made before it."""
    label: str
    """What is drawn."""
    value: int
    """What it is."""
    necessary: bool | None
    """Whether the failure vanishes when it is 0; None when there was no time to try."""


@attrs.frozen
class Shrunk:
    """A failure, shrunk."""

    run: Run
    """The smallest failing run found: strictly replayed, with its whole trace."""
    failure: Failure
    """How it fails: in the same class as the run it was made from.  Of one that only spent its step budget it is the
    verdict on the shrunk run, which may be a livelock: candidates are not judged."""
    merit: Merit
    """How small it is."""
    original: Merit
    """How small the given run was."""
    operations: tuple[tuple[int, Operation], ...]
    """Operations of the program that are kept, with their numbers; none of a scenario that is not a program."""
    switches: tuple[ContextSwitch, ...]
    """Every context switch of the run."""
    draws: tuple[KeptDraw, ...]
    """Every data draw that is not 0, but for those that make the program."""
    runs: int
    """Runs it took."""
    complete: bool
    """Whether no pass had anything left to try; False when time or runs were spent before."""
    recording: Recording = attrs.field(repr=False, eq=False)
    """The run by name."""

    @property
    def token(self) -> str:
        """The shrunk run as text: its strict replay."""
        return self.run.token

    @property
    def preemptions(self) -> int:
        """Switches away from a task that could have gone on."""
        return self.merit.preemptions

    @property
    def unnecessary(self) -> tuple[ContextSwitch, ...]:
        """Switches without which it fails as well."""
        return tuple(switch for switch in self.switches if switch.necessary is False)


def switches_of(found: Recording, needed: Needed) -> tuple[ContextSwitch, ...]:
    """The run's context switches, with what is known of the choices that made them."""
    choices = {one.step + 1: one for one in found.decisions if one.options and one.deviates}
    return tuple(
        ContextSwitch(each.step, each.before, each.after, *_why(choices.get(each.step), needed))
        for each in found.switches
    )


def _why(choice: Decision | None, needed: Needed) -> tuple[SwitchKind, bool | None]:
    if choice is None:
        return "forced", True
    return "preemption" if choice.preemption else "choice", needed[choice.point]


def draws_of(found: Recording, needed: Needed) -> tuple[KeptDraw, ...]:
    """The run's data draws that are not 0."""
    return tuple(
        KeptDraw(one.step, one.point.label, one.chosen, needed[one.point])
        for one in found.deviations
        if not one.options
    )
