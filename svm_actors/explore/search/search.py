"""Systematic search: every schedule of a program, or one of each class (exploration digest, section 1.3).

Depth first: the program runs from its beginning for every schedule, and the search is the strategy that
makes the choices (:mod:`svm_actors.explore.search.walk`).  Data choices are searched like those of schedule.

* ``none``: every schedule.
* ``sleep``: sleep sets; every class of equivalent schedules once, some runs are cut short.
* ``dpor``: source-DPOR with sleep sets; only races found in the runs made are followed up.

A bound on preemptions goes with ``none`` and with ``dpor``, which then adds backtrack points at the previous
switch and does without sleep sets; one on delays with ``none``.  States can be remembered with ``none``
and ``sleep``.  A failure ends its run; what the failing step would have led to is not searched.

Requires what the engine asks of a model anyway: all that tasks share is announced or, with a meter, is a field
of the model; and a name means the same thing in every run.  Racing timers are not supported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.search.footprint import Names
from svm_actors.explore.search.node import Cost, DataNode, StepNode
from svm_actors.explore.search.walk import Bound, Cut, Options, Reduction, SearchError, Stack, Walk

Runner = Callable[[Chooser], object]
"""Makes one run with these choices; answers what it failed with, or None."""


@attrs.define
class Found:
    """What a search has come to."""

    runs: int = 0
    """Runs that came to their end."""
    blocked: int = 0
    """Runs cut short: everything enabled slept."""
    pruned: int = 0
    """Runs cut short in a state met before."""
    too_long: int = 0
    """Runs cut short by the bound on steps."""
    failing: int = 0
    """Runs that failed."""
    costs: Counter[int] = attrs.field(factory=Counter)
    """Runs by what their picks cost, under a bound."""
    first: object = None
    """What the first failing run failed with."""
    choices: tuple[int, ...] = ()
    """Its choices, of schedule and data, and ..."""
    arities: tuple[int, ...] = ()
    """... how many alternatives each of them had: what a strict replay takes."""
    complete: bool = False
    """Every run within the bound was made."""

    @property
    def verdict(self) -> Literal["complete within this bound", "budget spent"]:
        """How the search ended."""
        return "complete within this bound" if self.complete else "budget spent"

    @property
    def executions(self) -> int:
        """All runs that were begun."""
        return self.runs + self.blocked + self.pruned + self.too_long


class Search:
    """A search that is advanced one run at a time; between two runs it is plain data."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.names = Names()
        self.stack: Stack = []
        self.found = Found()

    def advance(self, run: Runner) -> tuple[Walk, object]:
        """Make one run: how it went and what it failed with.  Raises SearchError."""
        walk = Walk(self.stack, self.names, self.options)
        failure = run(walk)
        walk.end(failed=failure is not None)
        _book(self.found, walk, failure)
        self.found.complete = not _next(self.stack, self.options.sleeping)
        return walk, failure


def search(run: Runner, reduction: Reduction = "dpor", *, bound: Bound | None = None, budget: int = 10_000) -> Found:
    """Make all runs, at most ``budget`` of them.  ValueError for a bound that the reduction does not keep."""
    searching = Search(Options(reduction, bound))
    while searching.found.executions < budget and not searching.found.complete:
        searching.advance(run)
    return searching.found


def rising(run: Runner, cost: Cost, limit: int, *, budget: int = 10_000) -> tuple[int, Found]:
    """Search with bound 0, 1, ... up to ``limit``, until something fails; the last bound and its search."""
    for bound in range(limit + 1):
        found = search(run, "none", bound=Bound(cost, bound), budget=budget)
        if found.failing or not found.complete:
            break
    return bound, found


def _book(found: Found, walk: Walk, failure: object) -> None:
    if walk.refused is not None:
        raise walk.refused
    if walk.ending == "asleep":
        found.blocked += 1
    elif walk.ending == "visited":
        found.pruned += 1
    elif walk.ending == "too long":
        found.too_long += 1
    else:
        _book_end(found, walk, failure)


def _book_end(found: Found, walk: Walk, failure: object) -> None:
    found.runs += 1
    if walk.options.bound is not None:
        found.costs[walk.spent] += 1
    if failure is not None:
        found.failing += 1
        if found.failing == 1:
            found.first, found.choices, found.arities = failure, tuple(walk.choices), tuple(walk.arities)


def _next(stack: Stack, sleeping: bool) -> bool:
    """Change the deepest choice that can be changed; False when all are made."""
    while stack:
        if stack[-1].advance(sleeping):
            if isinstance(stack[-1], DataNode):
                _forget_event(stack)
            return True
        stack.pop()
    return False


def _forget_event(stack: Stack) -> None:
    """The step that makes another data choice now may touch something else."""
    for node in reversed(stack):
        if isinstance(node, StepNode):
            node.event = None
            return


__all__ = ["Bound", "Cut", "Found", "Options", "Reduction", "Search", "SearchError", "Walk", "rising", "search"]
