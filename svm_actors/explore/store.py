"""A file that remembers a campaign: every run, every failure, the coverage, the sums.

A batch of runs is one transaction, so a campaign that is killed loses at most the batches under way,
and the same campaign started again goes on where the file ends.  Several campaigns can share a file; a
campaign is known by the key of its mix, and a shard of it by that and its own name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import attrs
import msgspec

from svm_actors.explore.dealing import WHOLE, Shard
from svm_actors.explore.failure import Failure, Pending, Step
from svm_actors.explore.plan import Mix
from svm_actors.explore.store_file import StoreError, StoreFile
from svm_actors.explore.worker import Batch, Found, Reach, RunRecord, Tally

__all__ = ["Part", "Store", "StoreError"]

_RUN: Final = "number, target, seed, strategy, outcome, steps, digest, signature, new_features"
"""Columns of a run, in the order of the fields of RunRecord."""


class _Steps(msgspec.Struct, array_like=True):
    """The steps of a failure as they lie in the file."""

    timeline: tuple[Step, ...]
    tasks: tuple[Pending, ...]


def features_of(path: str | os.PathLike[str]) -> dict[str, int]:
    """How many runs of all campaigns in a file reached each feature.  StoreError when it is no store."""
    with StoreFile(path, existing=True) as file:
        rows = file.rows("SELECT feature, sum(count) FROM coverage GROUP BY feature ORDER BY feature")
    return {feature: int(count) for feature, count in rows}


class Part:
    """What a file has of one campaign, or of one shard of it."""

    def __init__(self, file: StoreFile, campaign: int, shard: Shard) -> None:
        self.file = file
        self.campaign = campaign
        """Its number in the file."""
        self.shard = shard
        """Which runs it makes."""

    def recorded(self) -> int:
        """How many runs the file has: the first so many of the shard, without a gap.  Raises StoreError."""
        ((count, first, last),) = self.file.rows(
            "SELECT count(*), min(number), max(number) FROM run WHERE campaign = ?", self.campaign
        )
        if count and (first, last) != (self.shard.number(0), self.shard.number(count - 1)):
            raise StoreError(
                f"{self.file.path}: expected {count} runs of shard {self.shard} without a gap, "
                f"found runs {first} to {last}"
            )
        return int(count)

    def records(self) -> Iterator[RunRecord]:
        """The runs, in their order."""
        rows = self.file.rows(f"SELECT {_RUN} FROM run WHERE campaign = ? ORDER BY number", self.campaign)
        return (RunRecord(*row) for row in rows)

    def tallies(self) -> dict[str, Tally]:
        """Sums by target over the runs, in the order in which targets first came up."""
        rows = self.file.rows(
            "SELECT target, count(*), sum(steps), sum(signature <> '') FROM run WHERE campaign = ? "
            "GROUP BY target ORDER BY min(number)",
            self.campaign,
        )
        found = {target: Tally(*sums) for target, *sums in rows}
        for target, name, value in self.file.rows(
            "SELECT target, name, value FROM counter WHERE campaign = ?", self.campaign
        ):
            found.setdefault(target, Tally()).counters[name] = value
        return found

    def coverage(self) -> dict[str, Reach]:
        """Features reached."""
        rows = self.file.rows(
            "SELECT feature, first_run, strategy, count FROM coverage JOIN run ON run.campaign = coverage.campaign "
            "AND number = first_run WHERE coverage.campaign = ? ORDER BY first_run, feature",
            self.campaign,
        )
        return {feature: Reach(first, strategy, count) for feature, first, strategy, count in rows}

    def found(self) -> Iterator[tuple[Found, int]]:
        """The first failing run of each signature, and how many runs failed so."""
        query = """
            SELECT failure.first_run, run.target, run.seed, kind, oracle, rule, message, failure.steps, token,
                run.strategy,
                (SELECT count(*) FROM run AS other
                 WHERE other.campaign = failure.campaign AND other.signature = failure.signature)
            FROM failure JOIN run ON run.campaign = failure.campaign AND run.number = failure.first_run
            WHERE failure.campaign = ? ORDER BY failure.first_run"""
        for number, target, seed, kind, oracle, rule, message, steps, token, strategy, times in self.file.rows(
            query, self.campaign
        ):
            known = msgspec.msgpack.decode(steps, type=_Steps)
            failure = Failure(kind, oracle, rule, message, known.timeline, known.tasks)
            yield Found(number, target, seed, failure, token, strategy), times


class Store(Part):
    """An open store, and the campaign that is recorded in it."""

    def __init__(self, path: str | os.PathLike[str], mix: Mix, shard: Shard = WHOLE) -> None:
        file = StoreFile(path)
        try:
            super().__init__(file, _enter(file, mix, shard), shard)
        except BaseException:
            file.database.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.database.close()

    def add(self, batch: Batch) -> None:
        """Record a batch, all of it or nothing.  Raises StoreError."""
        campaign = self.campaign
        runs = [(campaign, *attrs.astuple(one)) for one in batch.records]
        counters = [
            (campaign, target, name, value)
            for target, tally in sorted(batch.tallies.items())
            for name, value in sorted(tally.counters.items())
        ]
        coverage = [(campaign, feature, reach.first, reach.count) for feature, reach in batch.coverage.items()]
        failures = [self._failure_row(found) for found in batch.found]
        with self.file.transaction() as database:
            database.executemany("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", runs)
            database.executemany(
                "INSERT INTO counter VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
                counters,
            )
            database.executemany(
                "INSERT INTO coverage VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                coverage,
            )
            database.executemany("INSERT OR IGNORE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", failures)

    def _failure_row(self, found: Found) -> tuple[object, ...]:
        failure = found.failure
        steps = msgspec.msgpack.encode(_Steps(failure.timeline, failure.tasks))
        head = (self.campaign, failure.signature, found.number)
        return (*head, failure.kind, failure.oracle, failure.rule, failure.message, steps, found.token)


def _enter(file: StoreFile, mix: Mix, shard: Shard) -> int:
    """The number of this campaign in the file, a new one if need be."""
    plan = mix.plan
    names = msgspec.json.encode([target.name for target in mix.targets]).decode()
    row = (mix.key, str(shard), plan.seed, str(plan.settings), " ".join(plan.bugs), names)
    with file.transaction() as database:
        database.execute(
            "INSERT OR IGNORE INTO campaign (key, shard, seed, strategy, bugs, targets) VALUES (?, ?, ?, ?, ?, ?)", row
        )
    ((number,),) = file.rows("SELECT id FROM campaign WHERE key = ? AND shard = ?", mix.key, str(shard))
    return int(number)
