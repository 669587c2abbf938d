"""The written part of the catalogue: every id of the digests once, each modelled or with its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from svm_actors.bugs import BUGS
from svm_actors.catalogue import catalogue, read_rows
from svm_actors.catalogue.rows import IDS, BadRow

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"
needs_digests = pytest.mark.skipif(not REFERENCE.exists(), reason="the digests are not part of the package")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("SVM-R01 | text | where", "expected 4 columns, ID | text | where | reason, found 3"),
        ("SVM-X01 | text | where |", "expected an id such as SVM-R01, found 'SVM-X01'"),
        ("SVM-R01 |  | where |", "expected a text and a place in the digests for SVM-R01"),
        ("SVM-R01 | a | b |\nSVM-R01 | a | b |", "expected each id once, found SVM-R01 again"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "rows.txt").write_text(f"# a comment\n\n{line}\n")
    number = 3 + line.count("\n")
    with pytest.raises(BadRow, match=re.escape(f"rows.txt:{number}: {expected}")):
        read_rows(tmp_path)


def test_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("SVM-R01 | one x other: the window | gpusvm 10 | because\n")
    row = read_rows(tmp_path)["SVM-R01"]
    assert (row.text, row.where, row.reason) == ("one x other: the window", "gpusvm 10", "because")


@needs_digests
def test_every_rule_and_invariant_has_a_row() -> None:
    text = "\n".join(path.read_text("utf-8") for path in sorted(REFERENCE.glob("*.md")))
    known = set(re.findall(r"\b(?:RULE-\d{2}|INV-(?:(?:FEN|VMB)-)?\d{2})\b", text))
    assert len(known) > 100
    assert sorted(known - set(read_rows())) == []
    assert all(IDS.fullmatch(name) for name in known)
    assert sorted(name for name, entry in catalogue().items() if entry.where and name not in text) == []


@needs_digests
def test_every_bug_and_suspicion_is_planted_or_has_its_reason() -> None:
    text = "\n".join(path.read_text("utf-8") for path in sorted(REFERENCE.glob("*.md")))
    known = set(re.findall(r"\b(?:SVM|PGM|MM|VMB|FEN)-[BS]\d{2}\b", text))
    rows = read_rows()
    assert len(known) > 270
    assert sorted(name for name in known if name not in BUGS and not (name in rows and rows[name].reason)) == []
    assert sorted(name for name in BUGS if name in rows and rows[name].reason) == [], "planted after all"
    assert len(BUGS) >= 180


BROKEN_BY_TESTS = ("RULE-10", "RULE-15")
"""Nothing in the model could keep or break them; tests/explore/test_rules.py shows what comes of breaking them."""


def test_every_race_rule_and_invariant_is_in_the_model_or_has_its_reason() -> None:
    entries = [entry for entry in catalogue().values() if entry.kind in ("race", "rule", "invariant")]
    missing = [entry.id for entry in entries if not entry.modelled and not entry.reason]
    assert missing == list(BROKEN_BY_TESTS)
    races = [entry for entry in entries if entry.kind == "race"]
    assert sum(entry.modelled for entry in races) >= 180
