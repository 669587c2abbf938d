"""Getting and giving back the pages of a range (gpusvm sections 1.4 and 4).

``get_pages`` faults the pages in by hmm, then maps them for the device with notifier_lock held for
read, after checking that nothing moved meanwhile.  ``unmap_pages`` takes the mappings away; the notifier
callback, the garbage collector and VM close all use it, and only one of them finds something to do.

Device pages are mapped by their region; system pages into one IOVA window when page 0 is a system page,
else one by one.

Besides the address each entry remembers the page it was made for and whether the CPU entry was writable.
The page is for oracles only.  The kernel does not look at the write bit of the walk (SVM-S02); the
driver's write-bit policy does (docs/design/svm_s02.md).

Pages the device may write are marked dirty; the kernel does not do it (SVM-S16).

Simplified: order 0, so the address array has one entry per page.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from svm_actors.drm.gpusvm_base import DrmGpusvmBase
from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.drm.pagemap_dma import map_page
from svm_actors.drm.pagemap_zdd import Zdd, zdd_of
from svm_actors.engine.errors import EBUSY, EFAULT, EINVAL, EOPNOTSUPP, KernelError, PropertyFailed
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.mm.folio import Folio
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmPfn, HmmRange, WalkPublished
from svm_actors.mm.messages import HmmRangeFaultUnlocked
from svm_actors.mm.page_table import Entry

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.mmu_notifier import IntervalNotifier

HMM_RANGE_DEFAULT_TIMEOUT = 1_000_000_000
"""1000 ms, in virtual ns."""


class PagesFlags(NamedTuple):
    """Flags of mapped pages, published whole (RULE-27)."""

    unmapped: bool = False
    """Never map these again."""
    has_devmem_pages: bool = False
    """At least one device page is mapped."""
    has_dma_mapping: bool = False
    """At least one page of any kind is mapped."""


class DmaPage(NamedTuple):
    """One entry of the address array."""

    addr: DmaAddr
    """Where the device finds the page."""
    folio: Folio
    """The page, as it was when mapped; no reference is held."""
    cpu_write: bool
    """The CPU entry was writable."""


class AddressArray:
    """``dma_addr[]``: outlives its mappings until the next get_pages or free (RULE-23)."""

    __slots__ = ("_entries", "freed")

    def __init__(self) -> None:
        self._entries: list[DmaPage] = []
        self.freed = False

    @property
    def entries(self) -> list[DmaPage]:
        """What is in it; reading it after free is a use after free."""
        if self.freed:
            raise PropertyFailed("lifetime", "RULE-23", "an address array is read after it was freed")
        return self._entries


class GpusvmPages:
    """drm_gpusvm_pages: the device's view of the pages of one range."""

    __slots__ = ("array", "dpagemap", "flags", "gpu", "linked", "notifier_seq", "window", "window_pages")

    def __init__(self, gpu: Gpu | None) -> None:
        self.gpu = gpu
        """The device that owns the mappings, once and for all (RULE-20)."""
        self.array: AddressArray | None = None
        self.dpagemap: DrmPagemap | None = None
        """The one region whose pages are mapped, referenced."""
        self.window: int | None = None
        """First page of the IOVA reservation; zeroed before each mapping attempt (RULE-22)."""
        self.window_pages = 0
        """Its size."""
        self.linked = 0
        """Pages linked into the window so far."""
        self.notifier_seq = 1 << 63
        """Sequence of the walk behind the mapping; this value means never."""
        self.flags = PagesFlags()

    @property
    def entries(self) -> list[DmaPage]:
        """Entries of the address array, empty without one."""
        return [] if self.array is None else self.array.entries


class _MapState(NamedTuple):
    """What the pages mapped so far say about the next one."""

    zdd: Zdd | None
    """Zone data of the previous page, None for a system page."""
    direction: Direction


class MmUser:
    """``async with MmUser(gpusvm, mm):`` mmget_not_zero and mmput around a look at an address space."""

    __slots__ = ("gpusvm", "mm")

    def __init__(self, gpusvm: DrmGpusvmPages, mm: Mm) -> None:
        self.gpusvm = gpusvm
        self.mm = mm

    async def __aenter__(self) -> None:
        await self.gpusvm.hold_mm(self.mm)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Anything but a kernel error ends the run: then nothing may be awaited any more.
        if error is None or isinstance(error, KernelError):
            await self.gpusvm.release_mm(self.mm)


