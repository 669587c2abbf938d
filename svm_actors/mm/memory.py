"""CPU page faults (core_mm sections 3, 5, 10 and 12).

``handle_mm_fault`` handles one fault of one page; callers are the CPU fault message, hmm and GUP.
It either makes progress, returns having done nothing (the access is retried), asks for the fault
to be redone under mmap_lock (:data:`Fault.RETRY`), or raises ``ENOMEM``, ``SIGBUS``.

Entries change in atomic sections that begin with a ``pte_write`` op (the page-table lock), and
every such section re-reads the entry first (MM-B53 removes that).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from svm_actors.engine.errors import EFAULT, ENOMEM
from svm_actors.mm.constants import PTRS_PER_PTE, Vm
from svm_actors.mm.events import FaultPageLeft, FaultPageServed, FaultPageTaken
from svm_actors.mm.folio import Folio
from svm_actors.mm.hugetlb import hugetlb_no_page
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import SIGBUS, SIGSEGV
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rmap import anon_vma_prepare, folio_add_new_anon_rmap
from svm_actors.mm.swap import SwapSlot
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm

FAULT_AROUND_PAGES = 16


class Fault(Enum):
    """How a fault ended when it did not fail."""

    DONE = "done"
    RETRY = "retry"
    """VM_FAULT_RETRY: redo it with mmap_lock held."""


def check_access(vma: Vma | None, write: bool) -> Vma:
    """The arch fault handler's test; SIGSEGV when the VMA does not allow the access."""
    if vma is None or not vma.flags & (Vm.WRITE if write else Vm.READ | Vm.WRITE | Vm.EXEC):
        raise SIGSEGV
    return vma


async def do_user_addr_fault(core: CoreMm, mm: Mm, vpn: int, write: bool) -> None:
    """A CPU fault: first under the VMA lock alone, then, if need be, under mmap_lock."""
    engine = core.engine
    engine.count("cpu.fault")
    await engine.step("trylock", mm, "vma_lock")
    vma = mm.vmas.find(vpn)
    if vma is not None and vma.try_start_read():
        try:
            check_access(vma, write)
            if await handle_mm_fault(core, mm, vma, vpn, write, vma_locked=True) is Fault.DONE:
                return
        finally:
            vma.end_read()
    async with mm.mmap_lock.reading():
        await handle_mm_fault(core, mm, check_access(mm.vmas.find(vpn), write), vpn, write)


async def handle_mm_fault(
    core: CoreMm, mm: Mm, vma: Vma, vpn: int, write: bool, *, vma_locked: bool = False
) -> Fault:
    """Handle one fault.  mmap_lock is held for read, or with ``vma_locked`` only the VMA lock."""
    await core.engine.step("pte_read", mm.page_table, vpn)
    pte = mm.page_table.get(vpn)
    if pte is None:
        return await _no_entry(core, vma, vpn, write)
    if pte.kind is Entry.PRESENT:
        if pte.protnone:
            return await _repair_protnone(core, vma, vpn, pte)
        if write and not pte.writable:
            return await do_wp_page(core, vma, vpn, pte)
        return Fault.DONE
    if pte.kind is Entry.DEVICE_PRIVATE:
        serve = core.engine.parts.of(device_private_fault)
        return await serve(core, vma, vpn, pte, write, vma_locked)
    if pte.kind is Entry.MIGRATION:
        await core.engine.parts.of(migration_entry_wait)(core, mm, vpn, pte)
        return Fault.DONE
    if pte.kind is Entry.DEVICE_EXCLUSIVE:
        await remove_device_exclusive_entry(core, vma, vpn, pte)
        return Fault.DONE
    return await do_swap_in(core, vma, vpn, pte, write)


def pte_unmap_same(mm: Mm, vpn: int, seen: Pte | None) -> bool:
    """MM-R10, MM-R19: the entry is still what it was before the page-table lock was dropped (MM-B53)."""
    return mm.page_table.get(vpn) == seen


