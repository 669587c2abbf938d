"""The table of docs/strategies.md: trials, what is kept of them, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _strategies_page, _trials
from benchmarks._published import PAPER, PAPER_COLUMNS
from benchmarks._strategies_page import Cell, cell, page, published
from benchmarks._trials import Key, Result, Store, cap_of, make_missing, make_trial, missing
from benchmarks.puzzles import check_rates, main

KEY = Key("account", "POS", 3)


def test_a_trial_ends_with_its_first_failure() -> None:
    found = make_trial(KEY, 500)
    assert found == make_trial(KEY, 500)
    assert found.first is not None
    assert make_trial(KEY, found.first - 1).first is None
    assert make_trial(KEY, found.first).first == found.first


@pytest.mark.parametrize("column", _trials.COLUMNS)
def test_every_column_finds_something(column: str) -> None:
    assert make_trial(Key("CVE-2009-3547", column, 0), 500).first is not None


def test_results_are_kept_and_count_under_other_caps(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    store = Store(path)
    other = Key("bbuf", "RW", 0)
    store.add(Result(KEY, 100, 40, 999))
    store.add(Result(other, 100, None, 999))
    again = Store(path)
    assert again.get(KEY, 1000) == Result(KEY, 1000, 40, 999)
    assert again.get(KEY, 39) == Result(KEY, 39, None, 999)
    assert again.get(other, 50) == Result(other, 50, None, 999)
    assert again.get(other, 101) is None
    assert missing(again, [(KEY, 1000), (other, 100), (other, 101)]) == [(other, 101)]


def test_results_of_other_sources_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    Store(path).add(Result(KEY, 100, 40, 999))
    monkeypatch.setattr(_trials, "sources", lambda: "others")
    assert Store(path).get(KEY, 100) is None


def test_an_interrupted_table_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    keys = [(Key("CVE-2009-3547", "RW", trial), 50) for trial in range(4)]
    results = make_missing(Store(path), keys, jobs=1)
    first = next(results)
    results.close()  # type: ignore[attr-defined]
    rest = list(make_missing(Store(path), keys, jobs=1))
    assert [each.key.trial for each in [first, *rest]] == [0, 1, 2, 3]
    assert [first, *rest] == [make_trial(*call) for call in keys]


def test_caps() -> None:
    """A cell of a long program makes no more ops than it may; no cap is raised."""
    assert cap_of("account", 10_000, 20) == 10_000
    assert cap_of("reorder_100", 10_000, 20) * 20 * _trials.length("reorder_100") <= _trials.CELL_STEPS
    assert cap_of("reorder_100", 10_000, 20, cell_steps=1) == _trials.LEAST
    assert cap_of("reorder_100", 7, 20) == 7


# -- the page --------------------------------------------------------------------------------


def test_cells() -> None:
    assert [str(Cell(2.5, 20, 20)), str(Cell(533.0, 19, 20)), str(Cell(None, 0, 20)), str(Cell(None, 0, 0))] == [
        "2.5",
        "533 (19)",
        "-",
        "n/r",
    ]
    assert str(published("twostage_100", "SURW")) == "272"
    assert str(published("twostage_100", "URW")) == "2596 (18)"
    assert str(published("bbuf", "RW")) == "n/r"
    assert str(published("SafeStack", "RW")) == "-"


def test_a_profiling_run_is_counted_in(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl")
    for column in ("RW", "URW"):
        for trial, first in enumerate((3, 5, None)):
            store.add(Result(Key("account", column, trial), 10, first, 1))
    assert cell(store, "account", "RW", 3, 10) == Cell(4, 2, 3)
    assert cell(store, "account", "URW", 3, 10) == Cell(5, 2, 3)
    assert cell(store, "account", "URW", 4, 10) == Cell(None, 0, 0)


def test_the_published_sums_come_out_of_the_published_cells() -> None:
    """The digest sums up the rows above ``queue`` and bug5, which nobody finds and which is not restated here."""
    names = list(PAPER)[: list(PAPER).index("queue")]
    paper = {name: {column: published(name, column) for column in PAPER_COLUMNS} for name in names}
    found = [_strategies_page._found(paper, column) for column in PAPER_COLUMNS]
    trials = [_strategies_page._successes(paper, column) for column in PAPER_COLUMNS]
    best = [_strategies_page._best(paper, column) for column in PAPER_COLUMNS]
    assert found == ["21", "30", "33", "33", "34", "32", "35"]
    assert trials == ["417/680", "581/720", "614/720", "613/720", "635/720", "595/720", "698/740"]
    assert best == ["2", "4", "0", "2", "6", "4", "23"]
    assert _strategies_page._means(paper) == "21.3 | 6.3 | 13.1 | 7.4 | 4.7 | 5.9 | 4.4 | "


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(tmp_path / "results.jsonl"), "--page", str(tmp_path / "page.md")]
    command = ["--trials", "2", "--cap", "20", "--targets", "CVE-2009-3547", "--columns", "RW", "POS", "--jobs", "1"]
    assert main([*command, *where]) == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| CVE-2009-3547 | 20 | **here** | " in text
    assert "| account | 20 | **here** | n/r |" in text
    assert text == page(Store(tmp_path / "results.jsonl"), 2, 20, _trials.CELL_STEPS)
    assert "CVE-2009-3547    cap    20    4 trials" in capsys.readouterr().out
    assert main([*command, *where]) == 0
    assert "CVE-2009-3547    cap    20    0 trials" in capsys.readouterr().out


def test_unknown_programs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trials", "1", "--targets", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("no program named 'nonsense'; known: twostage, ")


def test_a_rate_that_is_off_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_rates(200, ["CVE-2009-3547"]) == 0
    monkeypatch.setattr("benchmarks._rates.Pos", _trials.RandomWalk)
    assert check_rates(200, ["CVE-2015-7550"]) == 1
    assert "POS" in capsys.readouterr().out
