"""The kernel's locks as engine objects.

Every acquire is an op and feeds the lock-dependency checker.  A release is not an op: whoever
wants the lock next runs at its own op, so announcing the release would add no interleaving.

Waiters are first come, first served where the kernel is fair (rwsem), and barging where it is
not (mutex with optimistic spinning, spinlock, lock bits).

Simplified: the rwsem is strictly first come, first served.  The kernel lets a batch of queued readers
overtake a queued writer and lets running writers steal; the order here is one the kernel allows too,
and the strict one is what makes recursive reading deadlock (core_mm section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EINTR, EngineError
from svm_actors.engine.signals import about_to_sleep
from svm_actors.engine.task import Task, Thread


class Lock(Source):
    """Common part: name, class, holders."""

    __slots__ = ("_holders", "lock_class", "name")

    def __init__(self, engine: Engine, name: str, lock_class: str) -> None:
        super().__init__(engine)
        self.name = name
        self.lock_class = lock_class
        self._holders: list[Thread] = []

    def holders(self) -> list[Thread]:
        """Threads that hold the lock now."""
        return self._holders

    def blocked_by(self, waiter: Task) -> list[Thread]:
        """For the wait-for graph: threads that must act before ``waiter`` gets the lock."""
        return self._holders

    def held_by_me(self) -> bool:
        """True when the running thread holds it, in any mode."""
        task = self.engine.current
        return task is not None and task.thread in self._holders

    def assert_held(self) -> None:
        """The kernel's lockdep_assert_held."""
        if not self.held_by_me() and not self.engine.closing:
            raise EngineError(f"{self.name} must be held here")

    def statistics(self) -> dict[str, Any]:
        """Holders and number of waiting tasks, for debugging."""
        return {"holders": [thread.name for thread in self._holders], "waiting": len(self.parked)}

    def _take(self, thread: Thread, mode: str) -> None:
        if self in thread.held:
            raise EngineError(f"{thread.name} takes {self.name} a second time")
        self._holders.append(thread)
        thread.held[self] = mode
        if self.parked:
            self.changed()

    def _drop(self) -> None:
        self._forget()
        if self.parked:
            self.changed()

    def _forget(self) -> None:
        """Take the running thread off the holders, telling nobody."""
        task = self.engine.current
        assert task is not None
        owner = task.thread
        if owner not in self._holders:
            if self.engine.closing:  # cleanup of a task that was cut off before it got the lock
                return
            raise EngineError(f"{owner.name} releases {self.name} but does not hold it")
        self._holders.remove(owner)
        del owner.held[self]
        if self.engine.touched is not None:
            self.engine.touched.append(self)


class Mutex(Lock):
    """Sleeping lock, one holder."""

    __slots__ = ()

    def _free(self) -> bool:
        return not self._holders

    async def acquire(self) -> None:
        """Sleep until free, then take it."""
        engine = self.engine
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        await engine.wait("lock", self, self, self._free)
        self._take(task.thread, "w")

    async def trylock(self) -> bool:
        """Take it if free; never waits."""
        engine = self.engine
        await engine.step("trylock", self)
        task = engine.current
        assert task is not None
        if self._holders:
            return False
        self._take(task.thread, "w")
        return True

    def release(self) -> None:
        """Let go; only the holder may."""
        self._drop()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


class SpinLock(Mutex):
    """A lock whose holder must not sleep.

    The section under it holds no op: announcing one is an error that names the lock.  So a second
    spinlock taken inside is always free, and taking it is no op either.
    """

    __slots__ = ()

    async def acquire(self) -> None:
        """Take it; inside another spinlock's section this is no op."""
        engine = self.engine
        if not engine.atomic:
            await super().acquire()
            return
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        self._take(task.thread, "w")
        if engine.touched is not None:
            engine.touched.append(self)

    async def trylock(self) -> bool:
        """Take it if free; inside another spinlock's section this is no op."""
        if not self.engine.atomic:
            return await super().trylock()
        if self.engine.touched is not None:
            self.engine.touched.append(self)
        if self._holders:
            return False
        task = self.engine.current
        assert task is not None
        self._take(task.thread, "w")
        return True

    def _take(self, thread: Thread, mode: str) -> None:
        super()._take(thread, mode)
        self.engine.enter_atomic(self)

    def _forget(self) -> None:
        super()._forget()
        self.engine.leave_atomic(self)


