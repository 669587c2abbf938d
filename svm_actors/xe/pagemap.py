"""xe_pagemap: the driver side of drm_pagemap for one tile's VRAM (pagemap sections 1.1, 3 head, 8).

:class:`XePagemap` is the ops table of the region (addresses, populate, destroy) and of every
allocation in it (page frames, copies, release).  Populating creates a BO of exactly the window's
size and keeps its reservation until the migration has been finalized (RULE-55).

Simplified: no runtime power management.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.drm.pagemap_dma import map_page
from svm_actors.drm.pagemap_hold import Provider
from svm_actors.drm.pagemap_migrate import MigrateDetails
from svm_actors.drm.pagemap_util import Owner, OwnerList
from svm_actors.drm.pagemap_zdd import Addrs, Devmem, Pages
from svm_actors.engine.errors import ENODEV, ENOMEM, KernelError, PropertyFailed
from svm_actors.engine.locks import WaitQueue
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.mm.folio import Folio
from svm_actors.xe.bo import Bo, VramManager
from svm_actors.xe.evict import evict_all

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm


class XePagemap:
    """One tile's VRAM as device-private memory."""

    def __init__(
        self, core: CoreMm, gpu: Gpu, owners: OwnerList | None = None, provider: Provider | None = None
    ) -> None:
        self.engine = core.engine
        self.core = core
        self.gpu = gpu
        self.name = f"{gpu.name}.pagemap"
        self.provider = provider if provider is not None else Provider(self.engine, "xe")
        """The driver's module."""
        self.hold_provider()
        self.unplugged = False
        """The device is gone; structures may outlive it."""
        self._inside = 0
        """Sections that use the hardware and began before."""
        self._left = WaitQueue(self.engine, f"{self.name}.srcu")
        vram = gpu.vram
        kind = core.engine.parts.of(DrmPagemap)
        self.dpagemap = kind(core.engine, self.name, core, gpu, self, base_pfn=vram.base_pfn, npages=vram.npages)
        vram.attach(self.dpagemap.pgmap)
        self.vram = VramManager(core.engine, gpu, self.dpagemap.works)
        self.owners = owners if owners is not None else OwnerList()
        """Shared by all devices of the machine that may use each other's memory in place."""
        self.owner: Owner = self.owners.acquire_owner(self)
        self.dpagemap.owner = self.owner

    def start(self) -> None:
        """Start the actor."""
        self.dpagemap.start()

    def hold_provider(self) -> None:
        """PGM-R28, SVM-R36: the module stays for as long as the region does, which its last page decides (PGM-B09)."""
        self.provider.get()

    async def drop_provider(self, _dpagemap: DrmPagemap) -> None:
        """The end of that, in a work item of the system."""
        self.provider.put()

    # -- drm_pagemap_ops ---------------------------------------------------------------

    def device_map(self, dpagemap: DrmPagemap, gpu: Gpu, folio: Folio, direction: Direction) -> DmaAddr:
        """Own device: device-local address.  Peer: bus address through the peer's DMA mapping.  -EFAULT."""
        if gpu is self.gpu:
            return DmaAddr(folio.pfn, Proto.VRAM, folio.order, direction)
        return DmaAddr(map_page(gpu, folio, direction), Proto.P2P, folio.order, direction)

    def device_unmap(self, dpagemap: DrmPagemap, gpu: Gpu, addr: DmaAddr) -> None:
        """Device-local addresses need none."""
        if addr.proto is Proto.P2P:
            gpu.iommu.unmap(addr.addr)

    def enter_device(self) -> None:
        """PGM-R28, SVM-R34: drm_dev_enter: until :meth:`exit_device` removal waits.  -ENODEV after it (PGM-B52)."""
        if self.unplugged:
            self.engine.count("PGM-R28")
            self.engine.count("SVM-R34")
            raise ENODEV
        self._inside += 1

    def exit_device(self) -> None:
        """drm_dev_exit."""
        self._inside -= 1
        self._left.wake_up()

    async def unplug(self) -> None:
        """drm_dev_unplug: nobody new gets in, and who is in is waited for (PGM-R28)."""
        self.unplugged = True
        if self._inside:
            self.engine.count("PGM-R28")
            self.engine.count("SVM-R34")
        await self._left.wait_event(lambda: not self._inside)

    async def populate_mm(self, dpagemap: DrmPagemap, mm: Mm, start: int, end: int, timeslice_ns: int) -> None:
        """xe_drm_pagemap_populate_mm.  Out of memory once: try again with everybody else kept out."""
        self.enter_device()
        try:
            await self._populate(mm, start, end, timeslice_ns)
        finally:
            self.exit_device()

    async def _populate(self, mm: Mm, start: int, end: int, timeslice_ns: int) -> None:
        validation = self.vram.validation
        await validation.read()
        try:
            bo = await self._create(end - start)
            if bo is not None:
                await self._migrate(bo, mm, start, end, timeslice_ns)
                return
        finally:
            validation.release()
        self.engine.count("vram.exclusive")
        await validation.write()
        try:
            bo = await self.vram.create_locked(end - start)
            await self._migrate(bo, mm, start, end, timeslice_ns)
        finally:
            validation.release()

    async def _create(self, npages: int) -> Bo | None:
        try:
            return await self.vram.create_locked(npages)
        except ENOMEM:
            return None

    async def _migrate(self, bo: Bo, mm: Mm, start: int, end: int, timeslice_ns: int) -> None:
        """Fill the new BO."""
        kind = self.engine.parts.of(Devmem)
        devmem = kind(bo.name, self.dpagemap, mm, bo.npages, self, buffer=bo, fence=self.pre_migrate_fence(bo))
        devmem.hold_mm()
        bo.devmem = devmem
        self.take_migration_reference(bo)
        error: KernelError | None = None
        try:
            await self.dpagemap.migrate_to_devmem(devmem, mm, start, end, MigrateDetails(timeslice_ns))
        except KernelError as failure:
            error = failure
        self.note_lost(devmem)
        self.let_go(bo)
        await bo.put()
        if error is not None:
            raise error

    def note_lost(self, devmem: Devmem) -> None:
        """SVM-R18: it was filled, and everything in it is gone again; the creator's reference alone keeps the BO."""
        if devmem.filled and devmem.released:
            self.engine.count("SVM-R18")

    def pre_migrate_fence(self, bo: Bo) -> Fence | None:
        """PGM-R08: what the first copy into this BO must wait for (its clear)."""
        return bo.fences[-1] if bo.fences else None

    def take_migration_reference(self, bo: Bo) -> None:
        """SVM-R18: the allocation's own reference; the creator keeps the one it has until it unlocks."""
        bo.get()

    def let_go(self, bo: Bo) -> None:
        """PGM-R04: finalize is through, so evictors may have the BO (RULE-55, PGM-B43)."""
        bo.unlock()

    def destroy(self, dpagemap: DrmPagemap) -> None:
        """xe_pagemap_destroy: leave the owner group."""
        self.provider.running()
        self.owners.release_owner(self, self.owner)
        dpagemap.works.queue("dev_unhold", self.drop_provider, dpagemap)

    # -- drm_pagemap_devmem_ops ----------------------------------------------------------

    async def populate_devmem_pfn(self, devmem: Devmem) -> list[int]:
        """Page frames block by block; the BO must still be in VRAM."""
        bo = self._bo(devmem)
        if not bo.blocks:
            raise PropertyFailed("lifetime", "RULE-50", f"{bo.name} is not in VRAM")
        return bo.pfns

    async def copy_to_devmem(self, pages: Pages, addrs: Addrs, fence: Fence | None) -> None:
        """By our own copy engine."""
        await self.vram.migrate.copy(pages, addrs, fence, to_vram=True)

    async def copy_to_ram(self, pages: Pages, addrs: Addrs, fence: Fence | None) -> None:
        """By our own copy engine; also toward a peer, whose fence it then waits for."""
        self.provider.running()
        await self.vram.migrate.copy(pages, addrs, fence, to_vram=False)

    def devmem_release(self, devmem: Devmem) -> None:
        """PGM-R07: may run under a page-table lock, and putting a BO may sleep: a worker does it."""
        devmem.pre_migrate_fence = None
        self.engine.count("PGM-R07")
        self.vram.put_async(self._bo(devmem))

    def _bo(self, devmem: Devmem) -> Bo:
        bo = devmem.buffer
        assert isinstance(bo, Bo)
        return bo

    # -- the end -----------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until no deferred work is left."""
        await self.dpagemap.works.flush()

    async def remove(self) -> int:
        """Device removal: refuse new work, bring every mirror BO home; answers how many stayed."""
        await self.unplug()
        failed = await evict_all(self.vram)
        await self.flush()
        return failed

    async def close(self) -> None:
        """Wait for deferred work, drop the device's reference on the region, and wait for what that leaves."""
        await self.flush()
        self.dpagemap.put()
        await self.flush()

    def statistics(self) -> dict[str, int]:
        """All 0 when everything has been given back."""
        return {**self.dpagemap.statistics(), **self.vram.statistics()}


def xe_pagemap_create(
    core: CoreMm, gpu: Gpu, owners: OwnerList | None = None, provider: Provider | None = None
) -> XePagemap:
    """Make a GPU's VRAM known to the core MM; the caller starts it."""
    return core.engine.parts.of(XePagemap)(core, gpu, owners, provider)
