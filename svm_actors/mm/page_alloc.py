"""The page allocator: RAM folios by pfn, freed pages first in line to be handed out again.

Reuse is last in, first out on purpose: a stale pointer to a freed page meets its new owner as
soon as possible.  Simplified: one zone, order 0, no per-CPU lists.  ``limit`` pages in all;
None is no limit.  Failure is -ENOMEM; an injector may ask for one (``fail_next``).
"""

from __future__ import annotations

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM
from svm_actors.engine.signalling import might_alloc
from svm_actors.mm.folio import Folio, Kind


class PageAllocator:
    """All RAM of the machine."""

    def __init__(self, engine: Engine, limit: int | None = None) -> None:
        self.engine = engine
        self.name = "ram"
        self.limit = limit
        self.live: dict[int, Folio] = {}
        """Allocated folios by pfn."""
        self.fail_next = 0
        """How many of the next allocations fail."""
        self._free: list[int] = []
        self._generation: dict[int, int] = {}
        self._next = 1
        self.zero_folio = Folio(engine, 0, 0, Kind.ZERO)
        self.zero_folio.name = "zero_page"
        self.zero_folio.get("born")
        self.zero_folio.uptodate = True

    async def alloc(self, reason: str) -> Folio:
        """A page with one reference for ``reason``, contents undefined until set.  -ENOMEM."""
        might_alloc(self.engine, f"a page for {reason}")
        await self.engine.step("alloc", self)
        self.engine.faults.fail("page")
        return self.alloc_now(reason)

    def alloc_now(self, reason: str) -> Folio:
        """The same inside a section that is already atomic."""
        if self.fail_next:
            self.fail_next -= 1
            raise ENOMEM
        if self.limit is not None and len(self.live) >= self.limit:
            raise ENOMEM
        if self._free:
            pfn = self._free.pop()
        else:
            pfn = self._next
            self._next += 1
        generation = self._generation.get(pfn, 0)
        folio = Folio(self.engine, pfn, generation, Kind.RAM)
        folio.allocator = self
        folio.get("born")
        folio.rename_ref("born", reason)
        self.live[pfn] = folio
        return folio

    def free(self, folio: Folio) -> None:
        """Called by the folio's last put."""
        del self.live[folio.pfn]
        self._generation[folio.pfn] = folio.generation + 1
        self._free.append(folio.pfn)

    def statistics(self) -> dict[str, int]:
        """Pages allocated now."""
        return {"live": len(self.live)}
