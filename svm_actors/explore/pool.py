"""Work on several processes, results in the order of the work.

Children can be killed: by the kernel's memory killer, by an operator.  What was lost with them is
made again in new processes; only when that fails again and again is it an error, and everything
that came back before has been handed out by then.

Work can also hang.  When nothing comes back for longer than the limit, the children are killed and the
call that was waited for is made again in its smallest parts; the part that hangs again is named.

An executor of the caller's is used as it is: neither replaced when it breaks nor killed when it hangs.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from pickle import PickleError
from typing import Any, Final, TypeVar

import attrs

from svm_actors.explore.watchdog import Overdue, time_limit

T = TypeVar("T")
Call = tuple[Any, ...]
Calls = Iterator[Call | None]
"""The work; None where there is none before more results are in."""

RESTARTS: Final = 3
"""How often in a row new processes are tried before giving up."""
AHEAD: Final = 2
"""Calls in flight per process."""


class WorkersDied(RuntimeError):
    """Child processes ended abruptly, again and again, or an executor of the caller's gave up; the text
    names the work that was under way."""


class WorkHangs(RuntimeError):
    """A call did not come back within the limit; the text names it."""


@attrs.frozen
class Raised:
    """What a call raised in an executor of the caller's: told apart from what the executor itself raises."""

    error: Exception
    """With the other side's traceback as a note."""


@attrs.define
class _Pending:
    """One call in flight."""

    call: Call
    future: Future[Any]

    @property
    def lost(self) -> bool:
        """The child that had it is gone."""
        future = self.future
        return future.cancelled() or (future.done() and isinstance(future.exception(), BrokenExecutor))


def parts_of(call: Call) -> list[Call]:
    """A call that cannot be split is its own only part."""
    return [call]


