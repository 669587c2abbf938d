"""The frame around the commands: help, lists, errors nobody expected."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest
from cli_bench import HELD, ROOT, call, call_process, script

import svm_actors
from svm_actors.bugs import BUGS
from svm_actors.cli import exits
from svm_actors.cli import run as run_command
from svm_actors.cli.main import cli
from svm_actors.cli.table import table
from svm_actors.explore.failure import Failure, Kind


def test_the_version_is_the_packages() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert metadata["project"]["version"] == svm_actors.__version__
    assert call("--version").out == f"svm-actors {svm_actors.__version__}\n"


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        words = (*prefix, name)
        found += commands(command, words) if isinstance(command, click.Group) else [words]
    return found


@pytest.mark.parametrize("words", commands(cli))
def test_every_command_has_help_and_json(words: tuple[str, ...]) -> None:
    answer = call(*words, "--help")
    assert answer.code == 0
    assert "--json" in answer.out
    assert "--debug" in answer.out


def test_no_command_is_help() -> None:
    assert "fuzz" in call().out + call().err
    assert call("dance").code == 2


def test_bugs_are_listed() -> None:
    answer = call("bugs")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()[1:]] == list(BUGS)
    found = call("bugs", "--json").json
    assert [bug["id"] for bug in found["bugs"]] == list(BUGS)
    assert set(found["bugs"][0]) == {"id", "title", "removes", "races", "oracles", "story"}
    assert [bug["id"] for bug in call("bugs", "SVM-B50", "--json").json["bugs"]] == ["SVM-B50"]
    assert "unknown bug 'SVM-B99'" in call("bugs", "SVM-B99").err


def test_races_are_listed() -> None:
    answer = call("races", "--json")
    found = {race["id"]: race for race in answer.json["races"]}
    assert found["SVM-R02"]["guards"]
    assert "SVM-R02" in answer.err
    assert call("races").out == answer.err


def test_an_unexpected_error_is_short_and_says_how_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(run_command, "run_once", broken)
    path = script(tmp_path, HELD)
    answer = call("run", path)
    assert answer.code == 3
    assert answer.err.startswith("internal error: ZeroDivisionError: of all things (svm-actors ")
    assert "please report" in answer.err
    assert "Traceback" not in answer.err
    assert "Traceback" in call("run", path, "--debug").err
    found = call("run", path, "--json")
    assert (found.json["error"]["kind"], found.json["exit"], found.code) == ("internal", 3, 3)


def test_an_interrupt_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "run_once", interrupted)
    answer = call("run", script(tmp_path, HELD), "--json")
    assert (answer.code, answer.err) == (4, "interrupted\n")
    assert answer.json["error"]["kind"] == "interrupt"


@pytest.mark.parametrize(
    ("kinds", "bugs", "code"),
    [
        ([], (), 0),
        (["property"], (), 1),
        (["deadlock"], (), 1),
        (["error", "internal", "budget"], (), 1),
        (["internal", "budget"], (), 3),
        (["internal"], ("SVM-B50",), 1),
        (["budget"], ("SVM-B50",), 4),
    ],
)
def test_exit_codes(kinds: list[Kind], bugs: tuple[str, ...], code: int) -> None:
    assert exits.of_failures([Failure(kind, "o", "r", "m") for kind in kinds], bugs) == code


def test_the_module_is_the_command(tmp_path: Path) -> None:
    answer = call_process("bugs", "--json", cwd=tmp_path)
    assert json.loads(answer.out)["schema"] == 1
    assert answer.err.startswith("id ")


def test_no_colours_and_no_progress_where_nobody_looks(tmp_path: Path) -> None:
    answer = call_process("fuzz", script(tmp_path, HELD), "--executions", 3, "--jobs", 1, cwd=tmp_path)
    assert "\x1b" not in answer.out + answer.err
    assert answer.err == ""


def test_tables_align_without_trailing_blanks() -> None:
    assert table(("a", "long head"), [("wide", "x"), ("", "y")]) == "a     long head\nwide  x\n      y"
