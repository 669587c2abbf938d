"""One failure as text that can be pasted into a mail: plain ASCII, at most 100 columns.

First what failed, then how it was reached (seed, strategy, planted bugs), then the last steps in
the order they happened, then where each task stood, and at the end the line that replays it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from svm_actors.explore.failure import Failure, Pending, Step

WIDTH: Final = 100
"""Columns."""
SHOWN: Final = 60
"""Steps of the timeline."""
TASK: Final = 38
"""Columns of a task's id."""
KINDS: Final = {
    "property": "PROPERTY FAILED",
    "deadlock": "DEADLOCK",
    "livelock": "LIVELOCK",
    "budget": "STEP BUDGET SPENT (no verdict)",
    "error": "ERROR",
    "internal": "INTERNAL ERROR",
}


@attrs.frozen
class Origin:
    """How a failure was reached."""

    target: str
    """What ran."""
    seed: str
    """Seed of the run."""
    strategy: str
    """Strategy, with the settings that are not the default."""
    bugs: tuple[str, ...] = ()
    """Planted bugs."""


def failure_text(failure: Failure, origin: Origin, replay: str = "", steps: int = SHOWN) -> str:
    """The whole report, without a newline at the end."""
    lines = [
        *wrap(f"{KINDS[failure.kind]}: {failure.oracle} [{failure.rule}]"),
        *(line for text in failure.message.splitlines() for line in wrap(text, "  ")),
        "",
        *wrap(f"target   {origin.target}", "", "         "),
        *wrap(f"seed     {origin.seed}", "", "         "),
        *wrap(f"strategy {origin.strategy}", "", "         "),
        *wrap(f"bugs     {', '.join(origin.bugs) or 'none planted'}", "", "         "),
    ]
    if failure.timeline:
        lines += ["", *timeline(failure.timeline, steps)]
    if failure.tasks:
        lines += ["", *live_tasks(failure.tasks)]
    if replay:
        lines += ["", *replay_lines(replay)]
    return "\n".join(lines)


def replay_lines(command: str) -> list[str]:
    """How to see it again.  The command stays on one line, however long: it is there to be pasted."""
    return ["replay:", f"  {ascii_text(command)}"]


def timeline(steps: Sequence[Step], shown: int = SHOWN) -> list[str]:
    """The last steps, one per line: number, task, op."""
    last = steps[-shown:]
    earlier = last[0].number - 1 if last else 0
    head = f"last {len(last)} steps" + (f" ({earlier} before them)" if earlier else "")
    lines = [f"{step.number:>8}  {_columns(step.task, step.op)}" for step in last]
    return [head, f"{'step':>8}  {'task':<{TASK}}  op", *lines]


def live_tasks(tasks: Sequence[Pending]) -> list[str]:
    """Where each task stood when the run ended."""
    lines = [f"{task.state:>8}  {_columns(task.task, task.op)}" for task in tasks]
    return ["where the tasks stood", f"{'state':>8}  {'task':<{TASK}}  op", *lines]


def ascii_text(text: str) -> str:
    """The text with everything but printable ASCII escaped."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in plain)


def shorten(text: str, width: int) -> str:
    """At most so many columns; the middle gives way, since the ends of a task's id tell most."""
    if len(text) <= width:
        return text
    tail = (width - 2) * 2 // 3
    return f"{text[: width - 2 - tail]}..{text[-tail:]}"


def _columns(task: str, op: str) -> str:
    """Task and op, fitted into what the first column leaves."""
    return f"{shorten(ascii_text(task), TASK):<{TASK}}  {shorten(ascii_text(op), WIDTH - TASK - 12)}"


def wrap(text: str, first: str = "", rest: str = "    ") -> Iterator[str]:
    """Whole lines of at most WIDTH columns; indentation is kept."""
    plain = ascii_text(text.rstrip())
    indent = " " * (len(plain) - len(plain.lstrip()))
    yield from textwrap.wrap(
        plain.lstrip(), WIDTH, initial_indent=first + indent, subsequent_indent=first + indent + rest
    ) or [""]
