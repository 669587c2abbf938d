"""drm_gpusvm, the structure: locks, trees and the notifier callback (gpusvm sections 1.1, 1.7, 2).

One gpusvm per GPU VM, bound to one address space; it is an actor whose only message is ``Invalidate``,
sent by the core MM in the thread of whoever changes the address space.  Everything else is called by
the driver in its own thread, under the driver's lock.

The notifier lock is taken for write by callbacks alone and for read by everyone else, even to change
the trees: two such readers are kept apart by the driver's lock.  It protects range trees, pages-valid
state, GPU page-table entries and sequences, and nothing else (RULE-14).

Simplified: full mode only; the simple mode without an address space belongs to userptr.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import attrs
from sortedcontainers import SortedDict

from svm_actors.drm.gpusvm_range import GpusvmNotifier, GpusvmRange
from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, EngineError
from svm_actors.engine.lockdep import must_not_hold
from svm_actors.engine.locks import RwSem

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.mmu_notifier import NotifierRange


@attrs.frozen
class Invalidate(Message[bool]):
    """The MMU notifier callback: retire every device translation in the range before answering."""

    notifier: GpusvmNotifier
    """The subscription that matched."""
    range: NotifierRange
    """The event."""
    seq: int
    """Sequence value to store in the subscription."""


class GpusvmOps(Protocol):
    """drm_gpusvm_ops: what the driver does."""

    def range_alloc(self, gpusvm: DrmGpusvmBase) -> GpusvmRange:
        """A fresh range of the driver's kind.  -ENOMEM."""
        ...

    async def range_free(self, range_: GpusvmRange) -> None:
        """The last reference is gone; may take notifier_lock for read."""
        ...

    async def invalidate(self, notifier: GpusvmNotifier, event: NotifierRange) -> None:
        """Zap, flush, unmap; notifier_lock is held for write."""
        ...


class DrmGpusvmBase(Actor):
    """Fields, locks and the callback; the layers above add what a fault needs."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        core: CoreMm,
        mm: Mm,
        ops: GpusvmOps,
        *,
        mm_start: int,
        mm_range: int,
        notifier_pages: int,
        chunk_pages: tuple[int, ...],
        driver_lock: RwSem,
    ) -> None:
        super().__init__(engine, name)
        check_geometry(notifier_pages, chunk_pages)
        self.core = core
        self.mm = mm
        self.ops = ops
        self.mm_start = mm_start
        """First page the VM mirrors."""
        self.mm_range = mm_range
        """Number of pages it mirrors."""
        self.notifier_pages = notifier_pages
        """Span of one notifier, a power of two of pages."""
        self.chunk_pages = chunk_pages
        """Range sizes to choose from, descending powers of two, the last one a single page."""
        self.driver_lock = driver_lock
        """The driver's SVM lock: held for write around find, insert and remove."""
        self.notifier_lock = RwSem(engine, f"{name}.notifier_lock", "notifier_lock")
        self.root: SortedDict = SortedDict()
        """Notifiers by first page; protected by ``driver_lock`` alone."""
        mm.grab()
        self.handle(Invalidate, self._invalidate)

    # -- locks -----------------------------------------------------------------------

    def assert_driver_lock(self) -> None:
        """drm_gpusvm_driver_lock_held: the driver's lock is held for write."""
        if not self.driver_lock.held_for_write() and not self.engine.closing:
            raise EngineError(f"{self.driver_lock.name} must be held for write here")

    def assert_notifier_write(self) -> None:
        """Callbacks only."""
        if not self.notifier_lock.held_for_write() and not self.engine.closing:
            raise EngineError(f"{self.notifier_lock.name} must be held for write here")

    async def might_reclaim(self, what: str, kind: str = "memory") -> None:
        """SVM-R31: an allocation may enter reclaim and reclaim may take notifier_lock: never under it.  -ENOMEM."""
        task = self.engine.current
        assert task is not None
        must_not_hold(task.thread, ("notifier_lock",), f"memory for {what} is allocated")
        await self.engine.step("alloc", self, what)
        self.engine.faults.fail(kind)

    # -- notifiers -------------------------------------------------------------------

    def notifier_start(self, vpn: int) -> int:
        """First page of the notifier that covers a page."""
        return vpn & ~(self.notifier_pages - 1)

    def find_notifier(self, vpn: int) -> GpusvmNotifier | None:
        """drm_gpusvm_notifier_find, under the driver's lock."""
        found: GpusvmNotifier | None = self.root.get(self.notifier_start(vpn))
        return found

    def notifiers(self, start: int, end: int) -> list[GpusvmNotifier]:
        """Notifiers that touch [start, end), under the driver's lock."""
        return [self.root[key] for key in self.root.irange(self.notifier_start(start), end - 1)] if end > start else []

    def ranges(self, start: int, end: int) -> list[GpusvmRange]:
        """Ranges that touch [start, end), under the driver's lock."""
        return [found for notifier in self.notifiers(start, end) for found in notifier.overlapping(start, end)]

    def has_mapping(self, start: int, end: int) -> bool:
        """drm_gpusvm_has_mapping: any range overlaps."""
        return bool(self.ranges(start, end))

    # -- the callback ----------------------------------------------------------------

    async def invalidate(self, notifier: GpusvmNotifier, event: NotifierRange, seq: int) -> bool:
        """Entry from the core MM."""
        return await self.call(Invalidate(notifier, event, seq))

    async def _invalidate(self, message: Invalidate) -> bool:
        """drm_gpusvm_notifier_invalidate: sequence and driver callback under notifier_lock for write."""
        if self.refuses(message.range):
            return False
        notifier = message.notifier
        async with self.notifier_lock.writing():
            self.engine.count("gpu.invalidate")
            if self.root.get(notifier.start) is not notifier:
                self.engine.count("SVM-R06")
            self.store_sequence(message)
            await self.ops.invalidate(notifier, message.range)
        return True

    def refuses(self, event: NotifierRange) -> bool:
        """SVM-R32: a caller that must not sleep is sent away, as notifier_lock may have to be waited for (SVM-B55)."""
        if event.blockable:
            return False
        self.engine.count("SVM-R32")
        return True

    def store_sequence(self, message: Invalidate) -> None:
        """SVM-R01: every walk that began before this event becomes stale.

        SVM-R06: also when the notifier is in no tree yet: those who read the sequence next wait for the end.
        """
        message.notifier.interval.set_seq(message.seq)

    def statistics(self) -> dict[str, int]:
        """All 0 after :meth:`fini`."""
        return {
            "notifiers": len(self.root),
            "ranges": sum(len(notifier.ranges) for notifier in self.root.values()),
        }


def check_geometry(notifier_pages: int, chunk_pages: tuple[int, ...]) -> None:
    """-EINVAL unless the sizes are powers of two, descending, the last one page, none above a notifier."""
    sizes = (notifier_pages, *chunk_pages)
    if not chunk_pages or any(size <= 0 or size & (size - 1) for size in sizes):
        raise EINVAL
    if chunk_pages[-1] != 1 or chunk_pages[0] > notifier_pages:
        raise EINVAL
    if any(later >= earlier for earlier, later in pairwise(chunk_pages)):
        raise EINVAL
