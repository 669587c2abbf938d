"""Deviations of zone data: what ties a device page to its allocation and its region (pagemap section 1.3).

One reference for the migration that makes it and one per page, taken when the page has been initialised and before an
entry can name it; the last put may happen where nothing may sleep; and while it lives, so does the region.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.drm.pagemap_migrate import ToDevmem
from svm_actors.drm.pagemap_zdd import Devmem, Zdd
from svm_actors.engine.errors import KernelError
from svm_actors.mm.folio import Folio
from svm_actors.mm.migrate_types import MigrateVma
from svm_actors.xe.bo import Bo
from svm_actors.xe.pagemap import XePagemap


def one_for_all(zdd: Zdd, folio: Folio) -> None:
    """The creator's reference stands for every page."""
    folio.zone_device_data = zdd


def holds_nothing(original: type[Zdd]) -> type[Zdd]:
    """A subclass that trusts the region to be there."""

    class HoldsNothing(original):  # type: ignore[misc, valid-type]
        def _hold_pagemap(self) -> None:
            return

        def _drop_pagemap(self) -> None:
            return

    return HoldsNothing


def attaches_first(original: type[ToDevmem]) -> type[ToDevmem]:
    """A subclass that gives a page its zone data, then initialises it."""

    class AttachesFirst(original):  # type: ignore[misc, valid-type]
        def init_devmem_folio(self, pfn: int, zdd: Zdd) -> Folio:
            folio: Folio = super().init_devmem_folio(pfn, zdd)
            folio.zone_device_data = None
            return folio

    return AttachesFirst


def attaches_last(original: type[ToDevmem]) -> type[ToDevmem]:
    """A subclass that gives the pages their zone data when they are known to stay."""

    class AttachesLast(original):  # type: ignore[misc, valid-type]
        zdd: Zdd

        def init_devmem_folio(self, pfn: int, zdd: Zdd) -> Folio:
            self.zdd = zdd
            folio: Folio = self.dpagemap.pgmap.zone_device_page_init(pfn, "dst")
            return folio

        def judge_moved(self, args: MigrateVma) -> KernelError | None:
            for folio in args.dst:
                if folio is not None:
                    self.zdd.attach(folio)
            error: KernelError | None = super().judge_moved(args)
            return error

    return AttachesLast


def puts_at_once(pagemap: XePagemap, devmem: Devmem) -> None:
    """Why have a worker do what takes a moment."""
    devmem.pre_migrate_fence = None
    bo = devmem.buffer
    assert isinstance(bo, Bo)
    bo.put_now()


def module_may_go(original: type[XePagemap]) -> type[XePagemap]:
    """A subclass whose region does not count as a use of the driver."""

    class ModuleMayGo(original):  # type: ignore[misc, valid-type]
        def hold_provider(self) -> None:
            return

        async def drop_provider(self, _dpagemap: DrmPagemap) -> None:
            return

    return ModuleMayGo


PGM_B46 = Bug(
    id="PGM-B46",
    title="all pages of an allocation share one reference on its zone data",
    removes="Zdd.attach",
    races=("PGM-R33", "SVM-R15"),
    oracles=("lifetime",),
    story="faults-and-writes",
    plant=replace_guard(Zdd, "attach", one_for_all),
)
"""The allocation counts as empty, and its memory as free, when the migration that filled it ends."""

PGM_B07 = Bug(
    id="PGM-B07",
    title="zone data does not hold its region",
    removes="Zdd._hold_pagemap",
    races=("PGM-R33",),
    oracles=("lifetime/PGM-R33",),
    story="unbind-under-a-page",
    plant=replace_part(Zdd, holds_nothing),
)

PGM_B11 = Bug(
    id="PGM-B11",
    title="a device page is initialised when it has its zone data already",
    removes="ToDevmem.init_devmem_folio",
    races=("PGM-R30",),
    oracles=("migrations/RULE-56", "lifetime/RULE-56"),
    story="populate-and-write",
    plant=replace_part(ToDevmem, attaches_first),
)

PGM_B38 = Bug(
    id="PGM-B38",
    title="a device page gets its zone data when entries may name it already",
    removes="ToDevmem.init_devmem_folio",
    races=("PGM-R30",),
    oracles=("migrations/RULE-56", "lifetime/RULE-56"),
    story="populate-untouched-memory",
    plant=replace_part(ToDevmem, attaches_last),
)

PGM_B55 = Bug(
    id="PGM-B55",
    title="the last put of zone data puts the BO itself, where nothing may sleep",
    removes="XePagemap.devmem_release",
    races=("PGM-R07",),
    oracles=("context/PGM-R07",),
    story="populate-and-write",
    plant=replace_guard(XePagemap, "devmem_release", puts_at_once),
)

PGM_B09 = Bug(
    id="PGM-B09",
    title="a region does not hold the module whose code its pages need",
    removes="XePagemap.hold_provider",
    races=("PGM-R28", "SVM-R36"),
    oracles=("lifetime/RULE-52",),
    story="unbind-under-a-page",
    plant=replace_part(XePagemap, module_may_go),
)
"""The driver is unloaded under a page that somebody holds; the next CPU fault on it runs code that is not there."""
