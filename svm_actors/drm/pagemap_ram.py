"""The way home: CPU faults (pagemap section 4) and eviction by physical pages (section 5).

CPU faults rely on the core MM alone: folio locks, migration entries, references.  No driver lock
is taken here, partial success is success, and "somebody else won" is success too: the access is
simply tried again (design rule 1, RULE-57).

Eviction looks only at physical pages (design rule 2).  It may lose pages to whoever holds their
locks, so it makes up to three passes and believes nothing but ``detached`` (RULE-48).

Simplified: order 0, so no demotion of large folios (PGM-R16, PGM-R17, PGM-R35).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.pagemap_dma import DmaBatch
from svm_actors.drm.pagemap_migrate import drop_destinations
from svm_actors.drm.pagemap_zdd import Devmem, Zdd, zdd_of
from svm_actors.engine.errors import EBUSY, EFAULT, KernelError, PropertyFailed
from svm_actors.gpu.address import Direction
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import (
    MigrateDeviceFinalize,
    MigrateDevicePages,
    MigrateDevicePfns,
    MigrateVmaFinalize,
    MigrateVmaPages,
    MigrateVmaSetup,
)
from svm_actors.mm.migrate_types import MigratePfn, MigrateVma, Select

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.mm.mm_struct import Mm

EVICT_PASSES = 3
"""How often eviction goes over an allocation before it reports -EBUSY."""

REFAULT_INTERVAL_NS = 1_000_000
"""Virtual time between two looks of a CPU thread that spins on a page inside its timeslice."""


class _Home:
    """What both ways home share: RAM destinations, the copy, retiring the sources."""

    def __init__(self, dpagemap: DrmPagemap) -> None:
        self.dpagemap = dpagemap
        self.engine = dpagemap.engine
        self.core = dpagemap.core

    def skip_retired(self, src: list[MigratePfn]) -> None:
        """PGM-R15: content that already went home is not a source again (RULE-53); PGM-R21: or to another device."""
        for entry in src:
            folio = entry.folio
            if entry.migrate and folio is not None and zdd_of(folio).is_retired(folio):
                self.engine.count("PGM-R21" if zdd_of(folio).d2d_sources else "PGM-R15")
                entry.migrate = False

    def retire_sources(self, src: list[MigratePfn]) -> None:
        """PGM-R15: flag what was committed, still under the folio lock, before finalize unlocks."""
        for entry in src:
            folio = entry.folio
            if entry.migrate and folio is not None:
                zdd_of(folio).retire(folio)

    def wanted(self, entry: MigratePfn, allocation: Zdd | None) -> bool:
        """True when this entry gets a RAM folio; ``allocation`` restricts it to one zdd."""
        return entry.migrate and entry.folio is not None

    async def populate_ram(self, src: list[MigratePfn], allocation: Zdd | None) -> list[Folio | None]:
        """drm_pagemap_migrate_populate_ram_pfn (C4, E3): locked RAM folios; -ENOMEM leaves none."""
        dst: list[Folio | None] = [None] * len(src)
        for index, entry in enumerate(src):
            if not self.wanted(entry, allocation):
                continue
            try:
                folio = await self.core.allocator.alloc("dst")
            except KernelError:
                self.engine.parts.of(drop_destinations)(dst)
                raise
            folio.lock.trylock_now()
            dst[index] = folio
        return dst

    def new_batch(self) -> DmaBatch:
        """PGM-R27: nothing is mapped in it; every copy has state of its own (PGM-B25)."""
        return self.engine.parts.of(DmaBatch)(self.dpagemap, self.dpagemap.gpu)

    async def copy_home(self, src: list[MigratePfn], dst: list[Folio | None], devmem: Devmem) -> None:
        """C5, E3: map the destinations on the device that owns the pages, copy, unmap."""
        pages = [entry.folio if target is not None else None for entry, target in zip(src, dst, strict=True)]
        async with self.new_batch() as batch:
            await batch.map_system(dst, Direction.FROM_DEVICE)
            await devmem.ops.copy_to_ram(pages, batch.addrs, None)
            if any(folio is not None and folio.lock.parked for folio in pages):
                self.engine.count("PGM-R25")

    async def fill(
        self, src: list[MigratePfn], devmem: Devmem, only: Zdd | None
    ) -> tuple[list[Folio | None], KernelError | None]:
        """Destinations with their content, or none and the error."""
        dst: list[Folio | None] = [None] * len(src)
        try:
            dst = await self.populate_ram(src, only)
            if any(folio is not None for folio in dst):
                await self.copy_home(src, dst, devmem)
        except KernelError as error:
            self.engine.parts.of(drop_destinations)(dst)
            return dst, error
        return dst, None


class ToRam(_Home):
    """__drm_pagemap_migrate_to_ram: one CPU fault."""

    async def run(self, fault: VmFault) -> None:
        """C1 to C6.  -EFAULT (SIGBUS) on any error; otherwise the access is tried again."""
        zdd = zdd_of(fault.page)
        self.note_maker(zdd.devmem)
        if self.in_timeslice(zdd.devmem):
            self.let_time_pass(fault, zdd.devmem)
            return
        error = await self._attempt(self.window(fault, zdd.devmem), zdd)
        if error is not None:
            self.engine.count("migrate.to_ram.error")
            raise EFAULT

    async def _attempt(self, args: MigrateVma, zdd: Zdd) -> KernelError | None:
        """C3, then the rest unless somebody else was faster."""
        try:
            self.engine.faults.fail("memory")
            await self.core.call(MigrateVmaSetup(args))
        except KernelError as error:
            return error
        self.note_others(args, zdd)
        self.note_last(fault_page=args.fault_page)
        if self.nothing_collected(args):
            return None
        return await self._move(args, zdd)

    def in_timeslice(self, devmem: Devmem) -> bool:
        """SVM-R10: the pages have not had their minimum stay yet (C1, removed by PGM-B30)."""
        return self.engine.now < devmem.timeslice_expiration

    def let_time_pass(self, fault: VmFault, devmem: Devmem) -> None:
        """PGM-R11: nothing moves; the thread goes back and looks at its entry again.

        The kernel's thread spins through refaults until the deadline.  A spinning thread would keep
        virtual time from reaching it, so the core is asked to pause before the refault, after it
        has let go of the page.
        """
        self.engine.count("migrate.timeslice")
        fault.pause_ns = min(devmem.timeslice_expiration - self.engine.now, REFAULT_INTERVAL_NS)

    def window(self, fault: VmFault, devmem: Devmem) -> MigrateVma:
        """C2: the allocation's size aligned around the fault, inside the VMA (PGM-R09)."""
        start = fault.vpn - fault.vpn % devmem.npages
        start, end = self.clip(fault, start, start + devmem.npages)
        owner = self.dpagemap.owner
        args = MigrateVma(fault.vma.mm, fault.vma, start, end, owner, Select.DEVICE_PRIVATE)
        self.exempt_fault_page(args, fault)
        return args

    def clip(self, fault: VmFault, start: int, end: int) -> tuple[int, int]:
        """PGM-R09: after munmap, mremap or a split the window may reach beyond the VMA."""
        vma = fault.vma
        if start < vma.start or end > vma.end:
            self.engine.count("PGM-R09")
        return max(start, vma.start), min(end, vma.end)

    def exempt_fault_page(self, args: MigrateVma, fault: VmFault) -> None:
        """PGM-R29: the core holds this page's lock and one reference for the whole call."""
        args.fault_page = fault.page

    def note_others(self, args: MigrateVma, zdd: Zdd) -> None:
        """PGM-R01: pages of the allocation are in use that we could not collect: somebody else has them."""
        ours = sum(entry.folio is not None and zdd_of(entry.folio) is zdd for entry in args.src)
        if zdd.refs > ours and not all(entry.migrate for entry in args.src):
            self.engine.count("PGM-R01")

    def note_maker(self, devmem: Devmem) -> None:
        """PGM-R30: the first page can be had, and who brought it is not through; PGM-R24: its deadline counts."""
        if devmem.filling:
            self.engine.count("PGM-R30")
            if self.engine.now < devmem.timeslice_expiration:
                self.engine.count("PGM-R24")

    def note_last(self, fault_page: Folio | None) -> None:
        """SVM-R15: the page was dropped meanwhile; this fault's reference alone keeps it and its zone data."""
        if fault_page is not None and fault_page.refcount == fault_page.refs.get("fault"):
            self.engine.count("SVM-R15")

    def nothing_collected(self, args: MigrateVma) -> bool:
        """PGM-R01: another thread took the whole window; its result is ours (RULE-57)."""
        if args.cpages:
            return False
        self.engine.count("migrate.to_ram.none")
        return True

    def wanted(self, entry: MigratePfn, allocation: Zdd | None) -> bool:
        """PGM-R10: after mremap the window may hold pages of other allocations; leave those (C4)."""
        if not entry.migrate or entry.folio is None:
            return False
        if zdd_of(entry.folio) is allocation:
            return True
        self.engine.count("PGM-R10")
        return False

    async def _move(self, args: MigrateVma, zdd: Zdd) -> KernelError | None:
        """C4 to C6; entries change only when the copies are through (PGM-R25)."""
        self.skip_retired(args.src)
        args.dst, error = await self.fill(args.src, zdd.devmem, zdd)
        await self.core.call(MigrateVmaPages(args))
        self.retire_sources(args.src)
        moved = sum(entry.migrate and entry.valid for entry in args.src)
        await self.core.call(MigrateVmaFinalize(args))
        return error or self.judge_moved(args, moved)

    def judge_moved(self, args: MigrateVma, moved: int) -> KernelError | None:
        """PGM-R01: whatever part of the window came home, even none of it, is success (RULE-57, PGM-B35)."""
        if not moved:
            self.engine.count("migrate.to_ram.none")
            return None
        self.engine.count("migrate.to_ram")
        if moved < args.npages:
            self.engine.count("migrate.partial")
        return None


