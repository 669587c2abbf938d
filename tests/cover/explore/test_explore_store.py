"""Stores: a campaign that is cut and resumed is the campaign that was not cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explore_toys import LOST_UPDATE, held, lost_update, refused, script

from svm_actors.explore.campaign import Campaign, fuzz
from svm_actors.explore.plan import Plan, mix_of, resolved
from svm_actors.explore.settings import Settings
from svm_actors.explore.store import Store, StoreError
from svm_actors.explore.worker import Batch, Share, run_batch

SOURCES = (lost_update, held, refused)
PLAN = resolved(Plan(SOURCES, "0", Settings("random")))


def consecutive(first: int, count: int) -> Batch:
    return run_batch(PLAN, Share(tuple(range(first, first + count)), ("random",) * count))


def facts(campaign: Campaign) -> dict[str, Any]:
    return {
        "tallies": campaign.tallies,
        "findings": [(finding.count, finding.found) for finding in campaign.failures],
        "verdict": campaign.verdict,
        "coverage": campaign.coverage,
        "strategies": campaign.strategies,
    }


def rows(path: Path, query: str) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def change(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    try:
        database.execute(statement)
        database.commit()
    finally:
        database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "campaign.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path, mix_of(PLAN)) as opened:
        yield opened


def test_every_run_is_recorded(path: Path) -> None:
    campaign = fuzz(SOURCES, executions=12, store=str(path), strategy="random")
    records = rows(path, "SELECT number, target, seed, strategy, outcome FROM run ORDER BY number")
    assert [record[0] for record in records] == list(range(12))
    assert records[1] == (1, "explore_toys:held", "0/explore_toys:held/1", "random", "held")
    assert sum(record[4] != "held" for record in records) == campaign.failing_runs
    assert rows(path, "SELECT count(*) FROM failure") == [(len(campaign.findings),)]


@pytest.mark.parametrize("cut", [1, 4, 23])
def test_a_resumed_campaign_is_the_whole_campaign(path: Path, cut: int) -> None:
    fuzz(SOURCES, executions=cut, store=str(path))
    resumed = fuzz(SOURCES, executions=24, store=str(path))
    assert resumed.resumed == cut
    assert facts(resumed) == facts(fuzz(SOURCES, executions=24))


def test_a_finished_campaign_is_not_run_again(path: Path) -> None:
    first = fuzz(SOURCES, executions=9, store=str(path))
    told: list[Any] = []
    again = fuzz(SOURCES, executions=9, store=str(path), on_failure=told.append)
    assert (again.runs, again.resumed) == (9, 9)
    assert facts(again) == facts(first)
    assert told == again.failures, "findings of the store are told too: their files may be gone"


def test_failures_come_back_with_their_steps(path: Path) -> None:
    (first,) = fuzz(refused, executions=1, store=str(path)).failures
    (again,) = fuzz(refused, executions=1, store=str(path)).failures
    assert again.failure.timeline == first.failure.timeline != ()
    assert again.failure.tasks == first.failure.tasks
    assert again.found.token == first.found.token


def test_a_campaign_that_stopped_at_a_failure_stays_stopped(path: Path) -> None:
    first = fuzz(lost_update, executions=50, store=str(path), stop_at_failure=True)
    again = fuzz(lost_update, executions=50, store=str(path), stop_at_failure=True)
    assert (again.runs, again.stopped_by) == (first.runs, "failure")


def test_another_campaign_in_the_same_file_keeps_apart(path: Path) -> None:
    fuzz(SOURCES, executions=5, store=str(path))
    for options in ({"seed": 1}, {"strategy": "fifo"}, {"bugs": ["SVM-B50"]}, {"step_budget": 10**6}):
        assert fuzz(SOURCES, executions=3, store=str(path), **options).resumed == 0  # type: ignore[arg-type]
    assert rows(path, "SELECT count(*) FROM campaign") == [(5,)]
    assert fuzz(SOURCES, executions=5, store=str(path)).resumed == 5


def test_an_edited_script_is_another_campaign(path: Path, tmp_path: Path) -> None:
    fuzz(script(tmp_path, LOST_UPDATE), executions=3, store=str(path))
    assert fuzz(script(tmp_path, LOST_UPDATE + "#\n"), executions=3, store=str(path)).resumed == 0


def test_several_processes_record_the_same(path: Path, tmp_path: Path) -> None:
    target = script(tmp_path, LOST_UPDATE)
    query = "SELECT number, outcome, steps, digest, signature FROM run ORDER BY number"
    fuzz(target, executions=30, store=str(path), jobs=2)
    fuzz(target, executions=30, store=str(tmp_path / "other.db"))
    assert rows(path, query) == rows(tmp_path / "other.db", query)


def test_a_killed_campaign_keeps_whole_batches(store: Store, path: Path) -> None:
    """What is not committed is not there; what is, is complete."""
    store.add(consecutive(0, 5))
    batch = consecutive(5, 3)
    batch.tallies["explore_toys:held"].counters["odd"] = "no number"  # type: ignore[assignment]
    with pytest.raises(StoreError):
        store.add(batch)
    assert store.recorded() == 5
    assert rows(path, "SELECT count(*) FROM run") == [(5,)]


def test_a_gap_is_not_resumed_over(store: Store) -> None:
    store.add(consecutive(3, 2))
    with pytest.raises(StoreError, match="expected 2 runs of shard 0/1 without a gap, found runs 3 to 4"):
        store.recorded()


@pytest.mark.parametrize(("name", "value"), [("schema", "999"), ("package", "0.0.1")])
def test_a_store_of_another_version_is_refused(path: Path, name: str, value: str) -> None:
    fuzz(held, executions=1, store=str(path))
    change(path, f"UPDATE meta SET value = '{value}' WHERE name = '{name}'")
    with pytest.raises(StoreError, match=f"expected a store of {name} version .*, found {value}"):
        fuzz(held, executions=1, store=str(path))
    assert rows(path, "SELECT count(*) FROM run") == [(1,)], "and left as it was"


def test_another_database_is_refused_and_left_alone(path: Path) -> None:
    change(path, "CREATE TABLE mine (x)")
    with pytest.raises(StoreError, match="found another database"):
        fuzz(held, executions=1, store=str(path))
    assert rows(path, "SELECT name FROM sqlite_master") == [("mine",)]


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_text("just text, long enough to be looked at as a database header\n" * 20)
    with pytest.raises(StoreError, match="expected a store of svm-actors"):
        fuzz(held, executions=1, store=str(path))


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        fuzz(held, executions=1, store=str(tmp_path / "none" / "campaign.db"))
