"""mprotect: VMA flags first, then the entries under PROTECTION_VMA (core_mm sections 5 and 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import ENOMEM
from svm_actors.mm.constants import ACCESS_FLAGS, PAGE_SIZE, PTRS_PER_PTE, Vm
from svm_actors.mm.memory import can_change_pte_writable
from svm_actors.mm.messages import Mprotect
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmap import isolate_range, merge_around, page_range
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


async def mprotect(core: CoreMm, message: Mprotect) -> None:
    """mprotect.  -EINVAL, -ENOMEM at the first hole: what lies before it is changed."""
    mm = message.mm
    if message.length == 0 and not message.addr % PAGE_SIZE:
        return
    start, end = page_range(message.addr, message.length)
    await mm.mmap_write_lock()
    try:
        await _mprotect_locked(core, mm, start, end, Vm(message.prot))
    finally:
        mm.mmap_write_unlock()


async def _mprotect_locked(core: CoreMm, mm: Mm, start: int, end: int, access: Vm) -> None:
    at = start
    while at < end:
        vma = mm.vmas.find(at)
        if vma is None:
            raise ENOMEM
        stop = min(end, vma.end)
        flags = (vma.flags & ~ACCESS_FLAGS) | access
        if flags != vma.flags:
            await mprotect_fixup(core, mm, at, stop, flags)
        at = stop


async def mprotect_fixup(core: CoreMm, mm: Mm, start: int, end: int, flags: Vm) -> None:
    """One VMA's part: split, set flags, merge, then change the entries."""
    (vma,) = await isolate_range(core, mm, start, end)
    await vma.start_write()
    vma.flags = accounted(vma, flags)
    vma = await merge_around(core, mm, vma)
    await vma.start_write()
    await core.engine.parts.of(change_protection)(core, vma, start, end)


def accounted(vma: Vma, flags: Vm) -> Vm:
    """VM_ACCOUNT of the new flags: private memory is charged when it becomes writable, and the charge
    is given back only while no anonymous page can exist.  It outlasts mprotect, so a range made
    read-only does not merge with one mapped read-only.
    """
    if flags & Vm.WRITE:
        return flags if vma.is_shared else flags | Vm.ACCOUNT
    if vma.is_anonymous and vma.anon_vma is None:
        return flags & ~Vm.ACCOUNT
    return flags


async def change_protection(core: CoreMm, vma: Vma, start: int, end: int) -> None:
    """PROTECTION_VMA from the first populated upper-level entry to the end; none when nothing is populated.

    Device mappings of the range go before its entries lose a permission (MM-R17).
    """
    mm = vma.mm
    first = mm.page_table.first_populated(start, end)
    if first is None:
        return
    event = NotifierRange(mm, Event.PROTECTION_VMA, first, end)
    await mm.subscriptions.invalidate_range_start(event)
    await change_entries(core, vma, first, end)
    await mm.subscriptions.invalidate_range_end(event)


async def change_entries(core: CoreMm, vma: Vma, first: int, end: int) -> None:
    """change_protection_range: one leaf table per locked section."""
    entries = vma.mm.page_table
    for table in entries.tables(first, end):
        await core.engine.step("pte_write", entries, table * PTRS_PER_PTE)
        for vpn, pte in entries.entries(table, first, end):
            changed = core.engine.parts.of(changed_entry)(vma, pte)
            if changed is not pte:
                entries.set(vpn, changed)


def changed_entry(vma: Vma, pte: Pte) -> Pte:
    """change_pte_range for one entry: non-present ones only ever lose write permission.

    A page in migration, too: what is restored has the permission of its entry, whatever was collected (MM-R16).
    """
    if pte.kind is Entry.MIGRATION:
        vma.mm.engine.count("MM-R16")
    if pte.kind is Entry.PRESENT:
        writable = can_change_pte_writable(vma, pte.folio)
        return pte._replace(writable=writable, protnone=not vma.flags & ACCESS_FLAGS)
    if pte.kind in (Entry.DEVICE_PRIVATE, Entry.MIGRATION) and pte.writable:
        if pte.kind is Entry.DEVICE_PRIVATE:
            vma.mm.engine.count("MM-R17")
        return pte._replace(writable=False)
    return pte
