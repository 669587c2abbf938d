"""mmap, munmap, brk and the VMA surgery they share (core_mm section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svm_actors.engine.errors import EEXIST, EINVAL, ENOMEM
from svm_actors.mm.constants import MMAP_BASE, PAGE_SHIFT, PAGE_SIZE, TASK_PAGES, Vm
from svm_actors.mm.events import RangeChanged, RangeChanging
from svm_actors.mm.hugetlb import HUGE_PAGES, check_aligned, check_cut
from svm_actors.mm.memory import zap_range
from svm_actors.mm.messages import Brk, Mmap, Munmap
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.rmap import anon_vma_clone, unlink_anon_vmas
from svm_actors.mm.shmem import FileObject
from svm_actors.mm.vma import Vma, mergeable

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


def page_range(addr: int, length: int) -> tuple[int, int]:
    """Pages [start, end) of a byte range.  -EINVAL when unaligned or empty."""
    if addr % PAGE_SIZE or length <= 0 or addr < 0:
        raise EINVAL
    return addr >> PAGE_SHIFT, (addr + length + PAGE_SIZE - 1) >> PAGE_SHIFT


# -- split, merge, insert -------------------------------------------------------------------


async def split_vma(core: CoreMm, vma: Vma, at: int) -> Vma:
    """__split_vma: the VMA keeps [start, at); answers the new one for [at, end).  -EINVAL inside a huge page.

    -ENOMEM: nothing is changed.
    """
    check_aligned(vma, at)
    core.engine.faults.fail("memory")
    await vma.start_write()
    tail = Vma(core.engine, vma.mm, at, vma.end, vma.flags, vma.offset_of(at), vma.file)
    await tail.start_write()
    await anon_vma_clone(tail, vma)
    vma.end = at
    link_vma(vma.mm, tail)
    return tail


def link_vma(mm: Mm, vma: Vma) -> None:
    """Store a VMA in the tree and in its object's list."""
    mm.vmas.insert(vma)
    if vma.file is not None:
        vma.file.link(vma)


async def isolate_range(core: CoreMm, mm: Mm, start: int, end: int) -> list[Vma]:
    """VMAs of [start, end), split so that none sticks out."""
    found = mm.vmas.overlapping(start, end)
    if found and found[0].start < start:
        found[0] = await split_vma(core, found[0], start)
    if found and found[-1].end > end:
        await split_vma(core, found[-1], end)
    return found


async def merge_around(core: CoreMm, mm: Mm, vma: Vma) -> Vma:
    """Join a VMA with its neighbours where the kernel would; answers the VMA that remains."""
    before = mm.vmas.previous(vma.start)
    if before is not None and mergeable(before, vma):
        vma = await _join(before, vma)
    after = mm.vmas.next(vma.end)
    if after is not None and mergeable(vma, after):
        vma = await _join(vma, after)
    return vma


async def _join(left: Vma, right: Vma) -> Vma:
    await left.start_write()
    await right.start_write()
    await anon_vma_clone(left, right)
    right.mm.vmas.remove(right)
    right.attached = False
    left.end = right.end
    if right.file is not None:
        right.file.vmas.remove(right)
    await unlink_anon_vmas(right)
    return left


# -- unmapping ------------------------------------------------------------------------------


async def gather(core: CoreMm, mm: Mm, start: int, end: int) -> list[Vma]:
    """vms_gather_munmap_vmas: split the ends off, write-mark and detach what lies in [start, end)."""
    vmas = await isolate_range(core, mm, start, end)
    for vma in vmas:
        await vma.start_write()
    for vma in vmas:
        mm.vmas.remove(vma)
        vma.attached = False
    return vmas


