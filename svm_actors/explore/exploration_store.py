"""A file that keeps one exploration: the search, what it has found, the states it has met.

One sqlite3 file in write-ahead mode, one transaction per run.  A file of another search (scenario, machine,
bounds, version) or of another kind is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from svm_actors.explore.failure import Failure, Pending, Step
from svm_actors.explore.search import checkpoint
from svm_actors.explore.search.search import Search
from svm_actors.explore.search.visited import Visited
from svm_actors.explore.store import StoreError

if TYPE_CHECKING:
    from svm_actors.explore.exploration import Exploration

KIND: Final = "svm-actors exploration 1"
_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE search (id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB NOT NULL) STRICT;
CREATE TABLE seen (
    what TEXT NOT NULL, name TEXT NOT NULL, place INTEGER NOT NULL, runs INTEGER NOT NULL, token TEXT NOT NULL,
    failure BLOB, PRIMARY KEY (what, name)) STRICT, WITHOUT ROWID;
CREATE TABLE state (key BLOB PRIMARY KEY, entries BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""


class _Failure(msgspec.Struct, array_like=True):
    kind: str
    oracle: str
    rule: str
    message: str
    timeline: tuple[Step, ...]
    tasks: tuple[Pending, ...]


class ExplorationStore:
    """An open store; ``with store:`` closes it."""

    def __init__(self, path: str | os.PathLike[str], key: str) -> None:
        self.path = os.fspath(path)
        with self._errors():
            self._database = sqlite3.connect(self.path, isolation_level=None)
        try:
            with self._errors():
                self._prepare(key)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> ExplorationStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def _prepare(self, key: str) -> None:
        """Make an empty file a store; refuse any other file but this search's own."""
        database = self._database
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if not tables:
            database.execute("PRAGMA journal_mode = WAL")
            with self._transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    database.execute(statement)
                database.executemany("INSERT INTO meta VALUES (?, ?)", [("kind", KIND), ("key", key)])
            return
        known = dict(database.execute("SELECT name, value FROM meta")) if "meta" in tables else {}
        if known.get("kind") != KIND:
            raise StoreError(f"{self.path}: expected a file of `explore --store`, found another database")
        if known.get("key") != key:
            raise StoreError(
                f"{self.path}: expected the search of this scenario, with these bounds, by this version;"
                " the file is of another one"
            )

    def load(self, search: Search, visited: Visited | None, found: Exploration) -> bool:
        """Fill these with what the file has; False when it is new.  Raises StoreError."""
        with self._errors():
            rows = list(self._database.execute("SELECT state FROM search"))
            if not rows:
                return False
            checkpoint.load(search, rows[0][0])
            seen = self._database.execute("SELECT what, name, runs, token, failure FROM seen ORDER BY place")
            for what, name, runs, token, failure in seen:
                self._book(found, what, name, runs, token, failure)
            if visited is not None:
                for key, entries in self._database.execute("SELECT key, entries FROM state"):
                    decoded = msgspec.msgpack.decode(entries, type=list[tuple[list[str], int, int]])
                    visited.entries[key] = [(frozenset(slept), spent, depth) for slept, spent, depth in decoded]
        return True

    def _book(self, found: Exploration, what: str, name: str, runs: int, token: str, failure: bytes | None) -> None:
        from svm_actors.explore.exploration import Seen

        if what == "outcome":
            found.outcomes[name] = Seen(runs, token)
            return
        known: Any = msgspec.msgpack.decode(failure or b"", type=_Failure)
        fields = (known.kind, known.oracle, known.rule, known.message, known.timeline, known.tasks)
        found.failures[name] = Seen(runs, token, Failure(*fields))

    def save(self, search: Search, visited: Visited | None, found: Exploration) -> None:
        """Record the search as it is between two runs, all of it or nothing.  Raises StoreError."""
        books = [("outcome", found.outcomes), ("failure", found.failures)]
        rows = [
            (what, name, place, seen.runs, seen.token, _packed(seen.failure))
            for what, book in books
            for place, (name, seen) in enumerate(book.items())
        ]
        with self._errors(), self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO search VALUES (1, ?)", (checkpoint.save(search),))
            database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)", rows)
            if visited is not None:
                fresh = [
                    (key, msgspec.msgpack.encode([(sorted(slept), spent, depth) for slept, spent, depth in entries]))
                    for key, entries in visited.take_fresh()
                ]
                database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", fresh)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever is wrong with the file is one line."""
        try:
            yield
        except StoreError:
            raise
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            raise StoreError(f"{self.path}: expected a file of `explore --store`: {text}") from None


def _packed(failure: Failure | None) -> bytes | None:
    if failure is None:
        return None
    fields = (failure.kind, failure.oracle, failure.rule, failure.message, failure.timeline, failure.tasks)
    return msgspec.msgpack.encode(_Failure(*fields))
