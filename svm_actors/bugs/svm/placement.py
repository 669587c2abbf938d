"""Deviations of asking for and changing where pages are (gpusvm sections 4, end, and 5)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.drm.gpusvm_scan import DrmGpusvmPlacement
from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.engine.errors import EBUSY, KernelError
from svm_actors.xe.bo import Bo
from svm_actors.xe.pagemap import XePagemap
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_range import XeSvmRange


def unlock_anyway(placement: DrmGpusvmPlacement, _error: KernelError) -> None:
    """Both ways out go through the label that lets go of the lock."""
    placement.notifier_lock.release()


def no_reference(_region: XePagemap, _bo: Bo) -> None:
    """The allocation lives on the reference of whoever made it, and gives that back as its own."""


async def no_second_attempt(_svm: XeSvm, _range: XeSvmRange, _ctx: GpusvmCtx, _target: DrmPagemap) -> None:
    """Whoever meets another migration, or a range in pieces, gives up."""
    raise EBUSY


SVM_B03 = Bug(
    id="SVM-B03",
    title="a look at the placement that fails lets go of a lock it has not taken",
    removes="DrmGpusvmPlacement.scan_failed",
    races=(),
    oracles=("engine",),
    story="an-atomic-in-a-reaped-process",
    plant=replace_guard(DrmGpusvmPlacement, "scan_failed", unlock_anyway),
)

SVM_B15 = Bug(
    id="SVM-B15",
    title="a migration takes no reference of its own on the object it fills",
    removes="XePagemap.take_migration_reference",
    races=("SVM-R18",),
    oracles=("lifetime", "engine"),
    story="cpu-write",
    plant=replace_guard(XePagemap, "take_migration_reference", no_reference),
)

SVM_B20 = Bug(
    id="SVM-B20",
    title="a migration that was in the way of another is not tried once more alone, with all pages home",
    removes="XeSvm.second_attempt",
    races=("SVM-R09", "PGM-R14", "RULE-05"),
    oracles=("svm/SVM-R09",),
    story="an-atomic-on-a-range-in-pieces",
    plant=replace_guard(XeSvm, "second_attempt", no_second_attempt),
)