async def unmap_region(core: CoreMm, mm: Mm, vmas: list[Vma], start: int, end: int) -> None:
    """UNMAP event, zap, then the VMAs themselves: unlinked from rmap only after the zap.

    A device fault that still finds the VMA maps what the event takes back, or starts again (MM-R01).
    """
    event = NotifierRange(mm, Event.UNMAP, start, end)
    await mm.subscriptions.invalidate_range_start(event)
    for vma in vmas:
        await zap_range(core, mm, vma.start, vma.end)
    await mm.subscriptions.invalidate_range_end(event)
    for vma in vmas:
        await unlink_anon_vmas(vma)
        if vma.file is not None:
            vma.file.unlink(vma)
    _free_upper_tables(mm, start, end)


def _free_upper_tables(mm: Mm, start: int, end: int) -> None:
    before, after = mm.vmas.previous(start), mm.vmas.next(end)
    floor = before.end if before is not None else 0
    ceiling = after.start if after is not None else TASK_PAGES
    mm.page_table.free_upper(floor, ceiling)


async def do_munmap(core: CoreMm, mm: Mm, start: int, end: int, *, downgrade: bool) -> None:
    """do_vmi_munmap under mmap_lock for write; with ``downgrade`` it continues under read.

    -ENOMEM, with everything still mapped: what cannot be split cannot be taken out of the tree.
    """
    if not mm.vmas.overlapping(start, end):
        return
    check_cut(mm, start, end)
    await isolate_range(core, mm, start, end)
    core.engine.emit(RangeChanging(mm, start, end, "unmap"))
    vmas = await gather(core, mm, start, end)
    unmap = core.engine.parts.of(unmap_downgraded if downgrade else unmap_region)
    await unmap(core, mm, vmas, start, end)
    core.engine.emit(RangeChanged(mm, start, end, "unmap"))


async def unmap_downgraded(core: CoreMm, mm: Mm, vmas: list[Vma], start: int, end: int) -> None:
    """MM-R02: readers are let in, but no writer, so nothing is mapped here before the zap is through (MM-B60)."""
    mm.mmap_write_downgrade()
    await core.engine.parts.of(unmap_region)(core, mm, vmas, start, end)
    if mm.mmap_lock.parked:  # readers do not sleep here, unless behind a writer
        core.engine.count("MM-R02")


async def munmap(core: CoreMm, message: Munmap) -> None:
    """munmap.  -EINVAL on a bad range, -ENOMEM; a range without mappings is success without event."""
    mm = message.mm
    start, end = page_range(message.addr, message.length)
    if end > TASK_PAGES:
        raise EINVAL
    await mm.mmap_write_lock()
    try:
        await do_munmap(core, mm, start, end, downgrade=True)
    finally:
        unlock_either(mm)


def unlock_either(mm: Mm) -> None:
    """Release mmap_lock whether or not it was downgraded."""
    if mm.mmap_lock.held_for_write():
        mm.mmap_write_unlock()
    else:
        mm.mmap_lock.release()


# -- mapping --------------------------------------------------------------------------------


def unmapped_area(mm: Mm, npages: int) -> int:
    """Highest free gap below the mmap base, top down.  -ENOMEM."""
    end = MMAP_BASE >> PAGE_SHIFT
    while True:
        below = mm.vmas.previous(end)
        floor = below.end if below is not None else 16
        if end - npages >= floor:
            return end - npages
        if below is None:
            raise ENOMEM
        end = below.start


def vm_flags(prot: int, shared: bool) -> Vm:
    """Protection and sharing as vm_flags; private writable memory is charged when it is mapped."""
    flags = Vm(prot) | (Vm.SHARED if shared else Vm.NONE)
    return flags | Vm.ACCOUNT if flags & (Vm.WRITE | Vm.SHARED) == Vm.WRITE else flags


