"""drm_gpusvm: the GPU's mirror of one CPU address space (gpusvm sections 1.1 and 3).

This file finds, creates and removes ranges.  The layers below it:
:mod:`gpusvm_base` (locks, trees, callback), :mod:`gpusvm_pages` (get and unmap pages),
:mod:`gpusvm_scan` (placement).

All of it runs under the driver's lock held for write; mmap_lock is taken for read only around the
look at the CPU VMA.  A new notifier subscribes before mmap_lock is taken and enters the tree with its
first range.
"""

from __future__ import annotations

from svm_actors.drm.gpusvm_base import GpusvmOps, Invalidate
from svm_actors.drm.gpusvm_pages import HMM_RANGE_DEFAULT_TIMEOUT, GpusvmPages, MmUser
from svm_actors.drm.gpusvm_range import GpusvmCtx, GpusvmNotifier, GpusvmRange, RangeFlags, set_unmapped
from svm_actors.drm.gpusvm_scan import DrmGpusvmPlacement, Scan
from svm_actors.engine.errors import EBUSY, EINVAL, EIO, ENOENT, ENOMEM, EPERM, EngineError, KernelError
from svm_actors.mm.constants import TASK_PAGES, Vm
from svm_actors.mm.hmm_types import Hmm
from svm_actors.mm.messages import HmmRangeFault, IntervalNotifierInsert, IntervalNotifierRemove
from svm_actors.mm.vma import Vma

__all__ = [
    "DrmGpusvm",
    "GpusvmCtx",
    "GpusvmNotifier",
    "GpusvmOps",
    "GpusvmPages",
    "GpusvmRange",
    "Invalidate",
    "RangeFlags",
    "Scan",
    "set_unmapped",
]

ULONG_MAX_PAGE = TASK_PAGES << 1
"""What :meth:`DrmGpusvm.find_vma_start` answers when there is no VMA."""


