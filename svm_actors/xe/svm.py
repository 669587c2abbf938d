"""xe_svm: gpusvm as one GPU VM uses it (gpusvm sections 5 and 6.2).

Here are the callbacks of gpusvm, above all the invalidation I1 to I7, and the steps that the fault
loop (:mod:`svm_fault`) is made of.  The order zap, TLB flush and wait, DMA unmap, return is what keeps the
GPU off pages the core MM is about to free (RULE-18, SVM-R51).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.gpusvm import DrmGpusvm, GpusvmCtx, GpusvmNotifier, GpusvmRange, Scan, set_unmapped
from svm_actors.drm.pagemap import DrmPagemap, PopulateMm
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EACCES, EBUSY, EOPNOTSUPP, KernelError
from svm_actors.gpu.fault import Access
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry
from svm_actors.xe.svm_range import Link, XeSvmRange
from svm_actors.xe.vm_attr import Atomic

if TYPE_CHECKING:
    from svm_actors.drm.gpusvm_base import DrmGpusvmBase
    from svm_actors.xe.svm_host import SvmHost

Span = tuple[int, int]


class XeSvm:
    """The SVM side of one VM; implements the gpusvm operations."""

    def __init__(self, vm: SvmHost) -> None:
        self.vm = vm
        self.engine: Engine = vm.engine
        config = vm.config
        self.gpusvm: DrmGpusvm = vm.engine.parts.of(DrmGpusvm)(
            vm.engine,
            f"{vm.name}.svm",
            vm.device.core,
            vm.mm,
            self,
            mm_start=0,
            mm_range=TASK_PAGES,
            notifier_pages=config.notifier_pages,
            chunk_pages=config.chunk_pages,
            driver_lock=vm.lock,
        )

    async def fini(self) -> None:
        """xe_svm_fini, vm->lock held for write: unmap every range, then end the gpusvm."""
        for range_ in self.gpusvm.ranges(0, TASK_PAGES):
            assert isinstance(range_, XeSvmRange)
            await self.gpusvm.unmap_pages(range_.pages)
        await self.gpusvm.fini()

    # -- ranges ----------------------------------------------------------------------

    def range_alloc(self, gpusvm: DrmGpusvmBase) -> XeSvmRange:
        """A range holds the VM."""
        self.vm.get()
        return XeSvmRange(self.vm)

    async def range_free(self, range_: GpusvmRange) -> None:
        """The safety net for pages nobody unmapped; takes notifier_lock (RULE-21)."""
        assert isinstance(range_, XeSvmRange)
        await self.gpusvm.free_pages(range_.pages)
        self.vm.put()

    # -- invalidation ------------------------------------------------------------------

    async def invalidate(self, notifier: GpusvmNotifier, event: NotifierRange) -> None:
        """xe_svm_invalidate, with notifier_lock held for write.

        FEN-B32: it makes itself no user of the address space: an mmput that happens to be the last one would tear
        it down from in here, and come back to this very callback.
        """
        ranges = self._hit(notifier, event)
        if not ranges:  # I1: nothing of ours, nothing to wait for
            return
        closed = self.is_closed()
        if not closed:
            await self._retire_translations(ranges, event)
        for range_ in ranges:  # I7
            await self._give_back(range_, event, closed)

    def _hit(self, notifier: GpusvmNotifier, event: NotifierRange) -> list[XeSvmRange]:
        """I1: ranges of the notifier that the event touches."""
        start, end = max(event.start, notifier.start), min(event.end, notifier.end)
        return [range_ for range_ in notifier.overlapping(start, end) if isinstance(range_, XeSvmRange)]

    def is_closed(self) -> bool:
        """SVM-R22, I2: a closed VM has no page tables left to zap, only DMA mappings (SVM-B47).

        One that is merely banned has them, and the GPU still walks them.
        """
        closed = not self.vm.size
        if closed:
            self.engine.count("SVM-R22")
        return closed

    async def _retire_translations(self, ranges: list[XeSvmRange], event: NotifierRange) -> None:
        """I3 to I6."""
        await self.wait_bookkeeping()
        span: Span | None = None
        for range_ in ranges:
            if range_.flags.unmapped or not range_.tile_present:
                continue
            widened = self.widen(span, range_, event)
            if await self.vm.pt.zap_range(range_):
                span = widened
        if span is None:  # I5
            return
        self.engine.count("gpu.invalidate.zapped")
        fence = await self.submit_tlb_flush(span)
        await self.wait_tlb_flush(fence)

    async def wait_bookkeeping(self) -> None:
        """SVM-R03, I3: page-table writes that are queued must land before the zap (SVM-B39)."""
        if not self.vm.resv.idle:
            self.engine.count("SVM-R03")
        await self.vm.resv.wait_all()

    def widen(self, span: Span | None, range_: XeSvmRange, event: NotifierRange) -> Span:
        """I4: the span to flush covers the event and every range zapped so far.

        7.3.4 starts again from the event at every range and so loses the widening for the earlier ones
        (SVM-S08).  Its flush command is rounded to a power of two, which hides that; the hardware here
        flushes exactly what it is asked for, so the union is kept.
        """
        start, end = (event.start, event.end) if span is None else span
        return min(start, range_.start), max(end, range_.end)

    async def submit_tlb_flush(self, span: Span) -> Fence:
        """SVM-R51, I6: nothing may fail or be skipped between tile_invalidated and here (RULE-26, SVM-B50)."""
        return await self.vm.device.tlb_inval.submit(self.vm.asid, *span)

    async def wait_tlb_flush(self, fence: Fence) -> None:
        """SVM-R51, I6: pages are given back only when no TLB knows them any more (SVM-B41)."""
        if not fence.signaled:
            self.engine.count("SVM-R51")
        await self.vm.device.tlb_inval.wait(fence)

    async def _give_back(self, range_: XeSvmRange, event: NotifierRange, closed: bool) -> None:
        """I7: DMA mappings of *every* overlapped range go, zapped or not (SVM-R51, RULE-18, SVM-B40).

        SVM-R23: a closed VM takes nothing for its garbage collector any more.
        """
        range_.must_live()
        self.note_leaving(range_)
        await self.gpusvm.unmap_pages(range_.pages, in_notifier=True)
        if event.event is Event.UNMAP and not closed:
            set_unmapped(range_, [range_.pages], event)
            await self.vm.gc.add(range_)

    def note_leaving(self, range_: XeSvmRange) -> None:
        """SVM-R48: the garbage collector has the range; notifier_lock keeps it in the tree for this callback."""
        if range_.link is Link.POPPED:
            self.engine.count("SVM-R48")

    # -- what a fault needs --------------------------------------------------------------

    def needs_vram(self, access: Access, allowed: Atomic = Atomic.UNDEFINED) -> bool:
        """xe_vma_need_vram_for_atomic: an atomic is done in device memory (SVM-B07).  -EACCES: it is for the CPU to do.

        Memory that was given to one device may stay where it is, if the device can do them there.
        """
        device = self.vm.device
        if access is not Access.ATOMIC or not device.is_dgfx:
            return False
        if allowed is Atomic.CPU:
            raise EACCES
        return not (allowed is Atomic.DEVICE and device.gpu.atomics_on_system)

    async def get_pages(self, range_: XeSvmRange, ctx: GpusvmCtx) -> None:
        """xe_svm_range_get_pages: mixed placement is repaired by bringing the range home (SVM-R11, RULE-05)."""
        gpusvm = self.gpusvm
        try:
            await gpusvm.get_pages(range_.pages, self.vm.mm, range_.interval, range_.start, range_.end, ctx)
        except EOPNOTSUPP:
            try:
                await gpusvm.range_evict(range_)
            except KernelError as error:  # what it could not repair shows up in the next attempt
                self.engine.count(f"gpu.range_evict.{error.code}")
            raise

    async def alloc_vram(self, range_: XeSvmRange, ctx: GpusvmCtx, target: DrmPagemap) -> None:
        """xe_svm_alloc_vram: bring the whole range into the target region.

        Two devices that want one range give each other -EBUSY for ever; so the second attempt is made
        alone, after bringing everything home (SVM-R09, PGM-R14, SVM-B20).
        """
        owner = self.vm.owner
        if await self.gpusvm.scan_mm(range_, owner, target.pgmap) is Scan.EQUAL:
            return
        lock = self.vm.device.driver.migrate_lock
        await lock.read()
        try:
            await self._populate(range_, ctx, target)
            return
        except EBUSY:
            self.note_rivals(range_, target)
        finally:
            lock.release()
        await self.second_attempt(range_, ctx, target)

    def note_rivals(self, range_: XeSvmRange, target: DrmPagemap) -> None:
        """SVM-R09: somebody else is at these pages.  PGM-R14: another device has some of them by now."""
        self.engine.count("SVM-R09")
        entries = (self.vm.mm.page_table.get(vpn) for vpn in range(range_.start, range_.end))
        folios = [pte.folio for pte in entries if pte is not None and pte.kind is Entry.DEVICE_PRIVATE]
        if any(folio.pgmap is not target.pgmap for folio in folios):
            self.engine.count("PGM-R14")

    async def second_attempt(self, range_: XeSvmRange, ctx: GpusvmCtx, target: DrmPagemap) -> None:
        """SVM-R09, PGM-R14: nobody else migrates meanwhile, and the range is in one piece again (SVM-B20)."""
        lock = self.vm.device.driver.migrate_lock
        await lock.write()
        try:
            await self._populate_alone(range_, ctx, target)
        finally:
            lock.release()

    async def _populate(self, range_: XeSvmRange, ctx: GpusvmCtx, target: DrmPagemap) -> None:
        await target.call(PopulateMm(self.vm.mm, range_.start, range_.end, ctx.timeslice_ns))

    async def _populate_alone(self, range_: XeSvmRange, ctx: GpusvmCtx, target: DrmPagemap) -> None:
        try:
            await self.gpusvm.range_evict(range_)
        except KernelError as error:
            self.engine.count(f"gpu.range_evict.{error.code}")
        await self._populate(range_, ctx, target)
