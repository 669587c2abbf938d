"""The file of a store: its tables, its version, its transactions.

One sqlite3 file in write-ahead mode.  A transaction is there whole or not at all, whatever kills the
process.  A file of another schema or package version is refused: its runs would not be comparable.

Strategy statistics are a view of the runs, so they cannot disagree with them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from svm_actors import __version__

SCHEMA: Final = 2
TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE campaign (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, shard TEXT NOT NULL, seed TEXT NOT NULL, strategy TEXT NOT NULL,
    bugs TEXT NOT NULL, targets TEXT NOT NULL, UNIQUE (key, shard)) STRICT;
CREATE TABLE run (
    campaign INTEGER NOT NULL REFERENCES campaign, number INTEGER NOT NULL, target TEXT NOT NULL,
    seed TEXT NOT NULL, strategy TEXT NOT NULL, outcome TEXT NOT NULL, steps INTEGER NOT NULL,
    digest TEXT NOT NULL, signature TEXT NOT NULL, new_features INTEGER NOT NULL,
    PRIMARY KEY (campaign, number)) STRICT, WITHOUT ROWID;
CREATE TABLE failure (
    campaign INTEGER NOT NULL REFERENCES campaign, signature TEXT NOT NULL, first_run INTEGER NOT NULL,
    kind TEXT NOT NULL, oracle TEXT NOT NULL, rule TEXT NOT NULL, message TEXT NOT NULL,
    steps BLOB NOT NULL, token TEXT NOT NULL, PRIMARY KEY (campaign, signature)) STRICT;
CREATE TABLE counter (
    campaign INTEGER NOT NULL REFERENCES campaign, target TEXT NOT NULL, name TEXT NOT NULL,
    value INTEGER NOT NULL, PRIMARY KEY (campaign, target, name)) STRICT, WITHOUT ROWID;
CREATE TABLE coverage (
    campaign INTEGER NOT NULL REFERENCES campaign, feature TEXT NOT NULL, first_run INTEGER NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (campaign, feature)) STRICT, WITHOUT ROWID;
CREATE VIEW strategy_statistics AS
    SELECT campaign, strategy, count(*) AS runs, sum(signature <> '') AS failures,
        sum(new_features) AS new_features, sum(steps) AS steps
    FROM run GROUP BY campaign, strategy;
"""
PARTS: Final = ("run", "failure", "counter", "coverage")
"""Tables whose rows belong to one campaign, which their first column names."""


class StoreError(ValueError):
    """A file that cannot be used as a store; one line that says what was expected."""


class StoreFile:
    """An open file: one of this version, made when it was not there."""

    def __init__(self, path: str | os.PathLike[str], *, existing: bool = False) -> None:
        """``existing``: do not make a new one, and do not write.  Raises StoreError.

        A reader opens the file for writing all the same where it may: who closes a file in write-ahead mode
        last has to clean up beside it.
        """
        self.path = os.fspath(path)
        self._expected = "a store of svm-actors" if existing else "a store of svm-actors, or a place for a new one"
        address = f"{Path(self.path).absolute().as_uri()}?mode=rw" if existing else self.path
        with self.errors():
            # Every transaction is opened by this class.
            self.database = sqlite3.connect(address, isolation_level=None, uri=existing)
        try:
            with self.errors():
                if existing:
                    self.database.execute("PRAGMA query_only = ON")
                else:
                    self._prepare()
                self._check_version()
        except BaseException:
            self.database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query.  Raises StoreError."""
        with self.errors():
            return self.database.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what the body writes, or nothing."""
        with self.errors():
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
            except BaseException:
                self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What sqlite3 has to say, as a StoreError."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            text = f"{self.path}: expected to be the only one who records this campaign: {error}"
            raise StoreError(text) from None
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: expected {self._expected}: {error}") from None

    def _prepare(self) -> None:
        """Make the tables of a new file; touch nothing that is not ours."""
        database = self.database
        if self._tables() and "meta" not in self._tables():
            return
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        with self.transaction():
            tables = self._tables()
            if not tables:
                for statement in TABLES.split(";")[:-1]:
                    database.execute(statement)
                database.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [("schema", str(SCHEMA)), ("package", __version__)]
                )

    def _tables(self) -> set[str]:
        return {name for (name,) in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def _check_version(self) -> None:
        if "meta" not in self._tables():
            raise StoreError(f"{self.path}: expected a store of svm-actors, found another database")
        meta = dict(self.database.execute("SELECT name, value FROM meta"))
        for name, here in (("schema", str(SCHEMA)), ("package", __version__)):
            there = meta.get(name, "none")
            if there != here:
                raise StoreError(
                    f"{self.path}: expected a store of {name} version {here}, found {there}; "
                    "use another file, or the version that made this one"
                )