class Pool:
    """One process (this one), several of its children, or an executor of the caller's."""

    def __init__(
        self,
        jobs: int = 1,
        executor: Executor | None = None,
        describe: Callable[[Call], str] = str,
        limit: float | None = None,
        split: Callable[[Call], list[Call]] = parts_of,
    ) -> None:
        self.jobs = max(1, jobs)
        self.describe = describe
        """A call in words, for the error that names what was under way."""
        self.limit = limit
        """Wall-clock seconds a call may take; None for no limit."""
        self.split = split
        """The smallest parts of a call, in order: which of them hangs is found by making each alone."""
        self.restarts = 0
        """How often children had to be replaced."""
        self._given = executor
        self._own: Executor | None = None

    def results(self, function: Callable[..., T], calls: Calls) -> Generator[T, None, None]:
        """``function(*call)`` for each call, in order.  ``calls`` is asked for more as work is done.

        Raises whatever the function raises, WorkersDied and WorkHangs.
        """
        if self._given is None and self.jobs == 1:
            while (call := next(calls, None)) is not None:
                yield from self._here(function, call)
            return
        pending: deque[_Pending] = deque()
        try:
            yield from self._stream(function, calls, pending)
        finally:
            for one in pending:
                one.future.cancel()
            self.close()

    def close(self) -> None:
        """Let the children go; waits for what they are at."""
        if self._own is not None:
            self._own.shutdown(wait=True, cancel_futures=True)
            self._own = None

    # -- in this process -----------------------------------------------------------------

    def _here(self, function: Callable[..., T], call: Call) -> Iterator[T]:
        try:
            with time_limit(self.limit):
                result = function(*call)
        except Overdue:
            yield from self._parts_here(function, call)
        else:
            yield result

    def _parts_here(self, function: Callable[..., T], call: Call) -> Iterator[T]:
        parts = self.split(call)
        if len(parts) == 1:
            raise WorkHangs(self._hangs(call, "it was interrupted")) from None
        for part in parts:
            yield from self._here(function, part)

    # -- elsewhere -----------------------------------------------------------------------

    def _stream(self, function: Callable[..., T], calls: Calls, pending: deque[_Pending]) -> Iterator[T]:
        failed = 0
        while True:
            self._refill(function, calls, pending)
            if not pending:
                return
            first = pending[0]
            try:
                result = first.future.result(self.limit)
            except BrokenExecutor as error:
                failed += 1
                self._replace(function, pending, failed, error)
                continue
            except TimeoutError as error:
                if first.future.done():
                    raise  # the work's own
                self._end_hanging(function, pending, error)
                continue
            except (PickleError, AttributeError, TypeError):
                raise  # the work's own, or a call that cannot go to another process
            except Exception as error:
                if self._given is None:
                    raise
                raise self._gave_up(pending, error) from error
            failed = 0
            pending.popleft()
            yield _taken(result)

    def _refill(self, function: Callable[..., T], calls: Calls, pending: deque[_Pending]) -> None:
        while len(pending) < AHEAD * self.jobs:
            call = next(calls, None)
            if call is None:
                return
            pending.append(_Pending(call, self._submit(function, call)))

    def _submit(self, function: Callable[..., T], call: Call) -> Future[Any]:
        try:
            if self._given is not None:
                return self._given.submit(_guarded, function, *call)
            return self._children().submit(function, *call)
        except BrokenExecutor as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def _children(self) -> Executor:
        """New ones are waited for: the time they need to start is nobody's fault."""
        if self._own is None:
            self._own = ProcessPoolExecutor(self.jobs, _context(), _begin)
            self._own.submit(int).result()
        return self._own

    def _replace(
        self, function: Callable[..., T], pending: deque[_Pending], failed: int, error: BrokenExecutor
    ) -> None:
        """Submit everything again that the broken children had not finished."""
        self.close()
        if self._given is not None or failed > RESTARTS:
            raise WorkersDied(
                f"worker processes ended abruptly (killed, or out of memory) {failed} times in a row; "
                f"under way was: {self._under_way(pending)}"
            ) from error
        self.restarts += 1
        self._submit_lost(function, pending)

    def _submit_lost(self, function: Callable[..., T], pending: deque[_Pending]) -> None:
        for one in pending:
            if one.lost:
                one.future = self._submit(function, one.call)

    def _end_hanging(self, function: Callable[..., T], pending: deque[_Pending], error: TimeoutError) -> None:
        """Kill the children; make the parts of the first call, each alone, and the others again."""
        call = pending[0].call
        if self._given is not None:
            raise WorkHangs(self._hangs(call, "its executor is not this process's to kill")) from error
        _kill(self._own)
        self.close()
        parts = self.split(call)
        if len(parts) == 1:
            raise WorkHangs(self._hangs(call, "its process was killed")) from error
        self.restarts += 1
        pending.popleft()
        for part in reversed(parts):
            pending.appendleft(_Pending(part, self._submit(function, part)))
        self._submit_lost(function, pending)

    # -- words ---------------------------------------------------------------------------

    def _hangs(self, call: Call, what: str) -> str:
        return f"{self.describe(call)} did not end within {self.limit:g} seconds; {what}"

    def _under_way(self, pending: deque[_Pending]) -> str:
        return "; ".join(self.describe(one.call) for one in pending if not one.future.done() or one.lost)

    def _gave_up(self, pending: deque[_Pending], error: Exception) -> WorkersDied:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return WorkersDied(f"the executor gave up ({words}); under way was: {self.describe(pending[0].call)}")


def _guarded(function: Callable[..., T], *call: Any) -> T | Raised:
    """The call, in an executor of the caller's."""
    try:
        return function(*call)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        return Raised(error)


def _taken(result: Any) -> Any:
    if isinstance(result, Raised):
        raise result.error
    return result


def _kill(executor: Executor | None) -> None:
    """End the processes at once: one that hangs would not listen to anything less."""
    processes: dict[int, Any] = getattr(executor, "_processes", None) or {}
    for process in list(processes.values()):
        process.kill()


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
