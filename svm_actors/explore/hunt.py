"""Looking for planted bugs: how many schedules until each is noticed, and whether what notices it was expected.

A hunt is what ``fuzz --bug ID --seed S`` does: the built-in mix with the bug's story in it, under the portfolio,
up to the first failing run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from svm_actors.bugs import BUGS
from svm_actors.explore.campaign import fuzz
from svm_actors.explore.failure import Failure
from svm_actors.explore.pool import Pool
from svm_actors.explore.settings import check_bugs

EXECUTIONS: Final = 10_000
"""Schedules after which a hunt is given up, unless something else is asked for."""
SEEDS: Final = ("1", "2", "3")
"""Every bug is looked for with each of these."""


@attrs.frozen
class Hunt:
    """What one hunt came to."""

    bug: str
    """Digest id."""
    seed: str
    """Seed of the campaign."""
    runs: int
    """Schedules made, the failing one included."""
    target: str = ""
    """Where it was noticed; empty: it was not."""
    failure: Failure | None = None
    """What noticed it."""
    token: str = ""
    """The failing run."""
    elapsed: float = 0.0
    """Wall-clock seconds."""

    @property
    def found(self) -> bool:
        """Something failed."""
        return self.failure is not None

    @property
    def expected(self) -> bool:
        """What noticed it is among the bug's oracles."""
        return self.failure is not None and noticed_as_expected(self.bug, self.failure)


def noticed_as_expected(bug: str, failure: Failure) -> bool:
    """Whether a failure is one by which this bug is known."""
    return bool({failure.oracle, f"{failure.oracle}/{failure.rule}"} & set(BUGS[bug].oracles))


def hunt(bug: str, seed: str, executions: int = EXECUTIONS) -> Hunt:
    """Make runs until one fails."""
    begin = time.monotonic()
    campaign = fuzz(bugs=(bug,), seed=seed, executions=executions, stop_at_failure=True)
    elapsed = time.monotonic() - begin
    for finding in campaign.findings.values():
        if finding.failure.conclusive:
            found = finding.found
            return Hunt(bug, seed, found.number + 1, found.target, finding.failure, found.token, elapsed)
    return Hunt(bug, seed, campaign.runs, elapsed=elapsed)


def hunts(
    bugs: Iterable[str] = (), seeds: Sequence[str] = SEEDS, executions: int = EXECUTIONS, jobs: int = 1
) -> Iterator[Hunt]:
    """Look for every bug, or for these, with every seed; in that order.  ValueError for an unknown bug."""
    wanted = tuple(bugs) or tuple(BUGS)
    check_bugs(wanted)
    pool = Pool(jobs, describe=lambda call: f"{call[0]} with seed {call[1]}")
    return pool.results(hunt, ((bug, seed, executions) for bug in wanted for seed in seeds))
