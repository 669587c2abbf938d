"""migrate_vma_setup / pages / finalize and the migrate_device family (core_mm section 9).

Partial success is normal: whatever cannot move (locked, referenced, busy) is restored and its
``src`` entry cleared.  Page-table sections are one op per leaf table; locks are trylocks.

Simplified: order-0 folios only, so nothing is split and COMPOUND never appears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINVAL, ENOMEM
from svm_actors.mm.constants import PTRS_PER_PTE, SPECIAL_FLAGS, Vm
from svm_actors.mm.events import FolioMigrated, MigrationOver, MigrationRefused
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap
from svm_actors.mm.migrate_types import MigratePfn, MigrateVma, Select
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rmap import (
    anon_vma_prepare,
    folio_add_new_anon_rmap,
    install_migration_entry,
    remove_migration_ptes,
    try_to_migrate,
)
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.swap import SwapSlot


# -- setup ----------------------------------------------------------------------------------


async def migrate_vma_setup(core: CoreMm, args: MigrateVma) -> None:
    """Collect and unmap.  -EINVAL: no vma, special vma, bad range, fault_page not locked or no device page."""
    vma = args.vma
    if vma is None or vma.flags & (SPECIAL_FLAGS | Vm.HUGETLB):
        raise EINVAL
    if not vma.start <= args.start < args.end <= vma.end:
        raise EINVAL
    fault_page = args.fault_page
    if fault_page is not None and not (fault_page.is_device_private and fault_page.lock.locked):
        raise EINVAL
    args.mm.mmap_lock.assert_held()
    args.src = [MigratePfn() for _ in range(args.npages)]
    args.dst = [None] * args.npages
    await _collect(core, args, vma)
    if any(entry.migrate for entry in args.src):
        await migrate_device_unmap(core, args.src, args.fault_page)
    args.cpages = sum(entry.migrate for entry in args.src)


async def _collect(core: CoreMm, args: MigrateVma, vma: Vma) -> None:
    """9.1: between MIGRATE start and end, one locked section per leaf table."""
    event = NotifierRange(args.mm, Event.MIGRATE, args.start, args.end, args.pgmap_owner)
    await args.mm.subscriptions.invalidate_range_start(event)
    first, last = args.start // PTRS_PER_PTE, (args.end - 1) // PTRS_PER_PTE
    for table in range(first, last + 1):
        low, high = max(args.start, table * PTRS_PER_PTE), min(args.end, (table + 1) * PTRS_PER_PTE)
        await core.engine.parts.of(collect_table)(core, args, vma, low, high)
    await args.mm.subscriptions.invalidate_range_end(event)


async def collect_table(core: CoreMm, args: MigrateVma, vma: Vma, low: int, high: int) -> None:
    """One leaf table under its lock, without a break: a busy page is left out, nobody waits for one (MM-R09)."""
    await core.engine.step("pte_write", args.mm.page_table, low - low % PTRS_PER_PTE)
    for vpn in range(low, high):
        collect_entry(args, vma, vpn, args.src[vpn - args.start])


def collect_entry(args: MigrateVma, vma: Vma, vpn: int, out: MigratePfn) -> None:
    """The table of 9.1 for one entry."""
    pte = args.mm.page_table.get(vpn)
    if pte is None:
        out.migrate = vma.is_anonymous
        return
    if pte.kind is Entry.PRESENT and pte.folio.is_zero:
        out.migrate = bool(args.select & Select.SYSTEM)
        return
    if not selected(args, pte):
        return
    folio: Folio = pte.folio
    if not lock_to_collect(args, folio):
        return
    folio.get("collect")
    vma.engine.parts.of(install_migration_entry)(vma, vpn, pte)
    out.folio, out.migrate, out.write = folio, True, pte.writable


def lock_to_collect(args: MigrateVma, folio: Folio) -> bool:
    """MM-R09: a busy page is left out.  PGM-R29: the faulting page is locked by the core already, and stays so."""
    if folio is args.fault_page:
        folio.engine.count("PGM-R29")
        return True
    if folio.lock.trylock_now():
        return True
    folio.engine.count("MM-R09")
    return False


def selected(args: MigrateVma, pte: Pte) -> bool:
    """Selectors and owner."""
    if pte.kind is Entry.PRESENT:
        return bool(args.select & Select.SYSTEM)
    if pte.kind is Entry.DEVICE_PRIVATE:
        return bool(args.select & Select.DEVICE_PRIVATE) and pte.folio.owner is args.pgmap_owner
    return False


async def migrate_device_unmap(core: CoreMm, src: list[MigratePfn], fault_page: Folio | None) -> None:
    """9.2: isolate, unmap everywhere, check references; what fails is restored and cleared."""
    await core.lru.drain()
    for entry in src:
        folio = entry.folio
        if folio is None:
            continue
        if not await _isolate(core, folio):
            await _restore(core, entry, fault_page, isolated=False)
            continue
        if folio.mapcount:
            await core.engine.parts.of(try_to_migrate)(core, folio)
        if folio.mapcount or foreign_references(folio, fault_page, lax=True):
            core.engine.count("migrate.refs")
            core.engine.emit(refusal(folio, fault_page, lax=True))
            await _restore(core, entry, fault_page)


async def _isolate(core: CoreMm, folio: Folio) -> bool:
    """RAM pages must be taken off the LRU; somebody else may have them isolated."""
    if folio.is_device_private:
        return True
    await core.engine.step("flag_write", folio, "lru")
    if not folio.lru:
        return False
    folio.lru = False
    return True


def foreign_references(folio: Folio, fault_page: Folio | None, *, lax: bool) -> int:
    """References beyond those the migration accounts for.

    The check after unmapping (``lax``) grants ZONE_DEVICE pages one reference they no longer have
    (MM-B48); the check at commit is exact (MM-R11).
    """
    expected = 1 + folio.mapcount + folio.swapcache + folio.refs.get("pagecache", 0) + (folio is fault_page)
    if lax and folio.is_device_private:
        expected += 1
    return max(0, folio.refcount - expected)


def refusal(folio: Folio, fault_page: Folio | None, *, lax: bool) -> MigrationRefused:
    """Why it does not move, for whoever wants to know."""
    return MigrationRefused(folio, folio.mapcount, foreign_references(folio, fault_page, lax=lax))


async def _restore(core: CoreMm, entry: MigratePfn, fault_page: Folio | None, *, isolated: bool = True) -> None:
    """Put the entries back and let go of the page; the entry takes no further part."""
    folio = entry.folio
    assert folio is not None
    await remove_migration_ptes(core, folio, folio)
    entry.clear()
    if isolated:
        _putback(core, folio)
    _release(core, folio, fault_page)
    core.engine.emit(MigrationOver(folio, None, False, folio is fault_page))


def _putback(core: CoreMm, folio: Folio) -> None:
    """folio_putback_lru, for a page that somebody still wants."""
    if not folio.is_device_private and folio.refcount > 1:
        core.lru.add(folio)


def _release(core: CoreMm, folio: Folio, fault_page: Folio | None) -> None:
    """Unlock and put.  Who unmapped it meanwhile met the lock, and left its place in the swap cache to us."""
    if folio is not fault_page:
        folio.lock.release()
        core.swap.free_swap_cache(folio)
    folio.put("collect")


# -- pages ----------------------------------------------------------------------------------


async def migrate_vma_pages(core: CoreMm, args: MigrateVma) -> None:
    """9.4: commit each entry that has a destination; holes are filled under a second MIGRATE event."""
    await _migrate_pages(core, args.src, args.dst, args)


async def migrate_device_pages(core: CoreMm, src: list[MigratePfn], dst: list[Folio | None]) -> None:
    """9.7: the same without mm: no holes."""
    await _migrate_pages(core, src, dst, None)


async def _migrate_pages(
    core: CoreMm, src: list[MigratePfn], dst: list[Folio | None], args: MigrateVma | None
) -> None:
    event: NotifierRange | None = None
    for index, (entry, target) in enumerate(zip(src, dst, strict=True)):
        if target is None:
            entry.migrate = False
            continue
        if not entry.migrate:
            continue
        if entry.folio is not None:
            fault_page = args.fault_page if args else None
            entry.migrate = await _migrate_folio(core, entry.folio, target, fault_page)
            if entry.migrate:
                core.engine.emit(FolioMigrated(entry.folio, target, fault_page is not None))
            continue
        if args is None:
            entry.migrate = False
            continue
        if event is None:
            event = NotifierRange(args.mm, Event.MIGRATE, args.start + index, args.end, args.pgmap_owner)
            await args.mm.subscriptions.invalidate_range_start(event)
        entry.migrate = await _insert_page(core, args, args.start + index, target)
    if event is not None:
        assert args is not None
        await args.mm.subscriptions.invalidate_range_end(event)


async def _migrate_folio(core: CoreMm, source: Folio, target: Folio, fault_page: Folio | None) -> bool:
    """folio_migrate_mapping: exact reference check, then the destination is the page."""
    await core.engine.step("write", source, "migrate_mapping")
    cached: SwapSlot | None = source.swap_slot
    if target.is_device_private and (not source.anon or not core.swap.folio_free_swap(source)):
        return False
    if not core.engine.parts.of(exact_references)(source, fault_page):
        core.engine.count("MM-R11")
        core.engine.emit(refusal(source, fault_page, lax=False))
        return False
    target.anon, target.anon_vma, target.index = source.anon, source.anon_vma, source.index
    target.dirty = source.dirty
    target.uptodate = True
    if source.mapping is not None:
        target.mapping, source.mapping = source.mapping, None
        target.mapping.pages[target.index] = target
        target.get("pagecache")
        source.put("pagecache")
    slot = core.engine.parts.of(slot_to_move)(source, cached)
    if slot is not None:
        core.swap.add_to_cache(target, slot)
        source.swap_slot = None
        source.put("swapcache")
    return True


def slot_to_move(source: Folio, cached: SwapSlot | None) -> SwapSlot | None:
    """MM-B22: looked at again: on the way to a device the page has just left the swap cache (MM-R41)."""
    slot: SwapSlot | None = source.swap_slot
    if slot is not cached:
        source.engine.count("MM-R41")
    return slot


def exact_references(source: Folio, fault_page: Folio | None) -> bool:
    """No reference but the migration's own (MM-R11; MM-B55 removes it)."""
    return not foreign_references(source, fault_page, lax=False)


