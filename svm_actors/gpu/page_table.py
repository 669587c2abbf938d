"""GPU page tables: what the walker of one GPU address space reads (gpusvm sections 6.1 and 6.2).

The driver writes entries after announcing a ``pte_write`` op; the walker reads one in its ``tlb_fill``
step.  Every entry remembers which page, and which allocation of that page, it was written for, so that
an access through an entry that should be gone is told from a good one (INV-05).

Simplified: leaf entries only.  Upper levels cannot go stale on their own in the model, so clearing the
root of a closed VM is clearing its leaves.
"""

from __future__ import annotations

from typing import NamedTuple

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.address import DmaAddr
from svm_actors.gpu.sparse import SparseMap
from svm_actors.mm.folio import Folio


class GpuPte(NamedTuple):
    """One leaf entry; immutable, so a TLB entry is a copy by nature."""

    dma: DmaAddr
    """Where the page is, seen from the device."""
    writable: bool
    """The device may store."""
    folio_pfn: int
    """pfn of the page when the entry was written."""
    generation: int
    """Generation of that page when the entry was written."""

    @classmethod
    def of(cls, dma: DmaAddr, writable: bool, folio: Folio) -> GpuPte:
        """An entry for a page as it is now."""
        return cls(dma, writable, folio.pfn, folio.generation)

    def check(self, folio: Folio, doing: str) -> None:
        """Raise unless ``folio``, which ``dma`` leads to, is the page the entry was written for (INV-05)."""
        if folio.pfn != self.folio_pfn or folio.generation != self.generation:
            raise PropertyFailed(
                "lifetime",
                "INV-05",
                f"{doing} goes through a stale translation: written for page {self.folio_pfn:#x} "
                f"generation {self.generation}, leads to {folio.name} generation {folio.generation}",
            )


class GpuPageTable(SparseMap[GpuPte]):
    """The entries of one GPU address space, by virtual page."""

    __slots__ = ("empty", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.empty: GpuPte | None = None
        """What the walker finds where no entry was written; None: nothing, which is a fault."""

    def walk(self, vpn: int) -> GpuPte | None:
        """What the walker finds."""
        pte = self.get(vpn)
        return self.empty if pte is None else pte
