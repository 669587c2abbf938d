"""Deviations of get_pages: what is looked at again between the walk and the mapping (gpusvm section 4)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.gpusvm_base import DrmGpusvmBase, Invalidate
from svm_actors.drm.gpusvm_pages import AddressArray, DrmGpusvmPages, GpusvmPages
from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.engine.errors import EFAULT
from svm_actors.mm.hmm_types import HmmRange
from svm_actors.mm.mm_struct import Mm

_REACHED = ("ranges", "invalidation/INV-01", "structure/INV-03", "lifetime", "coherence")
"""How pages that the process has lost, and the GPU has not, are noticed."""


def never_stale(_pages: DrmGpusvmPages, _walk: HmmRange) -> bool:
    """What hmm found is taken to be still there."""
    return False


def only_in_the_tree(gpusvm: DrmGpusvmBase, message: Invalidate) -> None:
    """A notifier that has no range yet has nothing that could become stale."""
    notifier = message.notifier
    if gpusvm.root.get(notifier.start) is notifier:
        notifier.interval.set_seq(message.seq)


def never_unmapped(_gpusvm: DrmGpusvmPages, _pages: GpusvmPages) -> bool:
    """A range whose memory went away is mapped again if something else is there by now."""
    return False


async def allocate_under_the_lock(gpusvm: DrmGpusvmPages, pages: GpusvmPages, walk: HmmRange, ctx: GpusvmCtx) -> bool:
    """One section from the checks to the mapping, with the allocation in the middle of it."""
    async with gpusvm.notifier_lock.reading():
        if gpusvm.is_unmapped(pages):
            raise EFAULT
        if gpusvm.walk_is_stale(walk):
            return False
        if pages.array is None:
            await gpusvm.might_reclaim("dma_addr")
            pages.array = AddressArray()
        return await gpusvm._map_all(pages, walk, ctx)


async def check_only_before(gpusvm: DrmGpusvmPages, pages: GpusvmPages, walk: HmmRange, ctx: GpusvmCtx) -> bool:
    """The checks, the allocation without the lock, and then straight to the mapping."""
    async with gpusvm.notifier_lock.reading():
        if gpusvm.is_unmapped(pages):
            raise EFAULT
        if gpusvm.walk_is_stale(walk):
            return False
    if pages.array is None:
        await gpusvm.might_reclaim("dma_addr")
        pages.array = AddressArray()
    async with gpusvm.notifier_lock.reading():
        return await gpusvm._map_all(pages, walk, ctx)


def sequence_after_the_walk(original: type[DrmGpusvmPages]) -> type[DrmGpusvmPages]:
    """The sequence is read when the pages are known; what changed while they were looked up goes unnoticed."""

    class ReadsLate(original):  # type: ignore[misc, valid-type]
        async def walk_pages(self, mm: Mm, walk: HmmRange, deadline: int) -> None:
            await super().walk_pages(mm, walk, deadline)
            walk.notifier_seq = await walk.notifier.read_begin()

    return ReadsLate


def plain_use(original: type[DrmGpusvmPages]) -> type[DrmGpusvmPages]:
    """The pointer to the address space is used as it is: nobody is counted as its user."""

    class UsesPlainly(original):  # type: ignore[misc, valid-type]
        async def hold_mm(self, _mm: Mm) -> None:
            """Not asked whether it is on its way out."""

        async def release_mm(self, _mm: Mm) -> None:
            """Nothing was taken."""

    return UsesPlainly


SVM_R06 = Bug(
    id="SVM-R06",
    title="the callback of a notifier that is in no tree yet leaves its sequence as it was",
    removes="DrmGpusvmBase.store_sequence",
    races=("SVM-R06",),
    oracles=("ranges", "invalidation", "structure/INV-03", "lifetime", "coherence"),
    story="first-fault-in-an-invalidation",
    plant=replace_guard(DrmGpusvmBase, "store_sequence", only_in_the_tree),
)

SVM_B35 = Bug(
    id="SVM-B35",
    title="pages are mapped for the device without asking whether the walk that found them went stale",
    removes="DrmGpusvmPages.walk_is_stale",
    races=("SVM-R01",),
    oracles=(*_REACHED, "walks/INV-02"),
    story="pages-change-in-a-walk",
    plant=replace_guard(DrmGpusvmPages, "walk_is_stale", never_stale),
)

SVM_B36 = Bug(
    id="SVM-B36",
    title="pages are mapped into a range whose memory was unmapped and mapped anew",
    removes="DrmGpusvmPages.is_unmapped",
    races=("SVM-R01", "SVM-R04"),
    oracles=_REACHED,
    story="memory-replaced-under-a-fault",
    plant=replace_guard(DrmGpusvmPages, "is_unmapped", never_unmapped),
)

SVM_B49 = Bug(
    id="SVM-B49",
    title="the notifier sequence is read after the walk it is to protect",
    removes="DrmGpusvmPages.walk_pages",
    races=("SVM-R06", "SVM-R01"),
    oracles=_REACHED,
    story="pages-change-in-a-walk",
    plant=replace_part(DrmGpusvmPages, sequence_after_the_walk),
)

SVM_B54 = Bug(
    id="SVM-B54",
    title="the address array is allocated with notifier_lock held, which reclaim may want",
    removes="DrmGpusvmPages._map",
    races=("SVM-R31", "RULE-14"),
    oracles=("lockdep/INV-24",),
    story="pages-change-in-a-walk",
    plant=replace_guard(DrmGpusvmPages, "_map", allocate_under_the_lock),
)

SVM_B57 = Bug(
    id="SVM-B57",
    title="after the address array was allocated without the lock, the checks are not made again",
    removes="DrmGpusvmPages._map",
    races=("SVM-R31", "RULE-24"),
    oracles=(*_REACHED, "walks/INV-02"),
    story="pages-change-in-a-walk",
    plant=replace_guard(DrmGpusvmPages, "_map", check_only_before),
)

SVM_B64 = Bug(
    id="SVM-B64",
    title="a fault works on an address space without holding it, and it may be on its way out",
    removes="DrmGpusvmPages.hold_mm",
    races=("SVM-R21",),
    oracles=("leaks/INV-34", "lifetime", "invalidation/INV-01", "structure", "entries/INV-33"),
    story="exit-under-fault",
    plant=replace_part(DrmGpusvmPages, plain_use),
)
