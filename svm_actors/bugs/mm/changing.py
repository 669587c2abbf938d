"""Address spaces that change under devices and rmap: MM-R01, R03, R12, R13, R16, R17, R19 (core_mm section 15)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, replace_part
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm import memory, mmap, mprotect
from svm_actors.mm.core import CoreMm
from svm_actors.mm.hmm_types import HmmRange
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rmap import AnonVma, anon_vma_clone, unlink_anon_vmas
from svm_actors.mm.vma import Vma

# -- munmap ---------------------------------------------------------------------------------


async def zap_then_tell(core: CoreMm, mm: Mm, vmas: list[Vma], start: int, end: int) -> None:
    """The pages are gone before any device hears of it."""
    for vma in vmas:
        await memory.zap_range(core, mm, vma.start, vma.end)
    event = NotifierRange(mm, Event.UNMAP, start, end)
    await mm.subscriptions.invalidate_range_start(event)
    await mm.subscriptions.invalidate_range_end(event)
    for vma in vmas:
        await unlink_anon_vmas(vma)
        if vma.file is not None:
            vma.file.unlink(vma)


MM_R01 = Bug(
    id="MM-R01",
    title="munmap frees the pages first and tells the devices afterwards",
    removes="mmap.unmap_region",
    races=("MM-R01",),
    oracles=("lifetime/INV-05", "coherence/INV-14", "invalidation", "entries/INV-25"),
    story="unmap",
    plant=replace_function(mmap.unmap_region, zap_then_tell),
)


# -- the walk of a device fault --------------------------------------------------------------


async def current_then_locked(self: Mirror, walk: HmmRange) -> bool:
    """Between the look and the mutex an event may come and go."""
    if walk.notifier.read_retry(walk.notifier_seq):
        return False
    await self.mutex.acquire()
    return True


MM_R03 = Bug(
    id="MM-R03",
    title="a walk is judged before the lock is taken that keeps events out",
    removes="Mirror._locked_and_current",
    races=("MM-R03",),
    oracles=("lifetime/INV-05", "mirrors/INV-03", "coherence/INV-14", "walks/INV-02"),
    story="device-reads-met-by-cpu",
    plant=replace_guard(Mirror, "_locked_and_current", current_then_locked),
)


# -- permissions ------------------------------------------------------------------------------


def migrating_stays_as_it_is(original: object) -> object:
    """Only what is mapped loses its permission."""

    def changed_entry(vma: Vma, pte: Pte) -> Pte:
        return pte if pte.kind is Entry.MIGRATION else mprotect.changed_entry(vma, pte)

    return changed_entry


MM_R16 = Bug(
    id="MM-R16",
    title="mprotect passes over pages in migration, which come back writable",
    removes="mprotect.changed_entry",
    races=("MM-R16",),
    oracles=("permissions/MM-R16",),
    story="eviction-met-by-mprotect",
    plant=replace_part(mprotect.changed_entry, migrating_stays_as_it_is),
)


async def unannounced(core: CoreMm, vma: Vma, start: int, end: int) -> None:
    """What the devices have mapped stays as writable as it was."""
    await mprotect.change_entries(core, vma, start, end)


MM_R17 = Bug(
    id="MM-R17",
    title="mprotect takes permissions away without an event",
    removes="mprotect.change_protection",
    races=("MM-R17",),
    oracles=("mirrors/INV-04", "entries/INV-25"),
    story="device-writes-met-by-mprotect",
    plant=replace_function(mprotect.change_protection, unannounced),
)


def replace_in_any_case(_vma: Vma, _vpn: int, _seen: Pte) -> bool:
    """Whoever was faster loses what was written meanwhile."""
    return True


MM_R19 = Bug(
    id="MM-R19",
    title="copy-on-write replaces an entry that has changed since the copy",
    removes="memory.may_replace_copied",
    races=("MM-R19",),
    oracles=("structure/INV-07", "coherence/INV-14", "lifetime"),
    story="copies-of-one-page",
    plant=replace_function(memory.may_replace_copied, replace_in_any_case),
)


# -- the walk over all mappings ------------------------------------------------------------------


def children_first(self: AnonVma) -> list[Vma]:
    """By page offset, then the youngest."""
    youngest_first = self.vmas[::-1]
    return sorted(youngest_first, key=lambda vma: vma.pgoff)


MM_R12 = Bug(
    id="MM-R12",
    title="rmap visits a child before its parent, and fork copies what the walk has yet to change",
    removes="AnonVma.in_order",
    races=("MM-R12",),
    oracles=("structure/INV-08", "structure/INV-10", "coherence/INV-14", "liveness", "copies/INV-09"),
    story="eviction-met-by-fork",
    plant=replace_guard(AnonVma, "in_order", children_first),
)


async def linked_at_once(target: Vma, source: Vma) -> None:
    """A walk under way has its list of mappings already, and goes past the entries that move."""
    for anon_vma in source.anon_vma_chain:
        if anon_vma not in target.anon_vma_chain:
            anon_vma.link(target)
    if target.anon_vma is None:
        target.anon_vma = source.anon_vma


MM_R13 = Bug(
    id="MM-R13",
    title="mremap makes its new mapping known to rmap without waiting for walks under way",
    removes="rmap.anon_vma_clone",
    races=("MM-R13",),
    oracles=("structure/INV-08", "structure/INV-10", "coherence/INV-14", "liveness", "copies/INV-09"),
    story="eviction-met-by-mremap",
    plant=replace_function(anon_vma_clone, linked_at_once),
)
