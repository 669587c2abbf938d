"""Interval notifiers and the start/end contract, exactly as core_mm section 6 states them.

``MmuNotifierSubscriptions`` is a shared kernel object of one mm: its spinlock sections contain no
op, so they are atomic here, and each one is announced by the op before it.

Two-pass subscriptions are part of the protocol from the start (6, "Two-pass").
Plain notifiers come after the interval tree (:mod:`svm_actors.mm.plain_notifier`); no driver here registers one.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EAGAIN, EINVAL, EOVERFLOW
from svm_actors.engine.locks import CollisionSeq
from svm_actors.engine.signalling import INVALIDATE_START, LockMap, might_wait_for_notifier
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.plain_notifier import MmuNotifier, PlainList

if TYPE_CHECKING:
    from svm_actors.mm.mm_struct import Mm


NON_BLOCK: Final = "non_block"
"""The class that stands for "must not sleep": drivers order it after the locks their callbacks take."""


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
    rmap: bool = attrs.field(default=False, repr=False)
    """Raised for a page and not for an address: reclaim and migration walk to its mappings without mmap_lock."""


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
        self.plain = engine.parts.of(PlainList)(engine)
        """Those who are told of everything, after the tree."""
        self.tree: list[IntervalNotifier] = []
        """Subscriptions in insertion order of equal starts, sorted by start."""
        self.deferred: list[IntervalNotifier] = []
        self.calling: list[IntervalNotifier] = []
        """Subscriptions in a first pass now, once per call, for oracles."""
        self.finishing: list[SecondPass] = []
        """Second passes that are outstanding."""
        self.migrating: list[NotifierRange] = []
        """Regions of migrations that have begun and not ended."""
        self.made = False
        """Somebody has subscribed: until then an address space has none of this."""
        self.context = LockMap(engine, f"{name}.{INVALIDATE_START}", INVALIDATE_START)
        """What callbacks run inside of, for lock order."""
        self.non_block = LockMap(engine, f"{name}.{NON_BLOCK}", NON_BLOCK)
        """And inside of that, if the event is not blockable."""

    async def section(self, what: str) -> None:
        """The spinlock: what follows up to the next op is one section."""
        await self.engine.step("seq_write", self, what)

    # -- writers ---------------------------------------------------------------------

    def _matching(self, event: NotifierRange) -> list[IntervalNotifier]:
        return [sub for sub in self.tree if sub.overlaps(event.start, event.end)]

    async def invalidate_range_start(self, event: NotifierRange) -> None:
        """mmu_notifier_invalidate_range_start.  -EAGAIN only from a non-blockable start."""
        await self.section(event.event.value)
        matching = self._matching(event)
        current = self.sequence.begin(bool(matching))
        self.note_migration(event)
        self.engine.emit(InvalidateStarted(event, current))
        if matching and not await self._call(matching, event, current):
            await self._end()
            self.engine.emit(InvalidateEnded(event))
            raise EAGAIN
        if self.plain.members and not await self.plain.start(event):
            await self.end_tree_side(event)
            raise EAGAIN
        self.engine.emit(InvalidateReturned(event))

    def note_migration(self, event: NotifierRange) -> None:
        """MM-R21: what begins inside the region of a migration is an event of its own, whoever migrates."""
        if event.event is Event.MIGRATE:
            self.migrating.append(event)
        elif any(region.start < event.end and event.start < region.end for region in self.migrating):
            self.engine.count("MM-R21")

    async def end_tree_side(self, event: NotifierRange) -> None:
        """MM-B32: a plain notifier has refused; who asked gets -EAGAIN and calls no end.  7.3.4 has not got this."""
        await self._end()
        self.engine.emit(InvalidateEnded(event))

    async def _call(self, matching: list[IntervalNotifier], event: NotifierRange, current: int) -> bool:
        """All callbacks, then all second passes; False: somebody refused.

        Reclaim gets here, and whoever waits for a fence may be what reclaim waits for: so a callback must
        not allocate, and must not take what is held over an allocation (vm_bind section 2).
        """
        self.context.touch()
        with self.context.inside(), self.blocking(event):
            queued: list[SecondPass] = []
            refused = False
            for sub in matching:
                self.calling.append(sub)
                answer = await sub.ops.invalidate(sub, event, current)
                self.calling.remove(sub)
                if answer is False:
                    if event.blockable:
                        continue
                    refused = True
                    break
                if answer is not True:
                    queued.append(SecondPass(sub, answer, event, current))
                    self.finishing.append(queued[-1])
                    self.engine.emit(FinishQueued(queued[-1]))
            await self.finish_all(queued, refused)
        return not refused

    def blocking(self, event: NotifierRange) -> AbstractContextManager[None]:
        """SVM-R32, non_block_start: who answers an event that is not blockable may take no lock that sleeps."""
        return nullcontext() if event.blockable else self.non_block.inside()

    async def finish_all(self, queued: list[SecondPass], refused: bool) -> None:
        """MM-R30, MM-R31: every second pass, in order, after a refusal too, and before the start returns or the
        period ends (INV-38, MM-B66)."""
        for item in queued:
            self.engine.count("MM-R31" if refused else "MM-R30")
            await item.finish.finish()
            self.finishing.remove(item)
            self.engine.emit(FinishDone(item))

    async def invalidate_range_end(self, event: NotifierRange) -> None:
        """mmu_notifier_invalidate_range_end: the last overlapping end opens the even period."""
        await self._end()
        if event in self.migrating:
            self.migrating.remove(event)
        if self.plain.members:
            await self.plain.end(event)
        self.engine.emit(InvalidateEnded(event))

    async def _end(self) -> None:
        await self.section("end")
        await self.open_even_period()

    async def open_even_period(self) -> None:
        """The last end: the new value and what was put off until then appear at once (INV-21, MM-B05).

        Until then all who were hit by any of the overlapping regions sleep (MM-R04).
        """
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

    async def register(self, notifier: MmuNotifier, mm: Mm) -> None:
        """mmu_notifier_register: mmap_lock for write keeps a start and its end from being torn apart."""
        await mm.mmap_write_lock()
        self.plain.members.append(notifier)
        mm.mmap_write_unlock()

    def _insert_now(self, sub: IntervalNotifier) -> None:
        at = len(self.tree)
        while at and self.tree[at - 1].start > sub.start:
            at -= 1
        self.tree.insert(at, sub)
        sub.subscribed = True

    async def insert(self, sub: IntervalNotifier, mm: Mm, start: int, npages: int) -> None:
        """mmu_interval_notifier_insert.

        -EOVERFLOW on an empty or wrapping range, -EINVAL on a dead mm, -ENOMEM for the first of an address space.
        """
        if npages <= 0 or start + npages > TASK_PAGES << 1:
            raise EOVERFLOW
        await self.section(f"insert {sub.name}")
        if mm.users <= 0:
            raise EINVAL
        if not self.made:
            self.engine.faults.fail("memory")
            self.made = True
        sub.mm, sub.start, sub.last = mm, start, start + npages - 1
        mm.grab()
        self.insert_locked(sub)

    def insert_locked(self, sub: IntervalNotifier) -> None:
        """MM-R05, the part under the spinlock: now, deferred while the tree is frozen (MM-B52), or now with an
        assumed invalidation."""
        sequence = self.sequence
        if not sequence.active:
            sub.seq = sequence.value - 1
            self._insert_now(sub)
        elif sequence.value & 1:
            self.deferred.append(sub)
            sub.seq = self.seq_of_deferred()
            self.engine.count("MM-R05")
        else:
            sequence.value |= 1
            self._insert_now(sub)
            sub.seq = sequence.value

    def seq_of_deferred(self) -> int:
        """MM-R05: this period brings the subscription no callback, so its readers wait until it is over."""
        return self.sequence.value

    async def remove(self, sub: IntervalNotifier) -> None:
        """mmu_interval_notifier_remove: afterwards no callback of ``sub`` runs or starts (INV-22)."""
        await self.section(f"remove {sub.name}")
        wait_for = self.detach(sub)
        if wait_for is not None:
            await self.wait_removed(wait_for)
        self.engine.emit(NotifierRemoved(sub))
        assert sub.mm is not None
        sub.mm.drop()

    def detach(self, sub: IntervalNotifier) -> int | None:
        """Out of the tree; in an odd period, when callbacks may be under way, it is put off (MM-R06).

        Answers the value to wait past then.
        """
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
            if any(item.notifier is sub for item in self.finishing):
                self.engine.count("MM-R33")
        return wait_for

    async def wait_removed(self, value: int) -> None:
        """MM-B05, MM-R33: past the odd period, as those see it who take the lock: the deferred list is done by then."""
        await self.sequence.wait_past(value)

    # -- readers ---------------------------------------------------------------------

    async def read_begin(self, sub: IntervalNotifier) -> int:
        """MM-R04: sleep while ``sub`` is inside an odd period that hit it (MM-B51); deliberately does not loop."""
        might_wait_for_notifier(self.engine, sub.name)
        await self.engine.step("seq_read", self, sub.name)
        seen = sub.seq
        if seen == self.sequence.value:
            self.engine.count("MM-R04")
            await self.sequence.wait_past(seen)
        return seen


@attrs.frozen(eq=False)
class SecondPass:
    """One use of a finish object."""

    notifier: IntervalNotifier
    """Whose it is."""
    finish: FinishObject
    """What the first pass answered."""
    range: NotifierRange
    """The event."""
    seq: int
    """Sequence value handed to the first pass."""


@attrs.frozen
class FinishQueued:
    """Emitted when a first pass has left work to a second one."""

    item: SecondPass
    """Which."""


@attrs.frozen
class FinishDone:
    """Emitted when a second pass is through."""

    item: SecondPass
    """Which."""


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


@attrs.frozen
class NotifierRemoved:
    """Emitted when a remove is about to return: the owner frees the subscription now (INV-22)."""

    notifier: IntervalNotifier
    """The subscription."""
