"""The README tells the truth: its Python runs, and its commands print what it shows.

Numbers of steps and file names of tokens change with the model, so digits are compared as digits; a line ``...`` stands
for any lines.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import time
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from svm_actors.cli.main import cli
from svm_actors.workload.builtin import builtin_targets

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TOKEN = re.compile(r"failures/\w+\.token")


@attrs.frozen
class Block:
    """A fenced block."""

    language: str
    text: str


BLOCKS = [
    Block(language, text) for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
]
PYTHON = [block.text for block in BLOCKS if block.language == "python"]
FILES = {found[1]: text for text in PYTHON if (found := re.match(r"# (\w+\.py)\n", text))}
CONSOLE = [block.text for block in BLOCKS if block.language == "console"]


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a console block with the output shown below it."""
    return [(command, shown) for command, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]


SHOWN = [pair for block in CONSOLE for pair in commands(block) if pair[1]]
PLAIN = [command for block in CONSOLE for command, shown in commands(block) if not shown]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the README's reader has."""
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.partition("\n")[2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def svm_actors(command: str) -> str:
    """What a command prints."""
    words = command.split()
    assert words[0] == "svm-actors"
    return CliRunner().invoke(cli, words[1:]).output


def plain(text: str) -> list[str]:
    """The lines without what differs from one state of the model to the next: numbers, token names, column widths."""
    text = TOKEN.sub("failures/T.token", text)
    text = re.sub(r"\b(?:0x[0-9a-f]+|[0-9a-f]*\d[0-9a-f]*)\b", "N", text)
    return [" ".join(line.split()) for line in text.strip("\n").splitlines()]


def agrees(shown: list[str], printed: list[str]) -> bool:
    """Line by line; a shown ``...`` stands for any lines."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(agrees(shown[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and shown[0] == printed[0] and agrees(shown[1:], printed[1:])


def test_the_readme_has_the_parts_it_promises() -> None:
    assert {"make test", "make fuzz"} <= set(PLAIN)
    assert set(FILES) == {"example.py"}
    assert 15 <= len(FILES["example.py"].splitlines()) <= 30
    assert len(PYTHON) == 3
    assert [command.split()[1] for command, _ in SHOWN] == ["run", "fuzz", "replay"]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("HELD: x.py, 9999 steps\nany\nthing\nend failures/ffff00.token\n", True),
        ("HELD: x.py, 1 steps\nend failures/ffff00.token\n", True),
        ("HELD: y.py, 12 steps\nend failures/0a1b.token\n", False),
        ("HELD: x.py, many steps\nend failures/0a1b.token\n", False),
        ("HELD: x.py, 12 steps\nend failures/0a1b.token\nmore\n", False),
    ],
)
def test_numbers_are_forgiven_and_nothing_else(printed: str, expected: bool) -> None:
    shown = "HELD: x.py, 12 steps\n...\nend failures/0a1b.token\n"
    assert agrees(plain(shown), plain(printed)) is expected


def test_the_commands_print_what_is_shown(folder: Path) -> None:
    """In the order of the page: the replay uses the token that the campaign before it left behind."""
    for command, shown in SHOWN:
        tokens = list(folder.glob("failures/*.token"))
        if tokens:
            command = TOKEN.sub(f"failures/{tokens[0].name}", command)
        printed = svm_actors(command)
        assert agrees(plain(shown), plain(printed)), f"$ {command}\n{printed}"


@pytest.mark.parametrize("command", [command for command in PLAIN if command.startswith("svm-actors")])
def test_the_other_commands_run(command: str, folder: Path) -> None:
    result = CliRunner().invoke(cli, [*shortened(command).split()[1:], "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("HELD: ")


def shortened(command: str) -> str:
    """The same command with less to do."""
    return re.sub(r"--time \d+", "--time 2", re.sub(r"--executions \d+", "--executions 20", command))


@pytest.mark.parametrize("text", [text for text in PYTHON if not text.startswith("# ")])
def test_the_library_snippets_run(text: str, folder: Path) -> None:
    # The code of a snippet has no file, as in an interactive session.
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "snippet", "exec", dont_inherit=True), {"__name__": "snippet"})


def test_a_newcomer_waits_less_than_a_second(folder: Path) -> None:
    begin = time.process_time()
    svm_actors("svm-actors run example.py")
    assert time.process_time() - begin < 1


def test_links_and_names_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`(svm_actors/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    names = {target.name for target in builtin_targets()}
    used = {word for command in PLAIN for word in command.split() if word in names}
    assert used == {"eviction", "fork-eviction"}


def test_the_kernel_function_is_where_it_is_said_to_be() -> None:
    name = re.search(r"`drm_gpusvm_(\w+)` is in `(svm_actors/[\w/.]+)`", README)
    assert name is not None
    assert f"def {name[1]}" in (ROOT / name[2]).read_text()
