"""Waiting for syncobjs: for all or one, and, on request, for what is not submitted yet.

fences_and_scheduler section 2 (FEN-R32, FEN-B28, INV-FEN-09).  Only user space may wait for a
submission: nothing in the kernel makes it come, so such a wait holds no lock, is interruptible, and is
forbidden in a fence-signalling section.

The waiter looks first and registers after that, looking again under the slot's lock: what is submitted
in between is not missed.  It holds references on the fences it found; whoever called it holds them on the
syncobjs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import Final

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence, FenceCb
from svm_actors.drm.syncobj import Syncobj
from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EINVAL, ENOENT, ERESTARTSYS, ETIME, PropertyFailed
from svm_actors.engine.signalling import might_wait, might_wait_for_user
from svm_actors.engine.signals import about_to_sleep
from svm_actors.engine.task import Task

SUBMIT_TIMEOUT: Final = 5_000_000_000
"""DRM_SYNCOBJ_WAIT_FOR_SUBMIT_TIMEOUT in ns: how long an ioctl waits for somebody's submission."""


class WaitFlags(IntFlag):
    """DRM_SYNCOBJ_WAIT_FLAGS_*."""

    ALL = 1
    """All of them; else the first one is enough."""
    FOR_SUBMIT = 2
    """Where nothing is submitted yet, wait for that too; else it is -EINVAL."""
    AVAILABLE = 4
    """Submitted is enough, done is not needed; implies waiting for the submission."""


NO_FLAGS: Final = WaitFlags(0)

_UNSUBMITTED = WaitFlags.FOR_SUBMIT | WaitFlags.AVAILABLE


class _Entry:
    """One syncobj and point of a wait."""

    __slots__ = ("cb", "fence", "point", "syncobj", "wait")

    def __init__(self, wait: SyncobjWait, syncobj: Syncobj, point: int) -> None:
        self.wait = wait
        self.syncobj = syncobj
        self.point = point
        self.fence: Fence | None = None
        """What to wait for, once there is something; the entry owns a reference."""
        self.cb: FenceCb | None = None

    def look(self) -> bool:
        """Take the fence for the point, if it was submitted."""
        try:
            self.fence = self.syncobj.lookup_point(self.point)
        except EINVAL:
            return False
        return True

    def slot_changed(self, _syncobj: Syncobj) -> bool:
        """Called by the slot, under its lock."""
        if not self.look():
            return False
        self.wait.wake()
        return True

    def register(self) -> None:
        """drm_syncobj_fence_add_wait: look once more under the lock, else be told."""
        if self.fence is None and not self.look():
            self.syncobj.waiters.append(self)

    def is_over(self, available: bool) -> bool:
        """Done, or as far as the caller wants; from now on the fence wakes the waiter."""
        if self.fence is None:
            return False
        if available or self.fence.is_signaled():
            return True
        if self.cb is not None:
            return False
        try:
            self.cb = self.fence.add_callback(self.wait.fence_done)
        except ENOENT:
            return True
        return False

    def clean_up(self) -> None:
        """Leave no trace on the slot or the fence."""
        if self in self.syncobj.waiters:
            self.syncobj.waiters.remove(self)
        if self.fence is not None:
            if self.cb is not None:
                self.fence.remove_callback(self.cb)
            self.fence.put()
            self.fence = None