class DrmGpusvm(DrmGpusvmPlacement):
    """The actor of one GPU VM."""

    # -- find or insert --------------------------------------------------------------

    async def range_find_or_insert(self, vpn: int, gpuva_start: int, gpuva_end: int, ctx: GpusvmCtx) -> GpusvmRange:
        """drm_gpusvm_range_find_or_insert: the range covering a page inside GPU VMA [gpuva_start, gpuva_end).

        -EINVAL outside the mirror or no chunk fits; -EFAULT mm dying; -ENOENT no CPU VMA; -EPERM it is
        read-only; -EIO device memory of a driver; -ENOMEM.
        """
        self.assert_driver_lock()
        if not self.mm_start <= vpn <= self.mm_start + self.mm_range:
            raise EINVAL
        async with MmUser(self, self.mm):
            notifier = self.find_notifier(vpn)
            fresh = notifier is None
            if notifier is None:
                notifier = await self._new_notifier(vpn)
            try:
                return await self._find_in(notifier, fresh, vpn, gpuva_start, gpuva_end, ctx)
            except KernelError:
                if fresh:
                    await self.core.call(IntervalNotifierRemove(notifier.interval))
                raise

    async def _new_notifier(self, vpn: int) -> GpusvmNotifier:
        """Subscribe; the notifier enters the tree only with its first range (SVM-R06)."""
        await self.might_reclaim("notifier")
        start = self.notifier_start(vpn)
        notifier = GpusvmNotifier(self, start, start + self.notifier_pages)
        await self.core.call(IntervalNotifierInsert(notifier.interval, self.mm, start, self.notifier_pages))
        return notifier

    async def _find_in(
        self, notifier: GpusvmNotifier, fresh: bool, vpn: int, gpuva_start: int, gpuva_end: int, ctx: GpusvmCtx
    ) -> GpusvmRange:
        """Steps 4 to 7 under mmap_lock."""
        async with self.mm.mmap_lock.reading():
            vma = self.check_vma(vpn, ctx)
            found = notifier.find(vpn)
            if found is not None:
                if found.flags.unmapped:
                    self.engine.count("SVM-R04")
                self.note_split(found, vma)
                return found
            bounds = (max(gpuva_start, notifier.start), min(gpuva_end, notifier.end))
            npages = await self.choose_chunk(notifier, vma, vpn, bounds, ctx)
            return await self._insert(notifier, fresh, vma, vpn & ~(npages - 1), npages, ctx)

    def check_vma(self, vpn: int, ctx: GpusvmCtx) -> Vma:
        """SVM-R53: memory that can never be mapped ends the fault here, not in a retry (SVM-B33).

        The CPU is asked, not the events there have been: MREMAP_DONTUNMAP leaves a VMA behind (MM-R27, MM-B71).
        Note what is not tested: whether the VMA may be read, and whether an existing range still fits
        into one VMA (SVM-S01).
        """
        vma = self.mm.find_vma(vpn)
        error: KernelError | None = None
        if vma is None:
            error = ENOENT()
        elif not ctx.read_only and not vma.flags & Vm.WRITE:
            error = EPERM()
        elif vma.flags & (Vm.IO | Vm.PFNMAP):
            error = EIO()
        if error is not None or vma is None:
            self.engine.count("SVM-R53")
            raise error or ENOENT()
        if vma.left_behind:
            self.engine.count("MM-R27")
        return vma

    def note_split(self, range_: GpusvmRange, vma: Vma) -> None:
        """SVM-R37: the VMA was cut under a range.  7.3.4 does not look; the walk decides, again and again (SVM-S01)."""
        if range_.start < vma.start or range_.end > vma.end:
            self.engine.count("SVM-R37")

    async def _insert(
        self, notifier: GpusvmNotifier, fresh: bool, vma: Vma, start: int, npages: int, ctx: GpusvmCtx
    ) -> GpusvmRange:
        await self.might_reclaim("range")
        range_ = self.ops.range_alloc(self)
        range_.start, range_.end, range_.notifier = start, start + npages, notifier
        migrate = ctx.devmem_possible and vma.is_anonymous and not vma.flags & Vm.HUGETLB
        range_.flags = RangeFlags(migrate_devmem=migrate)
        await self.insert_range(notifier, range_, fresh)
        return range_

    async def insert_range(self, notifier: GpusvmNotifier, range_: GpusvmRange, fresh: bool) -> None:
        """SVM-R07: a callback may be walking the tree (SVM-B44)."""
        if self.notifier_lock.holders():
            self.engine.count("SVM-R07")
        async with self.notifier_lock.reading():
            self._insert_range(notifier, range_)
            if fresh:
                self.root[notifier.start] = notifier

    def _insert_range(self, notifier: GpusvmNotifier, range_: GpusvmRange) -> None:
        """SVM-R07, SVM-R08: under both locks; two ranges over one page would be the end of it."""
        self.notifier_lock.assert_held()
        self.assert_driver_lock()
        if notifier.overlapping(range_.start, range_.end):
            raise EngineError(f"{self.name}: {range_!r} overlaps a range that is there already")
        notifier.ranges[range_.start] = range_

    # -- chunk choice ----------------------------------------------------------------

    async def choose_chunk(
        self, notifier: GpusvmNotifier, vma: Vma, vpn: int, bounds: tuple[int, int], ctx: GpusvmCtx
    ) -> int:
        """drm_gpusvm_range_chunk_size: the largest chunk that fits; pages.  -EINVAL when none does."""
        low, high = max(bounds[0], vma.start), min(bounds[1], vma.end)
        for npages in self.chunk_pages:
            start = vpn & ~(npages - 1)
            if start < low or start + npages > high:
                continue
            if npages == 1:
                return npages
            if notifier.overlapping(start, start + npages):
                continue
            if npages > ctx.check_pages_threshold or await self.check_pages(notifier, start, start + npages, ctx):
                return npages
            self.engine.count("SVM-R54")
        raise EINVAL

    async def check_pages(self, notifier: GpusvmNotifier, start: int, end: int, ctx: GpusvmCtx) -> bool:
        """drm_gpusvm_check_pages (SVM-R54, SVM-B28): every page is there for the CPU; mmap_lock is held."""
        try:
            walk = await self.new_walk(notifier.interval, start, end, Hmm.NONE, ctx.device_private_page_owner)
        except ENOMEM:
            return False
        deadline = self.engine.now + HMM_RANGE_DEFAULT_TIMEOUT
        while self.engine.now < deadline:
            walk.notifier_seq = await notifier.interval.read_begin()
            try:
                await self.core.call(HmmRangeFault(walk))
            except EBUSY:
                continue
            except KernelError:
                return False
            return all(pfn.valid for pfn in walk.pfns)
        return False

    # -- removal ---------------------------------------------------------------------

    async def range_remove(self, range_: GpusvmRange) -> None:
        """drm_gpusvm_range_remove: neither unmaps nor frees pages, that was the driver's part (RULE-19).

        SVM-R48: off the tree under notifier_lock: a callback that has come across the range is waited for.
        """
        self.assert_driver_lock()
        notifier = self.find_notifier(range_.start)
        if notifier is None:
            raise EngineError(f"{self.name}: {range_!r} has no notifier")
        async with self.notifier_lock.reading():
            del notifier.ranges[range_.start]
        await self.range_put(range_)
        if notifier.ranges:
            return
        if not notifier.removed:
            await self.core.call(IntervalNotifierRemove(notifier.interval))
        del self.root[notifier.start]

    async def range_put(self, range_: GpusvmRange) -> None:
        """drm_gpusvm_range_put: never under notifier_lock, which range_free takes (RULE-21)."""
        range_.refs -= 1
        if range_.refs < 0:
            raise EngineError(f"{self.name}: {range_!r} is put more often than it was taken")
        if not range_.refs:
            await self.ops.range_free(range_)

    async def fini(self) -> None:
        """drm_gpusvm_fini: each notifier first loses its subscription, then its ranges (SVM-R50)."""
        for notifier in list(self.root.values()):
            await self.silence(notifier)
            for range_ in list(notifier.ranges.values()):
                await self.range_remove(range_)
        self.mm.drop()
        if self.root:
            raise EngineError(f"{self.name} ends with notifiers in its tree")

    async def silence(self, notifier: GpusvmNotifier) -> None:
        """SVM-R50: no callback may run while ranges are taken away (SVM-B46)."""
        if notifier.interval in self.mm.subscriptions.calling:
            self.engine.count("SVM-R50")
        await self.core.call(IntervalNotifierRemove(notifier.interval))
        notifier.removed = True

    # -- the CPU side ----------------------------------------------------------------

    async def find_vma_start(self, start: int, end: int) -> int:
        """drm_gpusvm_find_vma_start: first page of the first CPU VMA in [start, end), or ULONG_MAX_PAGE."""
        async with MmUser(self, self.mm), self.mm.mmap_lock.reading():
            vma = self.mm.vmas.at_or_after(start)
            return max(vma.start, start) if vma is not None and vma.start < end else ULONG_MAX_PAGE
