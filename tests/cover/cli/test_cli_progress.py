"""The progress line: drawn on a terminal, said now and then in a log, and out of the way of what is printed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from cli_bench import HELD, LOST_UPDATE, ROOT, script

from svm_actors.cli.progress import ProgressLine


def on_a_terminal(directory: Path, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output (a file) and what the terminal on standard error got."""
    terminal, slave = pty.openpty()
    with open(directory / "out", "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "svm_actors", *map(str, words)],
            stdout=out,
            stderr=slave,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
    os.close(slave)
    seen = b""
    try:
        while piece := os.read(terminal, 4096):
            seen += piece
    except OSError:  # the other end is closed: the process has ended
        pass
    os.close(terminal)
    return process.wait(), (directory / "out").read_text(), seen.decode()


def test_a_terminal_sees_it_and_standard_output_does_not(tmp_path: Path) -> None:
    code, out, seen = on_a_terminal(tmp_path, "fuzz", script(tmp_path, HELD), "--executions", 40, "--jobs", 1)
    assert code == 0
    assert "fuzz" in seen
    assert "%" in seen
    assert " features" in seen
    assert out.startswith("HELD: 40 runs")
    assert "\x1b" not in out


def test_reports_go_where_they_belong(tmp_path: Path) -> None:
    words = ["fuzz", script(tmp_path, LOST_UPDATE), "--executions", 40, "--jobs", 1]
    code, out, seen = on_a_terminal(tmp_path, *words)
    assert code == 1
    assert out.startswith("PROPERTY FAILED")
    assert "PROPERTY FAILED" not in seen
    _, out, seen = on_a_terminal(tmp_path, *words, "--json")
    assert out.startswith('{"schema": 1')
    assert "PROPERTY FAILED" in seen


def test_work_without_a_known_end(tmp_path: Path) -> None:
    code, _, seen = on_a_terminal(tmp_path, "fuzz", script(tmp_path, HELD), "--time", "0.4", "--jobs", 1)
    assert code == 0
    assert "fuzz" in seen


def test_long_work_says_now_and_then_in_a_log_how_far_it_has_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("svm_actors.cli.progress.time.monotonic", lambda: now)
    with ProgressLine("work", 90) as line:
        for done in range(1, 91):
            now += 2
            line.show(done, "2 failures" if done > 40 else "")
    assert capsys.readouterr() == (
        "",
        "work: 30 of 90 after 60 s\nwork: 60 of 90 after 120 s, 2 failures\nwork: 90 of 90 after 180 s, 2 failures\n",
    )


def test_short_work_is_silent_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("work", 3) as line:
        line.show(1, "note")
        with line.aside():
            print("said")
    assert capsys.readouterr() == ("said\n", "")
