"""mremap: shrink, grow, move, DONTUNMAP, and moves over several VMAs (core_mm section 5).

The old address gets UNMAP around the move of the entries and, unless the old VMA stays, UNMAP again
from the unmap of the emptied VMA.  Nothing is ever announced for the new address.

Simplified: the source start is never aligned down to a PMD, because no whole leaf table is moved.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from svm_actors.engine.errors import EFAULT, EINVAL, ENOMEM
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE, PTRS_PER_PTE, TASK_PAGES, Vm
from svm_actors.mm.events import RangeChanged, RangeChanging
from svm_actors.mm.hugetlb import check_aligned
from svm_actors.mm.messages import Mremap
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmap import do_munmap, link_vma, merge_around, unlock_either, unmapped_area
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry
from svm_actors.mm.rmap import anon_vma_clone, unlink_anon_vmas
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


async def mremap(core: CoreMm, message: Mremap) -> int:
    """mremap.  -EINVAL bad flags, overlap or alignment; -EFAULT no mapping there; -ENOMEM no room."""
    check_params(message)
    mm = message.mm
    start = message.addr >> PAGE_SHIFT
    old = (message.old_length + PAGE_SIZE - 1) >> PAGE_SHIFT
    new = (message.new_length + PAGE_SIZE - 1) >> PAGE_SHIFT
    await mm.mmap_write_lock()
    try:
        if message.fixed and old == new:
            at = await remap_move(core, message, start, old)
        else:
            at = await _remap_one(core, message, start, old, new)
    finally:
        unlock_either(mm)
    return at << PAGE_SHIFT


def check_params(message: Mremap) -> None:
    """check_mremap_params: everything that needs no VMA."""
    if message.addr % PAGE_SIZE or message.new_length <= 0 or message.old_length < 0:
        raise EINVAL
    if (message.fixed or message.dontunmap) and not message.maymove:
        raise EINVAL
    if message.dontunmap and message.old_length != message.new_length:
        raise EINVAL
    if message.fixed:
        target = message.new_addr
        if target % PAGE_SIZE or (target + message.new_length) >> PAGE_SHIFT > TASK_PAGES:
            raise EINVAL
        if message.addr + message.old_length > target and target + message.new_length > message.addr:
            raise EINVAL


async def remap_move(core: CoreMm, message: Mremap, start: int, npages: int) -> int:
    """A pure move to a fixed place may cover several VMAs; an error midway leaves earlier ones moved."""
    mm, target = message.mm, message.new_addr >> PAGE_SHIFT
    vmas = mm.vmas.overlapping(start, start + npages)
    if not vmas or vmas[0].start > start:
        raise EFAULT
    spans = [(max(vma.start, start), min(vma.end, start + npages)) for vma in vmas]
    for low, high in spans:
        await _move_to(core, message, low, high - low, target + low - start)
    return target


async def _move_to(core: CoreMm, message: Mremap, start: int, npages: int, target: int) -> None:
    """mremap_to for one VMA: clear the target, look the source up again, move."""
    mm = message.mm
    await do_munmap(core, mm, target, target + npages, downgrade=False)
    vma = mm.vmas.find(start)
    if vma is None:
        raise EFAULT
    await move_vma(core, vma, start, npages, npages, target, dontunmap=message.dontunmap)


async def _remap_one(core: CoreMm, message: Mremap, start: int, old: int, new: int) -> int:
    mm = message.mm
    vma = mm.vmas.find(start)
    if vma is None:
        raise EFAULT
    if not old and not vma.is_shared:
        raise EINVAL
    if start + min(old, new) > vma.end:  # what a shrink cuts off may lie in other VMAs
        raise EFAULT
    if message.fixed:
        return await _resize_to(core, message, start, old, new)
    if new <= old and not message.dontunmap:
        if new < old:
            await do_munmap(core, mm, start + new, start + old, downgrade=True)
        return start
    if not message.dontunmap and start + old == vma.end and _can_grow(mm, vma, new - old):
        return await _grow_in_place(core, vma, start, old, new)
    if not message.maymove:
        raise ENOMEM
    target = unmapped_area(mm, new)
    await move_vma(core, vma, start, old, new, target, dontunmap=message.dontunmap)
    return target


async def _resize_to(core: CoreMm, message: Mremap, start: int, old: int, new: int) -> int:
    """MREMAP_FIXED with another length: clear the target, cut the tail off when shrinking, move."""
    mm, target = message.mm, message.new_addr >> PAGE_SHIFT
    await do_munmap(core, mm, target, target + new, downgrade=False)
    if old > new:
        await do_munmap(core, mm, start + new, start + old, downgrade=False)
        old = new
    vma = mm.vmas.find(start)
    if vma is None:
        raise EFAULT
    await move_vma(core, vma, start, old, new, target, dontunmap=False)
    return target


def _can_grow(mm: Mm, vma: Vma, extra: int) -> bool:
    return vma.end + extra <= TASK_PAGES and not mm.vmas.overlapping(vma.end, vma.end + extra)


async def _grow_in_place(core: CoreMm, vma: Vma, start: int, old: int, new: int) -> int:
    """No event: nothing was mapped where the VMA grows."""
    core.engine.emit(RangeChanging(vma.mm, start + old, start + new, "map"))
    await vma.start_write()
    vma.end += new - old
    await merge_around(core, vma.mm, vma)
    core.engine.emit(RangeChanged(vma.mm, start + old, start + new, "map"))
    return start


async def move_vma(
    core: CoreMm, vma: Vma, start: int, old: int, new: int, target: int, *, dontunmap: bool
) -> None:
    """Copy the VMA, move the entries, unmap what is left of the old one (unless DONTUNMAP).

    -ENOMEM, with everything where it was; the new place is not mapped then.
    """
    mm = vma.mm
    check_aligned(vma, start, start + old, target)
    core.engine.faults.fail("memory")
    stop = movable_until(mm, start, start + old, target)
    if stop < start + old:
        await _move_back(core, vma, start, stop, target, new)
        raise ENOMEM
    core.engine.emit(RangeChanging(mm, start, start + old, "move", to_start=target))
    await vma.start_write()
    copy = await copy_vma(core, vma, start, target, new)
    await move_page_tables(core, vma, copy, start, start + old, target)
    if dontunmap:
        vma.flags &= ~Vm.LOCKED
        vma.left_behind = True
        if start == vma.start and start + old == vma.end:
            await unlink_anon_vmas(vma)
    else:
        await unmap_source_vma(core, mm, start, start + old)
    core.engine.emit(RangeChanged(mm, start, start + old, "move", to_start=target))


async def unmap_source_vma(core: CoreMm, mm: Mm, start: int, end: int) -> None:
    """The emptied VMA goes; where it cannot be split it stays as it is, empty, and the move is a success."""
    try:
        await do_munmap(core, mm, start, end, downgrade=False)
    except ENOMEM:
        for vma in mm.vmas.overlapping(start, end):
            vma.left_behind = True


def movable_until(mm: Mm, start: int, end: int, target: int) -> int:
    """How far a move gets for want of page tables at the new place; the end when there is enough memory.

    One leaf table at a time, as get_new_pte makes them; drawn before the move, which nobody can watch.
    """
    for table in mm.page_table.tables(start, end):
        first = max(start, table * PTRS_PER_PTE)
        there = first - start + target
        try:
            mm.pte_alloc(there)
        except ENOMEM:
            return first
    return end


async def _move_back(core: CoreMm, vma: Vma, start: int, stop: int, target: int, new: int) -> None:
    """copy_vma_and_data when it has no page table: what has gone comes back, and the new VMA is unmapped."""
    mm, there = vma.mm, target + stop - start
    await vma.start_write()
    if stop > start:
        core.engine.emit(RangeChanging(mm, start, stop, "move", to_start=target))
    copy = await copy_vma(core, vma, start, target, new)
    if stop > start:
        await move_page_tables(core, vma, copy, start, stop, target)
        core.engine.emit(RangeChanged(mm, start, stop, "move", to_start=target))
        core.engine.emit(RangeChanging(mm, target, there, "move", to_start=start))
        await move_page_tables(core, copy, vma, target, there, start)
        core.engine.emit(RangeChanged(mm, target, there, "move", to_start=start))
    await unmap_source_vma(core, mm, target, target + new)


async def copy_vma(core: CoreMm, vma: Vma, start: int, target: int, npages: int) -> Vma:
    """The VMA at the new place: same page offsets, unless nothing was ever faulted in."""
    pgoff = vma.offset_of(start)
    if vma.is_anonymous and vma.anon_vma is None:
        pgoff = target
    copy = Vma(core.engine, vma.mm, target, target + npages, vma.flags, pgoff, vma.file)
    await copy.start_write()
    await core.engine.parts.of(anon_vma_clone)(copy, vma)
    link_vma(vma.mm, copy)
    return await merge_around(core, vma.mm, copy)


def need_rmap_locks(vma: Vma, copy: Vma) -> bool:
    """MM-R13: rmap must not miss an entry in flight: unless the new VMA comes later in walk order, the rmap
    locks are held over the move (MM-B59)."""
    return copy.pgoff <= vma.pgoff


async def move_page_tables(core: CoreMm, vma: Vma, copy: Vma, start: int, end: int, target: int) -> None:
    """Entries move verbatim, one leaf table per locked section, inside UNMAP of the old range (MM-R13)."""
    mm = vma.mm
    event = NotifierRange(mm, Event.UNMAP, start, end)
    await mm.subscriptions.invalidate_range_start(event)
    async with AsyncExitStack() as stack:
        if core.engine.parts.of(need_rmap_locks)(vma, copy) and vma.anon_vma is not None:
            await stack.enter_async_context(vma.anon_vma.rwsem.writing())
        for table in mm.page_table.tables(start, end):
            await core.engine.step("pte_write", mm.page_table, table * PTRS_PER_PTE)
            for vpn, pte in mm.page_table.entries(table, start, end):
                if pte.kind is Entry.MIGRATION:
                    core.engine.count("MM-R13")
                    if pte.folio.is_device_private:
                        core.engine.count("SVM-R19")
                mm.page_table.clear(vpn)
                mm.page_table.set(vpn - start + target, pte)
    await mm.subscriptions.invalidate_range_end(event)
