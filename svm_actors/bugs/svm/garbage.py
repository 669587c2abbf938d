"""Deviations of the garbage collector: what it takes, in which order, and when it must have ended (section 6.3)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, together
from svm_actors.mm.mmu_notifier import NotifierRange
from svm_actors.xe.garbage import GarbageCollector
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_fault import SvmFault
from svm_actors.xe.svm_range import Link, XeSvmRange


async def off_the_tree_first(gc: GarbageCollector, range_: XeSvmRange) -> None:
    """Out of the tree, and then unmapped."""
    await gc.vm.pt.unbind_range(range_)
    await gc.vm.svm.gpusvm.range_remove(range_)
    await gc.vm.svm.gpusvm.unmap_pages(range_.pages)
    gc.engine.count("gc.range")


def only_on_the_list(_gc: GarbageCollector, range_: XeSvmRange) -> bool:
    """What was taken off the list looks as if it had never been on it."""
    return range_.link is Link.QUEUED


async def leave_it_to_the_work(_fault: SvmFault) -> None:
    """Dead ranges are found again until somebody else has time for them."""


async def spare_survivors(gc: GarbageCollector, range_: XeSvmRange) -> None:
    """A range of which something is left stays, and counts as alive again."""
    if not range_.flags.partial_unmap:
        await GarbageCollector._collect(gc, range_)
        return
    await gc.vm.pt.unbind_range(range_)
    await gc.vm.svm.gpusvm.unmap_pages(range_.pages)
    range_.flags = range_.flags._replace(unmapped=False, partial_unmap=False)
    range_.pages.flags = range_.pages.flags._replace(unmapped=False)
    range_.link = Link.UNLINKED


async def only_flush(gc: GarbageCollector) -> None:
    """What is queued now is through; what is queued next is not thought of."""
    await gc.flush()


async def list_in_any_case(svm: XeSvm, range_: XeSvmRange, event: NotifierRange, _closed: bool) -> None:
    """The other half of the guard: a closed VM has no use for a garbage collector."""
    await XeSvm._give_back(svm, range_, event, False)


def keep_quiet(_gc: GarbageCollector, _replaced: bool) -> None:
    """Nobody is told to look again."""


SVM_B51 = Bug(
    id="SVM-B51",
    title="a fault goes on with a vma that the garbage collector has replaced",
    removes="GarbageCollector.report",
    races=("SVM-R24", "RULE-31"),
    oracles=("svm/SVM-R24",),
    story="advice-goes-with-memory",
    plant=replace_guard(GarbageCollector, "report", keep_quiet),
)

SVM_B14 = Bug(
    id="SVM-B14",
    title="closing a VM flushes its garbage collector, and late callbacks queue it again",
    removes="GarbageCollector.disable_sync",
    races=("SVM-R23",),
    oracles=("lifetime/SVM-R47",),
    story="close-under-callbacks",
    plant=together(
        replace_guard(GarbageCollector, "disable_sync", only_flush),
        replace_guard(XeSvm, "_give_back", list_in_any_case),
    ),
)

SVM_B34 = Bug(
    id="SVM-B34",
    title="a dead range leaves the tree before its pages are unmapped for the device",
    removes="GarbageCollector._collect",
    races=("SVM-R41", "SVM-R48", "RULE-19"),
    oracles=("ranges/RULE-18", "lifetime"),
    story="advice-splits-a-range",
    plant=replace_guard(GarbageCollector, "_collect", off_the_tree_first),
)

SVM_B42 = Bug(
    id="SVM-B42",
    title="a fault looks for its range before dead ranges are collected",
    removes="SvmFault.collect_garbage",
    races=("SVM-R04",),
    oracles=("ranges/RULE-17",),
    story="memory-replaced-under-a-fault",
    plant=replace_guard(SvmFault, "collect_garbage", leave_it_to_the_work),
)

SVM_B43 = Bug(
    id="SVM-B43",
    title="a range that is being collected can be put on the list again",
    removes="GarbageCollector.is_linked",
    races=("SVM-R05", "RULE-25"),
    oracles=("lifetime/SVM-R48",),
    story="unmapped-in-parts",
    plant=replace_guard(GarbageCollector, "is_linked", only_on_the_list),
)

SVM_B60 = Bug(
    id="SVM-B60",
    title="the garbage collector keeps a range of which only a part was unmapped",
    removes="GarbageCollector._collect",
    races=("SVM-R52",),
    oracles=("ranges/SVM-R52", "liveness/livelock-stable"),
    story="unmapped-in-parts",
    plant=replace_guard(GarbageCollector, "_collect", spare_survivors),
)
