"""Exhaustive exploration of one scenario: every interleaving within a bound, or one of each class.

``explore`` is the searching sister of ``run`` and ``fuzz``.  It answers what the scenario can come to: the set
of outcomes (what the scenario returned), each failure with a token that replays it, and whether that
is all there is: *complete within this bound*, or *budget spent*.

With a reduction footprints are measured (:mod:`svm_actors.explore.search.meter`), so what is left out is
equivalent to what was run, however coarse or forgetful the announced ops are.  A store keeps the search after
every run: killed at any time it loses the run it was at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal, get_args

import attrs

from svm_actors import __version__
from svm_actors.engine.chooser import Chooser
from svm_actors.explore.determinism import digest
from svm_actors.explore.exploration_store import ExplorationStore
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run, execute
from svm_actors.explore.search.meter import Meter, watching
from svm_actors.explore.search.search import Search
from svm_actors.explore.search.visited import Visited
from svm_actors.explore.search.walk import Bound, Options, Reduction, SearchError
from svm_actors.explore.settings import Settings, UnknownName, check_bugs
from svm_actors.explore.strategies import Replay
from svm_actors.explore.subject import Scenario, Subject, subject_of
from svm_actors.world import Config, World

Algorithm = Literal["dpor", "sleep", "naive"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
StoppedBy = Literal["complete", "runs", "time"]

RUNS: Final = 100_000
"""Runs of a search that is limited by nothing else."""
STEP_BUDGET: Final = 50_000
"""Ops after which a run fails as a suspected livelock; far above what a scenario worth searching needs."""

_REDUCTIONS: Final[dict[str, Reduction]] = {"dpor": "dpor", "sleep": "sleep", "naive": "none"}


@attrs.define
class Seen:
    """Something that runs came to, and the first of them."""

    runs: int
    """How many runs of the search came to it; each stands for its class."""
    token: str
    """The first of them, for a strict replay."""
    failure: Failure | None = None
    """What it failed with; None for an outcome."""


@attrs.define
class Exploration:
    """What a search of one scenario has come to."""

    subject: Subject
    """What was searched."""
    algorithm: Algorithm
    """Which of several equivalent runs were made."""
    preemptions: int | None
    """The bound on switches away from a thread that could go on; None: no bound."""
    steps: int | None
    """The bound on the ops of one run; None: no bound."""
    state_hashing: bool
    """Whether states met before ended a run."""
    bugs: tuple[str, ...]
    """Deviations that were active."""
    outcomes: dict[str, Seen] = attrs.field(factory=dict)
    """By the text of what the scenario returned, in the order they were found."""
    failures: dict[str, Seen] = attrs.field(factory=dict)
    """By signature, in the order they were found."""
    runs: int = 0
    """Runs that came to their end."""
    sleep_blocked: int = 0
    """Runs cut short because everything enabled slept: the price of sleep sets."""
    pruned: int = 0
    """Runs cut short in a state met before."""
    too_long: int = 0
    """Runs cut short by the bound on steps."""
    failing_runs: int = 0
    """Runs that failed."""
    states: int = 0
    """Different states met, with state hashing."""
    resumed: int = 0
    """Executions that a store had of an earlier search."""
    stopped_by: StoppedBy = "complete"
    """Why it ended."""
    elapsed: float = 0.0
    """Wall-clock seconds, of this call."""

    @property
    def executions(self) -> int:
        """All runs begun."""
        return self.runs + self.sleep_blocked + self.pruned + self.too_long

    @property
    def complete(self) -> bool:
        """True when every run within the bound was made."""
        return self.stopped_by == "complete"

    @property
    def ok(self) -> bool:
        """True when nothing failed."""
        return not self.failures

    @property
    def verdict(self) -> Literal["complete within this bound", "budget spent"]:
        """How much was searched."""
        return "complete within this bound" if self.complete else "budget spent"


def explore(
    scenario: Scenario | Subject,
    *,
    preemptions: int | None = None,
    steps: int | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    algorithm: Algorithm = "dpor",
    state_hashing: bool = False,
    bugs: Sequence[str] = (),
    config: Config | None = None,
    store: str | os.PathLike[str] | None = None,
    name: str | None = None,
    step_budget: int = STEP_BUDGET,
    progress: Callable[[Exploration], None] | None = None,
    on_failure: Callable[[Seen], None] | None = None,
) -> Exploration:
    """Search a scenario within a bound and a budget; never raises for a failed property.

    ``preemptions`` bounds switches away from a thread that could go on, ``steps`` the ops of a run;
    ``runs`` and ``seconds`` are the budget.  ValueError for options that do not go together, UnknownName
    for a bug nobody knows, SearchError for a scenario that differs from itself, StoreError for a bad file.
    """
    subject = subject_of(scenario, config, name)
    check_bugs(bugs)
    if algorithm not in ALGORITHMS:
        raise UnknownName(f"unknown algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
    _check_options(algorithm, preemptions, state_hashing)
    found = Exploration(subject, algorithm, preemptions, steps, state_hashing, tuple(bugs))
    explorer = _Explorer(found, step_budget, store)
    with explorer.store or nullcontext():
        explorer.resume()
        explorer.search_on(runs if runs or seconds else RUNS, seconds, progress, on_failure)
    return found


def _check_options(algorithm: Algorithm, preemptions: int | None, state_hashing: bool) -> None:
    if state_hashing and algorithm == "dpor":
        raise ValueError("state hashing goes with sleep or naive: dpor must see every run to its end")
    if preemptions is not None and algorithm == "sleep":
        raise ValueError("a bound on preemptions goes with dpor or naive: sleep sets rely on runs it forbids")


class _Explorer:
    """One call of ``explore``."""

    def __init__(self, found: Exploration, step_budget: int, store: str | os.PathLike[str] | None) -> None:
        self.found = found
        self.settings = Settings("search", step_budget=step_budget)
        self.meter = None if found.algorithm == "naive" else Meter()
        self.visited = Visited() if found.state_hashing else None
        bound = None if found.preemptions is None else Bound("preemptions", found.preemptions)
        options = Options(_REDUCTIONS[found.algorithm], bound, found.steps, self.visited, self.meter)
        self.search = Search(options)
        self.store = None if store is None else ExplorationStore(store, self.key)
        self._last: Run | None = None
        self._outcome: str | None = None

    @property
    def key(self) -> str:
        """Digest of everything that the course of the search depends on."""
        found = self.found
        parts = (__version__, found.subject.name, found.subject.digest, found.subject.config_digest, found.algorithm,
                 found.preemptions, found.steps, found.state_hashing, found.bugs, str(self.settings))  # fmt: skip
        return digest(repr(parts).encode())

    def resume(self) -> None:
        """Go on where the store ends."""
        if self.store is not None and self.store.load(self.search, self.visited, self.found):
            self._count()
            self.found.resumed = self.found.executions

    def search_on(
        self,
        runs: int | None,
        seconds: float | None,
        progress: Callable[[Exploration], None] | None,
        on_failure: Callable[[Seen], None] | None,
    ) -> None:
        """Make runs until there is none left, or the budget is spent."""
        begin = time.perf_counter()
        watch: AbstractContextManager[None] = nullcontext() if self.meter is None else watching(self.meter)
        with watch:
            while not self.search.found.complete:
                stopped = self._spent(runs, seconds, time.perf_counter() - begin)
                if stopped is not None:
                    self.found.stopped_by = stopped
                    break
                self._one(on_failure)
                if progress is not None:
                    progress(self.found)
        self.found.elapsed = time.perf_counter() - begin

    def _spent(self, runs: int | None, seconds: float | None, elapsed: float) -> StoppedBy | None:
        if runs is not None and self.found.executions >= runs:
            return "runs"
        return "time" if seconds is not None and elapsed >= seconds else None

    def _one(self, on_failure: Callable[[Seen], None] | None) -> None:
        walk, failure = self.search.advance(self._run)
        new = None if walk.cut else self._book(failure if isinstance(failure, Failure) else None)
        self._count()
        if self.store is not None:
            self.store.save(self.search, self.visited, self.found)
        if new is not None and new.failure is not None and on_failure is not None:
            on_failure(new)

    def _run(self, chooser: Chooser) -> Failure | None:
        self._outcome = None
        watched = attrs.evolve(self.found.subject, scenario=self._observed)
        self._last = execute(
            watched, self.settings, chooser, "search", self.found.bugs, "direct", record=False, digest=False
        )
        return self._last.failure

    async def _observed(self, world: World) -> None:
        answer: Any = await self.found.subject.scenario(world)
        self._outcome = outcome_text(answer)

    def _book(self, failure: Failure | None) -> Seen | None:
        """Note what the last run came to; answers it when it is new."""
        books = self.found.outcomes if failure is None else self.found.failures
        key = (self._outcome or "") if failure is None else failure.signature
        if key in books:
            books[key].runs += 1
            return None
        books[key] = Seen(1, self._token(), failure)
        return books[key]

    def _token(self) -> str:
        """The last run, made again to have its trace digested."""
        assert self._last is not None
        again = Replay(self._last.tape, self._last.arity)
        return execute(
            self.found.subject, self.settings, again, "search", self.found.bugs, "direct", record=False, digest=True
        ).token

    def _count(self) -> None:
        counts, found = self.search.found, self.found
        found.runs, found.sleep_blocked, found.pruned = counts.runs, counts.blocked, counts.pruned
        found.too_long, found.failing_runs = counts.too_long, counts.failing
        found.states = 0 if self.visited is None else len(self.visited)


def outcome_text(answer: object) -> str:
    """What a scenario returned, as text that equal answers share: dicts and sets in order."""
    if isinstance(answer, dict):
        items = sorted((outcome_text(key), outcome_text(value)) for key, value in answer.items())
        return "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
    if isinstance(answer, (set, frozenset)):
        return "{" + ", ".join(sorted(map(outcome_text, answer))) + "}"
    if isinstance(answer, (list, tuple)):
        return "[" + ", ".join(map(outcome_text, answer)) + "]"
    return repr(answer)


__all__ = ["ALGORITHMS", "Algorithm", "Exploration", "SearchError", "Seen", "explore"]
