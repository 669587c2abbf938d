"""The memory interface of one GPU: from an address entry to the page behind it.

Later the interconnect between GPUs lives here; today a peer's memory is reached through the IOMMU like
RAM, which is what a PCI peer mapping is.
"""

from __future__ import annotations

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.address import DmaAddr, Proto
from svm_actors.gpu.iommu import Iommu
from svm_actors.gpu.vram import Vram
from svm_actors.mm.folio import Folio

_VRAM = Proto.VRAM


class Bus:
    """What the engines of one GPU put their accesses on."""

    __slots__ = ("iommu", "vram")

    def __init__(self, iommu: Iommu, vram: Vram) -> None:
        self.iommu = iommu
        self.vram = vram

    def resolve(self, dma: DmaAddr, write: bool) -> Folio:
        """The page an access reaches; :class:`PropertyFailed` when it must not reach any."""
        folio = self.vram.resolve(dma.addr) if dma.proto is _VRAM else self.iommu.resolve(dma.addr, write)
        if write and folio.is_zero:
            raise PropertyFailed("coherence", "INV-17", f"{self.iommu.name}: a device writes to the shared zero page")
        return folio
