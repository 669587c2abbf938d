"""Pending signals: what ends an interruptible sleep (fences_and_scheduler 1.3, 3 and 4.2).

A thread has a signal pending or not; which one does not matter to the kernel code modelled here.
Interruptible waits name the flag in their guard, so sending re-evaluates the guards of the tasks of
that thread and of nobody else.

A fault may be injected as well (:mod:`svm_actors.engine.faults`): one that is about to sleep interruptibly gets a
signal.  It is in no haste: what it waits for may come first, and then the signal ends its next such sleep, or nothing.

Simplified: no signal numbers, masks or handlers.  Whoever plays user space clears the flag with
:func:`flush_signals` before it calls into the kernel again, as the return to user space does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from svm_actors.engine.errors import EINTR, ERESTARTSYS

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Thread

T = TypeVar("T")


def send_signal(engine: Engine, thread: Thread) -> None:
    """Make a signal pending; its interruptible sleep, if it is in one, may end."""
    thread.signal = True
    for task in engine.tasks.values():
        if task.thread is thread and not task.enabled and task.guard is not None and task.guard():
            engine.enable(task)


def about_to_sleep(engine: Engine) -> None:
    """The running thread is going to sleep interruptibly, so a signal that is injected may find it there."""
    task = engine.current
    if task is not None and engine.faults.strike("signal"):
        task.thread.signal = True


def signal_pending(engine: Engine) -> bool:
    """True when the running thread has one."""
    task = engine.current
    return task is not None and task.thread.signal


def flush_signals(engine: Engine) -> None:
    """The running thread has dealt with its signals."""
    task = engine.current
    assert task is not None
    task.thread.signal = False


async def restarting(engine: Engine, call: Callable[[], Awaitable[T]]) -> T:
    """A system call as user space makes it: one that a signal has interrupted is made again, unchanged.

    The kernel does so itself for -ERESTARTSYS, the wrappers of the driver's user space for -EINTR.  On the way the
    signal is dealt with.
    """
    while True:
        try:
            answer = await call()
        except (ERESTARTSYS, EINTR):
            engine.count("syscall.interrupted")
            flush_signals(engine)
        except BaseException:
            if not engine.closing:
                flush_signals(engine)
            raise
        else:
            flush_signals(engine)
            return answer
