"""A file that remembers a campaign: every run, every failure, the sums.

One sqlite3 file in write-ahead mode.  A batch of runs is one transaction, so a campaign that is
killed loses at most the batches under way, and the same campaign started again goes on where the
file ends.  Several campaigns can share a file; a campaign is known by the key of its mix.

A file of another schema or package version is refused: its runs would not be comparable.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import msgspec

from svm_actors import __version__
from svm_actors.explore.failure import Failure, Pending, Step
from svm_actors.explore.plan import Mix
from svm_actors.explore.worker import Batch, Found, Tally

SCHEMA: Final = 1
_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE campaign (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, seed TEXT NOT NULL, strategy TEXT NOT NULL,
    bugs TEXT NOT NULL, targets TEXT NOT NULL) STRICT;
CREATE TABLE run (
    campaign INTEGER NOT NULL REFERENCES campaign, number INTEGER NOT NULL, target TEXT NOT NULL,
    seed TEXT NOT NULL, strategy TEXT NOT NULL, outcome TEXT NOT NULL, steps INTEGER NOT NULL,
    digest TEXT NOT NULL, signature TEXT NOT NULL, PRIMARY KEY (campaign, number)) STRICT, WITHOUT ROWID;
CREATE TABLE failure (
    campaign INTEGER NOT NULL REFERENCES campaign, signature TEXT NOT NULL, first_run INTEGER NOT NULL,
    kind TEXT NOT NULL, oracle TEXT NOT NULL, rule TEXT NOT NULL, message TEXT NOT NULL,
    steps BLOB NOT NULL, token TEXT NOT NULL, PRIMARY KEY (campaign, signature)) STRICT;
CREATE TABLE counter (
    campaign INTEGER NOT NULL REFERENCES campaign, target TEXT NOT NULL, name TEXT NOT NULL,
    value INTEGER NOT NULL, PRIMARY KEY (campaign, target, name)) STRICT, WITHOUT ROWID;
"""


class StoreError(ValueError):
    """A file that cannot be used as a store; one line that says what was expected."""


class _Steps(msgspec.Struct, array_like=True):
    """The steps of a failure as they lie in the file."""

    timeline: tuple[Step, ...]
    tasks: tuple[Pending, ...]


class Store:
    """An open store, and the campaign that is recorded in it."""

    def __init__(self, path: str | os.PathLike[str], mix: Mix) -> None:
        self.path = os.fspath(path)
        with self._errors():
            # Every transaction is opened by this class.
            self._database = sqlite3.connect(self.path, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
                self._campaign = self._enter(mix)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    # -- writing -----------------------------------------------------------------------

    def add(self, batch: Batch) -> None:
        """Record a batch, all of it or nothing.  Raises StoreError."""
        campaign = self._campaign
        runs = [(campaign, *attrs.astuple(one)) for one in batch.records]
        counters = [
            (campaign, target, name, value)
            for target, tally in sorted(batch.tallies.items())
            for name, value in sorted(tally.counters.items())
        ]
        failures = [self._failure_row(found) for found in batch.found]
        with self._transaction() as database:
            database.executemany("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", runs)
            database.executemany(
                "INSERT INTO counter VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
                counters,
            )
            database.executemany("INSERT OR IGNORE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", failures)

    def _failure_row(self, found: Found) -> tuple[object, ...]:
        failure = found.failure
        steps = msgspec.msgpack.encode(_Steps(failure.timeline, failure.tasks))
        head = (self._campaign, failure.signature, found.number)
        return (*head, failure.kind, failure.oracle, failure.rule, failure.message, steps, found.token)

    # -- reading -----------------------------------------------------------------------

    def recorded(self) -> int:
        """How many runs of this campaign the file has: numbers 0 to that, without a gap."""
        with self._errors():
            ((count, last),) = self._database.execute(
                "SELECT count(*), coalesce(max(number), -1) FROM run WHERE campaign = ?", (self._campaign,)
            )
        if count != last + 1:
            raise StoreError(f"{self.path}: expected runs 0 to {last}, found {count} runs")
        return int(count)

    def tallies(self) -> dict[str, Tally]:
        """Sums by target over the recorded runs."""
        with self._errors():
            rows = self._database.execute(
                "SELECT target, count(*), sum(steps), sum(signature <> '') FROM run WHERE campaign = ? GROUP BY target",
                (self._campaign,),
            )
            found = {target: Tally(*sums) for target, *sums in rows}
            counters = self._database.execute(
                "SELECT target, name, value FROM counter WHERE campaign = ?", (self._campaign,)
            )
            for target, name, value in counters:
                found.setdefault(target, Tally()).counters[name] = value
        return found

    def found(self) -> Iterator[tuple[Found, int]]:
        """The first failing run of each signature, and how many runs failed so."""
        query = """
            SELECT failure.first_run, run.target, run.seed, kind, oracle, rule, message, failure.steps, token,
                (SELECT count(*) FROM run AS other
                 WHERE other.campaign = failure.campaign AND other.signature = failure.signature)
            FROM failure JOIN run ON run.campaign = failure.campaign AND run.number = failure.first_run
            WHERE failure.campaign = ? ORDER BY failure.first_run"""
        with self._errors():
            for number, target, seed, kind, oracle, rule, message, steps, token, times in self._database.execute(
                query, (self._campaign,)
            ).fetchall():
                known = msgspec.msgpack.decode(steps, type=_Steps)
                failure = Failure(kind, oracle, rule, message, known.timeline, known.tasks)
                yield Found(number, target, seed, failure, token), times

    # -- the file ----------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the tables of a new file; check those of an old one."""
        database = self._database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                for statement in _TABLES.split(";")[:-1]:
                    database.execute(statement)
                database.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [("schema", str(SCHEMA)), ("package", __version__)]
                )
            elif "meta" not in tables:
                raise StoreError(f"{self.path}: expected a store of svm-actors, found another database")
        self._check_version()

    def _check_version(self) -> None:
        meta = dict(self._database.execute("SELECT name, value FROM meta"))
        for name, here in (("schema", str(SCHEMA)), ("package", __version__)):
            there = meta.get(name, "none")
            if there != here:
                raise StoreError(
                    f"{self.path}: expected a store of {name} version {here}, found {there}; "
                    "use another file, or the version that made this one"
                )

    def _enter(self, mix: Mix) -> int:
        """The number of this campaign in the file, a new one if need be."""
        plan = mix.plan
        names = " ".join(target.name for target in mix.targets)
        row = (mix.key, plan.seed, str(plan.settings), " ".join(plan.bugs), names)
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO campaign (key, seed, strategy, bugs, targets) VALUES (?, ?, ?, ?, ?)", row
            )
        ((number,),) = self._database.execute("SELECT id FROM campaign WHERE key = ?", (mix.key,))
        return int(number)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = f"{self.path}: expected a store of svm-actors, or a place for a new one: {error}"
            raise StoreError(text) from None
