"""The state of a shrinking: the best failing run so far, and what it costs to try another.

A candidate is accepted only if it fails with the same failure class (property name and normalised message),
is better (:class:`~svm_actors.explore.shrink.recording.Merit`), and its own recorded choices, replayed
strictly, fail that way again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from svm_actors.explore.run import execute
from svm_actors.explore.shrink.late import LateRecorder, Places
from svm_actors.explore.shrink.recording import Case, Merit, Recording
from svm_actors.explore.shrink.sameness import FailureClass
from svm_actors.explore.strategies.guided import Guided, Plan, Point, Recorder
from svm_actors.explore.strategies.replay import Replay

JUDGING: Final = 0.1
"""Share of the time that is kept to find out which of the surviving choices are necessary."""
SLACK: Final = 2_000
"""Steps that a candidate may make beyond twice those of the best run before it is given up."""
Progress = Callable[["Shrinker"], None]


class Enough(Exception):
    """The time or the number of runs allowed is spent; what was reached stands."""


class NotReproduced(ValueError):
    """The run to be shrunk does not fail as recorded; one line."""


class Shrinker:
    """Tries candidates and keeps the best."""

    def __init__(
        self,
        case: Case,
        first: Recording,
        *,
        seconds: float | None = None,
        runs: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if first.run.failure is None:
            raise NotReproduced(f"{first.run.subject.name} held: there is no failure to shrink")
        self.case = case
        self.first = first
        self.best = first
        self.merit: Merit = first.merit
        self.failure_class = FailureClass.of(first.run.failure)
        self.runs = 0
        """Runs made, confirmations included."""
        self.accepted = 0
        """Candidates accepted."""
        self.searched: dict[tuple[frozenset[int], tuple[int, ...]], int] = {}
        """Other schedules tried in vain, by the operations kept and the draws that make the program."""
        self._late: tuple[Recording, Places] | None = None
        """What :meth:`late` says, and of which run."""
        self._kind = first.run.failure.kind
        self._reserve = 0.0 if seconds is None else JUDGING * seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds - self._reserve
        self._limit = runs
        self._progress = progress
        self._asked: set[tuple[str, frozenset[int] | None, int]] = set()
        self._tried: set[tuple[frozenset[int] | None, frozenset[tuple[Point, int | str]]]] = set()

    # -- candidates ------------------------------------------------------------------

    def attempt(self, plan: Plan, kept: frozenset[int] | None) -> bool:
        """Try these deviations on these operations; True when that is the best run now."""
        key = (kept, frozenset(plan.items()))
        if key in self._tried:
            return False
        self._tried.add(key)
        return self.offer(kept, Guided(plan))

    def without(self, points: Iterable[Point]) -> bool:
        """Try the best run with the canonical choice at these points."""
        gone = frozenset(points)
        return self.attempt({at: value for at, value in self.best.plan.items() if at not in gone}, self.best.kept)

    def offer(self, kept: frozenset[int] | None, recorder: Recorder, steps: int | None = None) -> bool:
        """Try whatever this chooser does, in so many steps; True when that is the best run now."""
        found = self.record(kept, recorder, steps)
        if not self.fails(found):
            return False
        merit = found.merit
        if merit >= self.merit or not self._confirmed(found):
            return False
        assert found.run.failure is not None
        self.best, self.merit, self.failure_class = found, merit, FailureClass.of(found.run.failure)
        self.accepted += 1
        if self._progress is not None:
            self._progress(self)
        return True

    def fails(self, found: Recording) -> bool:
        """Whether a run fails the way that is shrunk."""
        return self.failure_class.holds(found.run.failure)

    def anew(self, what: str, kept: frozenset[int] | None = None) -> bool:
        """Whether this is asked for the first time since the best run was found."""
        key = (what, kept, self.accepted)
        new = key not in self._asked
        self._asked.add(key)
        return new

    def late(self) -> Places:
        """Where the best run made each of its steps."""
        if self._late is None or self._late[0] is not self.best:
            recorder = LateRecorder(Replay(self.best.run.tape, self.best.run.arity))
            self.record(self.best.kept, recorder)
            self._late = self.best, recorder.places
        return self._late[1]

    def judge(self) -> None:
        """Nothing more is tried; the time kept for judging what is left may be spent."""
        if self._deadline is not None:
            self._deadline, self._reserve = self._deadline + self._reserve, 0.0

    def record(self, kept: frozenset[int] | None, recorder: Recorder, steps: int | None = None) -> Recording:
        """One run, of so many steps at most.  Raises Enough when there may be no more."""
        self._spend()
        return self._bounded(steps).record(kept, recorder)

    # -- the machinery -----------------------------------------------------------------

    def _bounded(self, steps: int | None) -> Case:
        """Candidates that go on for ever are given up early, unless that is the failure."""
        if self._kind == "budget":
            return self.case
        settings = self.case.settings
        budget = min(settings.step_budget, 2 * self.merit.steps + SLACK if steps is None else steps)
        return attrs.evolve(self.case, settings=attrs.evolve(settings, step_budget=budget))

    def _confirmed(self, found: Recording) -> bool:
        """Whether its own choices, strictly replayed, fail the same way."""
        self._spend()
        run = found.run
        chooser = Replay(run.tape, run.arity)
        again = execute(
            run.subject,
            self.case.settings,
            chooser,
            run.seed,
            run.bugs,
            "direct",
            record=False,
            digest=False,
            judging=self.case.judging,
        )
        return self.failure_class.holds(again.failure)

    def _spend(self) -> None:
        if self._limit is not None and self.runs >= self._limit:
            raise Enough
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise Enough
        self.runs += 1
