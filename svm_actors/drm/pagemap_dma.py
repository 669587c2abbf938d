"""DMA addresses of one copy batch (pagemap section 3.1).

System pages: at the first page an IOVA window for the whole batch is asked for; with a window the
pages are linked at a running offset, without one each is mapped alone.  Peer device pages: mapped
by the region they belong to.  Whatever was mapped is unmapped again *before* any destination is
unlocked or put (RULE-45, PGM-R26).

Entries without a page get no address and are skipped by the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from svm_actors.engine.errors import EFAULT, ENOMEM, KernelError
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.mm.folio import Folio

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.gpu.gpu import Gpu


def map_page(gpu: Gpu, folio: Folio, direction: Direction) -> int:
    """dma_map_page and its error address: -EFAULT."""
    try:
        return gpu.iommu.map(folio, direction)
    except ENOMEM:
        raise EFAULT from None


class DmaBatch:
    """Addresses of the other side of a copy, as the copying device sees them.

    ``async with DmaBatch(...) as batch:`` unmaps at the end, also when a step failed.
    """

    __slots__ = ("addrs", "dpagemap", "gpu", "linked", "mapped", "peer", "window")

    def __init__(self, dpagemap: DrmPagemap, gpu: Gpu) -> None:
        self.dpagemap = dpagemap
        """The region whose request this is; it counts the live batches."""
        self.gpu = gpu
        """The copying device."""
        self.mapped = False
        """Mapped and not yet unmapped."""
        self.peer: DrmPagemap | None = None
        """The region the mapped pages belong to; None for system pages."""
        self.addrs: list[DmaAddr | None] = []
        """One per entry; None is skipped."""
        self.window: int | None = None
        """First page of the IOVA reservation, None without one."""
        self.linked = 0
        """Pages linked into the window."""

    async def map_system(self, folios: Sequence[Folio | None], direction: Direction) -> None:
        """drm_pagemap_migrate_map_system_pages."""
        await self._begin()
        tried = False
        for folio in folios:
            if folio is None:
                self.addrs.append(None)
                continue
            if not tried:
                tried = True
                self.window = self.gpu.iommu.reserve(len(folios))
            self.addrs.append(DmaAddr(self._map_one(folio, direction), Proto.SYSTEM, 0, direction))

    async def _begin(self) -> None:
        await self.dpagemap.engine.step("write", self.gpu.iommu, "map")
        self.mapped = True
        self.dpagemap.live_batches += 1

    def _map_one(self, folio: Folio, direction: Direction) -> int:
        if self.window is None:
            return map_page(self.gpu, folio, direction)
        iova = self.window + self.linked
        self.gpu.iommu.link(iova, folio, direction)
        self.linked += 1
        return iova

    async def map_peer(self, peer: DrmPagemap, folios: Sequence[Folio | None], direction: Direction) -> None:
        """drm_pagemap_migrate_map_device_private_pages: pages of ``peer``, for our copying device (PGM-B12)."""
        await self._begin()
        self.peer = peer
        for folio in folios:
            self.addrs.append(None if folio is None else peer.device_map(self.gpu, folio, direction))

    async def unmap(self) -> None:
        """drm_pagemap_migrate_unmap_pages: undo the mapping; the addresses are void afterwards."""
        if not self.mapped:
            return
        await self.dpagemap.engine.step("write", self.gpu.iommu, "unmap")
        self.undo()

    def undo(self) -> None:
        """PGM-R26: whatever was mapped goes, and only then the record of it (PGM-B04)."""
        self.mapped = False
        self.dpagemap.live_batches -= 1
        iommu = self.gpu.iommu
        if self.window is not None:
            if self.linked:
                iommu.unlink(self.window, self.linked)
            iommu.free(self.window)
        else:
            for addr in self.addrs:
                if addr is not None:
                    self._unmap_one(addr)
        self.addrs = []
        self.window = None
        self.linked = 0

    async def __aenter__(self) -> DmaBatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """PGM-R26: nobody has unlocked or put a destination yet."""
        if error is not None and self.mapped:
            self.dpagemap.engine.count("PGM-R26")
        if error is None or isinstance(error, KernelError):
            await self.unmap()

    def _unmap_one(self, addr: DmaAddr) -> None:
        if self.peer is not None:
            self.peer.device_unmap(self.gpu, addr)
        else:
            self.gpu.iommu.unmap(addr.addr)
