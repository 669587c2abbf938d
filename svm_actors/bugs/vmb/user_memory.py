"""Deviations of user memory: its lists, its pages, its notifier; in fault mode its zap (vm_bind sections 5 and 11).

VMB-B09: the driver of today has no reason to lock a page, as hmm marks what the device may write.  The deviation
brings that along: it marks the pages itself, where it has them at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, together
from svm_actors.drm.gpusvm_pages import AddressArray, GpusvmPages
from svm_actors.mm.hmm_types import HmmRange
from svm_actors.mm.mmu_notifier import FinishObject, IntervalNotifier, NotifierRange
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.fault_bind import FaultIoctl
from svm_actors.xe.fault_userptr import FaultUserptr
from svm_actors.xe.fault_zap import ObjectZap, zap_vma
from svm_actors.xe.pt_bind import PtBind
from svm_actors.xe.userptr import Userptr, VmUserptr
from svm_actors.xe.userptr_pages import UserptrPages

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.gpusvm_range import GpusvmCtx
    from svm_actors.xe.userptr import UserptrVma


def always_fresh(_pages: UserptrPages, _walk: HmmRange) -> bool:
    """What the walk has found is what there is."""
    return False


async def looks_unlocked(self: UserptrPages, pages: GpusvmPages, walk: HmmRange, ctx: GpusvmCtx) -> bool:
    """That nothing is stale is asked once, and what the walk has found is then looked at page by page."""
    if self.walk_is_stale(walk):
        return False
    pages.array = AddressArray()
    return await self._map_all(pages, walk, ctx)


def stays_on_its_list(_userptr: Userptr) -> None:
    """Whoever finds it there will see that it is gone."""


def whoever_it_is(userptr: Userptr) -> None:
    """A mapping on its way out is listed like any other."""
    userptr.owner.invalidated[userptr] = None


def for_everybody(userptr: Userptr) -> bool:
    """The one state of the second pass is given to each invalidation that asks."""
    userptr.finish_in_use = True
    return True


async def left_on_repin(_lists: VmUserptr) -> None:
    """The next exec pins what is on the repin list anyway."""


def still_to_be_bound(_lists: VmUserptr, _vma: UserptrVma) -> None:
    """It is off one list."""


async def marks_pages_dirty(self: Userptr) -> None:
    """The device has written, so each page is locked and marked, all under notifier_lock."""
    await self.wait_for_jobs()
    async with self.owner.vm.notifier_lock.writing():
        for page in self.pages.entries:
            await page.folio.lock.acquire()
            page.folio.dirty = True
            page.folio.lock.release()
        await self.owner.pages.unmap_pages(self.pages, in_notifier=True)


async def only_waits(self: Userptr) -> None:
    """No job uses the pages any more; that the device could reach them does no harm, as it seems."""
    await self.wait_for_jobs()


async def zap_outside(
    self: FaultUserptr, _notifier: IntervalNotifier, event: NotifierRange, seq: int
) -> bool | FinishObject:
    """notifier_lock for the sequence only."""
    if not event.blockable:
        return False
    async with self.owner.vm.notifier_lock.writing():
        self.store_sequence(seq)
    await self.wait_for_jobs()
    fence = await self.zap()
    await self.wait_for_flush(fence)
    async with self.owner.vm.notifier_lock.writing():
        await self.owner.pages.unmap_pages(self.pages, in_notifier=True)
    return True


async def zap_unlocked(self: FaultUserptr) -> Fence | None:
    """The same without asking who holds what."""
    vma = self.vma
    assert isinstance(vma, XeBindVma)
    return await zap_vma(vma) if vma.xe_vm.size else None


def by_nobody(_vma: XeBindVma) -> bool:
    """An unbind need not keep notifiers out."""
    return False


async def wait_for_none(_zap: ObjectZap) -> None:
    """What is not written yet cannot be zapped."""


async def pages_as_they_are(_ioctl: FaultIoctl, _vma: XeBindVma) -> None:
    """A prefetch binds what was pinned once."""


def nothing_forgotten(_bind: PtBind) -> None:
    """What an earlier pass has staged is there already."""


_DATA = ("lifetime", "coherence", "binds/INV-VMB-13", "ranges/RULE-18", "invalidation/INV-01")

VMB_R03 = Bug(
    id="VMB-R03",
    title="pages found by a walk are mapped although an invalidation began meanwhile",
    removes="UserptrPages.walk_is_stale",
    races=("VMB-R03",),
    oracles=(*_DATA, "walks/INV-02"),
    story="user-memory-changes-and-is-unbound",
    plant=replace_guard(UserptrPages, "walk_is_stale", always_fresh),
)

VMB_B11 = Bug(
    id="VMB-B11",
    title="pages are looked at without notifier_lock, under which they cannot go",
    removes="DrmGpusvmPages._map",
    races=("VMB-R03",),
    oracles=(*_DATA, "walks/INV-02"),
    story="user-memory-changes-and-is-unbound",
    plant=replace_guard(UserptrPages, "_map", looks_unlocked),
)

VMB_R15 = Bug(
    id="VMB-R15",
    title="a mapping of user memory that is destroyed stays on the list of invalidated ones",
    removes="Userptr.unlink",
    races=("VMB-R15",),
    oracles=("lifetime",),
    story="user-memory-changes-and-is-unbound",
    plant=replace_guard(Userptr, "unlink", stays_on_its_list),
)

VMB_R16 = Bug(
    id="VMB-R16",
    title="a notifier lists a mapping that is on its way out",
    removes="Userptr.mark_invalidated",
    races=("VMB-R16", "VMB-R15"),
    oracles=("lifetime",),
    story="user-memory-changes-and-is-unbound",
    plant=replace_guard(Userptr, "mark_invalidated", whoever_it_is),
)

VMB_R18 = Bug(
    id="VMB-R18",
    title="two invalidations of one mapping share the state of the second pass",
    removes="Userptr.claim_finish",
    races=("VMB-R18",),
    oracles=("lifetime/VMB-R18", "invalidation/INV-01", "two_pass"),
    story="two-changes-before-a-queued-bind",
    plant=replace_guard(Userptr, "claim_finish", for_everybody),
)

VMB_B07 = Bug(
    id="VMB-B07",
    title="an error while pinning leaves mappings on the repin list",
    removes="VmUserptr.restore_invalidated",
    races=("VMB-R15",),
    oracles=("lifetime/VMB-R15",),
    story="a-pin-that-fails",
    plant=replace_guard(VmUserptr, "restore_invalidated", left_on_repin),
)

VMB_B08 = Bug(
    id="VMB-B08",
    title="user memory that is gone leaves the repin list, but stays on the rebind list",
    removes="VmUserptr.forget_rebind",
    races=("VMB-R15",),
    oracles=("lifetime/VMB-B08",),
    story="a-pin-that-fails",
    plant=replace_guard(VmUserptr, "forget_rebind", still_to_be_bound),
)

VMB_B09 = Bug(
    id="VMB-B09",
    title="pages are locked, to be marked dirty, while notifier_lock is held",
    removes="Userptr.complete",
    races=("VMB-R01", "RULE-43"),
    oracles=("lockdep/INV-24", "engine/deadlock"),
    story="bind-userptr",
    plant=replace_guard(Userptr, "complete", marks_pages_dirty),
)
"""Noticed as an inversion: a migration waits for notifiers with its pages locked."""

VMB_B10 = Bug(
    id="VMB-B10",
    title="an invalidation leaves the pages mapped for the device in the IOMMU",
    removes="Userptr.complete",
    races=("VMB-R01",),
    oracles=("ranges/RULE-18", "lifetime"),
    story="user-memory-changes-and-is-unbound",
    plant=replace_guard(Userptr, "complete", only_waits),
)

VMB_B06 = Bug(
    id="VMB-B06",
    title="a notifier zaps entries of user memory without notifier_lock",
    removes="FaultUserptr.invalidate",
    races=("VMB-R09", "VMB-R17"),
    oracles=("lifetime", "invalidation/INV-01", "ranges/RULE-18", "coherence"),
    story="a-zap-against-an-unbind",
    plant=together(
        replace_guard(FaultUserptr, "invalidate", zap_outside), replace_guard(FaultUserptr, "zap", zap_unlocked)
    ),
)
"""Noticed when the walk meets a node that an unbind has freed."""

VMB_R09 = Bug(
    id="VMB-R09",
    title="an unbind frees page-table nodes without keeping notifiers out that walk them",
    removes="PtBind.is_zapped_by_notifiers",
    races=("VMB-R09",),
    oracles=("lifetime",),
    story="a-zap-against-an-unbind",
    plant=replace_guard(PtBind, "is_zapped_by_notifiers", staticmethod(by_nobody)),
)

VMB_R23 = Bug(
    id="VMB-R23",
    title="an object moves without waiting for a job that is still to write entries of it",
    removes="ObjectZap.wait_for_binds",
    races=("VMB-R23",),
    oracles=(*_DATA, "bindings/INV-VMB-03"),
    story="an-eviction-before-a-queued-bind",
    plant=replace_guard(ObjectZap, "wait_for_binds", wait_for_none),
)

VMB_B12 = Bug(
    id="VMB-B12",
    title="a prefetch does not pin user memory again, and finds it stale for ever",
    removes="FaultIoctl.pin_for_prefetch",
    races=("VMB-R17",),
    oracles=("engine", "liveness"),
    story="a-prefetch-of-stale-memory",
    plant=replace_guard(FaultIoctl, "pin_for_prefetch", pages_as_they_are),
)
"""Noticed as a livelock: the call is run again and again."""

VMB_B01 = Bug(
    id="VMB-B01",
    title="an update that is given up, or run again, does not forget what its last pass has staged",
    removes="PtBind.reset",
    races=("VMB-R17", "VMB-R08"),
    oracles=("bindings/VMB-R08", "lifetime"),
    story="a-bind-of-memory-that-goes",
    plant=replace_guard(PtBind, "reset", nothing_forgotten),
)
