"""The kernel's locks as engine objects.

Every acquire is an op and feeds the lock-dependency checker.  A release is not an op: whoever
wants the lock next runs at its own op, so announcing the release would add no interleaving.

Waiters are first come, first served where the kernel is fair (rwsem), and barging where it is
not (mutex with optimistic spinning, spinlock).
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EngineError
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
        self._holders.append(thread)
        thread.held.append((self, mode))
        if self.parked:
            self.changed()

    def _drop(self, thread: Thread | None = None) -> str:
        owner = thread
        if owner is None:
            task = self.engine.current
            assert task is not None
            owner = task.thread
        if owner not in self._holders:
            if self.engine.closing:
                return "w"
            raise EngineError(f"{owner.name} releases {self.name} but does not hold it")
        self._holders.remove(owner)
        for index in range(len(owner.held) - 1, -1, -1):
            if owner.held[index][0] is self:
                mode = owner.held.pop(index)[1]
                break
        else:  # pragma: no cover - the two lists are changed together
            raise EngineError(f"{self.name} is not in the list of {owner.name}")
        if self.parked:
            self.changed()
        return mode


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
        if not engine.closing:
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
    """A mutex whose holder must not sleep; the section under it should contain no op."""

    __slots__ = ()


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

    async def read(self) -> None:
        """down_read."""
        engine = self.engine
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        entry = (task, "r")
        self._queue.append(entry)
        try:
            await engine.wait("read_lock", self, self, lambda: self._may_read(task))
        finally:
            self._queue.remove(entry)
        if not engine.closing:
            self._take(task.thread, "r")

    async def write(self) -> None:
        """down_write."""
        engine = self.engine
        task = engine.current
        assert task is not None
        engine.lockdep.waiting(task, self)
        entry = (task, "w")
        self._queue.append(entry)
        if self.parked:
            self.changed()
        try:
            await engine.wait("lock", self, self, lambda: self._may_write(task))
        finally:
            self._queue.remove(entry)
        if not engine.closing:
            self._writer = task.thread
            self._take(task.thread, "w")

    async def try_read(self) -> bool:
        """down_read_trylock: fails when a writer holds it."""
        engine = self.engine
        await engine.step("trylock", self)
        task = engine.current
        assert task is not None
        if self._writer is not None:
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
        if self.held_for_write():
            self._writer = None
        self._drop()

    def downgrade(self) -> None:
        """downgrade_write: keep it for read, let readers in."""
        task = self.engine.current
        assert task is not None
        if self._writer is not task.thread:
            raise EngineError(f"{self.name} is downgraded by a thread that does not hold it for write")
        self._writer = None
        held = task.thread.held
        held[held.index((self, "w"))] = (self, "r")
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

    def __init__(self, lock: RwSem, acquire: Any) -> None:
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
        if not engine.closing:
            self._take(task.thread, "w")

    async def wait_clear(self) -> None:
        """Sleep until unlocked; take nothing, hold nothing."""
        await self.engine.wait("wait", self, self, self._clear)

    def release(self) -> None:
        """folio_unlock: wakes every waiter."""
        self._drop()

    def give(self, thread: Thread) -> None:
        """Make ``thread`` the owner, for a lock taken here and released elsewhere."""
        mode = self._drop()
        self._holders.append(thread)
        thread.held.append((self, mode))


class WaitQueue(Source):
    """wait_event / wake_up: sleep until a condition holds."""

    __slots__ = ("name",)

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine)
        self.name = name

    async def wait_event(self, condition: Any, waits_for: Any = None) -> None:
        """Sleep until ``condition()``; whoever changes it must call :meth:`wake_up`."""
        await self.engine.wait("wait", self, self, condition, waits_for=waits_for)

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
