"""ww_mutex: locks of one class in any order, without deadlock (fences_and_scheduler 4.1).

Whoever wants several takes them inside one acquire context, whose stamp is its age.  Where two contexts
would wait for each other the younger one gives up: it gets -EDEADLK, lets go of everything, sleeps for
the lock it could not get (``lock_slow``), and takes the others again *with the same stamp*, so it is
sure to be the oldest some day (FEN-R12, FEN-R13).

Two algorithms, a parameter of the class:

* ``wait-die``, what ``reservation_ww_class`` really uses: a context that holds locks dies when it meets
  an older one, as holder or already in the queue; older ones wait for younger ones.
* ``wound-wait``: nobody dies of meeting an older context; instead the older one wounds a younger holder,
  which dies as soon as it has to wait for a lock of the class, or is waiting for one already.

A request is an op of its own; sleeping and being woken, where it has to, is a second one.  A lock that
is free goes to whoever asks first, past the queue, as in the kernel.

Simplified: no optimistic spinning and no hand-off to a waiter that was overtaken.  Only contexts count
for the order; a lock got without one, or by trylock, is simply held, and nobody dies of it.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EALREADY, EDEADLK, EINTR, PropertyFailed
from svm_actors.engine.locks import Lock
from svm_actors.engine.signals import about_to_sleep
from svm_actors.engine.task import Task, Thread

Algorithm = Literal["wait-die", "wound-wait"]

RULE = "INV-FEN-05"


@attrs.frozen
class WwClass:
    """ww_class: a name, which is also the lock class, and the algorithm."""

    name: str
    """Locks of this class are ordered by the contexts of this class."""
    algorithm: Algorithm = "wait-die"
    """Who gives way when two contexts meet."""


class WwCtx:
    """ww_acquire_ctx: one attempt, with all its retries, to lock a set."""

    __slots__ = (
        "acquired",
        "contending",
        "deaths",
        "done",
        "engine",
        "inject",
        "name",
        "stamp",
        "thread",
        "wounded_by",
        "ww_class",
    )

    def __init__(self, engine: Engine, ww_class: WwClass, *, inject: bool = False) -> None:
        """ww_acquire_init.  With ``inject`` a lock beyond the first may fail with -EDEADLK for no reason."""
        task = engine.current
        assert task is not None
        counter = f"ww.{ww_class.name}"
        engine.counters[counter] += 1
        self.engine = engine
        self.ww_class = ww_class
        self.stamp: int = engine.counters[counter]
        """Age: smaller is older.  Retries keep it (FEN-R13)."""
        self.name = f"{ww_class.name}#{self.stamp}"
        self.thread = task.thread
        self.acquired = 0
        """Locks held."""
        self.done = False
        """No further lock may be taken."""
        self.wounded_by: WwCtx | None = None
        """An older context that wants a lock held here; wound-wait only."""
        self.deaths = 0
        """How often it has backed off."""
        self.contending: WwMutex | None = None
        """What could not be had at the last -EDEADLK; it must be the next lock taken."""
        self.inject = inject

    def younger_than(self, other: WwCtx) -> bool:
        """True when ``other`` has the older stamp."""
        return self.stamp > other.stamp

    def acquire_done(self) -> None:
        """ww_acquire_done: all that is needed is held."""
        self.done = True

    def fini(self) -> None:
        """ww_acquire_fini: every lock must be dropped by now."""
        if self.acquired and not self.engine.closing:
            raise PropertyFailed("ww_mutex", RULE, f"{self.name} ends while it holds {self.acquired} locks")
        self.done = True


@attrs.define(eq=False)
class _Waiter:
    """One entry of the queue."""

    task: Task
    ctx: WwCtx | None


class WwMutex(Lock):
    """A lock of a ww class.

    ``context`` is that of the holder, None when it was taken without one or by trylock.
    """

    __slots__ = ("_queue", "context", "tried", "ww_class")

    def __init__(self, engine: Engine, name: str, ww_class: WwClass, lock_class: str | None = None) -> None:
        super().__init__(engine, name, ww_class.name if lock_class is None else lock_class)
        self.ww_class = ww_class
        self.context: WwCtx | None = None
        self.tried = False
        """The holder got it by trylock."""
        self._queue: list[_Waiter] = []
        """Sleepers: contexts by age, oldest first; those without one where they came in."""

    # -- taking it ---------------------------------------------------------------------

    async def lock(self, ctx: WwCtx | None = None, *, interruptible: bool = False) -> None:
        """ww_mutex_lock.  -EDEADLK: back off; -EALREADY: this context holds it; -EINTR."""
        if ctx is not None and self.context is ctx:
            raise EALREADY
        await self._acquire(ctx, interruptible)
        if ctx is not None and ctx.acquired > 1 and self._contended_by_nobody(ctx):
            self.unlock()
            ctx.contending = self
            raise EDEADLK

    def _contended_by_nobody(self, ctx: WwCtx) -> bool:
        """An injected fault, as debug builds of the kernel have them."""
        if ctx.inject:
            return bool(self.engine.choose(2, "ww.edeadlk"))
        return self.engine.faults.strike("contention")

    async def lock_slow(self, ctx: WwCtx, *, interruptible: bool = False) -> None:
        """ww_mutex_lock_slow: after -EDEADLK, with nothing held; cannot die.  -EINTR."""
        if ctx.acquired:
            text = f"{ctx.name} takes the slow path while it holds {ctx.acquired} locks"
            raise PropertyFailed("ww_mutex", RULE, text)
        await self._acquire(ctx, interruptible)

    async def trylock(self) -> bool:
        """ww_mutex_trylock without a context: never waits, never dies."""
        await self.engine.step("trylock", self)
        if self._holders:
            return False
        self._got(None)
        self.tried = True
        return True

    def unlock(self) -> None:
        """ww_mutex_unlock."""
        if self.held_by_me():
            ctx, self.context, self.tried = self.context, None, False
            if ctx is not None:
                ctx.acquired -= 1
        self._drop()

    release = unlock

    # -- inside --------------------------------------------------------------------------

    async def _acquire(self, ctx: WwCtx | None, interruptible: bool) -> None:
        engine = self.engine
        task = engine.current
        assert task is not None
        if ctx is not None:
            self._check_use(ctx, task)
        engine.lockdep.waiting_ww(task, self, ctx)
        await engine.step("lock", self)
        if self._holders:
            await self._sleep(_Waiter(task, ctx), interruptible)
        self._got(ctx)

    def _check_use(self, ctx: WwCtx, task: Task) -> None:
        """What the kernel's debug checks ask of whoever locks with a context."""
        text = ""
        if ctx.ww_class is not self.ww_class:
            text = f"is a context of {ctx.ww_class.name}, {self.name} is a lock of {self.ww_class.name}"
        elif ctx.thread is not task.thread:
            text = f"of {ctx.thread.name} is used by {task.thread.name}"
        elif ctx.done:
            text = f"takes {self.name} after acquire_done"
        elif ctx.contending is not None and (ctx.contending is not self or ctx.acquired):
            text = f"takes {self.name}, but it has to back off and take {ctx.contending.name} first"
        if text:
            raise PropertyFailed("ww_mutex", RULE, f"{ctx.name} {text}")
        ctx.contending = None
        if not ctx.acquired:
            ctx.wounded_by = None

    async def _sleep(self, waiter: _Waiter, interruptible: bool) -> None:
        """Queue up, or die at once; then sleep until it is free, or a reason to die comes up."""
        thread = waiter.task.thread
        self._enqueue(waiter)
        if interruptible:
            about_to_sleep(self.engine)

        def awake() -> bool:
            return self._may_take(waiter) or (interruptible and thread.signal) or self._must_die(waiter) is not None

        try:
            await self.engine.wait("lock", self, self, awake)
            if self._may_take(waiter):
                return
            if interruptible and thread.signal:
                raise EINTR
            self._die(waiter)
        finally:
            self._queue.remove(waiter)
            if self.parked:
                self.changed()

    def _may_take(self, waiter: _Waiter) -> bool:
        return not self._holders and self._queue[0] is waiter

    def _enqueue(self, waiter: _Waiter) -> None:
        """__ww_mutex_add_waiter: contexts by age; the younger ones behind it may have to die now."""
        ctx = waiter.ctx
        self._queue.insert(self._place(ctx), waiter)
        if self._must_die(waiter) is not None:
            try:
                self._die(waiter)
            finally:
                self._queue.remove(waiter)
        if ctx is not None and self.ww_class.algorithm == "wound-wait" and self.context is not None:
            self._wound(ctx, self.context)
        if self.parked:
            self.changed()

    def _place(self, ctx: WwCtx | None) -> int:
        """Before the oldest of the younger contexts; without one, or with none younger, at the end."""
        if ctx is not None:
            for index, other in enumerate(self._queue):
                if other.ctx is not None and other.ctx.younger_than(ctx):
                    return index
        return len(self._queue)

    def _got(self, ctx: WwCtx | None) -> None:
        """The lock changes hands: its new context is what the queue is measured by from now on."""
        task = self.engine.current
        assert task is not None
        self.context = ctx
        if ctx is not None:
            ctx.acquired += 1
            if self.ww_class.algorithm == "wound-wait":
                for waiter in self._queue:
                    if waiter.ctx is not None:
                        self._wound(waiter.ctx, ctx)
        self._take(task.thread, "w")

    # -- who gives way -----------------------------------------------------------------

    def _must_die(self, waiter: _Waiter) -> WwCtx | None:
        """__ww_mutex_check_kill: the context it has to give way to, None when it may wait (FEN-R12).

        A context that holds no lock of the class is in nobody's way and never dies.
        """
        ctx = waiter.ctx
        if ctx is None or not ctx.acquired:
            return None
        if self.ww_class.algorithm == "wound-wait":
            return ctx.wounded_by
        if self.context is not None and ctx.younger_than(self.context):
            return self.context
        return next((other.ctx for other in self._ahead_of(waiter) if other.ctx is not None), None)

    def _ahead_of(self, waiter: _Waiter) -> list[_Waiter]:
        return self._queue[: self._queue.index(waiter)] if waiter in self._queue else []

    def _wound(self, older: WwCtx, holder: WwCtx) -> None:
        """__ww_mutex_wound: the holder is to give way; if it sleeps for a lock of the class, wake it."""
        if not older.acquired or not holder.younger_than(older) or holder.wounded_by is not None:
            return
        holder.wounded_by = older
        self.engine.count("ww.wounded")
        for task in self.engine.tasks.values():
            if task.thread is holder.thread and not task.enabled and task.guard is not None and task.guard():
                self.engine.enable(task)

    def _die(self, waiter: _Waiter) -> NoReturn:
        """Answer -EDEADLK and remember for which lock.  Nobody dies but for somebody older."""
        ctx, winner = waiter.ctx, self._must_die(waiter)
        assert ctx is not None
        if winner is None or not ctx.younger_than(winner):
            text = f"{ctx.name} dies on {self.name}, but no older context is in its way"
            raise PropertyFailed("ww_mutex", RULE, text)
        self.engine.count("FEN-R12" if not ctx.deaths else "FEN-R13")
        ctx.deaths += 1
        ctx.contending = self
        raise EDEADLK

    # -- looking at it -------------------------------------------------------------------

    def blocked_by(self, waiter: Task) -> list[Thread]:
        """For the wait-for graph: the holder, and whoever is ahead in the queue."""
        threads = self._holders[:]
        for other in self._queue:
            if other.task is waiter:
                break
            threads.append(other.task.thread)
        return threads

    def statistics(self) -> dict[str, Any]:
        """Holder, its context, and the queue."""
        return {
            "holders": [thread.name for thread in self._holders],
            "context": None if self.context is None else self.context.name,
            "waiting": len(self._queue),
        }
