"""How far long work has come: one line that is drawn again on a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

REDRAW_SECONDS: Final = 0.1
LOG_SECONDS: Final = 60.0
"""Between two lines where standard error is no terminal; short work says nothing there."""


class ProgressLine:
    """``with ProgressLine("fuzz", total) as line: line.show(done, "3 failures")``.

    It draws when told to and has no thread of its own, so that child processes can be started
    safely beside it.
    """

    def __init__(self, title: str, total: int | None = None) -> None:
        self._line = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(show_speed=total is None),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # what a command prints must not land on standard error
            redirect_stderr=False,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._line.add_task(title, total=total, note="")
        self._title, self._total = title, total
        self._drawn = 0.0
        self._begun = self._logged = time.monotonic()

    def __enter__(self) -> ProgressLine:
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the line away while something else is printed."""
        self._line.stop()
        yield
        self._line.start()

    def show(self, done: int, note: str = "") -> None:
        """So much is done."""
        self._line.update(self._task, completed=done, note=note)
        now = time.monotonic()
        if now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._line.refresh()
        if self._line.disable and now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._log(done, note, now - self._begun)

    def _log(self, done: int, note: str, elapsed: float) -> None:
        how_far = f"{done}" if self._total is None else f"{done} of {self._total}"
        print(f"{self._title}: {how_far} after {elapsed:.0f} s{note and f', {note}'}", file=sys.stderr, flush=True)
