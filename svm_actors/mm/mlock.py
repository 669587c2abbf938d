"""mlock and munlock: memory that stays in RAM as far as reclaim goes (core_mm section 5).

The flag is set under mmap_lock for write, VMA by VMA; then the pages are faulted in under mmap_lock for read.
Nothing is announced to notifiers: "mlock only faults pages in".  Locking keeps reclaim away and nothing else: a
locked page may be migrated, also to a device, from where a CPU access brings it back.

Simplified: no limit on locked memory, no lock-on-fault, no mlockall; a mapping that grows is not populated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import ENOMEM
from svm_actors.mm.constants import ACCESS_FLAGS, PAGE_SHIFT, PAGE_SIZE, SPECIAL_FLAGS, Vm
from svm_actors.mm.memory import handle_mm_fault
from svm_actors.mm.messages import SIGBUS, Mlock, Munlock
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmap import isolate_range, merge_around
from svm_actors.mm.page_table import Entry
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


async def mlock(core: CoreMm, message: Mlock) -> None:
    """mlock.  -ENOMEM at a hole (what lies before it stays locked), or where a page cannot be had."""
    start, end = _pages(message.addr, message.length)
    await _set_flag(core, message.mm, start, end, locked=True)
    await populate(core, message.mm, start, end)


async def munlock(core: CoreMm, message: Munlock) -> None:
    """munlock.  -ENOMEM at a hole."""
    start, end = _pages(message.addr, message.length)
    await _set_flag(core, message.mm, start, end, locked=False)


def _pages(addr: int, length: int) -> tuple[int, int]:
    """Whole pages around the bytes."""
    return addr >> PAGE_SHIFT, (addr + length + PAGE_SIZE - 1) >> PAGE_SHIFT if length else addr >> PAGE_SHIFT


async def _set_flag(core: CoreMm, mm: Mm, start: int, end: int, *, locked: bool) -> None:
    """apply_vma_lock_flags."""
    await mm.mmap_write_lock()
    try:
        at = start
        while at < end:
            vma = mm.vmas.find(at)
            if vma is None:
                raise ENOMEM
            stop = min(end, vma.end)
            await mlock_fixup(core, vma, at, stop, locked)
            at = stop
    finally:
        mm.mmap_write_unlock()


async def mlock_fixup(core: CoreMm, vma: Vma, start: int, end: int, locked: bool) -> None:
    """One VMA's part: split, set the flag, merge.  What is in RAM anyway is not marked."""
    flags = vma.flags | Vm.LOCKED if locked else vma.flags & ~Vm.LOCKED
    if flags == vma.flags or vma.flags & (SPECIAL_FLAGS | Vm.HUGETLB):
        return
    (part,) = await isolate_range(core, vma.mm, start, end)
    await part.start_write()
    part.flags = flags
    await merge_around(core, vma.mm, part)


async def populate(core: CoreMm, mm: Mm, start: int, end: int) -> None:
    """mm_populate: fault every page in, private writable memory for write.  -ENOMEM."""
    async with mm.mmap_lock.reading():
        for vpn in range(start, end):
            vma = mm.vmas.find(vpn)
            if vma is None or not vma.flags & ACCESS_FLAGS:
                raise ENOMEM
            await _populate_page(core, vma, vpn)


async def _populate_page(core: CoreMm, vma: Vma, vpn: int) -> None:
    write = vma.flags & (Vm.WRITE | Vm.SHARED) == Vm.WRITE
    while not _is_there(vma, vpn, write):
        try:
            await handle_mm_fault(core, vma.mm, vma, vpn, write)
        except SIGBUS:
            raise ENOMEM from None


def _is_there(vma: Vma, vpn: int, write: bool) -> bool:
    """follow_page: the CPU could use it as it is; a device page is not there."""
    pte = vma.mm.page_table.get(vpn)
    return pte is not None and pte.kind is Entry.PRESENT and not pte.protnone and (pte.writable or not write)
