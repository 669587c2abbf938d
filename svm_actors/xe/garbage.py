"""The garbage collector of dead ranges (gpusvm section 6.3).

An UNMAP event only marks a range and puts it on this list: the callback cannot change trees.  Whoever
holds vm->lock for write next, the work item or the first step of a fault, takes it apart: unbind (not
waited for), unmap for DMA, remove from the tree.  In that order, and before any lookup (RULE-17,
RULE-19).

A partly unmapped range is destroyed as a whole; smaller ones are built by later faults (SVM-R52), and
pages of it that are still in device memory stay there (SVM-S17).

Attributes of a vma that asks for it are reset when memory of it goes (:mod:`svm_actors.xe.autoreset`), which may
replace the vma: -EAGAIN (SVM-R24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EAGAIN, ENOENT, KernelError
from svm_actors.engine.locks import SpinLock, WaitQueue
from svm_actors.xe.svm_range import Link, XeSvmRange

if TYPE_CHECKING:
    from svm_actors.xe.svm_host import SvmHost


class GarbageCollector:
    """List and work item of one VM."""

    def __init__(self, vm: SvmHost) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.lock = SpinLock(vm.engine, f"{vm.name}.gc_lock", "gc_lock")
        self.ranges: list[XeSvmRange] = []
        self.emptied: list[tuple[int, int]] = []
        """Spans of ranges that were taken apart, and attributes not reset yet."""
        self.disabled = False
        self.running = False
        """The work item is at it."""
        self._queued = False
        self._started = False
        self._wake = WaitQueue(vm.engine, f"{vm.name}.gc_work")

    # -- adding ----------------------------------------------------------------------

    async def add(self, range_: XeSvmRange) -> None:
        """From the callback: list the range unless it looks linked, and queue the work."""
        async with self.lock:
            if self.is_linked(range_):
                return
            range_.link = Link.QUEUED
            self.ranges.append(range_)
        self._queue_work()

    def is_linked(self, range_: XeSvmRange) -> bool:
        """SVM-R05: a range on the list, or already taken off it, is not listed again (RULE-25, SVM-B43)."""
        if range_.link is Link.POPPED:
            self.engine.count("SVM-R05")
        return range_.link is not Link.UNLINKED

    def _queue_work(self) -> None:
        if self.disabled:
            return
        self._queued = True
        if not self._started:
            self._started = True
            self.engine.spawn(self._worker(), f"{self.vm.name}.gc", daemon=True)
        self._wake.wake_up()

    # -- collecting --------------------------------------------------------------------

    async def run(self) -> None:
        """xe_svm_garbage_collector.  -ENOENT closed or killed VM; a failing unbind kills the VM.

        -EAGAIN a vma was replaced; everything is collected all the same.
        """
        await self.collect()
        self.report(await self.reset_emptied())

    def report(self, replaced: bool) -> None:
        """SVM-R24: -EAGAIN to whoever may have a vma at hand that is not there any more (RULE-31, SVM-B51)."""
        if replaced:
            raise EAGAIN

    async def reset_emptied(self) -> bool:
        """Attributes end with their memory, where that was asked for; True when a vma was replaced."""
        replaced = False
        while self.emptied:
            replaced |= await self.vm.reset_attributes(*self.emptied.pop(0))
        return replaced

    async def collect(self) -> None:
        """All but the attributes.  -ENOENT closed or killed VM; a failing unbind kills the VM."""
        self.vm.assert_locked()
        if self.vm.closed:
            raise ENOENT
        while (range_ := await self._pop()) is not None:
            await self._collect(range_)
            self.emptied.append((range_.start, range_.end))

    async def _pop(self) -> XeSvmRange | None:
        """Plain deletion: the link keeps looking linked (RULE-25)."""
        if not self.ranges:
            return None
        async with self.lock:
            range_ = self.ranges.pop(0)
            range_.link = Link.POPPED
        return range_

    async def collect_now(self, range_: XeSvmRange) -> None:
        """A range that is to go whether its memory is gone or not; vm->lock held for write."""
        self.vm.assert_locked()
        async with self.lock:
            if range_.link is Link.QUEUED:
                self.ranges.remove(range_)
            range_.link = Link.POPPED
        await self._collect(range_)

    async def _collect(self, range_: XeSvmRange) -> None:
        """SVM-R52: the whole range, however little of it was unmapped (SVM-B60).

        SVM-R41, SVM-R48: unmapped while a callback still finds it, and taken off the tree after that (SVM-B34).
        Attributes belong to addresses and outlive their memory, unless their reset was asked for (SVM-B22).
        """
        vm = self.vm
        range_.must_live()
        try:
            await vm.pt.unbind_range(range_)
        except KernelError:
            vm.kill()
            raise
        await vm.svm.gpusvm.unmap_pages(range_.pages)
        if range_.flags.partial_unmap:
            self.engine.count("SVM-R52")
        await vm.svm.gpusvm.range_remove(range_)
        self.engine.count("gc.range")

    # -- the work item -----------------------------------------------------------------

    async def _worker(self) -> None:
        while True:
            await self._wake.wait_event(lambda: self._queued or self.disabled)
            if self.disabled:
                return
            self._queued = False
            self.running = True
            await self._work()
            self.running = False
            self._wake.wake_up()

    async def _work(self) -> None:
        self.vm.alive("the garbage collector, which holds no reference, works on")
        async with self.vm.lock.writing():
            try:
                await self.run()
            except KernelError as error:
                self.engine.count(f"gc.error.{error.code}")

    async def flush(self) -> None:
        """xe_svm_flush: the work item has done what was queued; without vm->lock, which it takes."""
        await self._wake.wait_event(lambda: self.disabled or not (self._queued or self.running))

    async def disable_sync(self) -> None:
        """SVM-R23: disable_work_sync, without vm->lock: nothing is queued or running afterwards (SVM-B14)."""
        if self._queued or self.running:
            self.engine.count("SVM-R23")
        self.disabled = True
        self._wake.wake_up()
        await self._wake.wait_event(lambda: not self.running)