class SyncobjWait(Source):
    """drm_syncobj_array_wait_timeout: one sleeping waiter."""

    __slots__ = ("entries", "flags", "name", "woken")

    def __init__(self, engine: Engine, syncobjs: Sequence[Syncobj], points: Sequence[int], flags: WaitFlags) -> None:
        super().__init__(engine)
        self.name = f"wait({', '.join(syncobj.name for syncobj in syncobjs)})"
        self.flags = flags
        self.entries = [_Entry(self, *pair) for pair in zip(syncobjs, points, strict=True)]
        self.woken = False

    def wake(self) -> None:
        """Something changed: look again."""
        self.woken = True
        if self.parked:
            self.changed()

    def fence_done(self, _fence: Fence) -> None:
        """A fence signaled."""
        self.wake()

    async def run(self, timeout: int, deadline: int | None = None) -> tuple[int, int]:
        """See :func:`wait_array`."""
        try:
            await self._look()
            if self._result() is None and self.flags & _UNSUBMITTED:
                await self._register()
            if deadline is not None:
                self._hope_for(deadline)
            return await self._sleep(timeout)
        finally:
            self._clean_up()

    async def submitted(self, timeout: int) -> Fence:
        """Wait for the submission of the only entry; its fence, with a reference for the caller."""
        entry = self.entries[0]
        try:
            await self._register()
            await self._sleep(timeout)
            assert entry.fence is not None
            return entry.fence.get()
        finally:
            self._clean_up()

    def _hope_for(self, deadline: int) -> None:
        for entry in self.entries:
            if entry.fence is not None:
                entry.fence.set_deadline(deadline)

    def _clean_up(self) -> None:
        if not self.engine.closing:
            for entry in self.entries:
                entry.clean_up()

    async def _look(self) -> None:
        """All slots up front: a missing fence is an error now or never."""
        for entry in self.entries:
            await self.engine.step("read", entry.syncobj)
            if not entry.look() and not self.flags & _UNSUBMITTED:
                raise EINVAL

    async def _register(self) -> None:
        for entry in self.entries:
            if entry.fence is None:
                await self.engine.step("write", entry.syncobj, "wait")
                entry.register()

    async def _sleep(self, timeout: int) -> tuple[int, int]:
        engine = self.engine
        task = engine.current
        assert task is not None
        thread, end = task.thread, engine.now + timeout
        while True:
            self.woken = False
            first = self._result()
            if first is not None:
                return timeout, first
            if timeout <= 0:
                raise ETIME
            if thread.signal:
                raise ERESTARTSYS
            limit = None if timeout == MAX_SCHEDULE_TIMEOUT else timeout
            about_to_sleep(engine)
            await engine.wait(
                "fence_wait", self, self, lambda: self.woken or thread.signal, waits_for=self, timeout=limit
            )
            if limit is not None:
                timeout = max(0, end - engine.now)

    def _result(self) -> int | None:
        """Index of the first entry that is over, None when it is not enough yet."""
        available = bool(self.flags & WaitFlags.AVAILABLE)
        over = [index for index, entry in enumerate(self.entries) if entry.is_over(available)]
        enough = len(over) == len(self.entries) if self.flags & WaitFlags.ALL else bool(over)
        return over[0] if enough else None

    def blocked_by(self, _waiter: Task) -> list[Task]:
        """For the wait-for graph: whoever signals what it found, as far as known."""
        fences = [entry.fence for entry in self.entries if entry.fence is not None]
        return [fence.signaler for fence in fences if fence.signaler is not None and not fence.signaled]


def _none_held(engine: Engine, what: str) -> None:
    """lockdep_assert_none_held_once: user space decides how long this takes (INV-FEN-09)."""
    might_wait_for_user(engine, what)
    task = engine.current
    assert task is not None
    if task.thread.held:
        held = ", ".join(lock.name for lock in task.thread.held)
        raise PropertyFailed("lockdep", "INV-FEN-09", f"{task.id} waits for a submission while it holds {held}")


async def wait_array(
    engine: Engine,
    syncobjs: Sequence[Syncobj],
    points: Sequence[int] | None = None,
    flags: WaitFlags = NO_FLAGS,
    timeout: int = MAX_SCHEDULE_TIMEOUT,
    deadline: int | None = None,
) -> tuple[int, int]:
    """(time left, index of the first that is over); points default to 0, a binary syncobj.

    -EINVAL without syncobjs, or when something is not submitted and is not to be waited for; -ETIME;
    -ERESTARTSYS.  The caller holds references on the syncobjs until it is back.
    """
    if not syncobjs:
        raise EINVAL
    might_wait(engine, "syncobjs")
    if flags & _UNSUBMITTED:
        _none_held(engine, syncobjs[0].name)
    wait = SyncobjWait(engine, syncobjs, points if points is not None else [0] * len(syncobjs), flags)
    return await wait.run(timeout, deadline)


async def find_fence(syncobj: Syncobj, point: int = 0, *, for_submit: bool = False) -> Fence:
    """drm_syncobj_find_fence: what an ioctl takes as in-fence; owned by the caller.

    A snapshot: later contents do not matter.  -EINVAL when nothing was submitted; with ``for_submit`` it
    waits for that first, 5 s at most.  -ETIME, -ERESTARTSYS.
    """
    engine = syncobj.engine
    if for_submit:
        _none_held(engine, syncobj.name)
    await engine.step("read", syncobj)
    try:
        return syncobj.lookup_point(point)
    except EINVAL:
        if not for_submit:
            raise
    return await SyncobjWait(engine, [syncobj], [point], WaitFlags.AVAILABLE).submitted(SUBMIT_TIMEOUT)
