"""Device memory of one GPU, as the GPU itself reaches it: by device pfn, without translation.

A page belongs to a device folio of the core MM (:meth:`Vram.attach`), or to a buffer object
(:meth:`Vram.place`), or to nobody.  What it holds lives in its folio; a page that nobody has is wiped
when it becomes a device folio.  A buffer object finds :data:`LEFT_OVER` in it, standing for what the
owner before left there, until a clear or a copy is through.
"""

from __future__ import annotations

from typing import Final

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.mm.content import FILLED
from svm_actors.mm.folio import Folio, Kind
from svm_actors.mm.memremap import DevPagemap

LEFT_OVER: Final = FILLED[0xA5]
"""What a page of a new buffer object holds; nobody may ever read it."""

PLAIN_GENERATIONS: Final = 1 << 32
"""Generations of buffer object pages begin here, so that no device folio of the core MM has the same."""


class Vram:
    """Pages [base_pfn, base_pfn + npages)."""

    def __init__(self, name: str, base_pfn: int, npages: int) -> None:
        self.name = name
        self.base_pfn = base_pfn
        self.npages = npages
        self.pgmap: DevPagemap | None = None
        self.plain: dict[int, Folio] = {}
        """Pages of buffer objects, by pfn."""
        self._placed = 0

    def attach(self, pgmap: DevPagemap) -> None:
        """The driver made struct pages for this memory."""
        if pgmap.base_pfn != self.base_pfn or pgmap.npages != self.npages:
            raise EngineError(f"{pgmap.name} does not cover {self.name}")
        self.pgmap = pgmap

    # -- pages of buffer objects -----------------------------------------------------------

    def place(self, engine: Engine, pfn: int) -> Folio:
        """Give a page to a buffer object: one reference, contents undefined."""
        if self.folio_at(pfn) is not None:
            raise PropertyFailed("lifetime", "RULE-41", f"{self.name}: page {pfn:#x} is handed out while in use")
        self._placed += 1
        folio = Folio(engine, pfn, PLAIN_GENERATIONS + self._placed, Kind.VRAM)
        folio.content = LEFT_OVER
        folio.get("born")
        folio.rename_ref("born", "bo")
        self.plain[pfn] = folio
        return folio

    def remove(self, folio: Folio) -> None:
        """Take a page back; every later access to it is a use after free."""
        del self.plain[folio.pfn]
        folio.put("bo")

    # -- access ----------------------------------------------------------------------------

    def folio_at(self, pfn: int) -> Folio | None:
        """The folio in use at a device pfn, None when the page is free."""
        if not 0 <= pfn - self.base_pfn < self.npages:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name}: access outside the memory, page {pfn:#x}")
        folio = self.plain.get(pfn)
        if folio is None and self.pgmap is not None:
            folio = self.pgmap.live.get(pfn)
        return folio

    def resolve(self, pfn: int) -> Folio:
        """The folio an access reaches; a free page is a use after free (INV-05)."""
        folio = self.folio_at(pfn)
        if folio is None:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name}: access to page {pfn:#x}, which is free")
        return folio
