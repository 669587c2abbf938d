"""The memory a buffer object is in: pages of VRAM, or pages of RAM mapped for its device (vm_bind section 4).

TTM calls them a resource of the VRAM manager and a populated, DMA-mapped ``ttm_tt``.  A buffer object has
one of them, or none before its first validation.

Simplified: no page pools, so RAM pages come zeroed from the allocator and go back to it; each page has an
IOVA of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from svm_actors.drm.pagemap_dma import map_page
from svm_actors.engine.errors import KernelError
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.mm.content import ZERO
from svm_actors.mm.folio import Folio

if TYPE_CHECKING:
    from svm_actors.drm.buddy import Block
    from svm_actors.engine.engine import Engine
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.page_alloc import PageAllocator
    from svm_actors.xe.gem import XeBo


class Memory(Protocol):
    """Where the bytes are."""

    in_vram: bool
    """Device memory, which others may want."""
    folios: list[Folio]
    """The pages in order."""

    def dma_addr(self, index: int) -> DmaAddr:
        """Where the device finds a page."""
        ...

    def free(self) -> None:
        """Give the pages back; nothing may use them any more."""
        ...


class VramMemory:
    """Pages of the device's own memory, on the LRU of its manager."""

    in_vram = True

    def __init__(self, bo: XeBo, blocks: list[Block]) -> None:
        self.bo = bo
        bo.blocks = blocks
        self.vram = bo.device.gpu.vram
        self.folios = [
            self.vram.place(bo.engine, self.vram.base_pfn + page)
            for block in blocks
            for page in range(block.start, block.end)
        ]
        bo.manager.lru_add(bo)

    def dma_addr(self, index: int) -> DmaAddr:
        """Device pfn."""
        return DmaAddr(self.folios[index].pfn, Proto.VRAM)

    def free(self) -> None:
        """Off the LRU; the blocks are free for others."""
        for folio in self.folios:
            self.vram.remove(folio)
        self.bo.manager.release_space(self.bo)


class SystemMemory:
    """Pages of RAM, mapped for one device."""

    in_vram = False

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.folios: list[Folio] = []
        self._iovas: list[int] = []

    @classmethod
    async def alloc(cls, engine: Engine, gpu: Gpu, allocator: PageAllocator, npages: int) -> SystemMemory:
        """ttm_tt_populate and xe_tt_map_sg: zeroed pages.  -ENOMEM, -EFAULT, with nothing taken."""
        memory = cls(gpu)
        try:
            await engine.step("alloc", allocator, "bo")
            engine.faults.fail("page")
            for _ in range(npages):
                folio = allocator.alloc_now("bo")
                folio.content = ZERO
                memory.folios.append(folio)
            await engine.step("write", gpu.iommu, "map")
            for folio in memory.folios:
                memory._iovas.append(map_page(gpu, folio, Direction.BIDIRECTIONAL))
        except KernelError:
            memory.free()
            raise
        return memory

    def dma_addr(self, index: int) -> DmaAddr:
        """IOVA page."""
        return DmaAddr(self._iovas[index], Proto.SYSTEM)

    def free(self) -> None:
        """Unmap first, so that the device cannot reach a page that belongs to somebody else."""
        for iova in self._iovas:
            self.gpu.iommu.unmap(iova)
        for folio in self.folios:
            folio.put("bo")
        self._iovas, self.folios = [], []