def is_stable(mm: Mm) -> bool:
    """MM-R22: what the OOM reaper has emptied must not be filled with zeros (check_stable_address_space; MM-B56)."""
    if mm.unstable:
        mm.engine.count("MM-R22")
    return not mm.unstable


async def _insert_page(core: CoreMm, args: MigrateVma, vpn: int, target: Folio) -> bool:
    """migrate_vma_insert_page: fill a hole, if it still is one and the mm is stable (MM-R10)."""
    vma = args.vma
    assert vma is not None
    if not vma.is_anonymous:
        return False
    try:
        args.mm.pte_alloc(vpn)
        anon_vma_prepare(core, vma)
    except ENOMEM:
        return False
    await core.engine.step("pte_write", args.mm.page_table, vpn)
    pte = args.mm.page_table.get(vpn)
    if not core.engine.parts.of(is_stable)(args.mm):
        return False
    if not core.engine.parts.of(is_still_hole)(pte):
        core.engine.count("MM-R10")
        return False
    folio_add_new_anon_rmap(target, vma, vpn)
    target.uptodate = True
    writable = bool(vma.flags & Vm.WRITE)
    if target.is_device_private:
        entry = Pte(Entry.DEVICE_PRIVATE, target, writable)
    else:
        core.lru.add(target)
        entry = Pte(Entry.PRESENT, target, writable, writable, True)
    args.mm.page_table.set(vpn, entry)
    args.mm.rss.anon += 1
    core.engine.emit(FolioMigrated(None, target, False))
    return True


