"""Migrations that meet the CPU, zaps and each other: MM-B11, B36, R08, R09, R10, R14 (core_mm section 9)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard
from svm_actors.mirror.mended import MendedMigration
from svm_actors.mirror.migrate import Migration
from svm_actors.mm import migrate_device, rmap
from svm_actors.mm.core import CoreMm
from svm_actors.mm.folio import Folio
from svm_actors.mm.migrate_device import collect_entry, selected
from svm_actors.mm.migrate_types import MigrateVma
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rmap import restore_entry
from svm_actors.mm.vma import Vma

# -- collecting ---------------------------------------------------------------------------------


def lock_taken_for_granted(folio: Folio) -> bool:
    """Two own the page at once, and both unlock it."""
    folio.lock.trylock_now()
    return True


MM_R08 = Bug(
    id="MM-R08",
    title="eviction takes a page along that a CPU fault has locked",
    removes="migrate_device.trylock_for_eviction",
    races=("MM-R08",),
    oracles=("engine/EngineError", "lifetime", "structure", "migrations", "references/INV-15", "entries/INV-27"),
    story="eviction-met-by-cpu",
    plant=replace_function(migrate_device.trylock_for_eviction, lock_taken_for_granted),
)


async def collect_and_wait(core: CoreMm, args: MigrateVma, vma: Vma, low: int, high: int) -> None:
    """The page-table lock is given up to sleep on a busy page, with the pages before it locked."""
    table = args.mm.page_table
    for vpn in range(low, high):
        await core.engine.step("pte_write", table, vpn)
        pte = table.get(vpn)
        if pte is not None and selected(args, pte) and not pte.folio.is_zero and pte.folio is not args.fault_page:
            await sleep_on(pte.folio)
        collect_entry(args, vma, vpn, args.src[vpn - args.start])


async def sleep_on(folio: Folio) -> None:
    """A blocking folio lock, and back: the page may be collected then."""
    if folio.lock.locked:
        folio.get("collect")
        await folio.lock.acquire()
        folio.lock.release()
        folio.put("collect")


MM_R09 = Bug(
    id="MM-R09",
    title="collecting sleeps on a busy page while it holds the locks of others",
    removes="migrate_device.collect_table",
    races=("MM-R09",),
    oracles=("engine/deadlock", "engine/EngineError"),
    story="faults-in-one-allocation",
    plant=replace_function(migrate_device.collect_table, collect_and_wait),
)


# -- committing ---------------------------------------------------------------------------------


def hole_for_ever(_pte: Pte | None) -> bool:
    """What was a hole when it was collected."""
    return True


MM_R10 = Bug(
    id="MM-R10",
    title="a device page is put over the page that the CPU has touched first",
    removes="migrate_device.is_still_hole",
    races=("MM-R10",),
    oracles=("structure/INV-07", "coherence/INV-14"),
    story="to-device-met-by-cpu",
    plant=replace_function(migrate_device.is_still_hole, hole_for_ever),
)

MM_B36 = Bug(
    id="MM-B36",
    title="the device maps a page between commit and finalize without looking at the sequence",
    removes="MendedMigration.finalize_and_map",
    races=("MM-R15",),
    oracles=("lifetime/INV-05", "mirrors/INV-03", "coherence/INV-14", "invalidation/INV-01"),
    story="to-device-met-by-cpu",
    plant=replace_guard(MendedMigration, "finalize_and_map", Migration.finalize_and_map),
)


# -- finalizing ---------------------------------------------------------------------------------


def both_to_lru(core: CoreMm, survivor: Folio, other: Folio | None) -> None:
    """The one that lives on, and the one that is freed in a moment."""
    for folio in (survivor, other):
        if folio is not None and not folio.is_device_private:
            core.lru.add(folio)


MM_B11 = Bug(
    id="MM-B11",
    title="finalize puts the page that lost on the LRU, too",
    removes="migrate_device.back_to_lru",
    races=("MM-R14",),
    oracles=("lifetime/MM-B11",),
    story="eviction-met-by-cpu",
    plant=replace_function(migrate_device.back_to_lru, both_to_lru),
)


def restore_whatever_is_there(_core: CoreMm, vma: Vma, vpn: int, source: Folio, target: Folio) -> None:
    """An entry that was zapped comes back."""
    pte = vma.mm.page_table.get(vpn)
    if pte is None:
        pte = Pte(Entry.MIGRATION, source, True, exclusive=True)
    if pte.kind is Entry.MIGRATION and pte.folio is source:
        restore_entry(vma, vpn, pte, target)


MM_R14 = Bug(
    id="MM-R14",
    title="finalize maps the page where a zap has forgotten its entry",
    removes="rmap.restore_if_there",
    races=("MM-R14",),
    oracles=("coherence/INV-14", "structure", "leaks", "entries/INV-25"),
    story="eviction-met-by-cpu",
    plant=replace_function(rmap.restore_if_there, restore_whatever_is_there),
)
