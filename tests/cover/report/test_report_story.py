"""Stories: ids have titles, tasks and pages have names that people use, lines fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import svm_actors
from svm_actors.bugs import BUGS
from svm_actors.catalogue.rows import read_rows
from svm_actors.catalogue.sources import cited
from svm_actors.engine.op import MODES
from svm_actors.explore.targets import subject_named
from svm_actors.report.story import VERBS, Names, hang
from svm_actors.report.titles import OTHERS, title
from svm_actors.workload.program import Operation

PACKAGE = Path(svm_actors.__file__).parent
NAMED = re.compile(r'"((?:INV|RULE)-(?:FEN-|VMB-)?\d+)"')


def names() -> Names:
    operations = [(4, Operation("p0 thread 1", "read page 2")), (7, Operation("vm 0", "create"))]
    return Names(subject_named("unmap@0"), operations)


def test_every_rule_that_the_model_names_has_a_title() -> None:
    used = {rule for path in sorted(PACKAGE.rglob("*.py")) for rule in NAMED.findall(path.read_text("utf-8"))}
    assert len(used) > 30
    assert [rule for rule in sorted(used) if not title(rule)] == []


def test_bugs_and_races_have_titles_too() -> None:
    assert all(title(bug) == BUGS[bug].title for bug in BUGS)
    assert title("PGM-R07") == read_rows()["PGM-R07"].text
    assert all(title(name) for name in cited("guards")), "every id that the model names is told of"
    assert title("XYZ-R99") == ""


def test_titles_are_one_line_without_a_full_stop() -> None:
    races = [title(f"SVM-R{number:02}") for number in range(1, 60)]
    for text in (*OTHERS.values(), *(row.text for row in read_rows().values()), *races):
        assert "\n" not in text
        assert not text.endswith(".")
        assert text == text.strip()


def test_every_kind_of_op_has_a_verb() -> None:
    assert sorted(set(MODES) - set(VERBS)) == []


@pytest.mark.parametrize(
    ("task", "operation", "actor"),
    [
        ("main", -1, ("main", "")),
        ("core_mm", -1, ("core_mm", "")),
        ("main/cpu.1", -1, ("main/cpu.1", "")),
        ("main/cpu.1", 4, ("[4] p0 thread 1", "")),
        ("main/cpu.1/4:CpuFault.0", -1, ("[4] p0 thread 1", "CpuFault")),
        ("main/cpu.1/4:CpuFault.0/MigrateToRam.2", -1, ("[4] p0 thread 1", "CpuFault > MigrateToRam")),
        ("main/cpu.1/9:CpuFault.0", -1, ("main/cpu.1", "9:CpuFault")),
        ("main/4:child.0/7:Munmap.1", -1, ("[7] vm 0", "Munmap")),
        ("gpu0.pagefault1/PopulateMm.3", -1, ("gpu0.pagefault1", "PopulateMm")),
    ],
)
def test_tasks_are_told_as_whoever_they_work_for(task: str, operation: int, actor: tuple[str, str]) -> None:
    assert names().actor(task, operation) == actor


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ("pte_write gpu0.vm1.pt 0x7e0000002", "changes entry gpu0.vm1.pt page 2"),
        ("pte_read p0.pt 0x7efffffff", "looks at entry p0.pt 0x7efffffff"),
        ("seq_read p0.subs gpu0.vm1.svm.notifier[7e0000000]", "reads sequence p0.subs gpu0.vm1.svm.notifier[page 0]"),
        ("trylock folio:1000000000", "tries to lock folio:1000000000"),
        ("start", "starts"),
        ("unheard of", "unheard of"),
    ],
)
def test_ops_are_told_with_the_pages_of_the_program(op: str, words: str) -> None:
    assert names().words(op) == words


def test_a_page_is_not_named_twice() -> None:
    text = "gpu0 TLB still translates page 0x7e0000001 after UNMAP [7e0000000,7e0000004)"
    assert names().pages(text) == "gpu0 TLB still translates page 1 after UNMAP [page 0,page 4)"


@given(st.text(max_size=400), st.integers(0, 40))
def test_lines_fit(text: str, column: int) -> None:
    lines = hang(text, column)
    assert lines
    assert all(len(line) <= 100 and line.isascii() and "\n" not in line for line in lines)
