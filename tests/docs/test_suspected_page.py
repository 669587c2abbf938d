"""The page of suspected issues is what the generator makes of what was found, and what was found is still there.

`python -m benchmarks suspected --none` writes it anew; without `--none` it searches for what was not searched, first.
"""

from __future__ import annotations

import ast
import re
import zlib
from pathlib import Path

import attrs
import pytest

from benchmarks.suspected import PAGE, ROOT, SUSPICIONS, once, page, read_findings, search, write_findings
from svm_actors.bugs import BUGS
from svm_actors.explore.best_effort import replay_best_effort
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import decode

REFERENCE = ROOT.parent / "shared" / "reference"
SCRIPTS = sorted((ROOT / "scenarios" / "suspected").glob("*.py"))
FOUND = read_findings()
REACHED = [name for name, finding in FOUND.items() if finding.reached]
SAMPLE = sorted(REACHED, key=lambda name: zlib.crc32(name.encode()))[:10]
SCRIPTED = [name for name in REACHED if SUSPICIONS[name].script]
HELD = [name for name, finding in FOUND.items() if not finding.reached]

pytestmark = pytest.mark.usefixtures("in_the_project")


@pytest.fixture
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay lines name scripts from there."""
    monkeypatch.chdir(ROOT)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(FOUND), "python -m benchmarks suspected --none"


@pytest.mark.skipif(not REFERENCE.exists(), reason="the digests are not part of the package")
def test_every_suspicion_of_the_digests_is_on_it() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md")))
    known = set(re.findall(r"\b(?:SVM|PGM)-S\d\d\b", text))
    latent = re.search(r"^### 16\.2 Latent.*?(?=^###)", text, re.MULTILINE | re.DOTALL)
    assert latent is not None
    known |= set(re.findall(r"^\| (MM-B\d\d) ", latent[0], re.MULTILINE))
    assert len(known) > 45
    assert known - set(SUSPICIONS) == set()


def test_whatever_can_be_searched_was() -> None:
    assert set(FOUND) == {each.id for each in SUSPICIONS.values() if each.searched}
    assert all(each.same in FOUND for each in SUSPICIONS.values() if each.same)


def test_every_planted_suspicion_is_searched_as_planted() -> None:
    planted = {bug for bug in BUGS if re.fullmatch(r"(SVM|PGM)-S\d\d", bug)}
    assert planted == {each.bug for each in SUSPICIONS.values()} & planted
    assert not [name for name in planted if SUSPICIONS[name].reason]


def test_every_script_is_somebodys_and_says_whose() -> None:
    assert {path.stem for path in SCRIPTS} == {each.script for each in SUSPICIONS.values() if each.script}
    for path in SCRIPTS:
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        assert first.endswith("."), path.name


def test_every_entry_is_a_hypothesis_with_a_verdict() -> None:
    entries = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(entries) == len(SUSPICIONS)
    for entry in entries:
        assert re.search(r"\n\nHypothesis: .*\n\nModelled: .*\n\nVerdict: (reached|not)", entry, re.DOTALL), entry[:40]


@pytest.mark.parametrize("name", dict.fromkeys([*SAMPLE, *SCRIPTED]))
def test_a_shrunk_run_still_shows_it(name: str) -> None:
    token = FOUND[name].token
    run = replay_best_effort(subject_named(decode(token).target), token, backend="direct").run
    assert run.failure is not None, f"search again: python -m benchmarks suspected --only '{name}'"
    assert f"{run.failure.oracle}/{run.failure.rule}" == FOUND[name].noticed


@pytest.mark.parametrize("name", HELD)
def test_what_was_not_reached_is_not_reached_in_other_schedules(name: str) -> None:
    suspicion = SUSPICIONS[name]
    subject = subject_named(suspicion.searched)
    for number in range(8):
        failure = once(suspicion, subject, f"others/{number}").failure
        assert failure is None or not failure.conclusive, (number, str(failure))


def test_a_search_counts_schedules_and_shrinks(tmp_path: Path) -> None:
    found = search(SUSPICIONS["MM-B48"], seconds=2)
    assert (found.schedules, found.noticed) == ((1, 1, 1), "suspected/MM-B48")
    assert (found.choices, found.message) == (0, FOUND["MM-B48"].message)
    write_findings({"MM-B48": found, "gone": found}, tmp_path / "found.json")
    assert read_findings(tmp_path / "found.json") == {"MM-B48": found}


def test_a_search_that_finds_nothing_says_how_far_it_went() -> None:
    brief = attrs.evolve(SUSPICIONS["SVM-S08 rounded"], schedules=4)
    found = search(brief)
    assert (found.schedules, found.reached) == ((4, 4, 4), False)


def test_a_search_does_not_pass_another_failure_over() -> None:
    other = attrs.evolve(SUSPICIONS["SVM-S17"], noticed=("lifetime",))
    with pytest.raises(RuntimeError, match=r"SVM-S17, seed 1/0: suspected \[SVM-S17\]"):
        search(other)
