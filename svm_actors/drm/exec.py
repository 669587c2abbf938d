"""drm_exec: lock a set of objects, in any order, with retries (fences_and_scheduler 4.2, INV-FEN-06).

A pass of the body locks what it needs.  When one lock answers -EDEADLK, everything is dropped, the
contended object is locked first, sleeping, and the body runs again from its start: so it must be
idempotent.  The stamp stays the same over all passes (FEN-R13).

    with DrmExec(engine) as exec_:
        await exec_.until_all_locked(body)

``-EDEADLK`` leaves the body as an exception, which stands for ``drm_exec_retry_on_contention``; a body
that catches it is run again all the same.  Leaving the block unlocks everything, whatever happened.

Simplified: the growing array of objects is a list; that it may need memory is kept (-ENOMEM).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import attrs

from svm_actors.dma_buf.fence_memory import FenceMemory, allocate
from svm_actors.dma_buf.resv import RESERVATION_WW_CLASS, DmaResv
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EALREADY, EDEADLK, EngineError, KernelError
from svm_actors.engine.ww_mutex import WwClass, WwCtx


class ExecObject(Protocol):
    """What can be locked: a GEM object, or anything with a reservation."""

    @property
    def name(self) -> str:
        """For reports."""

    @property
    def resv(self) -> DmaResv:
        """Its reservation; objects may share one."""


@attrs.frozen
class ExecEnded:
    """A transaction is over, well or with an error; emitted before its acquire context ends."""

    exec: DrmExec
    """Which."""


class DrmExec:
    """One locking context with its retry loop."""

    def __init__(
        self,
        engine: Engine,
        name: str = "exec",
        *,
        interruptible: bool = False,
        ignore_duplicates: bool = False,
        ww_class: WwClass = RESERVATION_WW_CLASS,
        memory: FenceMemory | None = None,
        inject: bool = False,
        room: int = 0,
    ) -> None:
        """drm_exec_init.  ``inject``: locks beyond the first may fail with -EDEADLK for no reason.

        ``room``: for so many objects there is memory from the beginning, for a way back, which must not fail.
        """
        self.engine = engine
        self.name = name
        self.interruptible = interruptible
        self.ignore_duplicates = ignore_duplicates
        """Locking an object twice is no error."""
        self.ww_class = ww_class
        self.memory = memory
        self.inject = inject
        self.room = room
        self.objects: list[ExecObject] = []
        """Objects locked, in the order they were asked for."""
        self.contended: ExecObject | None = None
        """Could not be locked in the last pass; the next pass begins with it."""
        self.prelocked: ExecObject | None = None
        """Locked ahead because it was contended, and not asked for yet."""
        self.ticket: WwCtx | None = None
        """The acquire context, from the first pass on."""
        self.passes = 0
        """How often the body was started."""
        self._stale = False
        """``contended`` is left from the pass before: this one has asked for nothing yet."""

    # -- the loop ------------------------------------------------------------------------------

    async def until_all_locked(self, body: Callable[[DrmExec], Awaitable[None]]) -> None:
        """Run ``body(exec)`` until a pass ends without contention.

        Its kernel errors pass through, except -EDEADLK that came from here.  What is locked then stays
        locked until :meth:`fini`.  An exec has one such loop.
        """
        if self.ticket is not None:
            raise EngineError(f"{self.name} has been through its loop already")
        while True:
            self.passes += 1
            self.ticket = self.ticket_for_pass()
            try:
                await body(self)
            except EDEADLK:
                if self.contended is None:
                    raise
            if self._pass_was_last():
                break
            self.engine.count("exec.retry")
            self._unlock_all()
            self._stale = True
        self.ticket.acquire_done()

    def ticket_for_pass(self) -> WwCtx:
        """FEN-R13: one stamp for all passes, so that it is the oldest some day."""
        return self.ticket or WwCtx(self.engine, self.ww_class, inject=self.inject)

    def _pass_was_last(self) -> bool:
        """No contention is left over.  What was locked ahead and not asked for is let go (FEN-B25)."""
        if self.contended is not None and self._stale:
            # A pass that asks for nothing must still consume the contention, or the loop never ends.
            _put(self.contended)
            self.contended = None
        if self.contended is not None:
            return False
        self._drop_prelocked()
        return True

    # -- in a pass -----------------------------------------------------------------------------

    async def lock_obj(self, obj: ExecObject) -> None:
        """drm_exec_lock_obj.  -EDEADLK: the pass is over; -EALREADY unless duplicates are ignored;
        -EINTR if interruptible; -ENOMEM, with the object unlocked again."""
        await self._lock_contended()
        if self.prelocked is not None and self.prelocked.resv is obj.resv:
            self._adopt(obj)
            return
        lock = obj.resv.lock_interruptible if self.interruptible else obj.resv.lock
        try:
            await lock(self._context())
        except EDEADLK:
            self.contended = _get(obj)
            self._stale = False
            raise
        except EALREADY:
            if not self.ignore_duplicates:
                raise
            return
        self._locked(obj)

    async def prepare_obj(self, obj: ExecObject, num_fences: int) -> None:
        """drm_exec_prepare_obj: lock it and reserve slots; unlocked again when there is no memory (FEN-B30)."""
        await self.lock_obj(obj)
        try:
            obj.resv.reserve(num_fences)
        except KernelError:
            self.unlock_obj(obj)
            raise

    async def prepare_array(self, objects: Iterable[ExecObject], num_fences: int) -> None:
        """drm_exec_prepare_array."""
        for obj in objects:
            await self.prepare_obj(obj, num_fences)

    def unlock_obj(self, obj: ExecObject) -> None:
        """drm_exec_unlock_obj: let go of one early; nothing if it is not among the locked ones."""
        if obj in self.objects:
            self.objects.remove(obj)
            self._let_go(obj)

    # -- the end ---------------------------------------------------------------------------------

    def fini(self) -> None:
        """drm_exec_fini: nothing stays locked, nothing stays referenced (INV-FEN-06)."""
        self._unlock_all()
        if self.contended is not None:
            _put(self.contended)
            self.contended = None
        self.engine.emit(ExecEnded(self))
        if self.ticket is not None:
            self.ticket.fini()

    def __enter__(self) -> DrmExec:
        return self

    def __exit__(self, *_: object) -> None:
        self.fini()

    # -- inside ------------------------------------------------------------------------------------

    def _context(self) -> WwCtx:
        """FEN-R12: every lock is taken in the one acquire context, by whose age contention is settled."""
        if self.ticket is None:
            raise EngineError(f"{self.name} locks outside of until_all_locked")
        return self.ticket

    async def _lock_contended(self) -> None:
        """drm_exec_lock_contended: sleep for what could not be had, holding nothing.

        FEN-B25: it counts as locked only when the body asks for it; maybe it does not any more.
        """
        obj = self.contended
        if obj is None:
            return
        # First of all: if this fails, it must not be tried again by whoever cleans up.
        self.contended = None
        try:
            await obj.resv.lock_slow(self._context(), interruptible=self.interruptible)
        except KernelError:
            _put(obj)
            raise
        self.prelocked = obj

    def _adopt(self, obj: ExecObject) -> None:
        """The body asks for what was locked ahead: from here on it is one of the locked ones."""
        ahead, self.prelocked = self.prelocked, None
        try:
            self._locked(obj)
        finally:
            _put(ahead)

    def _locked(self, obj: ExecObject) -> None:
        """drm_exec_obj_locked: note it, which may need memory."""
        try:
            if len(self.objects) >= self.room:
                allocate(self.engine, self.memory, "locked objects")
        except KernelError:
            obj.resv.unlock()
            raise
        self.objects.append(obj)
        _get(obj)

    def _drop_prelocked(self) -> None:
        ahead, self.prelocked = self.prelocked, None
        if ahead is not None:
            self._let_go(ahead)

    def _unlock_all(self) -> None:
        """drm_exec_unlock_all, the last one first."""
        while self.objects:
            self._let_go(self.objects.pop())
        self._drop_prelocked()

    @staticmethod
    def _let_go(obj: ExecObject) -> None:
        obj.resv.unlock()
        _put(obj)


def counted(obj: object) -> bool:
    """It counts references; a list of locked objects holds one on each that does."""
    return hasattr(obj, "get") and hasattr(obj, "put_now")


def _get(obj: Any) -> Any:
    if counted(obj):
        obj.get()
    return obj


def _put(obj: Any) -> None:
    if counted(obj):
        obj.put_now()
