"""Back ends: how control moves from one task to another.

Two implementations of one narrow interface.  Both run the same coroutines and both ask the
engine's chooser at the same points, so equal choices give equal traces.

* :class:`DirectBackend` steps the coroutines itself with ``send``: for fuzzing and search.
* :class:`TrioBackend` makes every task a trio task in a nursery: for library use and scripts.
  It uses public trio calls only, with exactly one reschedule outstanding.

A run that ends unwinds every task that is left.  What their cleanup code raises counts as the run's
failure only if there is no other, and then that of the oldest task: the same on both back ends.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import trio

from svm_actors.engine.errors import EngineError

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Task


class Backend(Protocol):
    """What the engine needs to move control."""

    engine: Engine

    @property
    def identify(self) -> Callable[[Task], None] | None:
        """Raises when the caller is not the task that the engine believes is running; None: cannot happen."""

    def start(self, task: Task) -> None:
        """A task was created; it must not run before it is picked."""

    def switch(self, running: Task, chosen: Task) -> Awaitable[None]:
        """Park ``running``, let ``chosen`` go on; return when ``running`` is picked again."""

    async def ended(self) -> NoReturn:
        """Raise what unwinds the running task: the run is over."""

    def stop(self) -> None:
        """The run is over: no task may do anything more."""


class DirectBackend:
    """Steps coroutines without an event loop."""

    engine: Engine
    identify: Callable[[Task], None] | None = None

    def start(self, task: Task) -> None:
        """Nothing to do: the first ``send`` starts the coroutine."""

    @types.coroutine
    def switch(self, running: Task, chosen: Task) -> Generator[None, None, None]:
        """Yield to :meth:`run`, which goes on with ``engine.current``."""
        yield

    async def ended(self) -> NoReturn:
        """Unwind as a closed coroutine does."""
        raise GeneratorExit

    def stop(self) -> None:
        """:meth:`run` sees ``engine.closing`` when the running task hands over."""

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run ``main`` to its end, with everything it spawns; raise the run's failure if any."""
        engine = self.engine
        if engine.closing or engine.current is not None:
            main.close()
            raise EngineError("an engine runs once; make a new one for the next run")
        first = engine.spawn(main, "main")
        engine.current = first
        self._loop(first)
        engine.close()
        self._unwind()
        if engine.failure is not None:
            raise_unchanged(engine.failure)

    def _loop(self, first: Task) -> None:
        """Step whoever is current until ``first`` ends or something fails."""
        engine = self.engine
        task: Task | None = first
        while task is not None:
            try:
                answer = task.coro.send(None)
            except StopIteration:
                if task is first:
                    engine.retire(task)
                    return
                task = engine.finished(task)
                continue
            except BaseException as error:  # every failure of a task is the run's failure
                if not (engine.closing and isinstance(error, GeneratorExit)):
                    engine.fail(error)
                return
            if answer is not None:
                engine.fail(EngineError(f"{task.id} awaits what is not the engine's: {type(answer).__name__}"))
            if engine.closing:
                return
            task = engine.current

    def _unwind(self) -> None:
        engine = self.engine
        for leftover in list(engine.tasks.values()):
            engine.current = leftover
            try:
                leftover.coro.close()
            except BaseException as error:
                engine.fail(error)


