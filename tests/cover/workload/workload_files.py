"""Where the recordings are, and small helpers shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from svm_actors.workload.demo import STRACES, demo_strace
from svm_actors.workload.formats import BadInput, Line

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
DEMOS = [demo_strace(name) for name in STRACES]
SHARED_STRACES = sorted(SHARED.glob("strace/*.strace"))
STRACE_FILES = [*DEMOS, *SHARED_STRACES]
PROGRAMS = SHARED / "kernel_ground_truth" / "programs.jsonl.gz"
LITMUS = SHARED / "kernel_ground_truth" / "litmus.jsonl.gz"
T = TypeVar("T")


def lines_of(text: str, file: str = "input") -> list[Line]:
    """The text as the lines of a file."""
    return [Line(file, number, each) for number, each in enumerate(text.splitlines(), 1)]


def outcome(parse: Callable[[], T]) -> T | BadInput:
    """What a parser gives, or the error it raises; any other exception is a failure of the test."""
    try:
        return parse()
    except BadInput as error:
        return error
