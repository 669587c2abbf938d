"""The memory interface of one GPU: from an address entry to the page behind it.

A peer's memory is reached through the IOMMU like RAM, which is what a PCI peer mapping is, if there is a path to it:
a transaction to memory that no switch forwards is an error on the bus (pagemap section 8).
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

    __slots__ = ("iommu", "peers", "vram")

    def __init__(self, iommu: Iommu, vram: Vram) -> None:
        self.iommu = iommu
        self.vram = vram
        self.peers: list[Vram] | None = None
        """Memory of other GPUs that there is a path to; None when every GPU reaches every other."""

    def resolve(self, dma: DmaAddr, write: bool) -> Folio:
        """The page an access reaches; :class:`PropertyFailed` when it must not reach any."""
        folio = self.vram.resolve(dma.addr) if dma.proto is _VRAM else self.iommu.resolve(dma.addr, write)
        if folio.is_device_private and dma.proto is not _VRAM:
            self._check_path(folio, dma.proto)
        if write and folio.is_zero:
            raise PropertyFailed("coherence", "INV-17", f"{self.iommu.name}: a device writes to the shared zero page")
        return folio

    def _check_path(self, folio: Folio, proto: Proto) -> None:
        """Device-private pages are in nobody's address map: only through their own region is there a way to them."""
        if proto is Proto.SYSTEM:
            raise PropertyFailed("lifetime", "RULE-18", f"{self.iommu.name}: {folio.name} is mapped as if it were RAM")
        peers = self.peers
        if peers is not None and not any(0 <= folio.pfn - peer.base_pfn < peer.npages for peer in peers):
            raise PropertyFailed("lifetime", "RULE-18", f"{self.iommu.name}: there is no path to {folio.name}")
