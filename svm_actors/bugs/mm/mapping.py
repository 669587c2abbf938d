"""Deviations of munmap and mremap: who is kept out while entries go, and who may meet them on their way."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function
from svm_actors.mm import mmap, mremap
from svm_actors.mm.core import CoreMm
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.vma import Vma


def no_rmap_locks(_vma: Vma, _copy: Vma) -> bool:
    """The walker is bound to come by one of the two places."""
    return False


async def unmap_without_lock(core: CoreMm, mm: Mm, vmas: list[Vma], start: int, end: int) -> None:
    """The mappings are out of the tree; what is left can be done without mmap_lock."""
    mm.mmap_write_unlock()
    await mmap.unmap_region(core, mm, vmas, start, end)
    await mm.mmap_lock.read()


MM_B59 = Bug(
    id="MM-B59",
    title="mremap moves entries to where a walker has been already, without the rmap locks",
    removes="mremap.need_rmap_locks",
    races=("MM-R13",),
    oracles=("structure", "lifetime", "coherence", "engine/deadlock"),
    story="pages-come-back-under-eviction",
    plant=replace_function(mremap.need_rmap_locks, no_rmap_locks),
)

MM_B60 = Bug(
    id="MM-B60",
    title="munmap gives the address away before its pages are zapped",
    removes="mmap.unmap_downgraded",
    races=("MM-R02",),
    oracles=("address_space/MM-R02", "coherence"),
    story="address-used-again",
    plant=replace_function(mmap.unmap_downgraded, unmap_without_lock),
)
