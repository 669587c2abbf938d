"""Fuzz campaigns: many runs of a mix of targets, on all cores, with one answer.

A campaign goes on after a failure; failures of one class are one finding, with the token of the
first run that showed it.  Results are booked in the order of the runs, so what a campaign finds
depends on its plan and on how many runs it makes, and on nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from typing import Final, Literal

import attrs

from svm_actors.explore.failure import Failure
from svm_actors.explore.plan import Mix, Plan, Source, mix_of, resolved
from svm_actors.explore.pool import Call, Pool, WorkersDied
from svm_actors.explore.settings import STEP_BUDGET, Settings, check_bugs, check_strategy
from svm_actors.explore.store import Store
from svm_actors.explore.targets import DEFAULT
from svm_actors.explore.worker import Batch, Found, Tally, run_batch

EXECUTIONS: Final = 1200
"""Runs of a campaign that is told nothing."""
SECONDS: Final = 1800.0
"""Its time limit: generous, so that a slow machine makes as many runs as a fast one."""
BATCH_SECONDS: Final = 0.4
"""What a batch should take: long enough to be worth the trip, short enough to be worth the wait."""
BATCH_LIMIT: Final = 64

Stop = Literal["executions", "time", "failure", "interrupt", "workers"]
"""What ended a campaign."""


@attrs.define
class Finding:
    """Failures of one class."""

    found: Found
    """The first run that failed so, with its token."""
    count: int = 1
    """How many runs did."""

    @property
    def failure(self) -> Failure:
        """The failure of the first run."""
        return self.found.failure


@attrs.define
class Campaign:
    """What a campaign has come to."""

    plan: Plan
    """What determines its runs."""
    limit: int | None = None
    """Runs asked for; None is no limit."""
    tallies: dict[str, Tally] = attrs.field(factory=dict)
    """Sums by target, in the order of the mix."""
    findings: dict[str, Finding] = attrs.field(factory=dict)
    """Failures by signature, in the order of their first run."""
    resumed: int = 0
    """Runs taken from the store instead of being made."""
    elapsed: float = 0.0
    """Wall-clock seconds of this process."""
    restarts: int = 0
    """How often worker processes had to be replaced."""
    stopped_by: Stop = "executions"
    """What ended it."""
    note: str = ""
    """More about that, when workers died."""

    @property
    def runs(self) -> int:
        """Runs made, those taken from the store included."""
        return sum(tally.runs for tally in self.tallies.values())

    @property
    def steps(self) -> int:
        """Ops announced in them."""
        return sum(tally.steps for tally in self.tallies.values())

    @property
    def counters(self) -> Counter[str]:
        """Window events and statistics over all targets."""
        total: Counter[str] = Counter()
        for tally in self.tallies.values():
            total.update(tally.counters)
        return total

    @property
    def failures(self) -> list[Finding]:
        """Failures, one per class, in the order of their first run."""
        return list(self.findings.values())

    @property
    def failing_runs(self) -> int:
        """How many runs failed."""
        return sum(finding.count for finding in self.findings.values())

    @property
    def ok(self) -> bool:
        """True when runs were made and every one of them held."""
        return self.runs > 0 and not self.findings

    @property
    def complete(self) -> bool:
        """True when it came to the end it was given."""
        if self.limit is not None:
            return self.runs >= self.limit
        return self.stopped_by in ("time", "failure")

    @property
    def verdict(self) -> Literal["held", "failed", "none"]:
        """``none`` when it was cut short, or when all that went wrong is that step budgets were spent."""
        if any(finding.failure.kind != "budget" for finding in self.failures):
            return "failed"
        return "held" if self.ok and self.complete else "none"

    def add(self, batch: Batch) -> list[Finding]:
        """Book a batch; answers the findings that are new."""
        for name, tally in batch.tallies.items():
            self.tallies.setdefault(name, Tally()).add(tally)
        known = set(self.findings)
        times = Counter(record.signature for record in batch.records if record.signature)
        for found in batch.found:
            self.findings.setdefault(found.failure.signature, Finding(found, 0))
        for signature, count in times.items():
            self.findings[signature].count += count
        return [finding for signature, finding in self.findings.items() if signature not in known]

    def resume(self, store: Store) -> list[Finding]:
        """Book what a store already has; answers its findings."""
        self.tallies.update((name, tally) for name, tally in store.tallies().items() if tally.runs)
        for found, count in store.found():
            self.findings[found.failure.signature] = Finding(found, count)
        self.resumed = store.recorded()
        return self.failures


def fuzz(
    targets: str | Source | Iterable[Source] = DEFAULT,
    *,
    seed: int | str = 0,
    strategy: str = "random",
    bugs: Iterable[str] = (),
    executions: int | None = None,
    seconds: float | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    store: str | None = None,
    stop_at_failure: bool = False,
    check_determinism: bool = False,
    race_timers: bool = False,
    step_budget: int = STEP_BUDGET,
    on_failure: Callable[[Finding], None] | None = None,
    progress: Callable[[Campaign], None] | None = None,
) -> Campaign:
    """Run targets again and again under a strategy, and collect what fails.

    ``targets`` are names as on the command line, or coroutine functions (several ``jobs`` need ones
    that other processes can import).  Without ``executions`` and ``seconds`` there is a default for
    both.  ``executor`` takes the work elsewhere; ``store`` is a file to record in and to resume from.
    ``on_failure`` is told of each new finding, ``progress`` of each batch.

    Raises ValueError for an unknown strategy or bug, UnknownTarget, BadInput and StoreError.
    """
    check_strategy(strategy)
    planted = tuple(bugs)
    check_bugs(planted)
    sources = (targets,) if isinstance(targets, str) or not isinstance(targets, Iterable) else tuple(targets)
    settings = Settings(strategy, race_timers, step_budget)
    plan = resolved(Plan(sources, str(seed), settings, planted, stop_at_failure, check_determinism))
    if executions is None and seconds is None:
        executions, seconds = EXECUTIONS, SECONDS
    driver = _Driver(mix_of(plan), Campaign(plan, executions), seconds, on_failure, progress)
    return driver.drive(Pool(jobs, executor, _describe), store)


def _describe(call: Call) -> str:
    _plan, first, count = call
    return f"run {first}" if count == 1 else f"runs {first} to {first + count - 1}"


class _Driver:
    """Runs one campaign."""

    def __init__(
        self,
        mix: Mix,
        campaign: Campaign,
        seconds: float | None,
        on_failure: Callable[[Finding], None] | None,
        progress: Callable[[Campaign], None] | None,
    ) -> None:
        self.mix = mix
        self.campaign = campaign
        self.begin = time.monotonic()
        self.deadline = None if seconds is None else self.begin + seconds
        self.on_failure = on_failure
        self.progress = progress
        self.batch_size = 1

    def drive(self, pool: Pool, path: str | None) -> Campaign:
        """Make the runs, or those the store does not have yet."""
        campaign = self.campaign
        with ExitStack() as stack:
            store = None if path is None else stack.enter_context(Store(path, self.mix))
            if store is not None:
                self._tell(campaign.resume(store))
            try:
                self._work(pool, store)
            except KeyboardInterrupt:
                campaign.stopped_by = "interrupt"
            except WorkersDied as error:
                campaign.stopped_by, campaign.note = "workers", str(error)
        campaign.restarts = pool.restarts
        campaign.elapsed = time.monotonic() - self.begin
        return campaign

    def _work(self, pool: Pool, store: Store | None) -> None:
        if self._stop_now():
            return
        with closing(pool.results(run_batch, self._calls())) as results:
            for batch in results:
                if store is not None:
                    store.add(batch)
                self._book(batch)
                if self._stop_now():
                    return

    def _stop_now(self) -> bool:
        """A failure ends a campaign that was asked to stop at the first."""
        if self.mix.plan.stop_at_failure and self.campaign.findings:
            self.campaign.stopped_by = "failure"
            return True
        return False

    def _calls(self) -> Iterator[Call]:
        """Batches until the runs or the time are spent."""
        number = self.campaign.resumed
        limit = self.campaign.limit
        while limit is None or number < limit:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.campaign.stopped_by = "time"
                return
            count = self.batch_size if limit is None else min(self.batch_size, limit - number)
            yield self.mix.plan, number, count
            number += count

    def _book(self, batch: Batch) -> None:
        self.batch_size = _next_size(batch)
        self._tell(self.campaign.add(batch))
        self.campaign.elapsed = time.monotonic() - self.begin
        if self.progress is not None:
            self.progress(self.campaign)

    def _tell(self, findings: list[Finding]) -> None:
        for finding in findings:
            if self.on_failure is not None:
                self.on_failure(finding)


def _next_size(batch: Batch) -> int:
    """As many runs as should take BATCH_SECONDS, judging by the last batch; at most four times as many."""
    made = len(batch.records)
    wanted = int(BATCH_SECONDS * made / max(batch.elapsed, 1e-6))
    return max(1, min(wanted, 4 * made, BATCH_LIMIT))
