"""Scenario scripts: loading leaves no trace, every run starts afresh, every mistake is one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from explore_toys import HELD, LOST_UPDATE, script

from svm_actors.explore.determinism import digest
from svm_actors.explore.run import run
from svm_actors.explore.script import MODULE, read_script
from svm_actors.workload.formats import BadInput


def test_a_script_is_a_subject(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    subject = read_script(path).subject()
    assert subject.name == path
    assert subject.digest == digest(HELD.encode())
    assert subject.config.gpus == 2
    assert run(subject, strategy="random", seed=1).ok


def test_loading_leaves_nothing_behind(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    before, path_before = set(sys.modules), list(sys.path)
    run(read_script(path).subject())
    assert MODULE not in sys.modules
    assert {name for name in set(sys.modules) - before if not name.startswith("svm_actors")} == set()
    assert sys.path == path_before
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy.py"]


def test_a_failing_load_leaves_nothing_behind_either(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        read_script(script(tmp_path, "1 / 0")).subject()
    assert MODULE not in sys.modules


def test_every_run_has_global_names_of_its_own(tmp_path: Path) -> None:
    text = "SEEN = []\nasync def scenario(world):\n    SEEN.append(1)\n    assert len(SEEN) == 1, len(SEEN)\n"
    subject = read_script(script(tmp_path, text)).subject()
    assert all(run(subject, backend="direct").ok for _ in range(3))


def test_dataclasses_with_text_annotations_work(tmp_path: Path) -> None:
    text = """\
from __future__ import annotations
from dataclasses import dataclass
import attrs

@dataclass
class Point:
    x: int

@attrs.frozen
class Other:
    y: Point

async def scenario(world):
    assert Other(Point(3)).y.x == 3
    assert __name__ and __file__.endswith("toy.py")
"""
    assert run(read_script(script(tmp_path, text)).subject()).ok


def test_a_failed_assert_quotes_the_script(tmp_path: Path) -> None:
    text = "async def scenario(world):\n    n = 1\n    assert n == 2\n"
    failure = run(read_script(script(tmp_path, text)).subject()).failure
    assert failure is not None
    assert failure.message == "assert n == 2 at toy.py:3 in scenario"


@pytest.mark.parametrize(
    ("text", "line", "expected", "got"),
    [
        ("x = 1\n", 0, "`async def scenario(world)`", "no such name"),
        ("def scenario(world):\n    pass\n", 1, "`async def scenario(world)`", "`def scenario`, without `async`"),
        ("\nscenario = 3\n", 0, "`async def scenario(world)`", "a value of type int"),
        ("\nasync def scenario():\n    pass\n", 2, "`async def scenario(world)`", "`scenario()`"),
        ("async def scenario(a, b):\n    pass\n", 1, "`async def scenario(world)`", "`scenario(a, b)`"),
        ("x = 1\nasync def scenario(world)\n", 2, "valid Python", "expected ':'"),
        ("x = '\0'\n", 1, "valid Python", "null"),
        ("import nothing_of_this_name\n", 1, "a script that loads", "ModuleNotFoundError"),
        ("def f():\n    return 1 / 0\nf()\n", 2, "a script that loads", "ZeroDivisionError"),
        ("raise SystemExit(0)\n", 1, "a script that loads", "SystemExit"),
        ("CONFIG = 3\nasync def scenario(world): ...\n", 0, "`CONFIG` to be a svm_actors.Config", "int"),
    ],
)
def test_mistakes_are_one_line_with_a_place(
    tmp_path: Path, text: str, line: int, expected: str, got: str
) -> None:
    path = script(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        read_script(path).subject()
    error = caught.value
    if "\0" not in text:  # which line has the null byte is for the parser to say
        assert (error.file, error.line) == (path, line)
    assert error.expected == expected
    assert got in error.got
    assert "\n" not in str(error)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "toy.py"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(BadInput, match="expected valid Python"):
        read_script(path)


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a scenario script, got no such file"):
        read_script(tmp_path / "none.py")
    with pytest.raises(BadInput, match="got is a directory"):
        read_script(tmp_path)


def test_an_interrupt_while_loading_passes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        read_script(script(tmp_path, "raise KeyboardInterrupt\n")).subject()


def test_an_edited_script_has_another_digest(tmp_path: Path) -> None:
    one = read_script(script(tmp_path, LOST_UPDATE)).digest
    assert read_script(script(tmp_path, LOST_UPDATE + "\n")).digest != one
    assert read_script(script(tmp_path, LOST_UPDATE)).digest == one
