"""A prefetch that loses a race gives up the whole ioctl, which ends without an error (SVM-S10, SVM-R56)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, together
from svm_actors.engine.errors import ENODATA, KernelError
from svm_actors.xe.fault_bind import FaultIoctl, fetch_all
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.svm_prefetch import give_up


def nothing_to_do(_vm: XeFaultVm, _error: KernelError) -> None:
    """-ENODATA."""
    raise ENODATA


async def or_nothing(ioctl: FaultIoctl) -> None:
    """What is committed to the tree stays so, and none of it is carried out: user space sees success."""
    try:
        await fetch_all(ioctl.bind_ops.ops)
    except ENODATA:
        ioctl.bind_ops.ops.clear()


SVM_S10 = Bug(
    id="SVM-S10",
    title="a prefetch that loses a race leaves the other binds of its array committed and not carried out",
    removes="svm_prefetch.give_up",
    races=("SVM-R28",),
    oracles=("svm/SVM-S10", "bindings/INV-VMB-03"),
    story="an-unmap-and-a-prefetch",
    plant=together(
        replace_function(give_up, nothing_to_do),
        replace_guard(FaultIoctl, "before_locks", or_nothing),
    ),
)
