"""PGM-B36: eviction by virtual address.

The address an allocation was made for is remembered beside it, in this module only: the model has no
pointer from physical memory to virtual addresses (design rule 4), so the deviation brings its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug
from svm_actors.drm.pagemap_migrate import MigrateDetails, ToDevmem
from svm_actors.drm.pagemap_ram import EvictPasses
from svm_actors.drm.pagemap_zdd import Devmem, zdd_of
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.world import GpuDevice

Homes = dict[str, tuple[Mm, int, int]]
"""Where each allocation was mapped when it was filled, by its name."""


class RemembersAddress(ToDevmem):
    """The way in, plus a note of the address."""

    def __init__(self, dpagemap: DrmPagemap, homes: Homes) -> None:
        super().__init__(dpagemap)
        self.homes = homes

    async def run(self, devmem: Devmem, mm: Mm, start: int, end: int, details: MigrateDetails) -> None:
        """Take the note, then migrate."""
        self.homes[devmem.name] = (mm, start, end)
        await super().run(devmem, mm, start, end, details)


class EvictsByAddress(EvictPasses):
    """Looks where the pages were mapped once; finds nothing there and takes that for "nothing to do"."""

    def __init__(self, dpagemap: DrmPagemap, homes: Homes) -> None:
        super().__init__(dpagemap)
        self.homes = homes

    async def run(self, devmem: Devmem) -> None:
        """The guard that is gone: ``detached`` is not looked at when the mapping has moved (RULE-48)."""
        mm, start, end = self.homes[devmem.name]
        await self.engine.step("pte_read", mm.page_table)
        if self.is_at_home(devmem, mm, start, end):
            await super().run(devmem)

    def is_at_home(self, devmem: Devmem, mm: Mm, start: int, end: int) -> bool:
        """True when a page of the allocation is where it was mapped first."""
        entries = (mm.page_table.get(vpn) for vpn in range(start, end))
        return any(
            pte is not None and pte.kind is Entry.DEVICE_PRIVATE and zdd_of(pte.folio).devmem is devmem
            for pte in entries
        )


def plant(device: GpuDevice) -> None:
    """Both halves, on the pagemap of one GPU."""
    dpagemap = device.driver.pagemap
    homes: Homes = {}
    dpagemap.to_devmem = RemembersAddress(dpagemap, homes)
    dpagemap.evict_passes = EvictsByAddress(dpagemap, homes)


PGM_B36 = Bug(
    id="PGM-B36",
    title="eviction looks the mapping up by virtual address and gives up when it has moved",
    removes="EvictPasses.run",
    races=("SVM-R19",),
    oracles=("eviction/RULE-48", "lifetime", "coherence", "engine"),
    plant=plant,
)
