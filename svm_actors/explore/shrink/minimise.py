"""Shrinking a failure: scenario operations, injected faults and schedule deviations together.

The passes are made in turn, the cheap ones until a whole round of them finds nothing more, then the dear ones; what
those find is given to the cheap ones again.  It ends when nothing finds anything, or when time or runs are spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run, check_token, replay, token_settings
from svm_actors.explore.shrink import choices
from svm_actors.explore.shrink.arguments import lower_arguments
from svm_actors.explore.shrink.joining import join_stretches
from svm_actors.explore.shrink.operations import (
    drop_operations,
    drop_pairs,
    drop_stretches,
    search_chunks,
    search_large,
    search_smaller_programs,
    search_stretches,
)
from svm_actors.explore.shrink.recording import Case, Recording
from svm_actors.explore.shrink.result import Needed, Shrunk, draws_of, switches_of
from svm_actors.explore.shrink.sameness import FailureClass
from svm_actors.explore.shrink.searching import search_short
from svm_actors.explore.shrink.shrinker import Enough, NotReproduced, Progress, Shrinker
from svm_actors.explore.strategies.guided import Guided, Point, Recorder
from svm_actors.explore.strategies.replay import Replay
from svm_actors.explore.subject import Scenario, Subject, split_name, subject_at
from svm_actors.explore.token import Token, decode
from svm_actors.world import Config

SECONDS: Final = 60.0
"""How long a shrinking may take when nobody says otherwise."""
SPINNING: Final = {"budget": (20_000,), "livelock": (100, 1000, 20_000)}
"""Step budgets tried for the shrunk run, the least first, by what the failure amounts to.  A spent step budget is told
by steps that no program of a few dozen operations makes unless it spins; a livelock by its cycle, which a fair schedule
enters from where the run is cut off, however soon that is."""
STRATEGY: Final = "shrunk"
"""What a shrunk token says of where its choices come from."""
FIRST: Final[tuple[Callable[[Shrinker], None], ...]] = (
    search_short,
    choices.shortest_prefix,
    join_stretches,
    drop_operations,
    search_large,
)
"""Passes that make the program smaller before anything else."""
ROUND: Final[tuple[Callable[[Shrinker], None], ...]] = (
    join_stretches,
    drop_operations,
    choices.reset_choices,
    join_stretches,
    choices.reset_choices,
    choices.lower_draws,
    choices.defer_preemptions,
)
"""Passes that make a few runs for each thing they try."""
SEARCHES: Final[tuple[Callable[[Shrinker], bool], ...]] = (
    drop_pairs,
    drop_stretches,
    search_chunks,
    search_stretches,
    search_smaller_programs,
)
"""Passes that make many; each is made when the ones before find nothing more."""
LAST: Final[tuple[Callable[[Shrinker], None], ...]] = (lower_arguments, choices.lower_choices)
"""Passes that make what is left easier to read."""


def shrink(
    scenario: Scenario | Subject,
    token: str | Token,
    *,
    config: Config | None = None,
    seconds: float | None = SECONDS,
    runs: int | None = None,
    progress: Progress | None = None,
) -> Shrunk:
    """The smallest failing run of the same failure class that can be found from a recorded one.

    ``seconds`` and ``runs`` bound the search, None does not; bounded by ``seconds`` alone the result depends on
    the machine.  TokenError for malformed text, TokenMismatch when the token is of another version, scenario
    or machine, NotReproduced when the recorded run does not fail, or not as recorded.
    """
    known = decode(token) if isinstance(token, str) else token
    subject = subject_at(known.target, scenario, config)
    check_token(known, subject)
    shrinker = _begin(subject, known, seconds, runs, progress)
    complete = _all_passes(shrinker)
    shrinker.judge()
    return _result(shrinker, complete)


def _begin(
    subject: Subject, known: Token, seconds: float | None, runs: int | None, progress: Progress | None
) -> Shrinker:
    """Make the recorded run again and take it as the best so far."""
    again = replay(subject, known, backend="direct")
    failure = _reproduced(again, known)
    kept = split_name(subject.name)[1]
    whole = subject if kept is None else subject.keeping(None)
    settings = attrs.evolve(token_settings(known), strategy=STRATEGY)
    judging = failure.kind == "livelock"
    case, first = _first(Case(whole, settings, known.seed, known.bugs, judging), kept, again, failure)
    return Shrinker(case, first, seconds=seconds, runs=runs, progress=progress)


def _first(case: Case, kept: frozenset[int] | None, run: Run, failure: Failure) -> tuple[Case, Recording]:
    """The run by name; of one that spins only its beginning, as short as it shows that it spins."""
    for budget in SPINNING.get(failure.kind, ()):
        if budget < case.settings.step_budget:
            short = attrs.evolve(case, settings=attrs.evolve(case.settings, step_budget=budget))
            first = short.record(kept, Recorder(Replay(run.tape, run.arity)))
            if FailureClass.of(failure).holds(first.run.failure):
                return short, first
    return case, case.record(kept, Recorder(Replay(run.tape, run.arity)))


def _reproduced(again: Run, known: Token) -> Failure:
    """How the run fails.  NotReproduced unless it does, with the recorded trace."""
    failure = again.failure
    if failure is not None and failure.rule == "ReplayMismatch":
        raise NotReproduced(f"{known.target} does not do what the token recorded: {failure.message}")
    if known.trace and known.trace != again.trace_digest:
        raise NotReproduced(f"{known.target} does not do what the token recorded: its trace is another")
    if failure is None:
        raise NotReproduced(f"{known.target} held: there is no failure to shrink")
    return failure


def _all_passes(shrinker: Shrinker) -> bool:
    """Rounds of passes until one finds nothing; False when time or runs were spent before."""
    try:
        for each in FIRST:
            each(shrinker)
        while True:
            _rounds(shrinker, ROUND)
            if not any(search(shrinker) for search in SEARCHES):
                before = shrinker.merit.operations
                _rounds(shrinker, LAST)
                _rounds(shrinker, ROUND)
                if shrinker.merit.operations == before:
                    return True
    except Enough:
        return False


def _rounds(shrinker: Shrinker, each_round: tuple[Callable[[Shrinker], None], ...]) -> None:
    """These passes in turn until they find nothing more."""
    before = None
    while shrinker.merit != before:
        before = shrinker.merit
        for each in each_round:
            each(shrinker)


def _result(shrinker: Shrinker, complete: bool) -> Shrunk:
    best = shrinker.best
    needed = _needed(shrinker)
    run = attrs.evolve(best.run, settings=shrinker.case.settings)  # candidates have a smaller step budget
    traced = replay(run.subject, run.token, backend="direct", record=True)
    final = attrs.evolve(replay(run.subject, run.token, backend="direct", labels=True), trace=traced.trace)
    assert final.failure is not None, "a confirmed run fails again"
    kept = best.numbers
    names = best.operations
    return Shrunk(
        run=final,
        failure=final.failure,
        merit=shrinker.merit,
        original=shrinker.first.merit,
        operations=tuple((number, names[number]) for number in kept),
        switches=switches_of(best, needed),
        draws=draws_of(best, needed),
        runs=shrinker.runs,
        complete=complete,
        recording=best,
    )


def _needed(shrinker: Shrinker) -> Needed:
    """For each surviving deviation, whether the failure vanishes with the canonical choice there."""
    best = shrinker.best
    found: dict[Point, bool | None] = dict.fromkeys(one.point for one in best.deviations)
    try:
        for point in found:
            plan = {at: value for at, value in best.plan.items() if at != point}
            found[point] = not shrinker.fails(shrinker.record(best.kept, Guided(plan)))
    except Enough:
        pass
    return found
