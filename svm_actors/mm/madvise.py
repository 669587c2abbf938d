"""madvise: DONTNEED, FREE, PAGEOUT and the advices without effect here (core_mm sections 5, 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINVAL, ENOMEM
from svm_actors.mm.constants import PAGE_SIZE, PTRS_PER_PTE, Vm
from svm_actors.mm.events import RangeChanged, RangeChanging
from svm_actors.mm.hugetlb import HUGE_PAGES
from svm_actors.mm.memory import zap_entry, zap_range
from svm_actors.mm.messages import Madvise
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmap import isolate_range, merge_around, page_range
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry
from svm_actors.mm.swap import reclaim_pages
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.folio import Folio

NO_EFFECT = frozenset(
    {"normal", "random", "sequential", "willneed", "cold", "hugepage", "nohugepage", "mergeable", "unmergeable",
     "dontdump", "dodump", "collapse"}
)  # fmt: skip
"""Accepted and without consequence for what the model shows."""

FORK_FLAGS = {
    "dontfork": (Vm.DONTCOPY, True),
    "dofork": (Vm.DONTCOPY, False),
    "wipeonfork": (Vm.WIPEONFORK, True),
    "keeponfork": (Vm.WIPEONFORK, False),
}

KNOWN = NO_EFFECT | FORK_FLAGS.keys() | {"pageout", "dontneed", "free"}


async def madvise(core: CoreMm, message: Madvise) -> None:
    """madvise.  -EINVAL unknown advice, -ENOMEM when parts of the range are not mapped (the rest is done)."""
    mm, advice = message.mm, message.advice
    if advice not in KNOWN:
        raise EINVAL
    if message.length == 0 and not message.addr % PAGE_SIZE:
        return
    start, end = page_range(message.addr, message.length)
    if advice in FORK_FLAGS:
        await _fork_advice(core, mm, start, end, advice)
    elif advice == "pageout":
        await reclaim_pages(core, mm, start, end)
    elif advice in ("dontneed", "free"):
        await _zap_advice(core, mm, start, end, advice)


async def _fork_advice(core: CoreMm, mm: Mm, start: int, end: int, advice: str) -> None:
    """madvise_vma_behavior under mmap_lock for write, VMA by VMA; holes are skipped, then reported."""
    await mm.mmap_write_lock()
    try:
        at, hole = start, False
        while at < end:
            vma = mm.vmas.at_or_after(at)
            if vma is None or vma.start >= end:
                raise ENOMEM
            hole = hole or vma.start > at
            at, stop = max(at, vma.start), min(end, vma.end)
            await _set_fork_flag(core, vma, at, stop, advice)
            at = stop
        if hole:
            raise ENOMEM
    finally:
        mm.mmap_write_unlock()


async def _set_fork_flag(core: CoreMm, vma: Vma, start: int, end: int, advice: str) -> None:
    """One VMA's part: split, set the flag, merge.  -EINVAL: only private anonymous memory is wiped."""
    flag, value = FORK_FLAGS[advice]
    if advice == "wipeonfork" and not vma.is_anonymous:
        raise EINVAL
    flags = vma.flags | flag if value else vma.flags & ~flag
    if flags != vma.flags:
        (part,) = await isolate_range(core, vma.mm, start, end)
        await part.start_write()
        part.flags = flags
        await merge_around(core, part.mm, part)


async def _zap_advice(core: CoreMm, mm: Mm, start: int, end: int, advice: str) -> None:
    """Under the VMA lock when one VMA holds the whole range, else under mmap_lock for read."""
    await core.engine.step("trylock", mm, "vma_lock")
    vma = mm.vmas.find(start)
    if vma is not None and vma.end >= end and vma.try_start_read():
        try:
            await _advise_vma(core, vma, start, end, advice)
        finally:
            vma.end_read()
        return
    async with mm.mmap_lock.reading():
        await _advise_range(core, mm, start, end, advice)


async def _advise_range(core: CoreMm, mm: Mm, start: int, end: int, advice: str) -> None:
    covered = start
    hole = False
    for vma in mm.vmas.overlapping(start, end):
        hole = hole or vma.start > covered
        await _advise_vma(core, vma, max(start, vma.start), min(end, vma.end), advice)
        covered = vma.end
    if hole or covered < end:
        raise ENOMEM


async def _advise_vma(core: CoreMm, vma: Vma, start: int, end: int, advice: str) -> None:
    if vma.flags & (Vm.LOCKED | Vm.PFNMAP) or (advice == "free" and not vma.is_anonymous):
        raise EINVAL
    if vma.flags & Vm.HUGETLB:
        if advice == "free" or start % HUGE_PAGES:
            raise EINVAL
        end -= end % HUGE_PAGES
    mm = vma.mm
    core.engine.emit(RangeChanging(mm, start, end, advice))
    event = NotifierRange(mm, Event.CLEAR, start, end)
    await mm.subscriptions.invalidate_range_start(event)
    if advice == "dontneed":
        await zap_range(core, mm, start, end)
    else:
        await _lazyfree_range(core, mm, start, end)
    await mm.subscriptions.invalidate_range_end(event)
    core.engine.emit(RangeChanged(mm, start, end, advice))


async def _lazyfree_range(core: CoreMm, mm: Mm, start: int, end: int) -> None:
    """MADV_FREE: clean and old, swap entries dropped; device and migration entries are untouched.

    A page that stays clean may be dropped by reclaim; until then its old contents are readable.
    """
    for table in mm.page_table.tables(start, end):
        await core.engine.step("pte_write", mm.page_table, table * PTRS_PER_PTE)
        for vpn, pte in mm.page_table.entries(table, start, end):
            if pte.kind is Entry.SWAP:
                zap_entry(core, mm, vpn, pte)
            elif pte.kind is Entry.PRESENT and not pte.folio.is_zero and clean_for_free(core, pte.folio):
                mm.page_table.set(vpn, pte._replace(dirty=False, young=False))


def clean_for_free(core: CoreMm, folio: Folio) -> bool:
    """The page leaves the swap cache and is clean; False: it is left alone.

    MM-B07: only under its lock, which reclaim may have, and only if nobody else maps it.
    """
    if folio.swap_slot is None and not folio.dirty:
        return True
    if not folio.lock.trylock_now():
        core.engine.count("madvise.free_locked")
        return False
    cleaned = folio.mapcount == 1 and core.swap.folio_free_swap(folio)
    if cleaned:
        folio.dirty = False
    folio.lock.release()
    return cleaned
