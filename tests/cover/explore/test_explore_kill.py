"""A campaign that is killed, again and again, ends as the one that never was."""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from explore_toys import held, lost_update, refused

from svm_actors.explore.campaign import Campaign, fuzz
from svm_actors.explore.pool import _context
from svm_actors.explore.portfolio import Allocation

EPOCH = 32
"""Shorter than the real one, so that a short campaign has many."""
RUNS = 480
"""Many more than ten kills wait for, should the watcher get no processor while the campaign does."""
KILLS = 10
PATIENCE = 120.0
"""Seconds to wait for a process that gets no processor."""


def whole(path: str, jobs: int = 1) -> Campaign:
    with patch("svm_actors.explore.dealing.Allocation", partial(Allocation, epoch=EPOCH)):
        return fuzz([lost_update, held, refused], executions=RUNS, seed="kill", store=path, jobs=jobs)


def content(path: Path) -> dict[str, list[Any]]:
    """Every row that matters, in one order."""
    database = sqlite3.connect(path)
    try:
        tables = ("run", "failure", "counter", "coverage", "strategy_statistics")
        return {table: sorted(database.execute(f"SELECT * FROM {table}").fetchall()) for table in tables}
    finally:
        database.close()


def recorded(path: Path) -> int:
    """Runs in a store that somebody else is writing; none while it is being made."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(database.execute("SELECT count(*) FROM run").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        database.close()


def killed_after(path: Path, runs: int, moment: float, jobs: int) -> int:
    """Start the campaign, let it record more runs, kill it a moment later; answers what is recorded then."""
    process = _context().Process(target=whole, args=(str(path), jobs))
    wanted, deadline = recorded(path) + runs, time.monotonic() + PATIENCE
    process.start()
    while recorded(path) < wanted and process.is_alive():
        assert time.monotonic() < deadline, "the campaign makes no progress"
        time.sleep(0.01)
    time.sleep(moment)
    process.kill()
    process.join()
    process.close()
    return recorded(path)


def test_ten_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    path, draws = tmp_path / "killed.db", Random("kills")
    seen = [
        killed_after(path, draws.randint(1, 9), draws.uniform(0, 0.03), jobs=2 if kill % 5 == 0 else 1)
        for kill in range(KILLS)
    ]
    assert seen == sorted(set(seen)), "every one of them got further than the one before"
    assert 0 < seen[-1] < RUNS, "and was killed in the middle"
    resumed = whole(str(path))
    fresh = whole(str(tmp_path / "fresh.db"))
    assert resumed.resumed == seen[-1]
    assert content(path) == content(tmp_path / "fresh.db")
    assert resumed.findings == fresh.findings
    assert resumed.coverage == fresh.coverage
    assert len(resumed.strategies) > 1