class DrmGpusvmPages(DrmGpusvmBase):
    """The layer that maps and unmaps."""

    # -- get_pages -------------------------------------------------------------------

    async def get_pages(
        self, pages: GpusvmPages, mm: Mm, notifier: IntervalNotifier, start: int, end: int, ctx: GpusvmCtx
    ) -> None:
        """drm_gpusvm_get_pages.

        -EINVAL no device; -EBUSY after 1000 ms; -EFAULT mm dying, range unmapped, wrong placement;
        -EOPNOTSUPP mixed placement; -EPERM, -ENOMEM from the walk.
        """
        if pages.gpu is None:
            raise EINVAL
        deadline = self.engine.now + HMM_RANGE_DEFAULT_TIMEOUT
        while self.engine.now < deadline:
            seq = await notifier.read_begin()
            if pages.array is not None and await self._still_mapped(pages):
                pages.notifier_seq = seq
                return
            flags = Hmm.REQ_FAULT if ctx.read_only else Hmm.REQ_FAULT | Hmm.REQ_WRITE
            walk = await self.new_walk(notifier, start, end, flags, ctx.device_private_page_owner)
            self.note_away(mm, walk)
            await self.walk_pages(mm, walk, deadline)
            self.zero_iova_state(pages)
            if await self._map(pages, walk, ctx):
                pages.notifier_seq = walk.notifier_seq
                return
        raise EBUSY

    async def _still_mapped(self, pages: GpusvmPages) -> bool:
        """Step 3: mapped pages need only a fresh sequence; a dead array is freed for the next attempt."""
        async with self.notifier_lock.reading():
            valid = self.pages_valid(pages)
        if not valid:
            self._free_array(pages)
        return valid

    def pages_valid(self, pages: GpusvmPages) -> bool:
        """drm_gpusvm_pages_valid: judged with notifier_lock held."""
        self.notifier_lock.assert_held()
        return pages.flags.has_devmem_pages or pages.flags.has_dma_mapping

    async def new_walk(
        self, notifier: IntervalNotifier, start: int, end: int, flags: Hmm, owner: object
    ) -> HmmRange:
        """A zeroed pfn array for hmm."""
        await self.might_reclaim("pfns")
        return HmmRange(notifier, 0, start, end, [HMM_NONE] * (end - start), flags, dev_private_owner=owner)

    def note_away(self, mm: Mm, walk: HmmRange) -> None:
        """SVM-R55: without an owner the walk faults on device pages, which brings them home."""
        entries = (mm.page_table.get(vpn) for vpn in range(walk.start, walk.end))
        if walk.dev_private_owner is None and any(pte and pte.kind is Entry.DEVICE_PRIVATE for pte in entries):
            self.engine.count("SVM-R55")

    async def walk_pages(self, mm: Mm, walk: HmmRange, deadline: int) -> None:
        """SVM-R06, SVM-R01: steps 4 and 5; the sequence is that of before the walk (SVM-B49)."""
        await self._fault_in(mm, walk, deadline)

    async def _fault_in(self, mm: Mm, walk: HmmRange, deadline: int) -> None:
        """hmm with the time that is left."""
        async with MmUser(self, mm):
            await self.core.call(HmmRangeFaultUnlocked(walk, max(1, deadline - self.engine.now)))

    async def hold_mm(self, mm: Mm) -> None:
        """SVM-R21: an address space without users is on its way out.  -EFAULT (SVM-B64)."""
        if not await mm.mmget_not_zero():
            self.engine.count("SVM-R21")
            raise EFAULT

    async def release_mm(self, mm: Mm) -> None:
        """SVM-R21: the other half of :meth:`hold_mm`."""
        await mm.mmput()

    def zero_iova_state(self, pages: GpusvmPages) -> None:
        """RULE-22: no attempt starts with the window of the one before (SVM-B56)."""
        pages.window = None
        pages.linked = 0

    # -- the map phase ---------------------------------------------------------------

    async def _map(self, pages: GpusvmPages, walk: HmmRange, ctx: GpusvmCtx) -> bool:
        """Steps 7 to 9; False asks for another walk.

        No page is looked at without the lock (VMB-B11).  SVM-R31: the array is allocated without it, which an event may
        use (SVM-B54); so all checks are made again afterwards (RULE-24, SVM-B57).
        """
        allocated = False
        while True:
            async with self.notifier_lock.reading():
                if self.is_unmapped(pages):
                    raise EFAULT
                if self.walk_is_stale(walk):
                    if allocated:
                        self.engine.count("SVM-R31")
                    return False
                if pages.array is not None:
                    return await self._map_all(pages, walk, ctx)
            await self.might_reclaim("dma_addr")
            pages.array = AddressArray()
            allocated = True

    def is_unmapped(self, pages: GpusvmPages) -> bool:
        """SVM-R01, SVM-R04: the memory behind the range was unmapped; its pages are gone (SVM-B36)."""
        if pages.flags.unmapped:
            self.engine.count("SVM-R01")
        return pages.flags.unmapped

    def walk_is_stale(self, walk: HmmRange) -> bool:
        """SVM-R01: an event hit the notifier after the walk began (mmu_interval_read_retry; SVM-B35)."""
        stale = walk.notifier.read_retry(walk.notifier_seq)
        if stale:
            self.engine.count("SVM-R01")
            self.engine.count("gpu.retry.walk")
        return stale

    async def _map_all(self, pages: GpusvmPages, walk: HmmRange, ctx: GpusvmCtx) -> bool:
        """Step 8: all pages under one hold of notifier_lock; on an error exactly what was mapped goes."""
        assert pages.gpu is not None
        await self.engine.step("write", pages.gpu.iommu, "map")
        state = _MapState(None, Direction.TO_DEVICE if ctx.read_only else Direction.BIDIRECTIONAL)
        try:
            for index, pfn in enumerate(walk.pfns):
                state = self._map_one(pages, index, len(walk.pfns), pfn, state, ctx)
        except KernelError:
            self.undo_mapping(pages)
            raise
        pages.flags = pages.flags._replace(has_dma_mapping=True, has_devmem_pages=pages.dpagemap is not None)
        self.engine.emit(WalkPublished(walk))
        return True

    def _map_one(
        self, pages: GpusvmPages, index: int, npages: int, pfn: HmmPfn, state: _MapState, ctx: GpusvmCtx
    ) -> _MapState:
        folio = pfn.folio
        assert folio is not None
        zdd: Zdd | None = None
        if folio.is_device_private:
            zdd = zdd_of(folio)
            if index and not ctx.allow_mixed and self.is_mixed(zdd, state.zdd):
                raise EOPNOTSUPP
            addr = self._map_device(pages, index, folio, zdd, state.direction)
        else:
            if not ctx.allow_mixed and self.is_mixed(None, state.zdd):
                raise EOPNOTSUPP
            if ctx.devmem_only:
                raise EFAULT
            addr = self._map_system(pages, index, npages, folio, state.direction)
            self.dirty_for_write(folio, pfn, state.direction)
        pages.entries.append(DmaPage(addr, folio, pfn.write))
        return state._replace(zdd=zdd)

    def is_mixed(self, zdd: Zdd | None, before: Zdd | None) -> bool:
        """SVM-R11: neighbours live in different allocations, or one in none (SVM-B63)."""
        if zdd is before:
            return False
        self.engine.count("SVM-R11")
        return True

    def _map_device(self, pages: GpusvmPages, index: int, folio: Folio, zdd: Zdd, direction: Direction) -> DmaAddr:
        """A device page: the region is stored at the first one, so that the error path can unmap (SVM-B30)."""
        assert pages.gpu is not None
        dpagemap = zdd.dpagemap
        if not self.fits_region(pages, dpagemap, index):
            raise EOPNOTSUPP
        if pages.dpagemap is None:
            dpagemap.get()
            pages.dpagemap = dpagemap
        if pages.window is not None:
            self.engine.count("SVM-R44")
        return dpagemap.device_map(pages.gpu, folio, direction)

    def fits_region(self, pages: GpusvmPages, dpagemap: DrmPagemap, index: int) -> bool:
        """SVM-R11: no other region was chosen before, wherever in the request the page is (SVM-B02)."""
        return pages.dpagemap is None or pages.dpagemap is dpagemap

    def _map_system(self, pages: GpusvmPages, index: int, npages: int, folio: Folio, direction: Direction) -> DmaAddr:
        """A system page: into the window, which only page 0 may open (SVM-R44), else alone."""
        assert pages.gpu is not None
        iommu = pages.gpu.iommu
        if not index:
            pages.window = iommu.reserve(npages)
            pages.window_pages = npages
        if pages.window is None:
            return DmaAddr(map_page(pages.gpu, folio, direction), Proto.SYSTEM, 0, direction)
        iova = pages.window + pages.linked
        iommu.link(iova, folio, direction)
        pages.linked += 1
        return DmaAddr(iova, Proto.SYSTEM, 0, direction)

    def dirty_for_write(self, folio: Folio, pfn: HmmPfn, direction: Direction) -> None:
        """MM-R18: a store of the device leaves no dirty bit, so the page is dirty as soon as it may be written.

        Reclaim cleans it only after an event has taken the mapping away (INV-16).  7.3.4 does nothing (MM-B37).
        """
        if pfn.write and direction is Direction.BIDIRECTIONAL:
            if folio.swapcache and not folio.dirty:
                self.engine.count("MM-R18")
            folio.dirty = True

    def undo_mapping(self, pages: GpusvmPages) -> None:
        """SVM-R43: the flag is published only at the end, so force it before unmapping (SVM-B01).

        Device pages are unmapped through their region, which is known from the first one on (SVM-B30).
        """
        if pages.entries:
            self.engine.count("SVM-R43")
        pages.flags = pages.flags._replace(has_dma_mapping=True)
        self._unmap(pages)
        pages.entries.clear()

    # -- unmapping -------------------------------------------------------------------

    async def unmap_pages(self, pages: GpusvmPages, *, in_notifier: bool = False) -> None:
        """drm_gpusvm_unmap_pages: a no-op when nothing is mapped.  In a callback the lock is held already."""
        if in_notifier:
            self.assert_notifier_write()
            if pages.flags.has_dma_mapping:
                await self._unmap_announced(pages)
            return
        mapped = pages.flags.has_dma_mapping
        async with self.notifier_lock.reading():
            if pages.flags.has_dma_mapping:
                await self._unmap_announced(pages)
            elif mapped:
                self.engine.count("SVM-R42")

    async def _unmap_announced(self, pages: GpusvmPages) -> None:
        assert pages.gpu is not None
        await self.engine.step("write", pages.gpu.iommu, "unmap")
        self._unmap(pages)

    def _unmap(self, pages: GpusvmPages) -> None:
        """The array stays."""
        if not pages.flags.has_dma_mapping:
            return
        assert pages.gpu is not None
        if pages.window is not None:
            self.release_window(pages)
        for index, page in enumerate(pages.entries):
            if page.addr.proto is not Proto.SYSTEM:
                self.unmap_device_page(pages, index)
            elif pages.window is None:
                pages.gpu.iommu.unmap(page.addr.addr)
        self.clear_mapped(pages)
        if pages.dpagemap is not None:
            pages.dpagemap.put()
            pages.dpagemap = None

    def release_window(self, pages: GpusvmPages) -> None:
        """SVM-R44: the window goes back whole, whatever part of it was linked (SVM-B31)."""
        assert pages.gpu is not None
        assert pages.window is not None
        if pages.linked:
            pages.gpu.iommu.unlink(pages.window, pages.linked)
        pages.gpu.iommu.free(pages.window)

    def unmap_device_page(self, pages: GpusvmPages, index: int) -> None:
        """Through the region it belongs to."""
        assert pages.gpu is not None
        assert pages.dpagemap is not None
        pages.dpagemap.device_unmap(pages.gpu, pages.entries[index].addr)

    def clear_mapped(self, pages: GpusvmPages) -> None:
        """SVM-R42: whoever comes second finds nothing to unmap (SVM-B65).

        SVM-R49: the addresses stay, for a bind may be reading them (RULE-23, SVM-B66).
        """
        pages.flags = pages.flags._replace(has_dma_mapping=False, has_devmem_pages=False)

    async def free_pages(self, pages: GpusvmPages) -> None:
        """drm_gpusvm_free_pages: unmap, then free the array."""
        await self.unmap_pages(pages)
        self._free_array(pages)

    def _free_array(self, pages: GpusvmPages) -> None:
        if pages.array is not None:
            pages.array.freed = True
            pages.array = None
