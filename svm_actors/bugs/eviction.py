"""PGM-B36: eviction by virtual address.

The address an allocation was made for is remembered beside it, in this module only: the model has no
pointer from physical memory to virtual addresses (design rule 4), so the deviation brings its own.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug
from svm_actors.drm.pagemap_migrate import MigrateDetails, ToDevmem
from svm_actors.drm.pagemap_ram import EvictPasses
from svm_actors.drm.pagemap_zdd import Devmem, zdd_of
from svm_actors.engine.parts import Deviate, Parts
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry

Homes = dict[str, tuple[Mm, int, int]]
"""Where each allocation was mapped when it was filled, by its name."""


def remembering(homes: Homes) -> Deviate:
    """The way in, plus a note of the address."""

    def deviate(original: type[ToDevmem]) -> type[ToDevmem]:
        class RemembersAddress(original):  # type: ignore[misc, valid-type]
            async def run(self, devmem: Devmem, mm: Mm, start: int, end: int, details: MigrateDetails) -> None:
                homes[devmem.name] = (mm, start, end)
                await super().run(devmem, mm, start, end, details)

        return RemembersAddress

    return deviate


def evicting_by_address(homes: Homes) -> Deviate:
    """Looks where the pages were mapped once; finds nothing there and takes that for "nothing to do".

    The guard that is gone: ``detached`` is not looked at when the mapping has moved (RULE-48).
    """

    def deviate(original: type[EvictPasses]) -> type[EvictPasses]:
        class EvictsByAddress(original):  # type: ignore[misc, valid-type]
            async def run(self, devmem: Devmem) -> None:
                mm, start, end = homes[devmem.name]
                await self.engine.step("pte_read", mm.page_table)
                if is_at_home(devmem, mm, start, end):
                    await super().run(devmem)

        return EvictsByAddress

    return deviate


def is_at_home(devmem: Devmem, mm: Mm, start: int, end: int) -> bool:
    """True when a page of the allocation is where it was mapped first."""
    entries = (mm.page_table.get(vpn) for vpn in range(start, end))
    return any(
        pte is not None and pte.kind is Entry.DEVICE_PRIVATE and zdd_of(pte.folio).devmem is devmem for pte in entries
    )


def plant(parts: Parts) -> None:
    """Both halves, with one notebook per machine."""
    homes: Homes = {}
    parts.replace(ToDevmem, remembering(homes))
    parts.replace(EvictPasses, evicting_by_address(homes))


PGM_B36 = Bug(
    id="PGM-B36",
    title="eviction looks the mapping up by virtual address and gives up when it has moved",
    removes="EvictPasses.run",
    races=("SVM-R19", "RULE-06", "RULE-12"),
    oracles=("eviction/RULE-48", "lifetime", "coherence", "engine"),
    story="mremap-eviction",
    plant=plant,
)
