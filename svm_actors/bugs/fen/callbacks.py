"""FEN-B32: a notifier callback that is, for its own time, a user of the address space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_part
from svm_actors.xe.svm import XeSvm

if TYPE_CHECKING:
    from svm_actors.drm.gpusvm_range import GpusvmNotifier
    from svm_actors.mm.mmu_notifier import NotifierRange


def uses_the_mm(original: type[XeSvm]) -> type[XeSvm]:
    """A subclass that keeps the address space alive while it looks at its ranges."""

    class UsesTheMm(original):  # type: ignore[misc, valid-type]
        async def invalidate(self, notifier: GpusvmNotifier, event: NotifierRange) -> None:
            used = await event.mm.mmget_not_zero()
            await super().invalidate(notifier, event)
            if used:
                await event.mm.mmput()

    return UsesTheMm


FEN_B32 = Bug(
    id="FEN-B32",
    title="a notifier callback drops what may be the last user of the address space",
    removes="XeSvm.invalidate",
    races=("SVM-R22",),
    oracles=("lockdep/INV-24", "signalling/INV-FEN-03", "engine/deadlock"),
    story="exit-while-reclaimed",
    plant=replace_part(XeSvm, uses_the_mm),
)
