"""A limit on the wall-clock time of work in this very process.

The step budget ends a run that announces ops for ever; one that computes for ever, or sleeps, announces
nothing.  A child process that hangs can be killed; this process can only interrupt itself, by a signal.
The interrupt is a KeyboardInterrupt, which nothing on the way takes for a failure of the run.

Where the alarm is not to be had (outside the main thread, on a system without it, or when the program
uses it for its own ends, as some test runners do) there is no limit.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Overdue(KeyboardInterrupt):
    """The work took longer than it may."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise Overdue in the body once so many seconds have passed; None is no limit."""
    if seconds is None or not _alarm_is_free():
        yield
        return
    before = signal.signal(signal.SIGALRM, _overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _alarm_is_free() -> bool:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def _overdue(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Overdue
