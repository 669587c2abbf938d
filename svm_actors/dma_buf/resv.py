"""dma_resv: the fences of a buffer, each with what it was used for (fences_and_scheduler section 3).

Writers hold a ww mutex; readers may look without it.  Asking for a usage yields every fence of that
usage and of the stronger ones: KERNEL < WRITE < READ < BOOKKEEP.

A fence can only be added to a slot that was reserved before, since adding may not fail (INV-FEN-04).
The reservation is void after unlock: the capacity shrinks to what is used, as in debug kernels, so
whoever relies on an old one is found out.

Simplified: a slot is written in one step (FEN-R09 cannot happen).  The array is a Python object that
nobody frees under a reader; a reader notices all the same that it was replaced (FEN-R10).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from svm_actors.dma_buf.events import FenceAdded, FencesReplaced, publish
from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_memory import FenceMemory, allocate
from svm_actors.dma_buf.seqno import is_later_or_same, same_context
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, EngineError, PropertyFailed
from svm_actors.engine.signalling import prime
from svm_actors.engine.ww_mutex import WwClass, WwCtx, WwMutex

RESERVATION_WW_CLASS: Final = WwClass("reservation_ww_class", "wait-die")
"""The class of all reservations."""

RESV_LOCK_CLASS: Final = "dma_resv"
"""What lock order calls them."""

MIN_SLOTS: Final = 4

RULE: Final = "INV-FEN-04"


class Usage(IntEnum):
    """dma_resv_usage: what a fence in a reservation is there for, strongest first."""

    KERNEL = 0
    """Moves and clears: everybody waits."""
    WRITE = 1
    """Implicitly synchronised writers."""
    READ = 2
    """Implicitly synchronised readers."""
    BOOKKEEP = 3
    """Memory management only: preemption, page tables, explicitly synchronised jobs."""


def usage_rw(write: bool) -> Usage:
    """dma_resv_usage_rw: what an implicitly synchronised access has to wait for."""
    return Usage.READ if write else Usage.WRITE


class Slot(NamedTuple):
    """One entry."""

    fence: Fence
    usage: Usage


class FenceList:
    """dma_resv_list: the array readers look at; replaced as a whole when it has to grow."""

    __slots__ = ("max_fences", "slots")

    def __init__(self, max_fences: int, slots: Sequence[Slot] = ()) -> None:
        self.slots = list(slots)
        self.max_fences = max_fences
        """How many there may be: those that are there and those reserved."""


class DmaResv:
    """dma_resv.  Lock, reserve, add, unlock."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        memory: FenceMemory | None = None,
        ww_class: WwClass = RESERVATION_WW_CLASS,
    ) -> None:
        self.engine = engine
        self.name = name
        self.memory = memory
        self.ww = WwMutex(engine, f"{name}.resv", ww_class, RESV_LOCK_CLASS)
        self.fences = FenceList(0)
        """The current array."""
        prime(engine)

    # -- the lock ----------------------------------------------------------------------------

    async def lock(self, ctx: WwCtx | None = None) -> None:
        """dma_resv_lock.  -EDEADLK, -EALREADY with a context."""
        await self.ww.lock(ctx)

    async def lock_interruptible(self, ctx: WwCtx | None = None) -> None:
        """The same; -EINTR when a signal ends the sleep."""
        await self.ww.lock(ctx, interruptible=True)

    async def lock_slow(self, ctx: WwCtx, *, interruptible: bool = False) -> None:
        """dma_resv_lock_slow: after -EDEADLK, with nothing held.  -EINTR."""
        await self.ww.lock_slow(ctx, interruptible=interruptible)

    async def trylock(self) -> bool:
        """dma_resv_trylock."""
        return await self.ww.trylock()

    def unlock(self) -> None:
        """dma_resv_unlock: also ends every reservation of slots."""
        if self.ww.held_by_me():
            self.fences.max_fences = len(self.fences.slots)
        self.ww.unlock()

    release = unlock

    def is_locked(self) -> bool:
        """Somebody holds it."""
        return bool(self.ww.holders())

    def assert_held(self) -> None:
        """dma_resv_assert_held."""
        self.ww.assert_held()

    # -- writing -----------------------------------------------------------------------------

    def reserve(self, n: int) -> None:
        """dma_resv_reserve_fences: room for ``n`` more, until unlock.  -EINVAL for none; -ENOMEM.

        Not cumulative: asking twice for one slot gives one.
        """
        self.assert_held()
        if n <= 0:
            raise EINVAL
        old = self.fences
        wanted = len(old.slots) + n
        if wanted <= old.max_fences:
            return
        room = self.room_for(n, wanted)
        allocate(self.engine, self.memory, "fence slots")
        kept: list[Slot] = []
        gone: list[Slot] = []
        for slot in old.slots:
            (gone if slot.fence.is_signaled() else kept).append(slot)
        self.fences = FenceList(room, kept)
        for slot in gone:
            slot.fence.put()

    def room_for(self, n: int, wanted: int) -> int:
        """FEN-B04: never less than what was asked for, also the first time."""
        old = self.fences.max_fences
        return max(wanted, old * 2) if old else max(MIN_SLOTS, _power_of_two(n))

    def add(self, fence: Fence, usage: Usage) -> None:
        """dma_resv_add_fence: takes a reference; cannot fail, so it needs a reserved slot."""
        self.assert_held()
        if fence.container:
            raise PropertyFailed("resv", RULE, f"{fence.name}, a container, is added to {self.name}")
        self.hold(fence)
        publish(self.engine, fence, self.ww.name)
        self._put_into_slot(fence, usage)
        if self.engine.listeners:
            self.engine.emit(FenceAdded(self, fence, usage))

    def hold(self, fence: Fence) -> None:
        """FEN-B29: a reference of its own, since whoever adds a fence may drop his before it is signaled."""
        fence.get()

    def _put_into_slot(self, fence: Fence, usage: Usage) -> None:
        slots = self.fences.slots
        for index, old in enumerate(slots):
            if self.may_replace(old, fence, usage):
                slots[index] = Slot(fence, usage)
                old.fence.put()
                return
        if len(slots) >= self.fences.max_fences:
            text = f"{fence.name} is added to {self.name}, which has no slot reserved (capacity {len(slots)})"
            raise PropertyFailed("resv", RULE, text)
        slots.append(Slot(fence, usage))

    @staticmethod
    def may_replace(old: Slot, fence: Fence, usage: Usage) -> bool:
        """Nobody loses by it: the old one is done, or is earlier on the same timeline and no stronger.

        Without the look at which one is later the newer fence would be lost (FEN-B01).
        """
        if old.fence.is_signaled():
            return True
        return old.usage >= usage and same_context(old.fence, fence) and is_later_or_same(fence, old.fence)

    def replace(self, context: int, replacement: Fence, usage: Usage) -> None:
        """dma_resv_replace_fences: one fence for all of a context.

        Only right when, once it is signaled, the work behind the old ones has no access any more.
        """
        self.assert_held()
        publish(self.engine, replacement, self.ww.name)
        slots = self.fences.slots
        for index, old in enumerate(slots):
            if old.fence.context == context:
                slots[index] = Slot(replacement.get(), usage)
                old.fence.put()
        if self.engine.listeners:
            self.engine.emit(FencesReplaced(self, context))

    # -- reading, locked ---------------------------------------------------------------------

    def entries(self, usage: Usage = Usage.BOOKKEEP) -> list[Slot]:
        """Slots up to this usage, signaled ones too; under the lock."""
        self.assert_held()
        return [slot for slot in self.fences.slots if slot.usage <= usage]

    def iter(self, usage: Usage) -> list[Fence]:
        """dma_resv_for_each_fence: their fences."""
        return [slot.fence for slot in self.entries(usage)]

    def get_fences(self, usage: Usage) -> list[Fence]:
        """dma_resv_get_fences: those unsignaled, each with a reference for the caller.  -ENOMEM."""
        allocate(self.engine, self.memory, "fence list")
        return [fence.get() for fence in self.unsignaled(usage)]

    def get_singleton(self, usage: Usage) -> Fence | None:
        """dma_resv_get_singleton: one fence for all of them, None without any.  -ENOMEM."""
        fences = self.get_fences(usage)
        if len(fences) < 2:
            return fences[0] if fences else None
        return self.engine.parts.of(FenceArray)(self.engine, f"{self.name}.singleton", fences, memory=self.memory)

    def copy_fences(self, source: DmaResv) -> None:
        """dma_resv_copy_fences: this one's fences become those of ``source``; under this lock.  -ENOMEM."""
        self.assert_held()
        allocate(self.engine, self.memory, "fence slots")
        slots = [slot for slot in source.fences.slots if not slot.fence.is_signaled()]
        for slot in slots:
            slot.fence.get()
        old, self.fences = self.fences, FenceList(len(slots), slots)
        for slot in old.slots:
            slot.fence.put()

    # -- reading, without the lock ---------------------------------------------------------------

    def unsignaled(self, usage: Usage) -> list[Fence]:
        """Fences up to this usage not signaled now, in one look; no references."""
        return [slot.fence for slot in self.fences.slots if slot.usage <= usage and not slot.fence.is_signaled()]

    def test_signaled(self, usage: Usage) -> bool:
        """dma_resv_test_signaled: no unsignaled fence up to this usage; all are looked at (FEN-B03)."""
        return not self.unsignaled(usage)

    async def wait(self, usage: Usage, intr: bool = False, timeout: int = MAX_SCHEDULE_TIMEOUT) -> int:
        """dma_resv_wait_timeout: one fence after the other.

        The time left, at least 1; 0 when it is over; a timeout of 0 looks and does not sleep.
        -ERESTARTSYS.  A fence added meanwhile may be missed: only the lock, or a second gate such as a
        notifier sequence, makes "none is left" lasting (FEN-R11).
        """
        cursor = self.engine.parts.of(ResvCursor)(self, usage)
        left = self.time_for(timeout)
        try:
            while (fence := await cursor.next()) is not None:
                answer = await fence.wait_timeout(left, intr)
                if answer <= 0:
                    return answer
                left = answer if timeout else self.time_for(timeout)
        finally:
            cursor.end()
        if not self.test_signaled(usage):
            self.engine.count("FEN-R11")
        return max(1, left)

    @staticmethod
    def time_for(timeout: int) -> int:
        """FEN-B02: a timeout of 0 stays 0 for every fence: a poll never sleeps."""
        return timeout

    async def set_deadline(self, usage: Usage, deadline: int) -> None:
        """dma_resv_set_deadline: pass the hint on."""
        cursor = self.engine.parts.of(ResvCursor)(self, usage)
        while (fence := await cursor.next()) is not None:
            fence.set_deadline(deadline)

    def fini(self) -> None:
        """dma_resv_fini: nobody can find it any more."""
        if self.is_locked() and not self.engine.closing:
            raise EngineError(f"{self.name} is destroyed while {self.ww.holders()[0].name} holds its lock")
        old, self.fences = self.fences, FenceList(0)
        for slot in old.slots:
            slot.fence.put()

    def statistics(self) -> dict[str, int]:
        """Slots in use and unsignaled fences."""
        return {"fences": len(self.fences.slots), "pending": len(self.unsignaled(Usage.BOOKKEEP))}