class RwSem(Lock):
    """rw_semaphore: many readers or one writer, first come, first served.

    A queued writer blocks new readers, so taking it for read twice in one thread can deadlock:
    the model reports that as the kernel's lockdep would, when it happens.
    """

    __slots__ = ("_queue", "_writer")

    def __init__(self, engine: Engine, name: str, lock_class: str) -> None:
        super().__init__(engine, name, lock_class)
        self._writer: Thread | None = None
        self._queue: list[tuple[Task, str]] = []

    def _may_read(self, task: Task) -> bool:
        if self._writer is not None:
            return False
        for waiter, mode in self._queue:
            if waiter is task:
                return True
            if mode == "w":
                return False
        return True

    def _may_write(self, task: Task) -> bool:
        return not self._holders and self._queue[0][0] is task

    def _contended(self) -> bool:
        """True when somebody sleeps in the queue; a task that could go on at once does not."""
        return any(not task.enabled for task, _mode in self._queue)

    def blocked_by(self, waiter: Task) -> list[Thread]:
        """Holders the waiter is not compatible with, and whoever it may not overtake in the queue."""
        wants = next((mode for task, mode in self._queue if task is waiter), "w")
        threads = self._holders[:] if wants == "w" or self._writer is not None else []
        for task, mode in self._queue:
            if task is waiter:
                break
            if "w" in (wants, mode):
                threads.append(task.thread)
        return threads

    async def read(self, *, interruptible: bool = False) -> None:
        """down_read; ``interruptible``: down_read_interruptible.  -EINTR."""
        engine = self.engine
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        entry = (task, "r")
        self._queue.append(entry)
        if engine.touched is not None:  # the place in the queue is taken before the op is done
            engine.touched.append(self)
        try:
            if interruptible:
                await self._read_or_signal(task)
            else:
                await engine.wait("read_lock", self, self, lambda: self._may_read(task))
        finally:
            self._queue.remove(entry)
        self._take(task.thread, "r")

    async def _read_or_signal(self, task: Task) -> None:
        if not self._may_read(task):
            about_to_sleep(self.engine)
        thread = task.thread
        await self.engine.wait("read_lock", self, self, lambda: self._may_read(task) or thread.signal)
        if not self._may_read(task):
            raise EINTR

    async def write(self) -> None:
        """down_write."""
        engine = self.engine
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        entry = (task, "w")
        self._queue.append(entry)
        if engine.touched is not None:  # the place in the queue is taken before the op is done
            engine.touched.append(self)
        try:
            await engine.wait("lock", self, self, lambda: self._may_write(task))
        finally:
            self._queue.remove(entry)
        self._writer = task.thread
        self._take(task.thread, "w")

    async def try_read(self) -> bool:
        """down_read_trylock: fails when a writer holds it or somebody sleeps in the queue."""
        engine = self.engine
        await engine.step("trylock", self)
        task = engine.current
        assert task is not None
        if self._writer is not None or self._contended():
            return False
        self._take(task.thread, "r")
        return True

    async def try_write(self) -> bool:
        """down_write_trylock."""
        engine = self.engine
        await engine.step("trylock", self)
        task = engine.current
        assert task is not None
        if self._holders:
            return False
        self._writer = task.thread
        self._take(task.thread, "w")
        return True

    def release(self) -> None:
        """up_read or up_write, whichever the running thread holds."""
        task = self.engine.current
        if task is not None and self._writer is task.thread:
            self._writer = None
        self._drop()

    def downgrade(self) -> None:
        """downgrade_write: keep it for read, let readers in."""
        task = self.engine.current
        assert task is not None
        if self._writer is not task.thread:
            raise EngineError(f"{self.name} is downgraded by a thread that does not hold it for write")
        self._writer = None
        task.thread.held[self] = "r"
        if self.engine.touched is not None:
            self.engine.touched.append(self)
        if self.parked:
            self.changed()

    def held_for_write(self) -> bool:
        """True when the running thread is the writer."""
        task = self.engine.current
        return task is not None and self._writer is task.thread

    def reading(self) -> _Held:
        """``async with sem.reading():``"""
        return _Held(self, self.read)

    def writing(self) -> _Held:
        """``async with sem.writing():``"""
        return _Held(self, self.write)


