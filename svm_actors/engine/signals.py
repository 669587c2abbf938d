"""Pending signals: what ends an interruptible sleep (fences_and_scheduler 1.3, 3 and 4.2).

A thread has a signal pending or not; which one does not matter to the kernel code modelled here.
Interruptible waits name the flag in their guard, so sending re-evaluates the guards of the tasks of
that thread and of nobody else.

Simplified: no signal numbers, masks or handlers.  Whoever plays user space clears the flag with
:func:`flush_signals` before it calls into the kernel again, as the return to user space does.
"""

from __future__ import annotations

from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Thread


def send_signal(engine: Engine, thread: Thread) -> None:
    """Make a signal pending; its interruptible sleep, if it is in one, may end."""
    thread.signal = True
    for task in engine.tasks.values():
        if task.thread is thread and not task.enabled and task.guard is not None and task.guard():
            engine.enable(task)


def signal_pending(engine: Engine) -> bool:
    """True when the running thread has one."""
    task = engine.current
    return task is not None and task.thread.signal


def flush_signals(engine: Engine) -> None:
    """The running thread has dealt with its signals."""
    task = engine.current
    assert task is not None
    task.thread.signal = False
