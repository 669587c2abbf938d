"""A few runs of a campaign: the unit of work handed to a process.

A run that fails is made again from its own choices before it is reported: a failure that does not
come back the same is a fault of determinism, and is reported as that.

Every run tells which features of the model it reached (:mod:`svm_actors.explore.coverage`).  Most runs
reach what others reached before, so a batch carries each feature once: the first of its runs that
reached it, and how many did.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from typing import Final

import attrs

from svm_actors.explore.determinism import digest, first_difference
from svm_actors.explore.failure import Failure
from svm_actors.explore.plan import Mix, Plan, mix_of
from svm_actors.explore.run import Run, replay, run

HELD: Final = "held"


@attrs.frozen
class RunRecord:
    """What a store keeps of one run."""

    number: int
    """Position in the campaign."""
    target: str
    """Name of its target."""
    seed: str
    """Its seed."""
    strategy: str
    """Its strategy."""
    outcome: str
    """``held`` or the kind of failure."""
    steps: int
    """Ops announced."""
    digest: str
    """Hex digest of its choices."""
    signature: str = ""
    """Of its failure; empty when it held."""
    new_features: int = 0
    """How many features it reached that no run before it had reached; known when it is booked."""


@attrs.frozen
class Share:
    """Runs to be made by one process, one after the other."""

    numbers: tuple[int, ...]
    """Their positions in the campaign, ascending."""
    strategies: tuple[str, ...]
    """The strategy of each."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __str__(self) -> str:
        if len(self) == 1:
            return f"run {self.numbers[0]}"
        step = self.numbers[1] - self.numbers[0]
        return f"runs {self.numbers[0]} to {self.numbers[-1]}" + (f" in steps of {step}" if step > 1 else "")

    def singly(self) -> list[Share]:
        """The same runs, each for itself."""
        return [Share((number,), (name,)) for number, name in zip(self.numbers, self.strategies, strict=True)]


@attrs.define
class Reach:
    """Who reached a feature."""

    first: int
    """The first run that did."""
    strategy: str
    """The strategy of that run."""
    count: int = 1
    """How many runs did."""


@attrs.frozen
class Found:
    """A failing run, confirmed."""

    number: int
    """Position in the campaign."""
    target: str
    """Name of its target."""
    seed: str
    """Its seed."""
    failure: Failure
    """What went wrong."""
    token: str
    """Its strict replay."""
    strategy: str = ""
    """Its strategy."""


@attrs.define
class Tally:
    """Sums over runs of one target."""

    runs: int = 0
    """Runs made."""
    steps: int = 0
    """Ops announced in them."""
    failed: int = 0
    """Runs that failed."""
    counters: Counter[str] = attrs.field(factory=Counter)
    """Window events and statistics."""

    def add(self, other: Tally) -> None:
        """Add the sums of other runs."""
        self.runs += other.runs
        self.steps += other.steps
        self.failed += other.failed
        self.counters.update(other.counters)


@attrs.frozen
class Batch:
    """The results of a share of the runs, complete."""

    records: tuple[RunRecord, ...]
    """One per run, in order."""
    tallies: dict[str, Tally]
    """Sums by target."""
    found: tuple[Found, ...]
    """The first failing run of each signature."""
    coverage: dict[str, Reach]
    """Features reached, in the order in which they first were."""
    elapsed: float
    """Seconds it took."""


def run_batch(plan: Plan, share: Share) -> Batch:
    """Make some runs, only up to the first that fails if the plan stops there."""
    mix = mix_of(plan)
    begin = time.perf_counter()
    records: list[RunRecord] = []
    tallies: dict[str, Tally] = {}
    found: dict[str, Found] = {}
    coverage: dict[str, Reach] = {}
    for number, strategy in zip(share.numbers, share.strategies, strict=True):
        one = _one_run(mix, number, strategy, coverage=True)
        failure, token = _judge(mix, number, one)
        name = mix.target(number).name
        records.append(_record(number, name, one, failure))
        tallies.setdefault(name, Tally()).add(Tally(1, one.steps, failure is not None, Counter(one.counters)))
        reach(coverage, {feature: Reach(number, strategy) for feature in one.features})
        if failure is not None:
            found.setdefault(failure.signature, Found(number, name, one.seed, failure, token, strategy))
            if plan.stop_at_failure and failure.conclusive:
                break
    return Batch(tuple(records), tallies, tuple(found.values()), coverage, time.perf_counter() - begin)


def reach(known: dict[str, Reach], more: dict[str, Reach]) -> None:
    """Add what other runs reached."""
    for feature, other in more.items():
        mine = known.get(feature)
        if mine is None:
            known[feature] = attrs.evolve(other)
            continue
        mine.count += other.count
        if other.first < mine.first:
            mine.first, mine.strategy = other.first, other.strategy


def _one_run(mix: Mix, number: int, strategy: str, *, record: bool = False, coverage: bool = False) -> Run:
    plan = mix.plan
    return run(
        mix.subject(number),
        seed=mix.seed(number),
        strategy=strategy,
        bugs=plan.bugs,
        backend="direct",
        record=record,
        race_timers=plan.settings.race_timers,
        step_budget=plan.settings.step_budget,
        digest=False,
        coverage=coverage,
    )


def _judge(mix: Mix, number: int, one: Run) -> tuple[Failure | None, str]:
    """The run's failure, if any, and the token of that failure."""
    if one.failure is not None:
        return _confirm(one, one.failure)
    if mix.checked(number):
        traces = [_one_run(mix, number, one.strategy, record=True) for _ in range(2)]
        return compare_traces(*traces), traces[0].token
    return None, ""


def _confirm(one: Run, failure: Failure) -> tuple[Failure, str]:
    """Make a failing run again from its choices; its token then has the digest of the trace, and the labels."""
    again = replay(one.subject, one.token, backend="direct", labels=True)
    if again.failure is not None and again.failure.signature == failure.signature:
        return failure, again.token
    then = "held" if again.failure is None else again.failure.headline
    text = f"a failing run does not fail the same from its own choices: first {failure.headline}; then {then}"
    return attrs.evolve(failure, kind="error", oracle="determinism", rule="replay", message=text), one.token


def compare_traces(one: Run, other: Run) -> Failure | None:
    """A failure that names the first step in which two recorded runs differ; None when they are equal."""
    difference = first_difference(one.trace or (), other.trace or ())
    if difference is None:
        return None
    return Failure("error", "determinism", "trace", str(difference))


def _record(number: int, target: str, one: Run, failure: Failure | None) -> RunRecord:
    choices = digest(array("q", [*one.arity, *one.tape]).tobytes())
    outcome, signature = (HELD, "") if failure is None else (failure.kind, failure.signature)
    return RunRecord(number, target, one.seed, one.strategy, outcome, one.steps, choices, signature)
