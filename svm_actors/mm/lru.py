"""The batch of pages on their way to an LRU list (core_mm sections 4 and 9.2).

A new page is not on an LRU list at once: it waits in a batch, which holds a reference on it.  The
batch is drained when it is full and by whoever needs the pages on their list: zap, the copy-on-write
reuse test, migration.  A drain first puts the pages on the list and only then drops the references,
so a migration that runs on another CPU between the two finds the page on its list and still with a
reference too many: the page stays behind, for no reason its owner can see.

Simplified: one batch for the machine instead of one per CPU, so ``lru_add_drain`` and
``lru_add_drain_all`` are one thing and no page is ever out of reach in the batch of another CPU.
"""

from __future__ import annotations

from typing import Final

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.folio import Folio

BATCH_SIZE: Final = 31
"""Pages a batch holds (PAGEVEC_SIZE)."""
REASON: Final = "lru_batch"


class LruBatch:
    """Pages that have a reference from the batch and are on no list yet."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = "lru_batch"
        self.waiting: list[Folio] = []

    def add(self, folio: Folio) -> None:
        """folio_add_lru: atomic; a full batch is drained on the spot.

        The kernel warns when a page without owner (no memory control group any more) gets there.
        """
        if folio.lru:
            return
        if folio.refcount == 1:
            text = f"{folio!r} goes to the LRU with the reference that is about to be dropped, and no other"
            raise PropertyFailed("lifetime", "MM-B11", text)
        folio.get(REASON)
        self.waiting.append(folio)
        if len(self.waiting) >= BATCH_SIZE:
            self.drain_now()

    async def drain(self) -> None:
        """lru_add_drain: on the list in one step, references dropped in the next."""
        if not self.waiting:
            return
        await self.engine.step("flag_write", self, "lru")
        moved = self._move()
        await self.engine.step("put", self)
        for folio in moved:
            folio.put(REASON)

    def drain_now(self) -> None:
        """The same inside a section that is already atomic."""
        for folio in self._move():
            folio.put(REASON)

    def _move(self) -> list[Folio]:
        moved, self.waiting = self.waiting, []
        for folio in moved:
            folio.lru = True
        return moved
