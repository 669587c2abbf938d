"""The vma of the last fault is remembered, and a fault that replaced it remembers the one it had at hand (SVM-S03).

Simplified: what is remembered is looked at, and found anew all the same: what a dead vma says is of no consequence,
that it is asked is.
"""

from __future__ import annotations

import attrs

from svm_actors.bugs.bug import Bug, replace_part
from svm_actors.gpu.fault import PageFault
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.fault_vm import XeFaultVm


@attrs.frozen
class Remembered:
    """last_fault_vma."""

    vma: XeBindVma
    """What the service looked up when it began."""
    gone: bool
    """It was out of the tree already when it was remembered, so its removal could not clear this."""

    @property
    def cleared(self) -> bool:
        """It was removed afterwards, by somebody who saw that it is remembered."""
        return self.vma.destroyed and not self.gone


def remembering(original: type[XeFaultVm]) -> type[XeFaultVm]:
    """A VM with a cache of one entry."""

    class Remembers(original):  # type: ignore[valid-type, misc]
        """Fault service looks there first."""

        last: Remembered | None = None

        async def serve(self, fault: PageFault) -> None:
            """The cache is set when the fault was served, to what was found before the garbage collector ran."""
            if self.last is not None and not self.last.cleared:
                self.last.vma.alive("a fault first looks at the vma of the one before,")
            vma = self.find_vma(fault.vpn)
            await super().serve(fault)
            if vma is not None:
                self.last = Remembered(vma, vma.destroyed)

    return Remembers


SVM_S03 = Bug(
    id="SVM-S03",
    title="a fault remembers a vma that its own garbage collection has replaced",
    removes="XeFaultVm.serve",
    races=(),
    oracles=("lifetime/INV-VMB-10",),
    story="faults-after-a-replaced-vma",
    plant=replace_part(XeFaultVm, remembering),
)
