"""Shrinking a failure: scenario operations, injected faults and schedule deviations together.

The passes are made in turn until a whole round of them finds nothing more, or until time or runs are spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from svm_actors.explore.run import Run, check_token, replay, token_settings
from svm_actors.explore.shrink import passes
from svm_actors.explore.shrink.joining import join_stretches
from svm_actors.explore.shrink.recording import Case
from svm_actors.explore.shrink.result import Needed, Shrunk, draws_of, switches_of
from svm_actors.explore.shrink.shrinker import Enough, NotReproduced, Progress, Shrinker
from svm_actors.explore.strategies.guided import Guided, Point, Recorder
from svm_actors.explore.strategies.replay import Replay
from svm_actors.explore.subject import Scenario, Subject, split_name, subject_at
from svm_actors.explore.token import Token, decode
from svm_actors.world import Config

SECONDS: Final = 60.0
"""How long a shrinking may take when nobody says otherwise."""
STRATEGY: Final = "shrunk"
"""What a shrunk token says of where its choices come from."""
ROUND: Final[tuple[Callable[[Shrinker], None], ...]] = (
    join_stretches,
    passes.drop_operations,
    passes.reset_choices,
    join_stretches,
    passes.reset_choices,
    passes.drop_pairs,
    passes.lower_choices,
    passes.defer_preemptions,
)


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
    return _result(shrinker, complete)


def _begin(
    subject: Subject, known: Token, seconds: float | None, runs: int | None, progress: Progress | None
) -> Shrinker:
    """Make the recorded run again and take it as the best so far."""
    _check_reproduced(replay(subject, known, backend="direct"), known)
    kept = split_name(subject.name)[1]
    whole = subject if kept is None else subject.keeping(None)
    settings = attrs.evolve(token_settings(known), strategy=STRATEGY)
    case = Case(whole, settings, known.seed, known.bugs)
    first = case.record(kept, Recorder(Replay(known.choices, known.arities)))
    return Shrinker(case, first, seconds=seconds, runs=runs, progress=progress)


def _check_reproduced(again: Run, known: Token) -> None:
    """Raise NotReproduced unless the run fails, with the recorded trace."""
    failure = again.failure
    if failure is not None and failure.rule == "ReplayMismatch":
        raise NotReproduced(f"{known.target} does not do what the token recorded: {failure.message}")
    if known.trace and known.trace != again.trace_digest:
        raise NotReproduced(f"{known.target} does not do what the token recorded: its trace is another")
    if failure is None:
        raise NotReproduced(f"{known.target} held: there is no failure to shrink")


def _all_passes(shrinker: Shrinker) -> bool:
    """Rounds of passes until one finds nothing; False when time or runs were spent before."""
    try:
        passes.shortest_prefix(shrinker)
        while True:
            before = shrinker.merit
            for each in ROUND:
                each(shrinker)
            if shrinker.merit == before:
                return True
    except Enough:
        return False


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
            found[point] = shrinker.record(best.kept, Guided(plan)).signature != shrinker.signature
    except Enough:
        pass
    return found
