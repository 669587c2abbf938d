"""One line that shows how far long work has come: only when standard error is a terminal."""

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
        self._drawn = 0.0

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
