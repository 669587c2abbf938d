"""Shards merged: the union of what was made, once each, and nothing that does not belong together."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from explore_toys import held, lost_update, refused

from svm_actors.explore.campaign import Campaign, fuzz
from svm_actors.explore.dealing import WHOLE, Shard
from svm_actors.explore.merge import merge
from svm_actors.explore.store import StoreError

SOURCES = (lost_update, held, refused)
RUNS = 31


def shard(text: str, path: str, executions: int = RUNS, **options: Any) -> Campaign:
    options.setdefault("strategy", "random")
    return fuzz(SOURCES, executions=executions, store=path, shard=text, **options)


def facts(campaign: Campaign) -> dict[str, Any]:
    """All that a merged campaign shares with the one made in one piece."""
    return {
        "tallies": campaign.tallies,
        "findings": [(finding.count, finding.found) for finding in campaign.failures],
        "coverage": campaign.coverage,
        "strategies": campaign.strategies,
        "verdict": campaign.verdict,
    }


def rows(path: str, query: str) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


RESULTS = "SELECT number, target, seed, strategy, outcome, steps, digest, signature FROM run ORDER BY number"


@pytest.mark.parametrize("count", [1, 3])
def test_all_shards_merged_are_the_whole_campaign(count: int) -> None:
    paths = [f"{index}.db" for index in range(count)]
    parts = [shard(f"{index}/{count}", path) for index, path in enumerate(paths)]
    whole = shard(str(WHOLE), "whole.db")
    assert sum(part.runs for part in parts) == RUNS
    assert facts(merge("out.db", paths[::-1])) == facts(whole), "whatever the order of the stores"
    assert rows("out.db", RESULTS) == rows("whole.db", RESULTS)


def test_a_portfolio_adapts_in_each_shard_and_merges_too() -> None:
    parts = [shard(f"{index}/2", f"{index}.db", strategy="portfolio") for index in range(2)]
    both = merge("out.db", ["0.db", "1.db"])
    assert both.runs == RUNS
    assert set(both.coverage) == set(parts[0].coverage) | set(parts[1].coverage)
    for name, effort in both.strategies.items():
        assert effort.runs == sum(part.strategies[name].runs for part in parts if name in part.strategies)
    assert sum(effort.new_features for effort in both.strategies.values()) == len(both.coverage)


def test_merging_again_changes_nothing() -> None:
    for index in range(2):
        shard(f"{index}/2", f"{index}.db")
    once = merge("out.db", ["0.db"])
    assert once.runs == Shard(0, 2).size(RUNS)
    assert facts(merge("out.db", ["0.db", "0.db"])) == facts(once)
    both = merge("out.db", ["1.db"])
    assert facts(merge("out.db", ["out.db", "0.db", "1.db"])) == facts(both)


def test_a_shard_that_went_on_is_brought_up_to_date_and_never_back() -> None:
    shard("1/2", "early.db", executions=10)
    shard("1/2", "late.db", executions=20)
    assert merge("out.db", ["early.db"]).runs == 5
    assert merge("out.db", ["late.db"]).runs == 10
    assert merge("out.db", ["early.db"]).runs == 10


def test_a_shard_can_go_on_in_the_merged_store() -> None:
    for index in range(2):
        shard(f"{index}/2", f"{index}.db", executions=10)
    merge("out.db", ["0.db", "1.db"])
    again = shard("0/2", "out.db", executions=20)
    assert (again.resumed, again.runs) == (5, 10)
    assert merge("out.db", ["1.db"]).runs == 15


def refuses(match: str, *stores: str) -> None:
    """The merge fails with these words and leaves no trace."""
    before = sorted(path.name for path in Path.cwd().iterdir())
    held_before = rows("out.db", RESULTS) if Path("out.db").exists() else None
    with pytest.raises(StoreError, match=match):
        merge("out.db", stores)
    assert sorted(path.name for path in Path.cwd().iterdir()) == before
    assert (rows("out.db", RESULTS) if Path("out.db").exists() else None) == held_before


@pytest.mark.parametrize("options", [{"seed": 1}, {"strategy": "pos"}, {"bugs": ["SVM-B50"]}])
def test_another_plan_is_refused(options: dict[str, Any]) -> None:
    shard("0/2", "0.db", executions=4)
    shard("1/2", "1.db", executions=4, **options)
    refuses(r"1\.db: expected campaign .* as in 0\.db, found", "0.db", "1.db")
    merge("out.db", ["0.db"])
    refuses(r"1\.db: expected campaign .* as in out\.db, found", "1.db")


def test_several_campaigns_in_one_store_are_refused() -> None:
    shard("0/2", "0.db", executions=4)
    shard("0/2", "0.db", executions=4, seed=1)
    refuses("expected campaign", "0.db")


def test_runs_that_two_shards_made_are_refused() -> None:
    shard("0/2", "half.db", executions=8)
    shard("0/4", "quarter.db", executions=8)
    refuses("expected every run in one shard, found run 0 in 0/2 and in 0/4", "half.db", "quarter.db")


def test_other_results_for_the_same_run_are_refused() -> None:
    for name in ("one.db", "two.db"):
        shard("0/2", name, executions=8)
    database = sqlite3.connect("two.db")
    database.execute("UPDATE run SET steps = steps + 1 WHERE number = 4")
    database.commit()
    database.close()
    refuses(r"two\.db: expected run 4 as in", "one.db", "two.db")


@pytest.mark.parametrize(("name", "value"), [("schema", "1"), ("package", "9.9")])
def test_another_version_is_refused(name: str, value: str) -> None:
    shard("0/2", "0.db", executions=4)
    database = sqlite3.connect("0.db")
    database.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
    database.commit()
    database.close()
    refuses(rf"0\.db: expected a store of {name} version .*, found {value}", "0.db")


def test_what_is_not_there_is_refused_and_not_made() -> None:
    refuses("none.db: expected a store of svm-actors: unable to open", "none.db")


def test_a_store_without_a_campaign_is_refused() -> None:
    shard("0/2", "0.db", executions=4)
    database = sqlite3.connect("0.db")
    database.execute("DELETE FROM campaign")
    database.commit()
    database.close()
    refuses("0.db: expected a campaign, found none", "0.db")
