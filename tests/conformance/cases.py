"""Which test stands for which case of the given conformance suites, and how a case is run.

A test carries ``@case("dma_fence_selftests", "D1", "sanitycheck")``; a case that cannot apply to the
model is named with its reason by :func:`not_applicable`.  :func:`table` makes the table
case -> verdict -> test from what was recorded while the test modules were imported.

A case is one coroutine function of the engine.  :func:`on_all_schedules` runs it under the plainest
schedule and under many random ones; :func:`every_schedule` tries each interleaving there is, for
cases small enough.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import attrs

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Task
from svm_actors.explore.strategies import make

Program = Callable[[Engine], Coroutine[Any, Any, Any]]
T = TypeVar("T", bound=Callable[..., Any])

RANDOM_SCHEDULES = 50
"""How many seeds of the random walk a case must survive, besides the default schedule."""

RAN: list[int] = []
"""How many random schedules the test under way has run, each time it ran some; the conftest looks."""


def note_schedules(count: int) -> None:
    """A scenario has survived the default schedule and so many random ones."""
    RAN.append(count)


# -- the table ---------------------------------------------------------------------------


@attrs.frozen
class Case:
    """One row: a case of a suite and what stands for it."""

    suite: str
    """Name of the catalogue, ``dma_fence_selftests``."""
    id: str
    """The catalogue's own id, ``D1``."""
    name: str
    """The case's name in the original suite."""
    test: str | None
    """Function that checks it, as ``module::function``; None when it does not apply."""
    reason: str = ""
    """Why it does not apply."""
    schedules: int = 0
    """Random schedules that every run of the test must have."""

    @property
    def verdict(self) -> str:
        """``tested`` or ``not applicable``: whether the test holds is pytest's to say."""
        return "tested" if self.test is not None else "not applicable"


RECORDED: dict[tuple[str, str], Case] = {}
"""Every case seen so far, by (suite, id), in the order the modules were imported."""


def _record(row: Case) -> None:
    known = RECORDED.setdefault((row.suite, row.id), row)
    # A module can be imported twice under one name; a second test of the same case is a mistake.
    if known != row:
        raise ValueError(f"{row.suite} {row.id} is claimed by {known.test or 'a reason'} and {row.test or 'a reason'}")


def case(suite: str, id: str, name: str, schedules: int = RANDOM_SCHEDULES) -> Callable[[T], T]:  # noqa: A002 -- the catalogue's word
    """This test stands for that case, with so many random schedules.  One test may carry several."""

    def mark(test: T) -> T:
        row = Case(suite, id, name, f"{test.__module__}::{test.__qualname__}", schedules=schedules)
        _record(row)
        test.cases = [row, *getattr(test, "cases", ())]  # type: ignore[attr-defined]
        return test

    return mark


def not_applicable(suite: str, id: str, name: str, reason: str) -> None:  # noqa: A002
    """No test: the reason says what the model leaves out."""
    _record(Case(suite, id, name, None, reason))


def table(suite: str) -> list[Case]:
    """The rows of one suite, in the catalogue's order: letter, then number."""
    rows = [row for (of, _id), row in RECORDED.items() if of == suite]
    return sorted(rows, key=lambda row: _order(row.id))


def _order(text: str) -> tuple[str, int, str]:
    letters = text.rstrip("0123456789")
    number = text[len(letters) :]
    return letters, int(number or 0), text


# -- running a case ----------------------------------------------------------------------


def run_once(program: Program, chooser: Chooser, **options: Any) -> Engine:
    """One run on the direct back end; raises what made it fail."""
    backend = DirectBackend()
    engine = Engine(backend, chooser, **options)
    backend.run(program(engine))
    return engine


def on_all_schedules(program: Program, *, seeds: int = RANDOM_SCHEDULES, **options: Any) -> list[Engine]:
    """The default schedule and ``seeds`` random ones; answers the engines, for their counters."""
    engines = []
    for chooser in [make("fifo", 0), *(make("random", seed) for seed in range(seeds))]:
        try:
            engines.append(run_once(program, chooser, **options))
        except BaseException as error:
            error.add_note(f"schedule: {chooser.name} {getattr(chooser, 'seed', '')}")
            raise
    note_schedules(seeds)
    return engines


class Branch:
    """Makes given choices, then always the first; keeps what it chose and what there was to choose."""

    name = "branch"

    def __init__(self, prefix: Sequence[int]) -> None:
        self.prefix = prefix
        self.taken: list[int] = []
        self.arity: list[int] = []

    def _next(self, count: int) -> int:
        at = len(self.taken)
        value = self.prefix[at] if at < len(self.prefix) else 0
        self.taken.append(value)
        self.arity.append(count)
        return value

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        return self._next(len(candidates) + timer)

    def data(self, count: int, label: str) -> int:
        return self._next(count)


def every_schedule(program: Program, *, limit: int, **options: Any) -> Iterator[Engine]:
    """Depth first through all choices; AssertionError when there are more than ``limit`` runs."""
    prefix: list[int] = []
    for _ in range(limit):
        branch = Branch(prefix)
        try:
            yield run_once(program, branch, **options)
        except BaseException as error:
            error.add_note(f"choices: {branch.taken}")
            raise
        prefix = branch.taken
        while prefix and prefix[-1] + 1 == branch.arity[len(prefix) - 1]:
            prefix = prefix[:-1]
        if not prefix:
            return
        prefix = [*prefix[:-1], prefix[-1] + 1]
    raise AssertionError(f"more than {limit} schedules")
