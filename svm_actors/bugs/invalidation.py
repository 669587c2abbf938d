"""Deviations of the invalidation callback: the TLB keeps what the core MM is about to free."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.mm.mmu_notifier import NotifierRange
from svm_actors.xe.svm import Span, XeSvm
from svm_actors.xe.svm_range import XeSvmRange


async def do_not_wait(_svm: XeSvm, _fence: Fence) -> None:
    """The flush is asked for; whether it is through does not matter to us."""


async def no_flush(svm: XeSvm, _span: Span) -> Fence:
    """The range counts as invalidated, but nobody tells the TLB."""
    fence = Fence(svm.engine, f"{svm.vm.name}.no_flush")
    fence.signal()
    return fence


def forget_earlier_ranges(_svm: XeSvm, _span: Span | None, range_: XeSvmRange, event: NotifierRange) -> Span:
    """Every range starts again from the event, as 7.3.4 does."""
    return min(event.start, range_.start), max(event.end, range_.end)


_ORACLES = ("invalidation/INV-01", "lifetime")

SVM_B41 = Bug(
    id="SVM-B41",
    title="the notifier callback does not wait for the TLB flush",
    removes="XeSvm.wait_tlb_flush",
    races=("SVM-R51",),
    oracles=_ORACLES,
    story="unmap",
    plant=replace_guard(XeSvm, "wait_tlb_flush", do_not_wait),
)

SVM_B50 = Bug(
    id="SVM-B50",
    title="the notifier callback zaps entries but skips the TLB flush",
    removes="XeSvm.submit_tlb_flush",
    races=("SVM-R51", "RULE-26"),
    oracles=_ORACLES,
    story="unmap",
    plant=replace_guard(XeSvm, "submit_tlb_flush", no_flush),
)

SVM_S08 = Bug(
    id="SVM-S08",
    title="the span to flush is recomputed for each range and loses the widening for the ones before",
    removes="XeSvm.widen",
    races=("SVM-R51",),
    oracles=_ORACLES,
    story="wide",
    plant=replace_guard(XeSvm, "widen", forget_earlier_ranges),
)
