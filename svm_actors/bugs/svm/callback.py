"""Deviations of the invalidation callback and of what it relies on from a bind (gpusvm sections 6.1 and 6.2)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.gpusvm_base import DrmGpusvmBase
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.xe.pt import XePt
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_range import XeSvmRange

_REACHED = ("invalidation/INV-01", "ranges/RULE-18", "structure/INV-03", "lifetime", "coherence")


def publishes_late(original: type[XePt]) -> type[XePt]:
    """The fence goes into the reservation when the section is over."""

    class PublishesLate(original):  # type: ignore[misc, valid-type]
        def publish(self, _fence: Fence) -> None:
            """Not yet."""

        async def bind_range(self, range_: XeSvmRange, read_only: bool) -> Fence:
            fence: Fence = await super().bind_range(range_, read_only)
            async with self.vm.resv.lock:
                super().publish(fence)
            return fence

    return PublishesLate


async def no_drain(_svm: XeSvm) -> None:
    """Updates that are queued are none of the callback's business."""


async def only_what_was_bound(svm: XeSvm, range_: XeSvmRange, event: NotifierRange, closed: bool) -> None:
    """A range that no entry leads to is passed by, with pages mapped for the device or not."""
    if range_.tile_present or event.event is Event.UNMAP:
        await XeSvm._give_back(svm, range_, event, closed)


def never_refuses(_gpusvm: DrmGpusvmBase, _event: NotifierRange) -> bool:
    """Everybody is served."""
    return False


def never_closed(_svm: XeSvm) -> bool:
    """A closed VM is treated like any other."""
    return False


SVM_B38 = Bug(
    id="SVM-B38",
    title="the fence of a page-table update is published after notifier_lock was dropped",
    removes="XePt.publish",
    races=("SVM-R03",),
    oracles=_REACHED,
    story="invalidation-against-bind-jobs",
    plant=replace_part(XePt, publishes_late),
)

SVM_B39 = Bug(
    id="SVM-B39",
    title="the callback zaps entries that a queued update is still to write",
    removes="XeSvm.wait_bookkeeping",
    races=("SVM-R03",),
    oracles=_REACHED,
    story="invalidation-against-bind-jobs",
    plant=replace_guard(XeSvm, "wait_bookkeeping", no_drain),
)

SVM_B40 = Bug(
    id="SVM-B40",
    title="the callback unmaps pages for the device only where entries were bound",
    removes="XeSvm._give_back",
    races=("SVM-R51",),
    oracles=_REACHED,
    story="invalidation-against-bind-jobs",
    plant=replace_guard(XeSvm, "_give_back", only_what_was_bound),
)

SVM_B55 = Bug(
    id="SVM-B55",
    title="the callback takes its lock for a caller that must not sleep",
    removes="DrmGpusvmBase.refuses",
    races=("SVM-R32",),
    oracles=("lockdep/INV-24",),
    story="reaped-while-mirrored",
    plant=replace_guard(DrmGpusvmBase, "refuses", never_refuses),
)

SVM_B47 = Bug(
    id="SVM-B47",
    title="the callback of a closed VM zaps in page tables that are freed",
    removes="XeSvm.is_closed",
    races=("SVM-R22", "RULE-34"),
    oracles=("lifetime/SVM-R22",),
    story="close-under-callbacks",
    plant=replace_guard(XeSvm, "is_closed", never_closed),
)
