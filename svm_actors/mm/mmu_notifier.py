"""Interval notifiers and the start/end contract, exactly as core_mm section 6 states them.

``MmuNotifierSubscriptions`` is a shared kernel object of one mm: its spinlock sections contain no
op, so they are atomic here, and each one is announced by the op before it.

Two-pass subscriptions are part of the protocol from the start (6, "Two-pass").
Simplified: no plain-list notifiers; no user of the model registers one.
"""

from __future__ import annotations

from collections.abc import Coroutine
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EAGAIN, EINVAL, EOVERFLOW
from svm_actors.engine.locks import CollisionSeq
from svm_actors.engine.signalling import INVALIDATE_START, LockMap, might_wait_for_notifier
from svm_actors.mm.constants import TASK_PAGES

if TYPE_CHECKING:
    from svm_actors.mm.mm_struct import Mm


class Event(Enum):
    """enum mmu_notifier_event."""

    UNMAP = "UNMAP"
    CLEAR = "CLEAR"
    PROTECTION_VMA = "PROTECTION_VMA"
    PROTECTION_PAGE = "PROTECTION_PAGE"
    SOFT_DIRTY = "SOFT_DIRTY"
    RELEASE = "RELEASE"
    MIGRATE = "MIGRATE"
    EXCLUSIVE = "EXCLUSIVE"


