"""Deviations of binds and prefetches of mirrored memory, and of what entries permit (gpusvm sections 6.1 and 8)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, together
from svm_actors.drm.gpusvm_pages import DmaPage
from svm_actors.engine.errors import KernelError
from svm_actors.gpu.fault import Access
from svm_actors.xe.bind_ops import XeOp
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.fault_bind import FaultBindOps, FaultIoctl
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.svm_prefetch import give_up
from svm_actors.xe.svm_range import XeSvmRange
from svm_actors.xe.vm_bind import BindOp
from svm_actors.xe.write_bit import Capped


def any_mirror(_ioctl: FaultIoctl, vma: XeBindVma, _op: BindOp) -> bool:
    """Neighbours become one with the new mapping if they mirror as well."""
    return vma.mirror is not None


def until_the_end(_ops: FaultBindOps) -> None:
    """The permission stays on for what comes after it in the array."""


def up_to_the_first_object(_ioctl: FaultIoctl, made: list[XeOp]) -> list[XeOp]:
    """The loop over what a prefetch is made of ends at the first object."""
    kept = []
    for op in made:
        if op.vma.mirror is None:
            break
        kept.append(op)
    return kept


def as_an_error(_vm: XeFaultVm, error: KernelError) -> None:
    """A race that was lost ends the ioctl with an error."""
    raise error


def whatever_the_cpu_may(_policy: Capped, _page: DmaPage, read_only: bool) -> bool:
    """Writable unless the GPU VMA is read-only."""
    return not read_only


def never_upgrade(_policy: Capped, _range: XeSvmRange, _vpn: int, _access: Access) -> bool:
    """What is mapped will do."""
    return False


SVM_B58 = Bug(
    id="SVM-B58",
    title="a prefetch that loses a race ends with an error",
    removes="svm_prefetch.give_up",
    races=("SVM-R28",),
    oracles=("scenario",),
    story="prefetch-under-changes",
    plant=replace_function(give_up, as_an_error),
)

SVM_S02 = Bug(
    id="SVM-S02",
    title="a device page that the CPU may only read is bound writable, as 7.3.4 does",
    removes="Capped.writable",
    races=("SVM-R38",),
    oracles=("coherence", "structure/INV-04"),
    story="fork-of-device-memory",
    plant=together(
        replace_guard(Capped, "writable", whatever_the_cpu_may),
        replace_guard(Capped, "must_upgrade", never_upgrade),
    ),
)

SVM_S09 = Bug(
    id="SVM-S09",
    title="mapping a mirror permits the rest of the array to unmap mirrored memory in use",
    removes="FaultBindOps.end_permission",
    races=(),
    oracles=("scenario", "ranges/RULE-33", "svm"),
    story="an-array-over-a-mirror",
    plant=replace_guard(FaultBindOps, "end_permission", until_the_end),
)

SVM_S11 = Bug(
    id="SVM-S11",
    title="a mirror absorbs its neighbours whatever they permit",
    removes="FaultIoctl.is_alike",
    races=(),
    oracles=("svm",),
    story="a-mirror-beside-a-read-only-one",
    plant=replace_guard(FaultIoctl, "is_alike", any_mirror),
)

SVM_S15 = Bug(
    id="SVM-S15",
    title="a prefetch forgets what lies behind the first object",
    removes="FaultIoctl.to_prepare",
    races=(),
    oracles=("svm",),
    story="prefetch-over-an-object",
    plant=replace_guard(FaultIoctl, "to_prepare", up_to_the_first_object),
)
