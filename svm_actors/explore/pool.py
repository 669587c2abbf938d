"""Work on several processes, results in the order of the work.

Children can be killed: by the kernel's memory killer, by an operator.  What was lost with them is
made again in new processes; only when that fails again and again is it an error, and everything
that came back before has been handed out by then.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, Final, TypeVar

T = TypeVar("T")
Call = tuple[Any, ...]

RESTARTS: Final = 3
"""How often in a row new processes are tried before giving up."""
AHEAD: Final = 2
"""Calls in flight per process."""


class WorkersDied(RuntimeError):
    """Child processes ended abruptly, again and again; the text names the work that was under way."""


class Pool:
    """One process (this one), several of its children, or an executor of the caller's."""

    def __init__(
        self, jobs: int = 1, executor: Executor | None = None, describe: Callable[[Call], str] = str
    ) -> None:
        self.jobs = max(1, jobs)
        self.describe = describe
        """A call in words, for the error that names what was under way."""
        self.restarts = 0
        """How often children had to be replaced."""
        self._given = executor
        self._own: Executor | None = None

    def results(self, function: Callable[..., T], calls: Iterator[Call]) -> Generator[T, None, None]:
        """``function(*call)`` for each call, in order.  ``calls`` is asked for more as work is done.

        Raises whatever the function raises, and WorkersDied.
        """
        if self._given is None and self.jobs == 1:
            yield from (function(*call) for call in calls)
            return
        pending: deque[tuple[Call, Future[T]]] = deque()
        try:
            yield from self._stream(function, calls, pending)
        finally:
            for _, future in pending:
                future.cancel()
            self.close()

    def close(self) -> None:
        """Let the children go; waits for what they are at."""
        if self._own is not None:
            self._own.shutdown(wait=True, cancel_futures=True)
            self._own = None

    def _stream(
        self, function: Callable[..., T], calls: Iterator[Call], pending: deque[tuple[Call, Future[T]]]
    ) -> Iterator[T]:
        failed = 0
        while True:
            self._refill(function, calls, pending)
            if not pending:
                return
            try:
                result = pending[0][1].result()
            except BrokenExecutor as error:
                failed += 1
                self._replace(function, pending, failed, error)
                continue
            failed = 0
            pending.popleft()
            yield result

    def _refill(
        self, function: Callable[..., T], calls: Iterator[Call], pending: deque[tuple[Call, Future[T]]]
    ) -> None:
        while len(pending) < AHEAD * self.jobs:
            call = next(calls, None)
            if call is None:
                return
            pending.append((call, self._submit(function, call)))

    def _submit(self, function: Callable[..., T], call: Call) -> Future[T]:
        try:
            return self._executor().submit(function, *call)
        except BrokenExecutor as error:
            broken: Future[T] = Future()
            broken.set_exception(error)
            return broken

    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = ProcessPoolExecutor(self.jobs, _context(), _begin)
        return self._own

    def _replace(
        self, function: Callable[..., T], pending: deque[tuple[Call, Future[T]]], failed: int, error: BrokenExecutor
    ) -> None:
        """Submit everything again that the broken children had not finished."""
        self.close()
        if self._given is not None or failed > RESTARTS:
            under_way = "; ".join(self.describe(call) for call, future in pending if _lost(future))
            raise WorkersDied(
                f"worker processes ended abruptly (killed, or out of memory) {failed} times in a row; "
                f"under way was: {under_way}"
            ) from error
        self.restarts += 1
        for index, (call, future) in enumerate(pending):
            if _lost(future):
                pending[index] = (call, self._submit(function, call))


def _lost(future: Future[Any]) -> bool:
    return future.cancelled() or (future.done() and isinstance(future.exception(), BrokenExecutor))


def _context() -> Any:
    """Children that start from a clean process: safe in a program with threads, and quick to start."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["svm_actors.explore.worker"])
    return context


def _begin() -> None:
    """First thing in a child: leave interrupts to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A run makes many objects that all die with it; looking for dead ones less often is a fifth faster.
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