@attrs.frozen
class NotifierRange:
    """struct mmu_notifier_range, in pages."""

    mm: Mm
    """The address space whose entries change."""
    event: Event
    """Why."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
    owner: object = None
    """Meaningful only for MIGRATE and EXCLUSIVE: test the event first (MM-B61)."""
    blockable: bool = True
    """False: the callback must not sleep and may refuse with False."""


class FinishObject(Protocol):
    """Second pass of a two-pass callback."""

    async def finish(self) -> None:
        """Wait for what the first pass started."""
        ...


class IntervalOps(Protocol):
    """Callbacks of a subscription."""

    def invalidate(
        self, notifier: IntervalNotifier, event: NotifierRange, seq: int
    ) -> Coroutine[Any, Any, bool | FinishObject]:
        """Retire every device translation in the range; True when done, False to refuse.

        A two-pass subscriber returns a finish object instead of True.
        """
        ...


class IntervalNotifier:
    """struct mmu_interval_notifier: one subscription over [start, last] pages."""

    __slots__ = ("last", "mm", "name", "ops", "seq", "start", "subscribed")

    def __init__(self, name: str, ops: IntervalOps) -> None:
        self.name = name
        self.ops = ops
        self.mm: Mm | None = None
        self.start = 0
        self.last = -1
        self.seq = 0
        self.subscribed = False

    def overlaps(self, start: int, end: int) -> bool:
        """True when [start, end) touches the subscription."""
        return self.start < end and start <= self.last

    async def read_begin(self) -> int:
        """mmu_interval_read_begin: sleep while this subscription is being invalidated."""
        assert self.mm is not None
        return await self.mm.subscriptions.read_begin(self)

    def read_retry(self, seq: int) -> bool:
        """mmu_interval_read_retry: True when the walk is stale; call under the user lock."""
        return self.seq != seq

    def check_retry(self, seq: int) -> bool:
        """Lockless hint: True is reliable, False is not."""
        return self.seq != seq

    def set_seq(self, current: int) -> None:
        """mmu_interval_set_seq: from the callback, under the user lock."""
        self.seq = current


class MmuNotifierSubscriptions:
    """Per-mm notifier state."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.sequence = CollisionSeq(engine, f"{name}.wq")
        self.tree: list[IntervalNotifier] = []
        """Subscriptions in insertion order of equal starts, sorted by start."""
        self.deferred: list[IntervalNotifier] = []
        self.context = LockMap(engine, f"{name}.{INVALIDATE_START}", INVALIDATE_START)
        """What callbacks run inside of, for lock order."""

    # -- writers ---------------------------------------------------------------------

    def _matching(self, event: NotifierRange) -> list[IntervalNotifier]:
        return [sub for sub in self.tree if sub.overlaps(event.start, event.end)]

    async def invalidate_range_start(self, event: NotifierRange) -> None:
        """mmu_notifier_invalidate_range_start.  -EAGAIN only from a non-blockable start."""
        await self.engine.step("seq_write", self, event.event.value)
        matching = self._matching(event)
        current = self.sequence.begin(bool(matching))
        self.engine.emit(InvalidateStarted(event, current))
        if matching and not await self._call(matching, event, current):
            await self._end()
            self.engine.emit(InvalidateEnded(event))
            raise EAGAIN
        self.engine.emit(InvalidateReturned(event))

    async def _call(self, matching: list[IntervalNotifier], event: NotifierRange, current: int) -> bool:
        """All callbacks, then all second passes; False: somebody refused.

        Reclaim gets here, and whoever waits for a fence may be what reclaim waits for: so a callback must
        not allocate, and must not take what is held over an allocation (vm_bind section 2).
        """
        self.context.touch()
        with self.context.inside():
            finish: list[FinishObject] = []
            refused = False
            for sub in matching:
                answer = await sub.ops.invalidate(sub, event, current)
                if answer is False:
                    if event.blockable:
                        continue
                    refused = True
                    break
                if answer is not True:
                    finish.append(answer)
            for item in finish:
                await item.finish()
        return not refused

    async def invalidate_range_end(self, event: NotifierRange) -> None:
        """mmu_notifier_invalidate_range_end: the last overlapping end opens the even period."""
        await self._end()
        self.engine.emit(InvalidateEnded(event))

    async def _end(self) -> None:
        await self.engine.step("seq_write", self, "end")
        if self.sequence.end():
            for sub in self.deferred:
                if sub.subscribed:
                    sub.subscribed = False
                    self.tree.remove(sub)
                else:
                    self._insert_now(sub)
            self.deferred.clear()
            self.sequence.wake()

    # -- subscriptions ---------------------------------------------------------------

    def _insert_now(self, sub: IntervalNotifier) -> None:
        at = len(self.tree)
        while at and self.tree[at - 1].start > sub.start:
            at -= 1
        self.tree.insert(at, sub)
        sub.subscribed = True

    async def insert(self, sub: IntervalNotifier, mm: Mm, start: int, npages: int) -> None:
        """mmu_interval_notifier_insert.  -EOVERFLOW on an empty or wrapping range, -EINVAL on a dead mm."""
        if npages <= 0 or start + npages > TASK_PAGES << 1:
            raise EOVERFLOW
        await self.engine.step("seq_write", self, f"insert {sub.name}")
        if mm.users <= 0:
            raise EINVAL
        sub.mm, sub.start, sub.last = mm, start, start + npages - 1
        mm.grab()
        self.insert_locked(sub)

    def insert_locked(self, sub: IntervalNotifier) -> None:
        """The part under the spinlock: now, deferred, or now with an assumed invalidation."""
        sequence = self.sequence
        if not sequence.active:
            sub.seq = sequence.value - 1
            self._insert_now(sub)
        elif sequence.value & 1:
            self.deferred.append(sub)
            sub.seq = sequence.value
            self.engine.count("MM-R05")
        else:
            sequence.value |= 1
            self._insert_now(sub)
            sub.seq = sequence.value

    async def remove(self, sub: IntervalNotifier) -> None:
        """mmu_interval_notifier_remove: afterwards no callback of ``sub`` runs or starts (INV-22)."""
        await self.engine.step("seq_write", self, f"remove {sub.name}")
        sequence = self.sequence
        wait_for = None
        if not sequence.value & 1:
            self.tree.remove(sub)
            sub.subscribed = False
        elif not sub.subscribed:
            self.deferred.remove(sub)
        else:
            self.deferred.append(sub)
            wait_for = sequence.value
            self.engine.count("MM-R06")
        if wait_for is not None:
            await sequence.wait_past(wait_for)
        assert sub.mm is not None
        sub.mm.drop()

    # -- readers ---------------------------------------------------------------------

    async def read_begin(self, sub: IntervalNotifier) -> int:
        """Sleep while ``sub`` is inside an odd period that hit it; deliberately does not loop."""
        might_wait_for_notifier(self.engine, sub.name)
        await self.engine.step("seq_read", self, sub.name)
        seen = sub.seq
        if seen == self.sequence.value:
            self.engine.count("MM-R04")
            await self.sequence.wait_past(seen)
        return seen


@attrs.frozen
class InvalidateStarted:
    """Emitted when a start has been counted, before any callback."""

    range: NotifierRange
    """The event."""
    seq: int
    """Sequence value handed to the callbacks."""


@attrs.frozen
class InvalidateReturned:
    """Emitted when every callback has returned: no device may hold a translation now (INV-01)."""

    range: NotifierRange
    """The event."""


@attrs.frozen
class InvalidateEnded:
    """Emitted at the end of a region."""

    range: NotifierRange
    """The event."""