async def mmap(core: CoreMm, message: Mmap) -> int:
    """mmap.  -EINVAL, -EEXIST (FIXED_NOREPLACE), -ENOMEM (no room)."""
    mm = message.mm
    if message.length <= 0:
        raise EINVAL
    exact = message.fixed or message.noreplace
    npages = (message.length + PAGE_SIZE - 1) >> PAGE_SHIFT
    unit = HUGE_PAGES if message.huge else 1
    npages += -npages % unit
    if exact and (message.addr >> PAGE_SHIFT) % unit:
        raise EINVAL
    if exact and page_range(message.addr, message.length)[1] > TASK_PAGES:
        raise ENOMEM
    await mm.mmap_write_lock()
    try:
        start = place(mm, message.addr, npages, exact, unit)
        if message.noreplace and mm.vmas.overlapping(start, start + npages):
            raise EEXIST
        await mmap_region(core, message, start, start + npages)
    finally:
        mm.mmap_write_unlock()
    return start << PAGE_SHIFT


def place(mm: Mm, addr: int, npages: int, exact: bool, unit: int = 1) -> int:
    """Where a mapping goes: exactly there, at the hint when free, else top down, at a multiple of ``unit``."""
    hint = addr >> PAGE_SHIFT
    hint += -hint % unit
    if exact or (hint and not mm.vmas.overlapping(hint, hint + npages) and hint + npages <= TASK_PAGES):
        return hint
    start = unmapped_area(mm, npages + unit - 1)
    return start + -start % unit


async def mmap_region(core: CoreMm, message: Mmap, start: int, end: int) -> None:
    """Replace what is there, then extend a neighbour or store a new VMA.  mmap_lock stays for write.

    -ENOMEM: what was mapped there is still there if it could not be cut, and gone, with a gap in its place, if there
    was no memory for the new VMA (vms_abort_munmap_vmas).
    """
    mm = message.mm
    engine = core.engine
    check_cut(mm, start, end)
    await isolate_range(core, mm, start, end)
    engine.emit(RangeChanging(mm, start, end, "map"))
    if mm.vmas.overlapping(start, end):
        await engine.parts.of(unmap_region)(core, mm, await gather(core, mm, start, end), start, end)
    if engine.faults.strike("memory"):
        engine.emit(RangeChanged(mm, start, end, "map"))
        raise ENOMEM
    file: Any = message.file
    pgoff = message.offset
    if file is None and message.shared:
        file = FileObject(core, core.new_name("shmem"))
        pgoff = 0
    elif file is None:
        pgoff = start
    flags = vm_flags(message.prot, message.shared) | (Vm.HUGETLB if message.huge and file is None else Vm.NONE)
    vma = Vma(engine, mm, start, end, flags, pgoff, file)
    await vma.start_write()
    link_vma(mm, vma)
    await merge_around(core, mm, vma)
    engine.emit(RangeChanged(mm, start, end, "map"))


async def brk(core: CoreMm, message: Brk) -> int:
    """brk: grow or shrink the heap; an impossible request answers the present end, as the kernel does."""
    mm = message.mm
    await mm.mmap_write_lock()
    try:
        return await _brk_locked(core, mm, message.end)
    finally:
        unlock_either(mm)


async def _brk_locked(core: CoreMm, mm: Mm, end: int) -> int:
    if end < mm.brk_start:
        return mm.brk_end
    old_page = (mm.brk_end + PAGE_SIZE - 1) >> PAGE_SHIFT
    new_page = (end + PAGE_SIZE - 1) >> PAGE_SHIFT
    if new_page < old_page:
        before, mm.brk_end = mm.brk_end, end
        try:
            await do_munmap(core, mm, new_page, old_page, downgrade=True)
        except ENOMEM:
            mm.brk_end = before
            return before
    elif new_page > old_page:
        if mm.vmas.overlapping(old_page, new_page + 1):  # a free page is kept above the heap
            return mm.brk_end
        length = (new_page - old_page) << PAGE_SHIFT
        request = Mmap(mm, old_page << PAGE_SHIFT, length, core.heap_prot, fixed=True)
        try:
            await mmap_region(core, request, old_page, new_page)
        except ENOMEM:
            return mm.brk_end
    mm.brk_end = end
    return end
