"""Deviations of xe madvise on mirrored memory (gpusvm section 8)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard
from svm_actors.drm.gpuvm_ops import OpMap
from svm_actors.xe.bind_ops import piece_of
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.garbage import GarbageCollector
from svm_actors.xe.madvise import VmMadvise
from svm_actors.xe.svm_range import XeSvmRange
from svm_actors.xe.vm_attr import DEFAULT_ATTR


async def leave_straddlers(_advice: VmMadvise, _edge: int) -> None:
    """A range reaches over the cut, and over two vmas from now on."""


def as_by_default(old: XeBindVma, op: OpMap) -> XeBindVma:
    """Of a mirror only the address is passed on."""
    piece = piece_of(old, op)
    if piece.mirror is not None:
        piece.read_only = piece.mirror.read_only = False
    return piece


async def reset_attributes(gc: GarbageCollector, range_: XeSvmRange) -> None:
    """Every mirror vma is taken to want its defaults back."""
    await GarbageCollector._collect(gc, range_)
    vma = gc.vm.mirror_vma(range_.start)
    vma.attr = DEFAULT_ATTR


async def without_notifier_lock(advice: VmMadvise) -> None:
    """vm.lock is held, so nobody else changes anything, as it seems."""
    for edge in (advice.start, advice.end):
        await advice.drop_straddlers(edge)
    await advice.split()
    changed = [vma for vma in advice.mirror_vmas() if advice.apply(vma)]
    if changed:
        await advice.zap(changed)


async def unbind_in_flight(advice: VmMadvise, range_: XeSvmRange) -> None:
    """The removal of entries is queued; the pages are unmapped and the range is gone before it has happened."""
    await advice.vm.pt.unbind_range(range_)
    await advice.vm.gc.collect_now(range_)


SVM_B21 = Bug(
    id="SVM-B21",
    title="a mirror vma that is split loses what it was created with, and may be written",
    removes="bind_ops.piece_of",
    races=(),
    oracles=("svm/SVM-B21",),
    story="advice-on-read-only-memory",
    plant=replace_function(piece_of, as_by_default),
)

SVM_B22 = Bug(
    id="SVM-B22",
    title="attributes are back to default when memory was unmapped, though nobody has asked for it",
    removes="GarbageCollector._collect",
    races=(),
    oracles=("svm/SVM-B22",),
    story="advice-outlives-memory",
    plant=replace_guard(GarbageCollector, "_collect", reset_attributes),
)

SVM_B29 = Bug(
    id="SVM-B29",
    title="madvise splits a mirror vma and leaves the range that reaches over the cut",
    removes="VmMadvise.drop_straddlers",
    races=("SVM-R26",),
    oracles=("ranges/RULE-33",),
    story="advice-splits-a-range",
    plant=replace_guard(VmMadvise, "drop_straddlers", leave_straddlers),
)

SVM_B48 = Bug(
    id="SVM-B48",
    title="madvise zaps and marks entries without notifier_lock",
    removes="VmMadvise.run",
    races=("SVM-R25", "RULE-28"),
    oracles=("invalidation/INV-01", "lifetime"),
    story="advice-against-callbacks",
    plant=replace_guard(VmMadvise, "run", without_notifier_lock),
)

SVM_S05 = Bug(
    id="SVM-S05",
    title="madvise unmaps and drops a range before the removal of its entries is through",
    removes="VmMadvise.drop",
    races=("SVM-R41",),
    oracles=("lifetime", "invalidation/INV-01", "ranges/RULE-18"),
    story="advice-splits-a-range",
    plant=replace_guard(VmMadvise, "drop", unbind_in_flight),
)
