"""Best-effort replay: the same failure in a program that has changed a little.

Strict replay refuses a token of another version, scenario or machine, and ends at the first choice that does not
fit.  Here what differs is said, and the run goes on: each choice is looked up by name (who ran, what it had
announced, for which time), and where nothing is found, or what was chosen is not to be had, the canonical
choice is taken.  So an edit that moves no op changes nothing, and one that does costs the choices around it.

A token without labels (version 1) knows no names; its choices are taken by position as long as the number of
alternatives is the recorded one.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from svm_actors.engine.op import render
from svm_actors.engine.task import Task
from svm_actors.explore.labels import Label
from svm_actors.explore.run import Backend, Run, differences, execute, token_settings
from svm_actors.explore.settings import check_bugs
from svm_actors.explore.strategies.guided import NOBODY_YET, START, TIMER
from svm_actors.explore.subject import Scenario, Subject, subject_at
from svm_actors.explore.token import Token, decode
from svm_actors.world import Config


@attrs.frozen
class Drift:
    """The first choice at which a run is not the recorded one."""

    choice: int
    """Its number, counted from 0."""
    step: int
    """Steps of the run made before it."""
    expected: str
    """What was recorded there."""
    actual: str
    """What is there."""

    def __str__(self) -> str:
        return (
            f"drift at choice {self.choice}, after {self.step} steps: "
            f"expected {self.expected}; there is {self.actual}"
        )


@attrs.frozen
class BestEffort:
    """A run made of a token's choices as far as they fit."""

    run: Run
    """It."""
    differences: tuple[str, ...]
    """What is not as it was when the token was made: version, scenario, machine."""
    drift: Drift | None
    """Where the run leaves the record; None when every choice fitted."""
    matched: int
    """Choices found in the record."""
    canonical: int
    """Choices that had to be canonical."""
    trace_equal: bool | None
    """Whether the trace is the recorded one; None when the token has no digest."""


def replay_best_effort(
    scenario: Scenario | Subject,
    token: str | Token,
    *,
    config: Config | None = None,
    backend: Backend = "trio",
    record: bool = False,
) -> BestEffort:
    """Make the choices of a token again as far as they fit.  TokenError for malformed text."""
    known = decode(token) if isinstance(token, str) else token
    subject = subject_at(known.target, scenario, config)
    check_bugs(known.bugs)
    chooser = Lenient(known.choices, known.arities, known.labels)
    settings = token_settings(known)
    run = execute(subject, settings, chooser, known.seed, known.bugs, backend, record=record, digest=True)
    return BestEffort(
        run=run,
        differences=tuple(differences(known, subject)),
        drift=chooser.drift or chooser.early_end(),
        matched=chooser.matched,
        canonical=chooser.canonical,
        trace_equal=known.trace == run.trace_digest if known.trace else None,
    )


class Lenient:
    """Recorded choices by name, else by position, else canonical."""

    name = "best-effort"

    def __init__(self, choices: Sequence[int], arities: Sequence[int], labels: Sequence[Label] = ()) -> None:
        self._choices = choices
        self._arities = arities
        self._labels = labels
        self.position = 0
        """Choices made so far."""
        self.steps = 0
        """Steps seen."""
        self.matched = 0
        """Choices found in the record."""
        self.canonical = 0
        """Choices that had to be canonical."""
        self.drift: Drift | None = None
        """The first choice that is not as recorded."""
        self._running: Task | None = None
        self._met: dict[tuple[str, str], int] = {}
        """How often each task made a choice at each op, in this run."""
        self._known = _by_name(choices, labels)

    def ran(self, task: Task) -> None:
        """A step is made."""
        self.steps += 1
        self._running = task

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The recorded task, if it is a candidate."""
        options = tuple([task.id for task in candidates] + [TIMER] * timer)
        text = render(running.op) if running is not None else START
        wanted = self._wanted(Label(NOBODY_YET if running is None else running.id, text, options), len(options))
        if isinstance(wanted, str) and wanted in options:
            return self._found(options.index(wanted))
        if isinstance(wanted, int):
            return self._found(wanted)
        self.canonical += 1
        return candidates.index(running) if running is not None and running.enabled else 0

    def data(self, count: int, label: str) -> int:
        """The recorded value, if there are so many alternatives."""
        task = NOBODY_YET if self._running is None else self._running.id
        wanted = self._wanted(Label(task, label, ()), count)
        if isinstance(wanted, int) and wanted < count:
            return self._found(wanted)
        self.canonical += 1
        return 0

    def early_end(self) -> Drift | None:
        """The drift of a run that ended before its record."""
        if self.position >= len(self._choices):
            return None
        return Drift(self.position, self.steps, self._expected(self.position), "the end of the run")

    def _found(self, index: int) -> int:
        self.matched += 1
        return index

    def _wanted(self, here: Label, arity: int) -> int | str | None:
        """What the record says for this choice; compares it with what was recorded at this position."""
        at = self.position
        self.position = at + 1
        recorded = at < len(self._choices) and self._arities[at] == arity
        same = recorded and (not self._labels or self._labels[at] == here)
        if not same and self.drift is None:
            self.drift = Drift(at, self.steps, self._expected(at), _describe(here, arity))
        if not self._labels:
            return self._choices[at] if recorded and self.drift is None else None
        key = here.task, here.text
        met = self._met.get(key, 0)
        self._met[key] = met + 1
        return self._known.get((*key, met))

    def _expected(self, at: int) -> str:
        if at >= len(self._choices):
            return f"the end of the record after {len(self._choices)} choices"
        return _describe(self._labels[at] if self._labels else None, self._arities[at])


def _by_name(choices: Sequence[int], labels: Sequence[Label]) -> dict[tuple[str, str, int], int | str]:
    """What was chosen, by task, op and how often that task had made a choice at that op before."""
    found: dict[tuple[str, str, int], int | str] = {}
    met: dict[tuple[str, str], int] = {}
    for choice, label in zip(choices, labels, strict=False):
        key = label.task, label.text
        found[*key, met.get(key, 0)] = label.options[choice] if label.options else choice
        met[key] = met.get(key, 0) + 1
    return found


def _describe(label: Label | None, arity: int) -> str:
    if label is None:
        return f"a choice between {arity} alternatives"
    if not label.options:
        return f"a draw of {label.text!r} among {arity} by {label.task}"
    return f"a choice after {label.task} ({label.text}) between {', '.join(label.options)}"
