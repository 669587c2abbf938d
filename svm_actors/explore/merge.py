"""Stores of one campaign's shards, put together in one store.

Each shard stays a part of its own in the merged store, with every row it had: so merging the same store
twice changes nothing, a shard that has gone on since is brought up to date, and a shard can even be
resumed there.  What the parts come to together is worked out when it is asked for: runs, counters and
counts add up, and whoever reached a feature or a failure first is the run with the lowest number.

All stores must be of one plan.  Two shards that made the same run (0/2 and 0/4, say) are refused: added
up, it would count twice.  Either everything is merged or nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from sqlite3 import Connection
from typing import Final

import attrs
import msgspec

from svm_actors.explore.campaign import Campaign
from svm_actors.explore.dealing import Shard
from svm_actors.explore.plan import Plan
from svm_actors.explore.settings import Settings
from svm_actors.explore.store import Part
from svm_actors.explore.store_file import PARTS, StoreError, StoreFile
from svm_actors.explore.worker import RunRecord

Text = str | os.PathLike[str]
_HEAD: Final = "key, shard, seed, strategy, bugs, targets"
_SAMPLE = 8
"""Characters of a key that an error shows."""


@attrs.frozen
class _Entry:
    """One row of the table of campaigns."""

    id: int
    key: str
    shard: str
    seed: str
    strategy: str
    bugs: str
    targets: str

    @property
    def words(self) -> str:
        """The campaign in a few words, for an error."""
        bugs = f" bugs {self.bugs}" if self.bugs else ""
        return f"{self.key[:_SAMPLE]} (seed {self.seed}, {self.strategy}{bugs}, targets {self.targets})"


def merge(out: Text, stores: Sequence[Text]) -> Campaign:
    """Bring the parts that ``stores`` have into the store ``out``; answers all that it then has.

    ``out`` is made when it is not there.  Raises StoreError, and leaves ``out`` as it was, for a store of
    another version, of another plan or of several campaigns, and for runs that two shards both made.
    """
    new = not Path(out).exists()
    try:
        with ExitStack() as stack:
            sources = [stack.enter_context(StoreFile(path, existing=True)) for path in stores]
            for source in sources:
                source.rows("BEGIN")  # one state of each store, though its campaign may be going on
            target = stack.enter_context(StoreFile(out))
            _check_plans([target, *sources])
            with target.transaction() as database:
                for source in sources:
                    _take(target, database, source)
                _check_disjoint(target)
            return merged(target)
    except BaseException:
        if new:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{os.fspath(out)}{suffix}").unlink(missing_ok=True)
        raise


def merged(file: StoreFile) -> Campaign:
    """What a store has of its only campaign, all shards together.  Raises StoreError when it has several."""
    entries = _entries(file)
    _check_one_plan([(file, entry) for entry in entries])
    if not entries:
        raise StoreError(f"{file.path}: expected a campaign, found none")
    head = entries[0]
    sources = tuple(msgspec.json.decode(head.targets, type=list[str]))
    plan = Plan(sources, head.seed, Settings.parse(head.strategy), tuple(head.bugs.split()), key=head.key)
    campaign = Campaign(plan, stopped_by="merged")
    for entry in entries:
        campaign.resume(Part(file, entry.id, Shard.parse(entry.shard)))
    return campaign


def _entries(file: StoreFile) -> list[_Entry]:
    return [_Entry(*row) for row in file.rows(f"SELECT id, {_HEAD} FROM campaign ORDER BY key, shard")]


def _check_plans(files: Iterable[StoreFile]) -> None:
    found = [(file, _entries(file)) for file in files]
    for file, entries in found[1:]:
        if not entries:
            raise StoreError(f"{file.path}: expected a campaign, found none")
    _check_one_plan([(file, entry) for file, entries in found for entry in entries])


def _check_one_plan(found: Sequence[tuple[StoreFile, _Entry]]) -> None:
    for file, entry in found[1:]:
        first_file, first = found[0]
        if entry.key != first.key:
            wanted = f"campaign {first.words} as in {first_file.path}"
            raise StoreError(f"{file.path}: expected {wanted}, found {entry.words}")


def _take(target: StoreFile, database: Connection, source: StoreFile) -> None:
    """Bring every part of a store over; those that are there already stay."""
    for entry in _entries(source):
        known = {mine.shard: mine.id for mine in _entries(target)}
        theirs = Part(source, entry.id, Shard.parse(entry.shard))
        if entry.shard in known:
            mine = Part(target, known[entry.shard], theirs.shard)
            _check_same(mine, theirs)
            if mine.recorded() >= theirs.recorded():
                continue
            _drop(database, mine.campaign)
            number = mine.campaign
        else:
            values = attrs.astuple(entry)[1:]
            done = database.execute(f"INSERT INTO campaign ({_HEAD}) VALUES (?, ?, ?, ?, ?, ?)", values)
            number = done.lastrowid or 0
        _copy(database, number, source, entry.id)


def _check_same(mine: Part, theirs: Part) -> None:
    """Runs that both have must be the same runs with the same results."""
    for one, other in zip(mine.records(), theirs.records(), strict=False):
        if one != other:
            raise StoreError(
                f"{theirs.file.path}: expected run {one.number} as in {mine.file.path} "
                f"({_result(one)}), found {_result(other)}"
            )


def _result(record: RunRecord) -> str:
    return f"{record.strategy}, {record.outcome}, {record.steps} steps, choices {record.digest[:_SAMPLE]}"


def _drop(database: Connection, campaign: int) -> None:
    for table in PARTS:
        database.execute(f"DELETE FROM {table} WHERE campaign = ?", (campaign,))


def _copy(database: Connection, number: int, source: StoreFile, campaign: int) -> None:
    for table in PARTS:
        rows = source.rows(f"SELECT * FROM {table} WHERE campaign = ?", campaign)
        if rows:
            places = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({places})", [(number, *row[1:]) for row in rows])


def _check_disjoint(target: StoreFile) -> None:
    twice = target.rows(
        "SELECT number, min(shard), max(shard) FROM run JOIN campaign ON campaign.id = run.campaign "
        "GROUP BY number HAVING count(*) > 1 ORDER BY number LIMIT 1"
    )
    for number, one, other in twice:
        raise StoreError(f"{target.path}: expected every run in one shard, found run {number} in {one} and in {other}")
