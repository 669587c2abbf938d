"""Deviations of what a copy is made through, and of what is left when it fails (pagemap section 3.1).

The addresses go before the pages do, and the record of the addresses goes last of all; an error gives back what was
taken and locked until then, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.pagemap_dma import DmaBatch
from svm_actors.drm.pagemap_migrate import drop_destinations
from svm_actors.drm.pagemap_ram import _Home
from svm_actors.drm.pagemap_zdd import Zdd
from svm_actors.engine.errors import KernelError
from svm_actors.engine.parts import Parts
from svm_actors.mm.folio import Folio
from svm_actors.mm.migrate_types import MigratePfn

Drop = Callable[[list[Folio | None]], None]


def forgets_first(batch: DmaBatch) -> None:
    """The list of addresses is zeroed; what is not in it has not been mapped."""
    batch.mapped = False
    batch.dpagemap.live_batches -= 1
    batch.addrs = []
    batch.window = None
    batch.linked = 0


async def fill_then_lock(home: _Home, src: list[MigratePfn], allocation: Zdd | None) -> list[Folio | None]:
    """RAM for all pages first, locks afterwards; an error on the way leaves by the exit for locked ones."""
    dst: list[Folio | None] = [None] * len(src)
    for index, entry in enumerate(src):
        if home.wanted(entry, allocation):
            try:
                dst[index] = await home.core.allocator.alloc("dst")
            except KernelError:
                home.engine.parts.of(drop_destinations)(dst)
                raise
    for folio in dst:
        if folio is not None:
            folio.lock.trylock_now()
    return dst


def plant_late_unmap(parts: Parts) -> None:
    """When a copy has failed its addresses are undone after the destinations have been put."""
    failed: list[DmaBatch] = []

    async def leave(
        batch: DmaBatch, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, KernelError):
            failed.append(batch)
        elif error is None:
            await batch.unmap()

    def late(original: Drop) -> Drop:
        def drop(dst: list[Folio | None]) -> None:
            original(dst)
            while failed:
                failed.pop().undo()

        return drop

    parts.replace_guard(DmaBatch, "__aexit__", leave)
    parts.replace(drop_destinations, late)


PGM_B04 = Bug(
    id="PGM-B04",
    title="the list of addresses is zeroed before what is in it is unmapped",
    removes="DmaBatch.undo",
    races=("PGM-R26",),
    oracles=("leaks", "ranges/RULE-18"),
    story="faults-and-writes",
    plant=replace_guard(DmaBatch, "undo", forgets_first),
)

PGM_R26 = Bug(
    id="PGM-R26",
    title="after a failed copy the destinations are put, then unmapped",
    removes="DmaBatch.__aexit__",
    races=("PGM-R26",),
    oracles=("lifetime/INV-05",),
    story="eviction-that-cannot-map",
    plant=plant_late_unmap,
)
"""The device could still have written to pages that are somebody else's by then."""

PGM_B02 = Bug(
    id="PGM-B02",
    title="an early error unlocks destinations that nobody has locked",
    removes="pagemap_migrate.drop_destinations",
    races=("PGM-R34",),
    oracles=("engine",),
    story="eviction-without-ram",
    plant=replace_part(_Home, lambda original: type(original.__name__, (original,), {"populate_ram": fill_then_lock})),
)
