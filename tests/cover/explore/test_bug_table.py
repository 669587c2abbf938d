"""The table of planted bugs: every bug has a story, results are kept, and the figures are medians."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bugs
from benchmarks._trials import Key, Result, Store
from svm_actors.bugs import BUGS


def test_every_bug_has_a_story() -> None:
    assert all(bugs.subject(bug).name.partition("@")[0] == BUGS[bug].story for bug in BUGS)


def test_a_trial_is_made_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--trials", "2", "--cap", "3", "--bugs", "VMB-R05", "--columns", "random", "batch", "--jobs", "1"]
    paths = ["--store", str(tmp_path / "store"), "--page", str(tmp_path / "page")]
    assert bugs.main([*options, *paths]) == 0
    lines = (tmp_path / "store").read_text().splitlines()
    assert len(lines) == 5  # and the canonical schedule
    monkeypatch.setattr(bugs, "make_trial", None)  # nothing is left to be made
    assert bugs.main([*options, *paths]) == 0
    assert (tmp_path / "store").read_text().splitlines() == lines
    row = next(line for line in (tmp_path / "page").read_text().splitlines() if line.startswith("| VMB-R05"))
    assert row.endswith("| bind-shared | 1 | 1 | n/r | n/r | n/r | n/r | n/r | n/r |")


def test_cells(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "this version")
    for trial, first in enumerate((4, 2, None)):
        store.add(Result(Key("SVM-B41", "random", trial), 10, first, 100))
    found = bugs.firsts(store, "SVM-B41", "random", 3, 10)
    assert bugs.cell(found, 3) == "3 (2)"
    assert bugs.cell([], 3) == "-"
    assert bugs.cell(bugs.firsts(store, "SVM-B41", "random", 4, 10), 4) == "n/r"
    caps = dict.fromkeys(bugs.COLUMNS, 10)
    assert "| all bugs: one after the other | | n/r | 4 |" in bugs.page(store, 3, caps)
    assert "| races: number measured | | n/r | n/r |" in bugs.page(store, 3, caps)
    store.add(Result(Key("SVM-B41", "fifo", 0), 1, None, 100))
    assert "| races: number measured | | n/r | 1 |" in bugs.page(store, 3, caps)


def test_results_of_another_version_do_not_count(tmp_path: Path) -> None:
    Store(tmp_path / "store", "this version").add(Result(Key("SVM-B41", "random", 0), 10, 1, 100))
    assert Store(tmp_path / "store", "this version").get(Key("SVM-B41", "random", 0), 10)
    assert Store(tmp_path / "store", "another").get(Key("SVM-B41", "random", 0), 10) is None