def check_stable_address_space(mm: Mm) -> None:
    """MM-R22: nobody may be shown zeros where the OOM reaper took pages away.  SIGBUS."""
    if mm.unstable:
        mm.engine.count("MM-R22")
        raise SIGBUS


# -- no entry ---------------------------------------------------------------------------------


async def _no_entry(core: CoreMm, vma: Vma, vpn: int, write: bool) -> Fault:
    check_stable_address_space(vma.mm)
    if vma.flags & Vm.HUGETLB:
        await hugetlb_no_page(core, vma, vpn, write)
        return Fault.DONE
    vma.mm.pte_alloc(vpn)
    if vma.file is None:
        if write:
            return await _new_anon_page(core, vma, vpn, None)
        await core.engine.step("pte_write", vma.mm.page_table, vpn)
        if vma.mm.page_table.get(vpn) is None:
            vma.mm.page_table.set(vpn, Pte(Entry.PRESENT, core.allocator.zero_folio, young=True))
        return Fault.DONE
    return await _file_fault(core, vma, vpn, write)


async def _new_anon_page(core: CoreMm, vma: Vma, vpn: int, source: Folio | None) -> Fault:
    """First write to untouched memory, or a private file page's first write: a page of our own."""
    await core.engine.step("write", vma, "anon_vma_prepare")
    anon_vma_prepare(core, vma)
    folio = await core.allocator.alloc("fault")
    if source is not None:
        folio.content = source.content
    folio.uptodate = True
    await core.engine.step("pte_write", vma.mm.page_table, vpn)
    if core.engine.parts.of(pte_unmap_same)(vma.mm, vpn, None):
        folio_add_new_anon_rmap(folio, vma, vpn)
        core.lru.add(folio)
        vma.mm.page_table.set(vpn, Pte(Entry.PRESENT, folio, True, True, True))
        vma.mm.rss.anon += 1
    folio.put("fault")
    return Fault.DONE


async def _file_fault(core: CoreMm, vma: Vma, vpn: int, write: bool) -> Fault:
    """Page-cache fault: a private write copies, a read maps what is cached around it too."""
    folio = await vma.file.folio(vma.offset_of(vpn))
    if write and vma.is_cow:
        return await _new_anon_page(core, vma, vpn, folio)
    await core.engine.step("pte_write", vma.mm.page_table, vpn)
    _map_file_page(vma, vpn, folio, write)
    if not write:
        _fault_around(vma, vpn)
    return Fault.DONE


def _map_file_page(vma: Vma, vpn: int, folio: Folio, write: bool) -> None:
    if vma.mm.page_table.get(vpn) is None:
        folio.add_mapping()
        writable = not vma.is_cow and bool(vma.flags & Vm.WRITE)
        vma.mm.page_table.set(vpn, Pte(Entry.PRESENT, folio, writable, write, True))
        vma.mm.rss.file += 1


