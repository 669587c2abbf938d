"""The table of shrunk bugs: rows are made once, kept, and judged by the goal."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from benchmarks import shrinking
from benchmarks.shrinking import Key, Row, Store
from svm_actors.bugs import BUGS

ROW = Row(Key("SVM-B41", 1, 60.0), "random@4?keep=0,1", 17, 2, 50, 0, 1, 296, 2.3)


def paths(folder: Path) -> list[str]:
    return ["--store", str(folder / "store"), "--page", str(folder / "page")]


def test_a_row_is_made_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--bugs", "SVM-B50", "--seeds", "1", *paths(tmp_path)]
    assert shrinking.main(options) == 0
    lines = (tmp_path / "store").read_text().splitlines()
    assert len(lines) == 1
    monkeypatch.setattr(shrinking, "make_row", None)  # nothing is left to be made
    assert shrinking.main(options) == 0
    assert (tmp_path / "store").read_text().splitlines() == lines
    page = (tmp_path / "page").read_text()
    assert "\n| SVM-B50 | " in page
    assert f"1 of 1 failures are as small as that. 0 bugs were not found, {len(BUGS) - 1} not looked for." in page


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (ROW, 0),
        (attrs.evolve(ROW, operations=7), 1),
        (attrs.evolve(ROW, unnecessary=4), 1),
        (Row(ROW.key, ""), 1),
    ],
)
def test_the_exit_code_says_whether_all_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row, code: int
) -> None:
    monkeypatch.setattr(shrinking, "make_row", lambda call: row)
    assert shrinking.main(["--bugs", "SVM-B41", "--seeds", "1", *paths(tmp_path)]) == code


def test_rows_of_another_version_or_time_do_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "this version")
    store.add(ROW)
    assert Store(tmp_path / "store", "this version").get(ROW.key) == ROW
    assert Store(tmp_path / "store", "another").get(ROW.key) is None
    assert store.get(attrs.evolve(ROW.key, seconds=5.0)) is None


def test_a_line_of_the_page_has_the_largest_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "this version")
    store.add(ROW)
    larger = attrs.evolve(ROW, key=Key("SVM-B41", 2, 60.0), target="unmap@0?keep=1,2,3", operations=3, switches=9)
    store.add(larger)
    store.add(Row(Key("SVM-B41", 3, 60.0), ""))
    page = shrinking.page(store, (1, 2, 3), 60.0)
    assert "| SVM-B41 | random, unmap (not with seed 3) | 3 of 17 | 50 | 0 | 1 | 296 | 2.3 |\n" in page
    assert "2 of 2 failures are as small as that. 1 bugs were not found" in page
    script = attrs.evolve(ROW, original=0, operations=0)
    store.add(script)
    assert "| SVM-B41 | random | script |" in shrinking.page(store, (1,), 60.0)
