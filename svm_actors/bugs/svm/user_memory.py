"""Deviations of user memory on gpusvm (gpusvm section 7)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.mm.messages import IntervalNotifierRemove
from svm_actors.xe.fault_userptr import FaultUserptr
from svm_actors.xe.userptr import Userptr


def fixed_owner(userptr: Userptr) -> GpusvmCtx:
    """One owner for all that a VM asks for, whoever can map what it gets."""
    return GpusvmCtx(device_private_page_owner=userptr.owner.vm.device.pagemap.owner, read_only=userptr.read_only)


def whoever_asks(userptr: Userptr) -> bool:
    """The slot is there, so it is used."""
    userptr.finish_in_use = True
    return True


async def notifier_first(userptr: Userptr) -> None:
    """Nobody tells of changes any more when the pages are unmapped."""
    owner = userptr.owner
    if not userptr.subscribed:
        return
    await owner.core.call(IntervalNotifierRemove(userptr.notifier))
    userptr.subscribed = False
    await owner.pages.free_pages(userptr.pages)
    del owner.live[userptr]


async def own_flush_only(userptr: FaultUserptr, fence: Fence | None) -> None:
    """What an earlier event is still waiting for is its own affair."""
    if fence is not None:
        await userptr.owner.tlb_inval.wait(fence)


SVM_B18 = Bug(
    id="SVM-B18",
    title="user memory is asked for with the owner of the mirror, and comes with device pages",
    removes="Userptr.ctx",
    races=("SVM-R55",),
    oracles=("scenario",),
    story="user-memory-comes-home",
    plant=replace_guard(Userptr, "ctx", fixed_owner),
)

SVM_B53 = Bug(
    id="SVM-B53",
    title="an event on user memory takes the slot of the second pass that another one has taken",
    removes="Userptr.claim_finish",
    races=("SVM-R30",),
    oracles=("two_pass", "lifetime", "invalidation/INV-01"),
    story="two-changes-before-a-queued-bind",
    plant=replace_guard(Userptr, "claim_finish", whoever_asks),
)

SVM_B59 = Bug(
    id="SVM-B59",
    title="the notifier of user memory is removed before its pages are unmapped for the device",
    removes="Userptr.remove",
    races=("SVM-R29",),
    oracles=("ranges/RULE-18", "lifetime"),
    story="user-memory-goes-while-it-is-unbound",
    plant=replace_guard(Userptr, "remove", notifier_first),
)

SVM_S04 = Bug(
    id="SVM-S04",
    title="an event on user memory does not wait for the flush that an earlier one has asked for",
    removes="FaultUserptr.wait_for_flush",
    races=("SVM-R40",),
    oracles=("invalidation/INV-01", "lifetime"),
    story="two-events-on-user-memory",
    plant=replace_guard(FaultUserptr, "wait_for_flush", own_flush_only),
)