def _fault_around(vma: Vma, vpn: int) -> None:
    """do_fault_around: map the cached pages of the aligned 64 KiB around a read fault."""
    window = vpn - vpn % FAULT_AROUND_PAGES
    table_end = (vpn // PTRS_PER_PTE + 1) * PTRS_PER_PTE
    for near in range(max(window, vma.start), min(window + FAULT_AROUND_PAGES, vma.end, table_end)):
        cached = vma.file.pages.get(vma.offset_of(near))
        if cached is not None and not cached.lock.locked:
            _map_file_page(vma, near, cached, False)


# -- present entries --------------------------------------------------------------------------


async def _repair_protnone(core: CoreMm, vma: Vma, vpn: int, seen: Pte) -> Fault:
    """do_numa_page: give a closed entry the VMA's protection back."""
    await core.engine.step("pte_write", vma.mm.page_table, vpn)
    if vma.mm.page_table.get(vpn) == seen:
        writable = can_change_pte_writable(vma, seen.folio)
        vma.mm.page_table.set(vpn, seen._replace(protnone=False, writable=writable))
    return Fault.DONE


def can_change_pte_writable(vma: Vma, folio: Folio) -> bool:
    """May an entry of this VMA be writable without a fault?"""
    if not vma.flags & Vm.WRITE or folio.is_zero:
        return False
    return folio.anon_exclusive if vma.is_cow else True


async def do_wp_page(core: CoreMm, vma: Vma, vpn: int, seen: Pte) -> Fault:
    """Write fault on a read-only entry: reuse the page when it is ours alone, else copy it."""
    folio: Folio = seen.folio
    await core.engine.step("pte_write", vma.mm.page_table, vpn)
    table = vma.mm.page_table
    if table.get(vpn) != seen:
        return Fault.DONE
    if not vma.is_cow or (folio.anon and (folio.anon_exclusive or wp_can_reuse_anon_folio(core, folio))):
        table.set(vpn, seen._replace(writable=True, dirty=True, young=True))
        return Fault.DONE
    if not folio.is_zero:
        folio.get("cow")
    try:
        await _wp_page_copy(core, vma, vpn, seen)
    finally:
        if not folio.is_zero:
            folio.put("cow")
    return Fault.DONE


def wp_can_reuse_anon_folio(core: CoreMm, folio: Folio) -> bool:
    """Sole reference: the page becomes exclusive.  Trylock only, and never with a waiter's reference."""
    if not folio.lru:
        core.lru.drain_now()
    if folio.refcount > 1 + folio.swapcache or not folio.lock.trylock_now():
        return False
    reuse = core.swap.folio_free_swap(folio) and folio.refcount == 1
    if reuse:
        folio.anon_exclusive = True
    folio.lock.release()
    return reuse


async def _wp_page_copy(core: CoreMm, vma: Vma, vpn: int, seen: Pte) -> None:
    """wp_page_copy: the copy is made before the CLEAR event; the entry is re-checked after it."""
    mm, old = vma.mm, seen.folio
    anon_vma_prepare(core, vma)
    new = await core.allocator.alloc("fault")
    await core.engine.step("copy_begin", old)
    new.content = old.content
    new.uptodate = True
    event = NotifierRange(mm, Event.CLEAR, vpn, vpn + 1)
    await mm.subscriptions.invalidate_range_start(event)
    await core.engine.step("pte_write", mm.page_table, vpn)
    if core.engine.parts.of(may_replace_copied)(vma, vpn, seen):
        folio_add_new_anon_rmap(new, vma, vpn)
        core.lru.add(new)
        mm.page_table.set(vpn, Pte(Entry.PRESENT, new, True, True, True))
        mm.rss.anon += 1
        mm.rss.count(seen, -1)
        if not old.is_zero:
            old.remove_mapping()
            core.swap.free_swap_cache(old)
        core.engine.count("cpu.cow")
    else:
        core.engine.count("MM-R19")
    await mm.subscriptions.invalidate_range_end(event)
    new.put("fault")


def may_replace_copied(vma: Vma, vpn: int, seen: Pte) -> bool:
    """MM-R19: the copy is of what the entry named before the ptl was dropped; only that may be replaced by it."""
    return vma.mm.page_table.get(vpn) == seen


# -- non-present entries ------------------------------------------------------------------------


async def migration_entry_wait(core: CoreMm, mm: Mm, vpn: int, seen: Pte) -> None:
    """Sleep until the migrating folio is unlocked, holding no reference on it (MM-B10)."""
    await core.engine.step("pte_read", mm.page_table, vpn)
    if mm.page_table.get(vpn) == seen:
        core.engine.count("mm.migration_wait")
        await seen.folio.lock.wait_clear()


async def device_private_fault(
    core: CoreMm, vma: Vma, vpn: int, seen: Pte, write: bool, vma_locked: bool
) -> Fault:
    """do_swap_page for a device-private entry (section 10): lock the page, then reference it (MM-R07).

    The other way round, those who queue for the page defeat its migration (SVM-R13, MM-B01).
    """
    if vma_locked:
        return Fault.RETRY
    folio: Folio = seen.folio
    parts = core.engine.parts
    await core.engine.step("trylock", folio.lock)
    if not parts.of(is_same_entry)(vma, vpn, seen):
        return Fault.DONE
    if not folio.lock.trylock_now():
        core.engine.count("MM-R07")
        if folio.lock.parked:
            core.engine.count("SVM-R13")
        if vma.mm.mmap_lock.parked:
            core.engine.count("MM-R26")
        await parts.of(wait_for_locker)(folio)
        if folio.freed:
            core.engine.count("MM-R24")
        return Fault.DONE
    parts.of(hold_fault_page)(folio)
    assert folio.pgmap is not None
    fault = VmFault(vma.mm, vma, vpn, write, folio)
    core.engine.emit(FaultPageTaken(fault))
    try:
        await folio.pgmap.ops.migrate_to_ram(fault)
        core.engine.emit(FaultPageServed(fault))
    except EFAULT:
        raise SIGBUS from None
    finally:
        if not core.engine.closing:
            await parts.of(release_fault_page)(core, folio)
            core.engine.emit(FaultPageLeft(fault))
    await parts.of(sit_out)(core, fault, seen)
    return Fault.DONE


async def sit_out(core: CoreMm, fault: VmFault, seen: Pte) -> None:
    """PGM-R11: a timeslice is waited for with no page in hand; munmap, exit and eviction do not wait for it."""
    await core.engine.sleep(fault.pause_ns, "timeslice")
    if fault.pause_ns and (fault.vma.mm.mmap_lock.parked or not is_same_entry(fault.vma, fault.vpn, seen)):
        core.engine.count("PGM-R11")


def is_same_entry(vma: Vma, vpn: int, seen: Pte) -> bool:
    """MM-R07: the entry still names the page, which keeps it allocated while the ptl is held."""
    return vma.mm.page_table.get(vpn) == seen


def hold_fault_page(folio: Folio) -> None:
    """MM-B04: a reference for the whole of migrate_to_ram, taken under the ptl and after the lock.

    SVM-R15: with it stay the page's zone data, whoever else drops the page.
    """
    folio.get("fault")


async def release_fault_page(core: CoreMm, folio: Folio) -> None:
    """MM-B03: unlock, then put: the reference may be the last, and the page is gone with it."""
    folio.lock.release()
    await core.engine.step("put", folio)
    folio.put("fault")


async def wait_for_locker(folio: Folio) -> None:
    """MM-R07, MM-R24: queued in the page-table section, holding nothing: the entry keeps the page for as long as
    that takes, and whoever wakes up looks at the entry again, never at the page (MM-B69).

    PGM-R13, SVM-R33: asleep, not in a loop of faults, which would keep what the holder needs from running."""
    if folio.lock.locked:
        folio.engine.count("PGM-R13")
    await folio.lock.wait_clear()


async def remove_device_exclusive_entry(core: CoreMm, vma: Vma, vpn: int, seen: Pte) -> None:
    """A CPU access revokes the device's exclusive page: lock it, CLEAR, restore the entry."""
    folio: Folio = seen.folio
    mm = vma.mm
    await core.engine.step("get", folio)
    if mm.page_table.get(vpn) != seen:
        return
    folio.get("fault")
    await folio.lock.acquire()
    event = NotifierRange(mm, Event.CLEAR, vpn, vpn + 1)
    await mm.subscriptions.invalidate_range_start(event)
    await core.engine.step("pte_write", mm.page_table, vpn)
    if mm.page_table.get(vpn) == seen:
        restore_exclusive_pte(vma, vpn, seen)
    await mm.subscriptions.invalidate_range_end(event)
    folio.lock.release()
    core.swap.free_swap_cache(folio)
    folio.put("fault")


def restore_exclusive_pte(vma: Vma, vpn: int, seen: Pte) -> None:
    """The ptl section: writable again only if the VMA is and the page is exclusive."""
    folio: Folio = seen.folio
    writable = can_change_pte_writable(vma, folio)
    vma.mm.page_table.set(
        vpn, Pte(Entry.PRESENT, folio, writable, writable and folio.dirty, False, protnone=not vma.flags & 7)
    )


async def do_swap_in(core: CoreMm, vma: Vma, vpn: int, seen: Pte, write: bool) -> Fault:
    """A page on the swap device: find it in the swap cache or read it, then map it."""
    slot: SwapSlot = seen.folio
    table = vma.mm.page_table
    await core.engine.step("read", vma.mm, slot.name)
    folio = slot.folio
    if folio is not None:
        folio.get("fault")
    else:
        folio = await core.allocator.alloc("fault")
        if slot.folio is not None or table.get(vpn) != seen or slot.content is None:
            folio.put("fault")
            return Fault.DONE
        folio.content, folio.uptodate, folio.anon = slot.content, True, True
        anon_vma = anon_vma_prepare(core, vma)
        # others may have entries for a slot that is not exclusive: only the root reaches them all
        folio.anon_vma = anon_vma if seen.exclusive else anon_vma.root
        folio.index = vma.offset_of(vpn)
        core.swap.add_to_cache(folio, slot)
    await folio.lock.acquire()
    await core.engine.step("pte_write", table, vpn)
    if core.engine.parts.of(pte_unmap_same)(vma.mm, vpn, seen) and folio.swap_slot is slot:
        _map_swapped(core, vma, vpn, seen, folio, write)
        core.engine.count("reclaim.swap_in")
    elif folio.swap_slot is not None and not folio.swap_slot.count and not folio.mapcount:
        core.swap.folio_free_swap(folio)
    folio.lock.release()
    folio.put("fault")
    return Fault.DONE


def _map_swapped(core: CoreMm, vma: Vma, vpn: int, seen: Pte, folio: Folio, write: bool) -> None:
    """The ptl section of swap-in: exclusive if the entry said so, or if nobody else has the page.

    After a read the page stays in the swap cache, clean: its slot still holds what it holds (MM-R18).
    """
    folio.swap_slot.count -= 1
    if should_try_to_free_swap(vma, folio, write):
        core.swap.folio_free_swap(folio)
    exclusive = seen.exclusive or folio.refcount == 1
    folio.add_mapping()
    core.lru.add(folio)
    folio.anon_exclusive = exclusive
    vma.mm.rss.swap -= 1
    vma.mm.rss.anon += 1
    writable = exclusive and bool(vma.flags & Vm.WRITE)
    vma.mm.page_table.set(
        vpn, Pte(Entry.PRESENT, folio, writable, writable and write, True, protnone=not vma.flags & 7)
    )


def should_try_to_free_swap(vma: Vma, folio: Folio, write: bool) -> bool:
    """A page that is written, or never swapped out again, has no use for its slot."""
    return bool(vma.flags & Vm.LOCKED) or (write and folio.refcount == 1 + folio.swapcache)


# -- zap ----------------------------------------------------------------------------------------


async def zap_range(core: CoreMm, mm: Mm, start: int, end: int) -> None:
    """unmap_page_range: every entry of [start, end) to NONE, one leaf table per locked section."""
    await core.lru.drain()
    for table in mm.page_table.tables(start, end):
        await core.engine.step("pte_write", mm.page_table, table * PTRS_PER_PTE)
        for vpn, pte in mm.page_table.entries(table, start, end):
            zap_entry(core, mm, vpn, pte)
    core.lru.drain_now()


def zap_entry(core: CoreMm, mm: Mm, vpn: int, pte: Pte) -> None:
    """One entry: MIGRATION is just forgotten; the last mapping of a device page frees it here."""
    mm.page_table.clear(vpn)
    mm.rss.count(pte, -1)
    if pte.kind is Entry.SWAP:
        core.swap.put_entry(pte.folio)
    elif pte.is_mapping and not pte.folio.is_zero:
        folio: Folio = pte.folio
        if pte.dirty:
            folio.dirty = True
        folio.remove_mapping()
        core.swap.free_swap_cache(folio)


__all__ = ["ENOMEM", "Fault", "do_user_addr_fault", "handle_mm_fault", "zap_range"]