def is_still_hole(pte: Pte | None) -> bool:
    """MM-R10: nobody has touched the page since it was collected; the one who has keeps it, and the new page goes."""
    return pte is None or (pte.kind is Entry.PRESENT and pte.folio.is_zero)


# -- finalize -------------------------------------------------------------------------------


async def migrate_vma_finalize(core: CoreMm, args: MigrateVma) -> None:
    """9.5: point the entries at the survivors, unlock and put everything."""
    await _finalize(core, args.src, args.dst, args.fault_page)


async def migrate_device_finalize(core: CoreMm, src: list[MigratePfn], dst: list[Folio | None]) -> None:
    """9.7."""
    await _finalize(core, src, dst, None)


async def _finalize(
    core: CoreMm, src: list[MigratePfn], dst: list[Folio | None], fault_page: Folio | None
) -> None:
    for index, entry in enumerate(src):
        target = dst[index]
        source = entry.folio
        if source is not None:
            survivor = target if entry.migrate and target is not None else source
            await remove_migration_ptes(core, source, survivor)
            committed = survivor is target
            if committed:
                core.engine.parts.of(back_to_lru)(core, survivor, source)
            await core.engine.step("flag_write", source, "unlock")
            if committed:
                if source is not fault_page:
                    source.lock.release()
                    if source.is_device_private:
                        # Unlocked but not yet put: another migrator may lock it now (PGM-R15, PGM-R21).
                        await core.engine.step("put", source)
                source.put("collect")
            else:
                core.engine.parts.of(back_to_lru)(core, source, target)
                _release(core, source, fault_page)
        if target is not None:
            target.lock.release()
            core.swap.free_swap_cache(target)
            target.put("dst")
            dst[index] = None
        if source is not None or target is not None:
            core.engine.emit(MigrationOver(source, target, entry.migrate, source is fault_page))


def back_to_lru(core: CoreMm, survivor: Folio, _other: Folio | None) -> None:
    """MM-B11: only the page that lives on; the other one is about to be freed."""
    _putback(core, survivor)


# -- by physical page -------------------------------------------------------------------------


async def migrate_device_pfns(core: CoreMm, pgmap: DevPagemap, pfns: list[int]) -> list[MigratePfn]:
    """9.7: collect device pages by pfn alone, then unmap them in every mm (rmap)."""
    src: list[MigratePfn] = []
    for pfn in pfns:
        entry = MigratePfn()
        src.append(entry)
        if pfn not in pgmap.live:
            continue
        folio = pgmap.live[pfn]
        await core.engine.step("trylock", folio.lock)
        if pgmap.live.get(pfn) is not folio or not core.engine.parts.of(trylock_for_eviction)(folio):
            continue
        folio.get("collect")
        if folio.mapcount > 1:
            core.engine.count("SVM-R20")
        entry.folio, entry.migrate = folio, True
    await migrate_device_unmap(core, src, None)
    return src


def trylock_for_eviction(folio: Folio) -> bool:
    """MM-R08: whoever has the page locked, a CPU fault above all, is bringing it home or failing to."""
    if folio.lock.trylock_now():
        return True
    folio.engine.count("MM-R08")
    return False
