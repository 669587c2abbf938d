"""Back ends: how control moves from one task to another.

Two implementations of one narrow interface.  Both run the same coroutines and both ask the
engine's chooser at the same points, so equal choices give equal traces.

* :class:`DirectBackend` steps the coroutines itself with ``send``: for fuzzing and search.
* :class:`TrioBackend` makes every task a trio task in a nursery: for library use and scripts.
  It uses public trio calls only, with exactly one reschedule outstanding.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

import trio

from svm_actors.engine.errors import EngineError

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Task


class Backend(Protocol):
    """What the engine needs to move control."""

    engine: Engine

    def start(self, task: Task) -> None:
        """A task was created; it must not run before it is picked."""

    async def switch(self, running: Task, chosen: Task) -> None:
        """Park ``running``, let ``chosen`` go on; return when ``running`` is picked again."""

    def stop(self) -> None:
        """The run is over: no task may do anything more."""


@types.coroutine
def _hand_over() -> Generator[None, None, None]:
    yield


class DirectBackend:
    """Steps coroutines without an event loop."""

    engine: Engine

    def start(self, task: Task) -> None:
        """Nothing to do: the first ``send`` starts the coroutine."""

    async def switch(self, running: Task, chosen: Task) -> None:
        """Yield to :meth:`run`, which goes on with ``engine.current``."""
        await _hand_over()

    def stop(self) -> None:
        """:meth:`run` sees ``engine.closing`` when the running task hands over."""

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run ``main`` to its end, with everything it spawns; raise the run's failure if any."""
        engine = self.engine
        first = engine.spawn(main, "main")
        engine.current = first
        task: Task | None = first
        while task is not None and not engine.closing:
            try:
                task.coro.send(None)
            except StopIteration:
                if task is first:
                    break
                task = engine.finished(task)
                continue
            except BaseException as error:  # every failure of a task is the run's failure
                engine.fail(error)
                break
            task = engine.current
        engine.closing = True
        for leftover in list(engine.tasks.values()):
            engine.current = leftover
            leftover.coro.close()
        if engine.failure is not None:
            raise engine.failure


class TrioBackend:
    """Every task is a trio task; control moves by reschedule and park."""

    engine: Engine

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        self._manager: Any = None
        self._host: Task | None = None

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
        host = engine.spawn(body, "main")
        host.handle = trio.lowlevel.current_task()
        self._host = host
        engine.current = host

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        engine = self.engine
        cancelled = error if isinstance(error, trio.Cancelled) else None
        if error is not None and cancelled is None:
            engine.fail(error)
        engine.closing = True
        assert self.nursery is not None
        self.nursery.cancel_scope.cancel()
        for task in engine.tasks.values():
            if task.handle is None:
                task.coro.close()
        swallowed = await self._manager.__aexit__(type(cancelled) if cancelled else None, cancelled, None)
        if engine.failure is not None and engine.failure is not error:
            raise engine.failure
        return bool(swallowed) if cancelled is not None else False

    # -- the interface -----------------------------------------------------------------

    def start(self, task: Task) -> None:
        """Start a trio task that parks at once, unless the engine picks it before it runs."""
        if self._host is None:
            return
        assert self.nursery is not None
        self.nursery.start_soon(self._body, task, name=task.id)

    async def switch(self, running: Task, chosen: Task) -> None:
        """Reschedule ``chosen`` and park the caller."""
        if running.handle is not trio.lowlevel.current_task():
            raise EngineError(
                "a world was used from a trio task that the world did not start; "
                "start concurrent work with world.nursery() or world.spawn()"
            )
        if self.engine.closing:
            await trio.sleep_forever()
        self._resume(chosen)
        await trio.lowlevel.wait_task_rescheduled(_abort)

    def stop(self) -> None:
        """Cancel every task; parked ones wake with Cancelled."""
        assert self.nursery is not None
        self.nursery.cancel_scope.cancel()

    # -- tasks ---------------------------------------------------------------------

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
                await trio.lowlevel.wait_task_rescheduled(_abort)
            await task.coro
        except trio.Cancelled:
            raise
        except BaseException as error:  # every failure of a task is the run's failure
            engine.fail(error)
            return
        following = engine.finished(task)
        if following is not None:
            self._resume(following)


def _abort(_: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED


async def _nothing() -> None:
    """Stand-in coroutine of the host task, which trio itself runs."""