class EvictPasses(_Home):
    """drm_pagemap_evict_to_ram."""

    async def run(self, devmem: Devmem) -> None:
        """E1 to E4, by physical pages alone: mremap may move them about (SVM-R19, RULE-48, PGM-B36).

        Returns when ``detached``; -EBUSY, -EFAULT, -ENOMEM.
        """
        await self.pass_over_timeslice(devmem)
        error: KernelError | None = None
        number: int | None = 0
        while number is not None:
            await self.start_pass(number)
            error = await self._pass(devmem)
            if self.finished(devmem):
                self.engine.count("evict")
                return
            number = self.next_pass(number)
        self.engine.count("evict.busy")
        raise error or EBUSY()

    async def pass_over_timeslice(self, devmem: Devmem) -> None:
        """PGM-R32: memory pressure does not wait for anybody's minimum stay (PGM-B34)."""
        if self.engine.now < devmem.timeslice_expiration:
            self.engine.count("PGM-R32")

    def next_pass(self, number: int) -> int | None:
        """PGM-R03, SVM-R14: three passes; what others hold on to all that time stays: -EBUSY (PGM-B01)."""
        return number + 1 if number + 1 < EVICT_PASSES else None

    async def start_pass(self, number: int) -> None:
        """PGM-R27: every pass begins with fresh arrays, counters and IOVA state; others run between two."""
        self.engine.count("evict.pass")
        if number:
            self.engine.count("PGM-R27")
            await self.engine.step("local", self.dpagemap, "cond_resched")

    def finished(self, devmem: Devmem) -> bool:
        """Never judged by counts: only when the last device folio is free (SVM-R14, RULE-48, PGM-B37)."""
        return devmem.detached.done

    async def _pass(self, devmem: Devmem) -> KernelError | None:
        """One pass; -EFAULT of a dying mm ends the eviction."""
        mm = devmem.mm
        await self.hold_user(mm)
        error: KernelError | None = None
        try:
            await self._move(devmem)
        except KernelError as failure:
            error = failure
        await self.mmput_async(mm)
        return error

    async def hold_user(self, mm: Mm) -> None:
        """PGM-R20: an address space without users is being torn down, and must not get a user again.  -EFAULT."""
        if not await mm.mmget_not_zero():
            self.note_dead_mm(mm)
            raise EFAULT

    async def mmput_async(self, mm: Mm) -> None:
        """Drop a user; if it is the last one, a worker tears the address space down.

        That takes mmap_lock, and the evictor holds a BO reservation, the inner lock of the two.
        """
        await self.engine.step("put", mm, "mm_users")
        mm.users -= 1
        if not mm.users:
            self.dpagemap.works.queue("mmput_async", self.core.exit_mmap, mm)

    def note_dead_mm(self, mm: Mm) -> None:
        """PGM-R20: the pages go with the address space.  Its structure must still be there to say so (PGM-S03)."""
        self.engine.count("PGM-R20")
        if mm.count <= 0:
            raise PropertyFailed("lifetime", "PGM-S03", f"an eviction looks at {mm.name}, which has been freed")

    async def _move(self, devmem: Devmem) -> None:
        """E2 and E3."""
        self.engine.faults.fail("memory")
        pfns = await devmem.ops.populate_devmem_pfn(devmem)
        src = await self.core.call(MigrateDevicePfns(self.dpagemap.pgmap, pfns))
        self.note_skipped(src, pfns)
        self.skip_retired(src)
        dst, error = await self.fill(src, devmem, None)
        await self.core.call(MigrateDevicePages(src, dst))
        self.retire_sources(src)
        if any(entry.migrate for entry in src) and not all(entry.migrate for entry in src):
            self.engine.count("migrate.partial")
        await self.core.call(MigrateDeviceFinalize(src, dst))
        if error is not None:
            raise error

    def note_skipped(self, src: list[MigratePfn], pfns: list[int]) -> None:
        """PGM-R03, SVM-R14: a page under a CPU fault is skipped, it normally leaves by that fault; PGM-R05:
        one under a device-to-device copy likewise.  The next pass looks again."""
        for entry, pfn in zip(src, pfns, strict=True):
            folio = self.dpagemap.pgmap.live.get(pfn)
            if entry.folio is None and folio is not None and folio.lock.locked:
                between_devices = zdd_of(folio).d2d_sources
                self.engine.count("PGM-R05" if between_devices else "PGM-R03")
                if not between_devices:
                    self.engine.count("SVM-R14")
