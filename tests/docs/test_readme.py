"""The README is true: its programs run, its commands print what it shows, its links lead somewhere.

Numbers are compared by shape only, so that a step more or less in the model is not an error here;
words, order and exit codes are compared as they stand.  A line ``...`` stands for any lines.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHORT = ("--executions", "10")
"""Appended to campaigns whose output is not shown: that they start and hold is enough here."""
NUMBER = re.compile(r"\b[0-9a-f]*\d[0-9a-f]*\b|\d+")
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


def sessions() -> list[list[tuple[str, list[str]]]]:
    """Per console block, the commands with the output shown."""
    found = []
    for kind, text in BLOCKS:
        if kind == "console":
            commands: list[tuple[str, list[str]]] = []
            for line in text.splitlines():
                if line.startswith("$ "):
                    commands.append((line[2:], []))
                else:
                    commands[-1][1].append(line)
            found.append(commands)
    return found


COMMANDS = [command for session in sessions() for command in session]


def start(words: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def shape(line: str) -> str:
    return " ".join(NUMBER.sub("N", line).split())


def matches(shown: list[str], printed: list[str]) -> bool:
    """Whether the lines are the printed ones, with ``...`` for any lines."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(matches(shown[1:], printed[at:]) for at in range(len(printed) + 1))
    return bool(printed) and shape(shown[0]) == shape(printed[0]) and matches(shown[1:], printed[1:])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand: the checkout, with the example beside it."""
    found = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "scenarios", found / "scenarios", ignore=shutil.ignore_patterns("__pycache__"))
    for text in PROGRAMS:
        name = re.match(r"# (\w+\.py)\n", text)
        if name:
            (found / name[1]).write_text(text)
    return found


def test_there_is_something_to_check() -> None:
    assert len(PROGRAMS) >= 3
    assert sum(bool(shown) for _, shown in COMMANDS) >= 3


@pytest.mark.parametrize("text", [text for text in PROGRAMS if not text.startswith("# ")])
def test_programs_run(text: str, directory: Path) -> None:
    (directory / "program.py").write_text(text)
    done = start([sys.executable, "program.py"], directory)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_print_what_is_shown(directory: Path) -> None:
    """In order, because a replay needs the token that an earlier command wrote."""
    for command, shown in COMMANDS:
        words = shlex.split(command)
        if words[0] != "svm-actors":
            continue
        done = start([sys.executable, "-m", "svm_actors", *words[1:], *(() if shown else SHORT)], directory)
        expected = 1 if any("FAILED" in line for line in shown) else 0
        assert done.returncode == expected, f"{command}: {done.stdout}{done.stderr}"
        if shown:
            assert matches(shown, done.stdout.splitlines()), f"{command} prints:\n{done.stdout}"


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = {words[1] for command, _ in COMMANDS if (words := command.split())[0] == "make"}
    assert wanted
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in wanted)


def test_links_and_paths_lead_somewhere() -> None:
    paths = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(re.findall(r"`((?:svm_actors|docs)/[\w/.]+)`", README))
    assert paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_commands_and_options_in_the_text_exist() -> None:
    from svm_actors.cli.main import cli

    for name in re.findall(r"`svm-actors (\w+)`", README):
        assert name in cli.commands
    options = {option for command in cli.commands.values() for each in command.params for option in each.opts}
    options |= set(re.findall(r'addoption\("(--[\w-]+)"', (ROOT / "svm_actors/testing/plugin.py").read_text()))
    assert set(re.findall(r"`(--[\w-]+)[ `]", README)) <= options


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a 1"], ["a   22"], True),
        (["a", "...", "z"], ["a", "b", "c", "z"], True),
        (["a", "...", "z"], ["a", "z"], True),
        (["a", "..."], ["b"], False),
        (["a"], ["a", "b"], False),
        (["a", "z"], ["a"], False),
        (["x failures/0ab12.token"], ["x failures/99.token"], True),
    ],
)
def test_the_comparison_itself(shown: list[str], printed: list[str], same: bool) -> None:
    assert matches(shown, printed) is same
