"""dma_fence: a promise that work will finish, and its result (fences_and_scheduler section 1).

One way only: unsignaled, then signaled for ever; the first signal wins.  Callbacks run in the order of
registration with the fence lock held, inside the atomic step that signals, so they must not sleep: they
are plain functions.  Whoever signals announces the ``fence_signal`` op first; :meth:`Fence.signal` itself
is what happens with the lock held.

What the kernel keeps in ``dma_fence_ops`` are the methods named ``ops_*``: a driver's fence is a subclass
that overrides them.  A plain fence counts as one that signals by itself.

A fence made with a :class:`~svm_actors.dma_buf.fence_memory.FenceMemory` (or ``counted=True``) counts its
references, starting with its maker's one; any other lives as long as somebody remembers it, and
:meth:`Fence.get` and :meth:`Fence.put` change nothing.

Simplified: SIGNALED and the timestamp become visible in one step (FEN-R03 cannot happen), and so do the
test of the flag and that under the lock, unless the two-step :func:`add_callback` is used (FEN-R01).
There is no custom ``wait``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, Self

import attrs

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EDEADLK, EINVAL, ENOENT, ERESTARTSYS, KernelError, PropertyFailed
from svm_actors.engine.signalling import might_wait
from svm_actors.engine.signals import about_to_sleep
from svm_actors.engine.task import Task

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence_memory import FenceMemory
    from svm_actors.dma_buf.rcu import Rcu

MAX_SCHEDULE_TIMEOUT: Final = (1 << 63) - 1
"""As a timeout: for ever."""

DETACHED: Final = "detached"
"""Stands for the names of a fence that no longer depends on who made it."""

FenceCallback = Callable[["Fence"], None]


@attrs.define(eq=False)
class FenceCb:
    """dma_fence_cb: one registration; it is on one fence at a time and may be used again afterwards."""

    func: FenceCallback
    """Called with the fence, under its lock."""
    fence: Fence | None = None
    """Where it is queued; None before, and from just before the call on."""


@attrs.define(eq=False)
class FenceLock:
    """The spinlock of one fence, or of several that share it."""

    holder: Fence | None = None
    """On whose behalf it is held; only within one atomic step."""


class Fence(Source):
    """One fence.  ``error`` is advisory: those who wait go on whatever it says (1.5)."""

    __slots__ = (
        "_callbacks",
        "context",
        "deadline",
        "enabled",
        "error",
        "freed",
        "lock",
        "memory",
        "name",
        "refs",
        "seqno",
        "signaled",
        "signaler",
        "timestamp",
    )

    seqno64: ClassVar[bool] = False
    """Sequence numbers are compared with 64 bits, not wrapping at 32."""
    container: ClassVar[bool] = False
    """Made of other fences: may not go into a reservation or into another container."""
    lazy: ClassVar[bool] = False
    """Does not signal by itself before :meth:`ops_enable_signaling` was called."""
    pins_ops: ClassVar[bool] = False
    """Needs its maker after the signal too (it has a ``release`` or ``wait`` of its own)."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        signaler: Task | None = None,
        *,
        context: int = 0,
        seqno: int = 0,
        memory: FenceMemory | None = None,
        counted: bool = False,
        lock: FenceLock | None = None,
    ) -> None:
        """dma_fence_init.  Context 0 is nobody's; see :mod:`svm_actors.dma_buf.seqno`."""
        super().__init__(engine)
        self.name = name
        self.context = context
        """The timeline it completes on."""
        self.seqno = seqno
        """Its place there."""
        self.lock = FenceLock() if lock is None else lock
        self.signaled = False
        """The SIGNALED bit itself, without a poll."""
        self.enabled = False
        """Signaling was requested."""
        self.error: KernelError | None = None
        """Why the work failed; set before signaling or never."""
        self.timestamp: int | None = None
        """Virtual time of the signal."""
        self.deadline: int | None = None
        """The earliest time somebody hopes for; a hint."""
        self.signaler = signaler
        """The task that will signal, if known: the wait-for graph follows it."""
        self.memory = memory
        self.refs: int | None = 1 if counted or memory is not None else None
        """References held; None when nobody counts them."""
        self.freed = False
        """The memory is gone: last put, and a grace period later."""
        self._callbacks: list[FenceCb] = []
        if memory is not None:
            memory.take_in(self)

    # -- what an implementation provides (1.2) ---------------------------------------------

    def ops_enable_signaling(self) -> bool:
        """Called at most once, under the lock.  False: done already, or impossible; then it is signaled."""
        return True

    def ops_signaled(self) -> bool:
        """Cheap poll; once true it stays true.  May set the error when it is."""
        return False

    def ops_release(self) -> None:
        """The last reference is gone."""
        self.free()

    def ops_set_deadline(self, deadline: int) -> None:
        """A hint that the result is wanted by this virtual time."""

    def ops_timeline_name(self) -> str:
        """Asked of an unsignaled fence only; the answer may be memory of its maker."""
        return self.name

    @property
    def ops(self) -> type[Fence] | None:
        """Who implements it; None once it has signaled and no longer depends on them."""
        return None if self.signaled and not self.pins_ops else type(self)

    @property
    def timeline_name(self) -> str:
        """Its name, as long as its maker must be there to tell (FEN-R05)."""
        self._must_live("is asked for its name")
        return DETACHED if self.signaled else self.ops_timeline_name()

    async def read_timeline_name(self, rcu: Rcu) -> str:
        """dma_fence_timeline_name: inside a read section, for it may be signaled, and its maker go, on the way."""
        with rcu.reading():
            await self.engine.step("read", self)
            if self.signaled:
                return DETACHED
            await self.engine.step("read", self, "timeline_name")
            return self.ops_timeline_name()

    # -- signaling -----------------------------------------------------------------------

    def signal(self, error: KernelError | None = None, *, timestamp: int | None = None) -> bool:
        """Signal; True when this call did it, False when it was signaled before (nothing happens then).

        The caller holds a reference.  ``error`` goes in under the lock, and only here (FEN-R04).
        """
        self._must_live("is signaled")
        self._enter()
        won = not self.signaled
        if won:
            if error is not None:
                self.error = error
            self._signal_locked(timestamp)
        elif error is not None:
            self.engine.count("FEN-R04")
        self._leave()
        return won

    def check_and_signal(self) -> bool:
        """dma_fence_check_and_signal: whether it was signaled before."""
        return not self.signal()

    def _signal_locked(self, timestamp: int | None = None) -> None:
        self.signaled = True
        self.timestamp = self.engine.now if timestamp is None else timestamp
        if self._callbacks:
            self._call_back()
        if self.parked:
            self.changed()

    def _call_back(self) -> None:
        """In the order of registration; the lock is a spinlock taken with interrupts off, so none may sleep."""
        callbacks, self._callbacks = self._callbacks, []
        self.engine.enter_atomic(self)
        for callback in callbacks:
            callback.fence = None
            callback.func(self)
        self.engine.leave_atomic(self)

    def set_error(self, error: KernelError) -> None:
        """dma_fence_set_error: before the signal or never (FEN-R04)."""
        self._must_live("is given an error")
        if self.signaled:
            raise PropertyFailed("fence", "FEN-R04", f"{self.name} is given {error.code} after it has signaled")
        self.error = error

    def enable_sw_signaling(self) -> bool:
        """Request signaling; False when it is signaled, maybe by this very call."""
        self._must_live("is asked to signal")
        if self.signaled:
            return False
        self._enter()
        pending = self._enable_locked()
        self._leave()
        return pending

    def _enable_locked(self) -> bool:
        """ENABLE first, then the test of SIGNALED: one of two racing sides sees the other (FEN-R02)."""
        was_enabled, self.enabled = self.enabled, True
        if self.signaled:
            return False
        if not was_enabled and not self.ops_enable_signaling():
            self.engine.count("FEN-R02")
            self._signal_locked()
            return False
        return True

    # -- looking at it ----------------------------------------------------------------------

    def is_signaled(self) -> bool:
        """The flag, else a poll, which signals if it is done.  Does not request signaling."""
        self._must_live("is looked at")
        if not self.signaled and self.ops_signaled():
            self.signal()
        return self.signaled

    def get_status(self) -> int:
        """0 unsignaled, 1 done, negative: the error."""
        if not self.is_signaled():
            return 0
        return 1 if self.error is None else -self.error.errno

    # -- callbacks ---------------------------------------------------------------------------

    def add_callback(self, callback: FenceCallback | FenceCb) -> FenceCb:
        """Call ``callback(fence)`` at the signal.  -ENOENT, and no call, when it is signaled already.

        The caller keeps a reference until it was called or removed.
        """
        self._must_live("gets a callback")
        if self.signaled:
            raise ENOENT
        cb = callback if isinstance(callback, FenceCb) else FenceCb(callback)
        if cb.fence is not None:
            raise PropertyFailed("fence", "INV-FEN-01", f"a callback of {cb.fence.name} is added to {self.name} too")
        self._enter()
        pending = self._enable_locked()
        if pending:
            cb.fence = self
            self._callbacks.append(cb)
        self._leave()
        if not pending:
            raise ENOENT
        return cb

    def remove_callback(self, callback: FenceCallback | FenceCb) -> bool:
        """True: it will never be called.  False: it was, and is through (FEN-R06: the lock says so)."""
        self._must_live("loses a callback")
        self._enter()
        found = next((cb for cb in self._callbacks if cb is callback or cb.func == callback), None)
        if found is not None:
            self._callbacks.remove(found)
            found.fence = None
        elif self.signaled:
            self.engine.count("FEN-R06")
        self._leave()
        return found is not None

    # -- waiting -----------------------------------------------------------------------------

    async def wait(self, intr: bool = False) -> None:
        """Sleep until signaled; look at ``error`` for the result.  -ERESTARTSYS with ``intr`` only."""
        if intr or self.lazy:
            await self.wait_timeout(MAX_SCHEDULE_TIMEOUT, intr)
            return
        # The same for the plainest and most frequent case, in one coroutine less.
        engine = self.engine
        might_wait(engine, self.name)
        self.enable_sw_signaling()
        await engine.wait("fence_wait", self, self, self._is_signaled, waits_for=self.signaler)
        self._must_live("is waited for")

    async def wait_timeout(self, timeout: int, intr: bool = False) -> int:
        """Sleep until signaled, ``timeout`` ns at most.  The time left, at least 1, or 0 when it is over.

        A timeout of 0 looks and never sleeps.  -EINVAL when it is negative; -ERESTARTSYS.
        """
        if timeout < 0:
            raise EINVAL
        engine = self.engine
        might_wait(engine, self.name)
        await self._request()
        if timeout == 0:
            await engine.step("fence_wait", self)
        else:
            timeout = await self._sleep(timeout, intr)
        self._must_live("is waited for")
        if self.signaled:
            return max(1, timeout)
        if intr and self._interrupted():
            raise ERESTARTSYS
        return 0

    async def _request(self) -> None:
        """Request signaling.  Where that is work for the implementation it is an op of its own."""
        if self.lazy and not self.enabled and not self.signaled:
            await self.engine.step("write", self, "enable_signaling")
        self.enable_sw_signaling()

    async def _sleep(self, timeout: int, intr: bool) -> int:
        """The time that is left."""
        engine = self.engine

        def interruptible() -> bool:
            return self.signaled or thread.signal

        task = engine.current
        assert task is not None
        thread = task.thread
        guard = interruptible if intr else self._is_signaled
        if intr and not self.signaled:
            about_to_sleep(engine)
        waits_for = self.signaler
        if timeout == MAX_SCHEDULE_TIMEOUT:
            await engine.wait("fence_wait", self, self, guard, waits_for=waits_for)
            return timeout
        end = engine.now + timeout
        await engine.wait("fence_wait", self, self, guard, waits_for=waits_for, timeout=timeout)
        return end - engine.now

    def _is_signaled(self) -> bool:
        return self.signaled

    def _interrupted(self) -> bool:
        task = self.engine.current
        return task is not None and task.thread.signal

    def set_deadline(self, deadline: int) -> None:
        """dma_fence_set_deadline: a hint; the earliest one counts."""
        if self.signaled:
            return
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
            self.ops_set_deadline(deadline)

    # -- references ----------------------------------------------------------------------------

    def get(self) -> Self:
        """dma_fence_get."""
        if self.refs is not None:
            if self.refs <= 0:
                raise PropertyFailed("lifetime", "FEN-R05", f"reference taken on {self.name}, which is dead")
            self.refs += 1
        return self

    def get_rcu(self) -> Self | None:
        """dma_fence_get_rcu, inside a read section: None when the last reference is gone."""
        if self.freed:
            raise PropertyFailed("lifetime", "FEN-R05", f"{self.name} is looked at after it was freed")
        return None if self.refs == 0 else self.get()

    def put(self) -> None:
        """dma_fence_put."""
        if self.refs is None or self.engine.closing:
            return
        self.refs -= 1
        if self.refs < 0:
            raise PropertyFailed("lifetime", "FEN-R05", f"{self.name} is put more often than it was taken")
        if not self.refs:
            self._release()

    def _release(self) -> None:
        """dma_fence_release.  A promise that nobody can keep any more is broken in public."""
        if self.lock.holder is self:
            text = f"the last reference on {self.name} is dropped inside its own lock"
            raise PropertyFailed("lifetime", "FEN-R33", text)
        if not self.signaled and (self._callbacks or self.parked):
            self.engine.count("fence.released_unsignaled")
            self._enter()
            self.error = EDEADLK()
            self._signal_locked()
            self._leave()
        self.ops_release()

    def free(self) -> None:
        """dma_fence_free: gone for good after a grace period."""
        if self.memory is None:
            self.freed = True
        else:
            self.memory.free(self)

    # -- inside --------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Take the fence lock.  What runs under it may not come back to a fence with the same lock (FEN-R20)."""
        lock = self.lock
        if lock.holder is not None:
            text = f"{self.name} is entered from a callback of {lock.holder.name}, which holds the lock of both"
            raise PropertyFailed("fence", "FEN-R20", text)
        lock.holder = self

    def _leave(self) -> None:
        """Drop it.  Nothing under it ends with a kernel error, so there is no other way out."""
        self.lock.holder = None

    def _must_live(self, doing: str) -> None:
        dead = self.refs == 0 and self.lock.holder is not self
        if self.freed or dead:
            raise PropertyFailed("lifetime", "FEN-R05", f"{self.name} {doing} after its last reference was dropped")

    def __repr__(self) -> str:
        state = "signaled" if self.signaled else "unsignaled"
        return f"<{self.name} {state}{f' {self.error.code}' if self.error is not None else ''}>"