class TrioBackend:
    """Every task is a trio task; control moves by reschedule and park."""

    engine: Engine

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        self._manager: Any = None
        self._host: Task | None = None
        self._adopting = False
        self._cut = False
        """An op was cancelled by something other than the run's own end."""
        self._late: dict[int, BaseException] = {}
        """Errors raised while unwinding, by creation number of the task."""

    # -- the host task: whoever entered the world ------------------------------------

    async def __aenter__(self) -> TrioBackend:
        self._manager = trio.open_nursery()
        self.nursery = await self._manager.__aenter__()
        return self

    def adopt_host(self) -> None:
        """Make the calling trio task the engine's ``main``; it is current from here on."""
        engine = self.engine
        body = _nothing()
        body.close()
        self._adopting = True
        host = engine.spawn(body, "main")
        self._adopting = False
        host.handle = trio.lowlevel.current_task()
        self._host = host
        engine.current = host

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """End the run.  Its failure is raised; a cancellation from outside the world passes on."""
        engine = self.engine
        cancelled, other = split_cancelled(error)
        if other is not None:
            engine.fail(other)
        elif error is None and self._host is not None:
            engine.retire(self._host)
        engine.close()
        assert self.nursery is not None
        outside: BaseException | None = None
        try:
            await self._manager.__aexit__(type(cancelled) if cancelled else None, cancelled, None)
        except BaseException as left_over:
            outside = left_over
        failure = engine.failure or self._late_failure(outside)
        if failure is not None and failure is not error:
            raise_unchanged(failure)
        if outside is not None:
            raise_unchanged(outside)
        return failure is None

    def _late_failure(self, outside: BaseException | None) -> BaseException | None:
        if self._late:
            return self._late[min(self._late)]
        if self._cut and outside is None:
            return EngineError(
                "an op was cancelled by a trio cancel scope inside the world; "
                "kernel work cannot be cancelled: use virtual time (sleep, timeouts) instead"
            )
        return None

    # -- the interface -----------------------------------------------------------------

    def identify(self, task: Task) -> None:
        """Refuse callers that are not under the engine's control."""
        if trio.lowlevel.current_task() is not task.handle:
            raise EngineError(
                "a world was used from a trio task that the world did not start; "
                "start concurrent work with world.nursery() or world.spawn()"
            )

    def start(self, task: Task) -> None:
        """Start a trio task that parks at once, unless the engine picks it before it runs."""
        if self._adopting:
            return
        if self.nursery is None:
            task.coro.close()
            raise EngineError(f"{task.id} was spawned before the back end was entered")
        self.nursery.start_soon(self._body, task, name=task.id)

    async def switch(self, running: Task, chosen: Task) -> None:
        """Reschedule ``chosen`` and park the caller."""
        if self.engine.closing:
            await self.ended()
        self._resume(chosen)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        except BaseException:
            self.engine.current = running
            self.stop()
            raise

    async def ended(self) -> NoReturn:
        """Let trio deliver the cancellation; after the world is closed there is none to deliver."""
        engine = self.engine
        me = trio.lowlevel.current_task()
        mine = next((task for task in engine.tasks.values() if task.handle is me), None)
        if mine is None:
            raise EngineError("this world is closed: nothing can be done in it any more")
        self.stop()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            engine.current = mine
        raise EngineError(f"{mine.id} goes on, shielded, after the run has ended")

    def stop(self) -> None:
        """Cancel every task; parked ones wake with Cancelled."""
        assert self.nursery is not None
        self.nursery.cancel_scope.cancel()

    # -- tasks ---------------------------------------------------------------------

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        """Trio cancels a parked op.  Not for :meth:`stop`: then the world has to end, here and now."""
        engine = self.engine
        if not engine.closing:
            self._cut = True
            engine.closing = engine.halted = True
        return trio.lowlevel.Abort.SUCCEEDED

    def _resume(self, task: Task) -> None:
        if task.handle is None:
            task.go = True
        else:
            trio.lowlevel.reschedule(task.handle)

    async def _body(self, task: Task) -> None:
        engine = self.engine
        task.handle = trio.lowlevel.current_task()
        try:
            if not task.go:
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            if engine.closing:
                return
            await task.coro
        except BaseException as error:  # every failure of a task is the run's failure
            self._failed(task, error)
            return
        finally:
            task.coro.close()
        following = engine.finished(task)
        if following is not None:
            self._resume(following)

    def _failed(self, task: Task, error: BaseException) -> None:
        cancelled, other = split_cancelled(error)
        if other is not None:
            if self.engine.closing:
                self._late[task.number] = other
            else:
                self.engine.fail(other)
        if cancelled is not None:
            self.stop()
            raise cancelled


def split_cancelled(error: BaseException | None) -> tuple[BaseException | None, BaseException | None]:
    """Part an error into trio's cancellation and the rest; either may be None."""
    if isinstance(error, trio.Cancelled):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return None, error


def raise_unchanged(error: BaseException) -> NoReturn:
    """Raise an error caught earlier without giving it a new context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context


async def _nothing() -> None:
    """Stand-in coroutine of the host task, which trio itself runs."""
