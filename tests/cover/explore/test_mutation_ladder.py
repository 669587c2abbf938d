"""Judging mutants: a toy package whose mutants are noticed by the rungs, and what is drawn and counted."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import _mutants, mutation
from benchmarks._ladder import Rung, Tree, Verdict, judge
from benchmarks._mutants import Place, described, function_at, lots_of, numbered, quotas, silent_spans
from benchmarks.mutation import Judgement, Measured, Row, Store, page, rate, read_judgements

ONE_TEST = "tests/cover/drm/test_gpusvm_scan.py"
CLIMB = f"import svm_actors; from benchmarks._rungs import tested; print(tested(({ONE_TEST!r},)) or 'held')"

HALF = "def half(number):\n    return number // 2\n"


def _halves() -> str:
    found = importlib.import_module("toy_of_mutants.half").half(7)
    return "" if found == 3 else f"half of 7 is {found}"


def _imports() -> str:
    importlib.import_module("toy_of_mutants.half")
    return ""


RUNGS = [Rung("import", 5, _imports), Rung("halves", 0.3, _halves)]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A copy of a project of one module."""
    package = tmp_path / "project" / "toy_of_mutants"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "half.py").write_text(HALF)
    (tmp_path / "copy").mkdir()
    return Tree(tmp_path / "project", tmp_path / "copy")


@pytest.mark.parametrize(
    ("text", "rung", "noticed"),
    [
        (HALF, "", ""),
        (HALF.replace("//", ">>").replace("2", "1"), "", ""),
        (HALF.replace("//", "*"), "halves", "half of 7 is 14"),
        (HALF.replace("//", "/ missing /"), "halves", "NameError: name 'missing' is not defined"),
        (HALF.replace("return", "retrun"), "import", "SyntaxError: invalid syntax (half.py, line 2)"),
        ("raise SystemExit\n", "import", "SystemExit:"),
        ("import os\nos._exit(0)\n", "import", "hangs, or ends its process"),
        (HALF.replace("return", "while True:\n        "), "halves", "hangs, or ends its process"),
    ],
)
def test_the_first_rung_that_notices_ends_it(
    tree: Tree, text: str, rung: str, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks._ladder.PATIENCE", 60)
    with tree.changed("toy_of_mutants/half.py", text):
        verdict = judge(tree.path, RUNGS)
    assert (verdict.rung, verdict.noticed.strip()) == (rung, noticed)
    assert (tree.path / "toy_of_mutants" / "half.py").read_text() == HALF
    assert judge(tree.path, RUNGS).rung == "", "nothing is left of a mutant"


def test_a_process_that_waits_is_given_up(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks._ladder.PATIENCE", 0.2)
    waits = Rung("waits", 1, lambda: str(time.sleep(60)))
    assert judge(tree.path, [waits]).noticed == "waits for ever"


def test_a_process_that_does_not_come_up_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        judge(tmp_path / "nowhere", RUNGS)


def test_what_is_no_mutant() -> None:
    text = 'X: int | None = 1 | 2\n\ndef f(a: int | str) -> int | str:\n    """1 | 2."""\n    return a | 1\n'
    text += "if TYPE_CHECKING:\n    pass\n"
    lines = text.splitlines()
    found = [lines[start[0] - 1][start[1] : end[1]] for start, end in silent_spans(text)]
    assert sorted(found) == ['"""1 | 2."""', "TYPE_CHECKING", "int | None", "int | str", "int | str"]


def test_a_key_says_where() -> None:
    text = "class A:\n    @old\n    def f(self):\n        return 1\n\n\nx = 1\n"
    mutant = described(text, "m.py", "NumberReplacer", text.replace("return 1", "return 2"))
    assert mutant.key.startswith("m.py A.f NumberReplacer ")
    assert (mutant.line, mutant.before, mutant.after) == (4, "return 1", "return 2")
    moved = described(f"\n\n{text}", "m.py", "NumberReplacer", f"\n\n{text}".replace("return 1", "return 2"))
    assert moved.key == mutant.key
    assert [one.key for one in numbered([mutant, mutant])] == [mutant.key, f"{mutant.key}/2"]
    removed = described(text, "m.py", "RemoveDecorator", text.replace("    @old\n", "\n"))
    assert (removed.before, removed.after) == ("@old", "")
    assert [function_at(text, line) for line in (1, 2, 4, 7)] == ["A", "A.f", "A.f", "-"]


def test_most_of_a_sample_stays_when_a_module_changes() -> None:
    lines = ["a = 1", "b = 2", "b = 2"]
    known = [Place(((number, 4), (number, 5)), (("core/NumberReplacer", number),)) for number in (1, 2, 3)]
    before = lots_of(lines, known, "1/m.py")
    assert len(set(before)) == 3
    later = [Place(((number, 4), (number, 5)), (("core/NumberReplacer", number),)) for number in (1, 2, 3, 4)]
    assert lots_of(["c = 3", *lines], later, "1/m.py")[1:] == before


def test_every_module_has_a_share() -> None:
    assert quotas({"large": 900, "small": 100, "tiny": 2}, 50) == {"large": 45, "small": 5, "tiny": 2}
    assert quotas({"large": 900, "small": 10}, 50)["small"] == _mutants.LEAST


def _row(key: str, rung: str) -> Row:
    return Row(key, "m.py", 1, "a == b", "a != b", rung, "", 1.0)


def test_the_rate_leaves_out_what_is_equivalent() -> None:
    rows = (_row("k1", "tests"), _row("k2", ""), _row("k3", ""), _row("k4", "import"))
    measured = Measured(1, {"m.py": 9}, {"m.py": 20}, rows)
    judgements = {"k1": Judgement(True, "was noticed all the same"), "k2": Judgement(True, "b is a")}
    assert rate(measured, judgements) == 2 / 3
    text = page(measured, judgements)
    assert "**2 of 3 mutants that change behaviour were noticed: 66.7%**" in text
    assert "| m.py | 9 | 4 | 1 | 0 | 0 | 1 | 0 | 0 | 1 | 1 |" in text
    assert "`k2`: **equivalent**." in text
    assert "`k3`: **not judged**." in text
    assert "`k1`" not in text


def test_results_of_another_text_do_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", {"m.py": "now"})
    store.add(mutation.row_of(_mutants.Mutant("k1", "m.py", 1, "a", "b", "b"), Verdict("", "", 1.0)))
    store.add(_row("k1", "tests"))
    known = Store(tmp_path / "store", {"m.py": "now"}).get("k1")
    assert known is not None
    assert known.rung == "tests", "the last one counts"
    assert Store(tmp_path / "store", {"m.py": "later"}).get("k1") is None


def test_a_malformed_judgement_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judgements.txt"
    path.write_text("# head\n\nk | equivalent | a | b\n")
    assert read_judgements(path) == {"k": Judgement(True, "a | b")}
    path.write_text("k | equal | why\n")
    with pytest.raises(ValueError, match=r"judgements\.txt:1"):
        read_judgements(path)


def test_tests_can_be_run_where_an_earlier_rung_has_imported_the_package() -> None:
    """Of which pytest knows a plugin where the package is installed, and wants to rewrite it."""
    climbed = subprocess.run([sys.executable, "-c", CLIMB], cwd=mutation.ROOT, capture_output=True, text=True)
    assert climbed.stdout.splitlines()[-1:] == ["held"], climbed.stdout + climbed.stderr
