"""Fuzz campaigns: many runs of a mix of targets, on all cores, with one answer.

A campaign goes on after a failure; failures of one class are one finding, with the token of the
first run that showed it.  Results are booked in the order of the runs, so what a campaign finds
depends on its plan and on how many runs it makes, and on nothing else: not on how many processes
share the work, not on kills and resumes.  That holds for the strategies of a portfolio too, which
earlier runs decide (:mod:`svm_actors.explore.dealing`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from typing import Final

from svm_actors.explore.dealing import WHOLE, Dealer, Shard
from svm_actors.explore.findings import Campaign, Finding
from svm_actors.explore.plan import CHECK_EVERY, Mix, Plan, Source, mix_of, resolved
from svm_actors.explore.pool import AHEAD, Call, Pool, WorkersDied, WorkHangs
from svm_actors.explore.settings import STEP_BUDGET, Settings, check_bugs, check_strategy
from svm_actors.explore.store import Store
from svm_actors.explore.strategies.portfolio import NAME as PORTFOLIO
from svm_actors.explore.targets import DEFAULT
from svm_actors.explore.worker import Batch, run_batch

__all__ = ["EXECUTIONS", "SECONDS", "TIMEOUT", "Campaign", "Finding", "fuzz"]

EXECUTIONS: Final = 1200
"""Runs of a campaign that is told nothing."""
SECONDS: Final = 1800.0
"""Its time limit: generous, so that a slow machine makes as many runs as a fast one."""
BATCH_SECONDS: Final = 0.4
"""What a batch should take: long enough to be worth the trip, short enough to be worth the wait."""
BATCH_LIMIT: Final = 64
TIMEOUT: Final = 300.0
"""Wall-clock seconds after which a batch is held to hang: hundreds of times what it should take."""


def fuzz(
    targets: str | Source | Iterable[Source] = DEFAULT,
    *,
    seed: int | str = 0,
    strategy: str = PORTFOLIO,
    bugs: Iterable[str] = (),
    executions: int | None = None,
    seconds: float | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    store: str | None = None,
    shard: Shard | str = WHOLE,
    stop_at_failure: bool = False,
    check_determinism: bool = False,
    race_timers: bool = False,
    step_budget: int = STEP_BUDGET,
    timeout: float | None = TIMEOUT,
    on_failure: Callable[[Finding], None] | None = None,
    progress: Callable[[Campaign], None] | None = None,
) -> Campaign:
    """Run targets again and again under a strategy, and collect what fails.

    ``targets`` are names as on the command line, or coroutine functions (several ``jobs`` need ones
    that other processes can import).  Without ``executions`` and ``seconds`` there is a default for
    both.  ``jobs`` is one; with an ``executor``, which takes the work elsewhere, say how many processes it
    has (a guess is made otherwise).  ``store`` is a file to record in and to resume from.  ``shard``, ``i/N``,
    makes only its own of the ``executions`` runs.  ``check_determinism`` makes every run again, not one in a
    thousand.  ``timeout`` is how many wall-clock seconds a batch of runs may take before the run in it that
    hangs is looked for; None is no limit.
    ``on_failure`` is told of each new finding, ``progress`` of each batch.

    Raises ValueError for an unknown strategy or bug, UnknownTarget, BadInput, StoreError, and
    VersionMismatch when the executor's processes have another version.
    """
    check_strategy(strategy)
    planted = tuple(bugs)
    check_bugs(planted)
    sources = (targets,) if isinstance(targets, str) or not isinstance(targets, Iterable) else tuple(targets)
    settings = Settings(strategy, race_timers, step_budget)
    plan = resolved(
        Plan(sources, str(seed), settings, planted, stop_at_failure, 1 if check_determinism else CHECK_EVERY)
    )
    if executions is None and seconds is None:
        executions, seconds = EXECUTIONS, SECONDS
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    limit = None if executions is None else part.size(executions)
    driver = _Driver(mix_of(plan), part, Campaign(plan, limit), seconds, on_failure, progress)
    pool = Pool(_width(jobs, executor), executor, _describe, timeout, _split)
    return driver.drive(pool, store)


def _width(jobs: int | None, executor: Executor | None) -> int:
    """How many processes share the work.  Few executors tell; too many calls in flight only cost memory."""
    if jobs is None and executor is not None:
        jobs = getattr(executor, "_max_workers", None) or os.cpu_count()
    return jobs or 1


def _describe(call: Call) -> str:
    plan, share = call
    text = str(share)
    if len(share) > 1:
        return text
    mix = mix_of(plan)
    return f"{text} ({mix.target(share.numbers[0]).name}, seed {mix.seed(share.numbers[0])}, {share.strategies[0]})"


def _split(call: Call) -> list[Call]:
    plan, share = call
    return [(plan, part) for part in share.singly()]


class _Driver:
    """Runs one campaign."""

    def __init__(
        self,
        mix: Mix,
        shard: Shard,
        campaign: Campaign,
        seconds: float | None,
        on_failure: Callable[[Finding], None] | None,
        progress: Callable[[Campaign], None] | None,
    ) -> None:
        self.mix = mix
        self.dealer = Dealer(mix, shard)
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
            store = None if path is None else stack.enter_context(Store(path, self.mix, self.dealer.shard))
            if store is not None:
                self._resume(store)
            try:
                self._work(pool, store)
            except KeyboardInterrupt:
                campaign.stopped_by = "interrupt"
            except WorkersDied as error:
                campaign.stopped_by, campaign.note = "workers", str(error)
            except WorkHangs as error:
                campaign.stopped_by, campaign.note = "hang", str(error)
        campaign.restarts = pool.restarts
        campaign.elapsed = time.monotonic() - self.begin
        return campaign

    def _resume(self, store: Store) -> None:
        for record in store.records():
            self.dealer.book(record)
        self._tell(self.campaign.resume(store))

    def _work(self, pool: Pool, store: Store | None) -> None:
        if self._stop_now():
            return
        with closing(pool.results(run_batch, self._calls(pool.jobs))) as results:
            for made in results:
                batch = self.campaign.counted(made)
                if store is not None:
                    store.add(batch)
                self._book(batch)
                if self._stop_now():
                    return

    def _stop_now(self) -> bool:
        """A failure ends a campaign that was asked to stop at the first."""
        if self.mix.plan.stop_at_failure and self.campaign.verdict == "failed":
            self.campaign.stopped_by = "failure"
            return True
        return False

    def _calls(self, jobs: int) -> Iterator[Call | None]:
        """Batches until the runs or the time are spent; None while the next runs are not decided."""
        position = self.campaign.resumed
        limit = self.campaign.limit
        largest = _largest(self.dealer.epoch, jobs)
        while limit is None or position < limit:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.campaign.stopped_by = "time"
                return
            count = min(self.batch_size, largest)
            share = self.dealer.share(position, count if limit is None else min(count, limit - position))
            position += len(share)
            yield (self.mix.plan, share) if len(share) else None

    def _book(self, batch: Batch) -> None:
        self.batch_size = _next_size(batch)
        for record in batch.records:
            self.dealer.book(record)
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


def _largest(epoch: int | None, jobs: int) -> int:
    """A batch may be so large that all those in flight are within an epoch: then nobody waits at its end."""
    return BATCH_LIMIT if epoch is None else max(1, epoch // (AHEAD * jobs))