class ResvCursor:
    """dma_resv_iter, without the lock: unsignaled fences, each with a reference until the next one.

    Every step is an op, so writers come in between.  When the array was replaced it starts again:
    ``restarted`` says so, and whoever collects must forget what it has (FEN-R10).
    """

    __slots__ = ("_count", "_fence", "_index", "_list", "_started", "restarted", "resv", "usage")

    def __init__(self, resv: DmaResv, usage: Usage) -> None:
        self.resv = resv
        self.usage = usage
        self.restarted = True
        """The fence just answered is the first of a new walk."""
        self._started = False
        self._fence: Fence | None = None
        self._restart()

    def _restart(self) -> None:
        self._list = self.resv.fences
        self._count = len(self._list.slots)
        self._index = 0
        self.restarted = True

    async def next(self) -> Fence | None:
        """The next fence, None after the last."""
        engine = self.resv.engine
        await engine.step("read", self.resv)
        self.end()
        if not self._started:
            self._started = True
            self._restart()
        elif self.is_stale():
            engine.count("FEN-R10")
            self._restart()
        else:
            self.restarted = False
        return self._walk()

    def is_stale(self) -> bool:
        """FEN-R10: the array was replaced; what is in the old one may be dead, and newer fences are not there."""
        return self.resv.fences is not self._list

    def _walk(self) -> Fence | None:
        while self._index < self._count:
            fence, usage = self._list.slots[self._index]
            self._index += 1
            if fence.get_rcu() is None:
                raise PropertyFailed("lifetime", "FEN-R05", f"{fence.name} is dead, but still in {self.resv.name}")
            self._fence = fence
            if usage <= self.usage and not fence.is_signaled():
                return fence
            self.end()
        return None

    def end(self) -> None:
        """Drop the reference held; needed by whoever stops early."""
        if self._fence is not None:
            self._fence.put()
            self._fence = None


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
