"""fork: the child's copy of an address space (core_mm sections 5 and 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINTR, ENOMEM
from svm_actors.mm.constants import PTRS_PER_PTE, TASK_PAGES, Vm
from svm_actors.mm.events import RangeChanged, RangeChanging
from svm_actors.mm.memory import restore_exclusive_pte
from svm_actors.mm.messages import Fork
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmap import link_vma
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rmap import anon_vma_fork
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


async def fork(core: CoreMm, message: Fork) -> Mm:
    """dup_mm.  -ENOMEM, also when a device-exclusive page is locked; -EINTR when the parent has been killed.

    On an error what there is of the child ends as any address space does.
    """
    parent = message.mm
    child = core.new_mm(message.name)
    child.brk_start, child.brk_end = parent.brk_start, parent.brk_end
    try:
        await dup_mmap(core, parent, child)
        check_alive(parent)
    except (EINTR, ENOMEM):
        await child.mmput()
        raise
    return child


def check_alive(parent: Mm) -> None:
    """MM-R22: what the OOM reaper has emptied must not be given to a child, which would see zeros.  -EINTR.

    The victim has been killed before it is reaped; fork looks for that at every VMA, and once more before the child
    may run.
    """
    if parent.killed:
        parent.engine.count("MM-R22")
        raise EINTR


async def dup_mmap(core: CoreMm, parent: Mm, child: Mm) -> None:
    """Parent's mmap_lock for write, VMA by VMA.  -EINTR, -ENOMEM."""
    await parent.mmap_write_lock()
    core.engine.emit(RangeChanging(parent, 0, TASK_PAGES, "fork", child))
    try:
        for vma in list(parent.vmas):
            check_alive(parent)
            if not vma.flags & Vm.DONTCOPY:
                await _dup_vma(core, child, vma)
    except (EINTR, ENOMEM):
        core.engine.emit(RangeChanged(parent, 0, TASK_PAGES, "fork", child))
        raise
    else:
        core.engine.emit(RangeChanged(parent, 0, TASK_PAGES, "fork", child))
    finally:
        parent.mmap_write_unlock()


async def _dup_vma(core: CoreMm, child: Mm, vma: Vma) -> None:
    """-ENOMEM."""
    await vma.start_write()
    core.engine.faults.fail("memory")
    copy = Vma(core.engine, child, vma.start, vma.end, vma.flags & ~Vm.LOCKED, vma.pgoff, vma.file)
    if vma.flags & Vm.WIPEONFORK:
        link_vma(child, copy)
        return
    await anon_vma_fork(core, copy, vma)
    link_vma(child, copy)
    if vma.anon_vma is not None:
        await copy_page_range(core, copy, vma)


async def copy_page_range(core: CoreMm, copy: Vma, vma: Vma) -> None:
    """Copy the entries of a COW VMA under PROTECTION_PAGE over the entire VMA.  -ENOMEM."""
    parent = vma.mm
    event = NotifierRange(parent, Event.PROTECTION_PAGE, vma.start, vma.end) if vma.is_cow else None
    if event is not None:
        await parent.subscriptions.invalidate_range_start(event)
    try:
        for table in parent.page_table.tables(vma.start, vma.end):
            copy.mm.pte_alloc(table * PTRS_PER_PTE)
            await core.engine.step("pte_write", parent.page_table, table * PTRS_PER_PTE)
            for vpn, pte in parent.page_table.entries(table, vma.start, vma.end):
                copy_entry(core, copy, vma, vpn, pte)
    finally:
        if event is not None:
            await parent.subscriptions.invalidate_range_end(event)


def shared_entry(vma: Vma, pte: Pte) -> Pte:
    """MM-R12: what both sides have from now on; nobody may write without a copy (INV-12, INV-17, MM-B57)."""
    if pte.kind is Entry.SWAP:
        return pte._replace(exclusive=False)
    if pte.kind is Entry.MIGRATION:
        return pte._replace(writable=False, exclusive=False)
    return pte._replace(writable=False) if vma.is_cow else pte


def copy_entry(core: CoreMm, copy: Vma, vma: Vma, vpn: int, pte: Pte) -> None:
    """copy_pte_range for one entry; both sides end read-only where the page is shared copy-on-write."""
    parent, child = vma.mm.page_table, copy.mm.page_table
    if pte.kind is Entry.DEVICE_EXCLUSIVE:
        if not pte.folio.lock.trylock_now():
            core.engine.count("MM-R28")
            raise ENOMEM
        restore_exclusive_pte(vma, vpn, pte)
        pte.folio.lock.release()
        restored = parent.get(vpn)
        assert restored is not None
        pte = restored
    folio = pte.folio
    shared = core.engine.parts.of(shared_entry)(vma, pte)
    if pte.kind is Entry.SWAP:
        folio.count += 1
    elif pte.kind is Entry.MIGRATION:
        core.engine.count("MM-R12")
    elif pte.is_mapping and not folio.is_zero:
        folio.add_mapping()
        folio.anon_exclusive = False
    parent.set(vpn, shared)
    if pte.kind is Entry.PRESENT:
        shared = shared._replace(young=False, dirty=pte.dirty and vma.is_cow)
    child.set(vpn, shared)
    copy.mm.rss.count(shared)