class _Held:
    """Async context manager around an acquire of an rwsem."""

    __slots__ = ("_acquire", "_lock")

    def __init__(self, lock: RwSem, acquire: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._lock = lock
        self._acquire = acquire

    async def __aenter__(self) -> None:
        await self._acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class BitLock(Lock):
    """A lock bit with waiters, as the folio lock: any number of tasks can wait for it to be
    clear *without* taking it, which is how the CPU fault path waits on a locked device page.

    Unlike other locks it may be handed from one thread to another with :meth:`give`.
    """

    __slots__ = ()

    @property
    def locked(self) -> bool:
        """True while somebody holds it."""
        return bool(self._holders)

    def _clear(self) -> bool:
        return not self._holders

    def trylock_now(self) -> bool:
        """The bare bit operation, for use inside a section that is already atomic."""
        task = self.engine.current
        assert task is not None
        if self.engine.touched is not None:
            self.engine.touched.append(self)
        if self._holders:
            return False
        self._take(task.thread, "w")
        return True

    async def trylock(self) -> bool:
        """One op; never waits."""
        await self.engine.step("trylock", self)
        return self.trylock_now()

    async def acquire(self) -> None:
        """folio_lock: sleep until clear, then take it."""
        engine = self.engine
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        await engine.wait("lock", self, self, self._clear)
        self._take(task.thread, "w")

    async def wait_clear(self) -> None:
        """Sleep until unlocked; take nothing, hold nothing."""
        await self.engine.wait("wait", self, self, self._clear)

    def release(self) -> None:
        """folio_unlock: wakes every waiter."""
        self._drop()

    def give(self, thread: Thread) -> None:
        """Make ``thread`` the owner, for a lock taken here and released elsewhere."""
        self._forget()
        if not self.engine.closing:
            self._holders.append(thread)
            thread.held[self] = "w"


class WaitQueue(Source):
    """wait_event / wake_up: sleep until a condition holds."""

    __slots__ = ("name",)

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine)
        self.name = name

    async def wait_event(self, condition: Callable[[], bool], waits_for: Any = None) -> None:
        """Sleep until ``condition()``; whoever changes it must call :meth:`wake_up`."""
        await self.engine.wait("wait", self, self, condition, waits_for=waits_for)

    async def wait_event_timeout(
        self, condition: Callable[[], bool], nanoseconds: int, waits_for: Any = None
    ) -> bool:
        """The same for at most so much virtual time; returns whether the condition holds."""
        return await self.engine.wait("wait", self, self, condition, None, waits_for, timeout=nanoseconds)

    def wake_up(self) -> None:
        """Re-evaluate every waiter's condition."""
        if self.parked:
            self.changed()


class CollisionSeq:
    """The collision-retry sequence that interval notifiers are built on (core_mm section 6).

    ``value`` starts at 2.  It is odd while at least one matching writer is active, so that all
    overlapping writers form one odd period with one value.
    """

    __slots__ = ("active", "queue", "value")

    def __init__(self, engine: Engine, name: str) -> None:
        self.value = 2
        self.active = 0
        self.queue = WaitQueue(engine, name)

    def begin(self, matched: bool) -> int:
        """A writer starts; ``matched`` says whether it hits any subscriber.  Returns the value."""
        self.active += 1
        if matched:
            self.value |= 1
        return self.value

    def end(self) -> bool:
        """A writer ends.  True when the odd period ends with it: the caller settles what was
        deferred, then calls :meth:`wake`."""
        self.active -= 1
        if self.active or not self.value & 1:
            return False
        self.value += 1
        return True

    def wake(self) -> None:
        """Wake those who wait for the value to change."""
        self.queue.wake_up()

    async def wait_past(self, value: int) -> None:
        """Sleep until the value differs."""
        await self.queue.wait_event(lambda: self.value != value)
