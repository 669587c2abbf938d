"""Device memory of one GPU, as the GPU itself reaches it: by device pfn, without translation.

What a page holds lives in its device folio while it has one.  A page that nobody has is wiped when it
is handed out again, so its contents between two owners are not kept.
"""

from __future__ import annotations

from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap


class Vram:
    """Pages [base_pfn, base_pfn + npages)."""

    def __init__(self, name: str, base_pfn: int, npages: int) -> None:
        self.name = name
        self.base_pfn = base_pfn
        self.npages = npages
        self.pgmap: DevPagemap | None = None

    def attach(self, pgmap: DevPagemap) -> None:
        """The driver made struct pages for this memory."""
        if pgmap.base_pfn != self.base_pfn or pgmap.npages != self.npages:
            raise EngineError(f"{pgmap.name} does not cover {self.name}")
        self.pgmap = pgmap

    def folio_at(self, pfn: int) -> Folio | None:
        """The folio in use at a device pfn, None when the page is free."""
        if not 0 <= pfn - self.base_pfn < self.npages:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name}: access outside the memory, page {pfn:#x}")
        return None if self.pgmap is None else self.pgmap.live.get(pfn)

    def resolve(self, pfn: int) -> Folio:
        """The folio an access reaches; a free page is a use after free (INV-05)."""
        folio = self.folio_at(pfn)
        if folio is None:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name}: access to page {pfn:#x}, which is free")
        return folio
