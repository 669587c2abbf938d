"""What a campaign has come to: sums, findings, coverage, and what each strategy was good for.

Everything here adds up from batches in the order of the runs, or from the parts of a store in any order.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import attrs

from svm_actors.explore.coverage import Reached
from svm_actors.explore.failure import Failure
from svm_actors.explore.plan import Plan
from svm_actors.explore.worker import Batch, Found, Reach, RunRecord, Tally, reach

if TYPE_CHECKING:
    from svm_actors.explore.store import Part

Stop = Literal["executions", "time", "failure", "interrupt", "workers", "hang", "merged"]
"""What ended a campaign; ``merged``: it was put together from stores."""


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
class Effort:
    """What one strategy was used for, and what came of it."""

    runs: int = 0
    """Runs it made the choices of."""
    failed: int = 0
    """How many of them failed."""
    new_features: int = 0
    """Features that one of its runs was the first to reach."""
    steps: int = 0
    """Ops announced in its runs."""


@attrs.define
class Campaign:
    """What a campaign has come to."""

    plan: Plan
    """What determines its runs."""
    limit: int | None = None
    """Runs asked for; None is no limit."""
    tallies: dict[str, Tally] = attrs.field(factory=dict)
    """Sums by target, in the order in which they came up."""
    findings: dict[str, Finding] = attrs.field(factory=dict)
    """Failures by signature, in the order of their first run."""
    coverage: dict[str, Reach] = attrs.field(factory=dict)
    """Features of the model that were exercised, and by whom first."""
    resumed: int = 0
    """Runs taken from the store instead of being made."""
    elapsed: float = 0.0
    """Wall-clock seconds of this process."""
    restarts: int = 0
    """How often worker processes had to be replaced."""
    stopped_by: Stop = "executions"
    """What ended it."""
    note: str = ""
    """More about that, when workers died or a run hung."""
    _efforts: dict[str, Effort] = attrs.field(factory=dict)

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
    def strategies(self) -> dict[str, Effort]:
        """Each strategy that made choices, by name.

        A feature counts for the strategy of the run with the lowest number that reached it, whichever
        shard that was in.
        """
        first = Counter(one.strategy for one in self.coverage.values())
        return {
            name: attrs.evolve(self._efforts[name], new_features=first[name]) for name in sorted(self._efforts)
        }

    @property
    def reached(self) -> Reached:
        """The features, as the set that knows what is missing."""
        return Reached(self.coverage)

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
        return self.stopped_by in ("time", "failure", "merged")

    @property
    def verdict(self) -> Literal["held", "failed", "none"]:
        """``none`` when it was cut short, or when all that went wrong is that step budgets were spent."""
        if any(finding.failure.conclusive for finding in self.failures):
            return "failed"
        return "held" if self.ok and self.complete else "none"

    def counted(self, batch: Batch) -> Batch:
        """The batch, its records with the features that nobody had reached before."""
        fresh = Counter(one.first for feature, one in batch.coverage.items() if feature not in self.coverage)
        records = tuple(attrs.evolve(record, new_features=fresh[record.number]) for record in batch.records)
        return attrs.evolve(batch, records=records)

    def add(self, batch: Batch) -> list[Finding]:
        """Book a batch; answers the findings that are new."""
        for name, tally in batch.tallies.items():
            self.tallies.setdefault(name, Tally()).add(tally)
        for record in batch.records:
            self._spent(record)
        reach(self.coverage, batch.coverage)
        known = set(self.findings)
        times = Counter(record.signature for record in batch.records if record.signature)
        for found in batch.found:
            self.findings.setdefault(found.failure.signature, Finding(found, 0))
        for signature, count in times.items():
            self.findings[signature].count += count
        return [finding for signature, finding in self.findings.items() if signature not in known]

    def resume(self, part: Part) -> list[Finding]:
        """Book what a store has, one part of it after the other; answers the findings so far."""
        self.resumed += part.recorded()
        for name, tally in part.tallies().items():
            self.tallies.setdefault(name, Tally()).add(tally)
        for record in part.records():
            self._spent(record)
        reach(self.coverage, part.coverage())
        for found, count in part.found():
            mine = self.findings.setdefault(found.failure.signature, Finding(found, 0))
            mine.count += count
            if found.number < mine.found.number:
                mine.found = found
        self.findings = dict(sorted(self.findings.items(), key=lambda item: item[1].found.number))
        return self.failures

    def _spent(self, record: RunRecord) -> None:
        effort = self._efforts.setdefault(record.strategy, Effort())
        effort.runs += 1
        effort.failed += bool(record.signature)
        effort.steps += record.steps
