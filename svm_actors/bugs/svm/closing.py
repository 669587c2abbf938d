"""Deviations of the end of a VM (gpusvm sections 1.1 and 6.4)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.gpusvm import DrmGpusvm
from svm_actors.xe.vm import XeVm


def frees_ranges_first(original: type[DrmGpusvm]) -> type[DrmGpusvm]:
    """Ranges are let go of while callbacks can still find them; the subscription ends afterwards."""

    class FreesRangesFirst(original):  # type: ignore[misc, valid-type]
        async def fini(self) -> None:
            for notifier in list(self.root.values()):
                for range_ in list(notifier.ranges.values()):
                    await self.range_put(range_)
                await self.silence(notifier)
                del self.root[notifier.start]
            self.mm.drop()

    return FreesRangesFirst


async def leave_translations(_vm: XeVm) -> None:
    """Entries are gone; the TLB is not told."""


SVM_B46 = Bug(
    id="SVM-B46",
    title="the end of a gpusvm frees its ranges while callbacks can still find them",
    removes="DrmGpusvm.silence",
    races=("SVM-R50",),
    oracles=("lifetime/SVM-R48",),
    story="close-under-callbacks",
    plant=replace_part(DrmGpusvm, frees_ranges_first),
)

SVM_B61 = Bug(
    id="SVM-B61",
    title="a VM is closed without flushing the TLB",
    removes="XeVm.flush_all",
    races=("SVM-R22", "RULE-34"),
    oracles=("invalidation/INV-01", "lifetime", "leaks/INV-34"),
    story="close-under-callbacks",
    plant=replace_guard(XeVm, "flush_all", leave_translations),
)
