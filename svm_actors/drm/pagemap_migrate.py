"""drm_pagemap_migrate_to_devmem: system or peer pages into one allocation (pagemap section 3).

The steps M1 to M10 keep their names from the digest.  All or nothing on the way in (RULE-58):
unless every page of the window takes part, the call fails with -EBUSY and restores everything.
After setup every exit runs pages and finalize, with empty destinations on an abort.

The caller holds mmap_lock for read, and the BO reservation until this returns (RULE-55); the
allocation reference is consumed in every outcome (RULE-59, PGM-R34).

Simplified: PTE level, so one entry is one page and the weighted count M4 is a plain count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.drm.pagemap_dma import DmaBatch
from svm_actors.drm.pagemap_events import DevmemFilled, DevmemPlaced
from svm_actors.drm.pagemap_zdd import Devmem, Zdd, zdd_of
from svm_actors.engine.errors import EBUSY, EINVAL, ENOENT, KernelError
from svm_actors.gpu.address import Direction
from svm_actors.mm.folio import Folio
from svm_actors.mm.messages import MigrateVmaFinalize, MigrateVmaPages, MigrateVmaSetup
from svm_actors.mm.migrate_types import MigratePfn, MigrateVma, Select

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.vma import Vma


@attrs.frozen
class MigrateDetails:
    """drm_pagemap_migrate_details."""

    timeslice_ns: int = 0
    """Minimum stay in virtual ns; 0 is none."""
    can_migrate_same_pagemap: bool = False
    """Pages already in the region may be moved inside it."""


def drop_destinations(dst: list[Folio | None]) -> None:
    """drm_pagemap_migration_unlock_put_pages: give every destination back, locked ones only (PGM-R34)."""
    for index, folio in enumerate(dst):
        if folio is not None:
            dst[index] = None
            folio.lock.release()
            folio.put("dst")


class ToDevmem:
    """The way in.  One instance per region; every guard is a method."""

    def __init__(self, dpagemap: DrmPagemap) -> None:
        self.dpagemap = dpagemap
        self.engine = dpagemap.engine
        self.core = dpagemap.core

    async def run(self, devmem: Devmem, mm: Mm, start: int, end: int, details: MigrateDetails) -> None:
        """-ENOENT no VMA, -EINVAL outside it, -EBUSY not anonymous or lost a race, -ENOMEM.

        PGM-R34: from the second step on the zone data has the allocation reference, and lets go of it.
        """
        mm.mmap_lock.assert_held()
        try:
            vma = self.check_window(mm, start, end)
            self.engine.faults.fail("memory")
        except KernelError:
            self.engine.count("PGM-R34")
            self.refuse(devmem)
            raise
        zdd = self.engine.parts.of(Zdd)(devmem)
        error = await self._attempt(zdd, self._setup_args(mm, vma, start, end), details)
        zdd.put()
        if error is not None:
            self.engine.count("PGM-R34")
            raise error

    # -- M1 to M3 --------------------------------------------------------------------

    def refuse(self, devmem: Devmem) -> None:
        """PGM-R34: an early error consumes the allocation reference like every outcome (RULE-59, PGM-B32)."""
        devmem.release()

    def check_window(self, mm: Mm, start: int, end: int) -> Vma:
        """SVM-R17, M1: the window still lies in one anonymous VMA, which stays while mmap_lock is held."""
        vma = mm.find_vma(start)
        if vma is None or end > vma.end:
            self.engine.count("SVM-R17")
        if vma is None:
            raise ENOENT
        if end > vma.end or end <= start:
            raise EINVAL
        if not vma.is_anonymous:
            raise EBUSY
        return vma

    def _setup_args(self, mm: Mm, vma: Vma, start: int, end: int) -> MigrateVma:
        owner = self.dpagemap.owner
        return MigrateVma(mm, vma, start, end, owner, Select.SYSTEM | Select.DEVICE_PRIVATE)

    async def _attempt(self, zdd: Zdd, args: MigrateVma, details: MigrateDetails) -> KernelError | None:
        """M3 to M10; the error to report, after everything has been restored."""
        try:
            await self.core.call(MigrateVmaSetup(args))
        except KernelError as failure:
            return failure
        if not args.cpages:
            self.engine.count("PGM-R02")
            self.engine.count("migrate.to_vram.busy")
            return EBUSY()
        args.dst = [None] * args.npages
        sources = self._mark_d2d(args)
        moving = False
        error: KernelError | None = None
        try:
            moving = await self._fill(zdd, args, details)
        except KernelError as failure:
            error = failure
            self.engine.parts.of(drop_destinations)(args.dst)
        if moving:
            zdd.devmem.filling = True
            self.engine.emit(DevmemPlaced(zdd.devmem, details.timeslice_ns))
        await self.core.call(MigrateVmaPages(args))
        self.retire_sources(args.src)
        if moving:
            error = self.judge_moved(args)
        await self.core.call(MigrateVmaFinalize(args))
        zdd.devmem.filling = False
        for source in sources:
            source.d2d_sources -= 1
        if error is None and moving:
            zdd.devmem.filled = True
            self.engine.count("migrate.to_vram")
            self.engine.emit(DevmemFilled(zdd.devmem))
        elif isinstance(error, EBUSY):
            self.engine.count("migrate.to_vram.busy")
        return error

    def _mark_d2d(self, args: MigrateVma) -> list[Zdd]:
        """Note on the zdd of every device source that it is being copied, for the window events."""
        sources = [zdd_of(entry.folio) for entry in args.src if entry.folio and entry.folio.is_device_private]
        for source in sources:
            source.d2d_sources += 1
        return sources

    # -- M4 to M8 --------------------------------------------------------------------

    async def _fill(self, zdd: Zdd, args: MigrateVma, details: MigrateDetails) -> bool:
        """Destinations built and filled; False when all pages are in the region already."""
        self.require_all_collected(args)
        if self.already_in_place(args, details):
            return False
        devmem = zdd.devmem
        pfns = await devmem.ops.populate_devmem_pfn(devmem)
        await self._copy_in(zdd, args, pfns)
        devmem.pre_migrate_fence = None
        self.set_expiration(devmem, details)
        return True

    def require_all_collected(self, args: MigrateVma) -> None:
        """PGM-R02: a CPU fault or another migration holds a page of the window: -EBUSY (M4)."""
        if sum(entry.migrate for entry in args.src) != args.npages:
            self.engine.count("PGM-R02")
            raise EBUSY

    def already_in_place(self, args: MigrateVma, details: MigrateDetails) -> bool:
        """M5: True when all pages are in the region; -EBUSY ("fragmented") when only some are."""
        if details.can_migrate_same_pagemap:
            return False
        ours = sum(self._source_pagemap(entry) is self.dpagemap for entry in args.src)
        if ours == args.npages:
            self.engine.count("migrate.to_vram.there")
            return True
        if ours:
            self.engine.count("migrate.to_vram.fragmented")
            raise EBUSY
        return False

    def set_expiration(self, devmem: Devmem, details: MigrateDetails) -> None:
        """PGM-R24: the deadline is visible before any CPU entry names the new pages (RULE-47)."""
        devmem.timeslice_expiration = self.engine.now + details.timeslice_ns

    # -- M7 --------------------------------------------------------------------------

    def _source_pagemap(self, entry: MigratePfn) -> DrmPagemap | None:
        folio = entry.folio
        return zdd_of(folio).dpagemap if folio is not None and folio.is_device_private else None

    async def _copy_in(self, zdd: Zdd, args: MigrateVma, pfns: list[int]) -> None:
        """Build each destination; copy batch by batch, a batch ending where the copier changes."""
        await self.engine.step("alloc", self.dpagemap.pgmap, zdd.devmem.name)
        first = 0
        copier: DrmPagemap | None = None
        for index, entry in enumerate(args.src):
            source = self._source_pagemap(entry)
            if self.copier_changes(index, first, copier, source):
                await self._copy_batch(zdd, args, first, index, copier)
                first = index
            if index == first:
                copier = source
            args.dst[index] = self.init_devmem_folio(pfns[index], zdd)
        await self._copy_batch(zdd, args, first, args.npages, copier)

    def init_devmem_folio(self, pfn: int, zdd: Zdd) -> Folio:
        """PGM-R30: rebuild the folio, then attach its zone data; no entry can name it yet (RULE-56)."""
        folio = self.dpagemap.pgmap.zone_device_page_init(pfn, "dst")
        zdd.attach(folio)
        return folio

    def copier_changes(self, index: int, first: int, copier: DrmPagemap | None, source: DrmPagemap | None) -> bool:
        """PGM-R23: addresses of one batch are those of one copying device; flush when it changes."""
        if index == first or source is copier:
            return False
        self.engine.count("PGM-R23")
        return True

    def new_batch(self, copier: Gpu) -> DmaBatch:
        """Nothing is mapped in it."""
        return self.engine.parts.of(DmaBatch)(self.dpagemap, copier)

    async def _copy_batch(self, zdd: Zdd, args: MigrateVma, first: int, end: int, copier: DrmPagemap | None) -> None:
        """Map, copy, unmap entries [first, end): by the source's device if the source is device memory."""
        sources = [entry.folio for entry in args.src[first:end]]
        targets = args.dst[first:end]
        devmem = zdd.devmem
        fence = devmem.pre_migrate_fence
        if copier is None:
            async with self.new_batch(self.dpagemap.gpu) as batch:
                await batch.map_system(sources, Direction.TO_DEVICE)
                await devmem.ops.copy_to_devmem(targets, batch.addrs, fence)
                self.note_touched(sources)
            return
        source_ops = zdd_of(next(folio for folio in sources if folio is not None)).devmem.ops
        async with self.new_batch(copier.gpu) as batch:
            await batch.map_peer(self.dpagemap, targets, Direction.FROM_DEVICE)
            await source_ops.copy_to_ram(sources, batch.addrs, fence)
            self.note_touched(sources)

    def note_touched(self, sources: list[Folio | None]) -> None:
        """SVM-R16, PGM-R25: a CPU thread wanted a page while it was copied; it waits at the migration entry."""
        if any(folio is not None and folio.lock.parked for folio in sources):
            self.engine.count("SVM-R16")
            self.engine.count("PGM-R25")

    # -- M9 --------------------------------------------------------------------------

    def retire_sources(self, src: list[MigratePfn]) -> None:
        """PGM-R21: device pages whose content was committed elsewhere, under their lock (RULE-53).

        7.3.4 leaves this out (PGM-S11): between the unlock and the put of finalize an eviction of the source's BO
        would move such a page once more.
        """
        for entry in src:
            folio = entry.folio
            if entry.migrate and folio is not None and folio.is_device_private:
                zdd_of(folio).retire(folio)

    def judge_moved(self, args: MigrateVma) -> KernelError | None:
        """M9: fewer committed than wanted is -EBUSY ("raced"); what did move stays where it is.

        A hole that did not go: somebody touched it first (PGM-R22).  A page: an extra reference
        appeared during the copy (PGM-R06).
        """
        lost = [entry for entry in args.src if not entry.migrate]
        if not lost:
            return None
        self.engine.count("PGM-R06" if any(entry.valid for entry in lost) else "PGM-R22")
        if len(lost) < args.npages:
            self.engine.count("migrate.partial")
        return EBUSY()
