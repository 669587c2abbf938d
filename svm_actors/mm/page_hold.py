"""A reference nobody accounts for: who scans physical memory takes pages by frame number (core_mm section 9.2, MM-R11).

Memory failure, compaction, idle page tracking and the like try to get a page that may be free, in use, or on its way
somewhere else; they look, and put it again.  They know no address and take no lock.  The page is found through an
entry here, which only says which frame is meant.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from svm_actors.engine.errors import KernelError
from svm_actors.mm.folio import Folio
from svm_actors.mm.page_table import Entry

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm


class PageHold:
    """``async with PageHold(core, mm, vpn) as folio:`` folio_try_get and folio_put; None when there is no page."""

    __slots__ = ("core", "folio", "mm", "vpn")

    def __init__(self, core: CoreMm, mm: Mm, vpn: int) -> None:
        self.core = core
        self.mm = mm
        self.vpn = vpn
        self.folio: Folio | None = None

    async def __aenter__(self) -> Folio | None:
        await self.core.engine.step("pte_read", self.mm.page_table, self.vpn)
        pte = self.mm.page_table.get(self.vpn)
        if pte is None or pte.kind is Entry.SWAP or pte.folio.is_zero:
            return None
        folio: Folio = pte.folio
        await self.core.engine.step("get", folio)
        if not folio.freed:
            folio.get("scan")
            self.folio = folio
        return self.folio

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Anything but a kernel error ends the run: then nothing may be awaited any more.
        if self.folio is not None and (error is None or isinstance(error, KernelError)):
            await self.core.engine.step("put", self.folio)
            self.folio.put("scan")
