"""How an exec makes a VM usable that is filled with VM_BIND: userptrs pinned, rebind list worked off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import PropertyFailed
from svm_actors.xe.bind_ops import OpKind, XeOp
from svm_actors.xe.exec_vm import ExecHooks
from svm_actors.xe.pt_bind import FENCES_PER_BIND, PtBind

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.exec import DrmExec
    from svm_actors.xe.bind_vma import XeBindVma
    from svm_actors.xe.vm_mode import XeBindVm


def hooks_of(vm: XeBindVm) -> ExecHooks:
    """The hooks of one VM; its lists of user memory come with the first userptr vma."""

    def needs_repin() -> bool:
        return vm.userptr is not None and bool(vm.userptr.needs_repin())

    async def repin() -> None:
        await vm.userptr.pin()

    async def write_entries(exec_: DrmExec) -> list[Fence]:
        return await rebind(vm, exec_)

    return ExecHooks(needs_repin, repin, write_entries)


async def rebind(vm: XeBindVm, exec_: DrmExec) -> list[Fence]:
    """xe_vm_rebind: write the entries of everything on the rebind list again; under the reservations.

    Answers the fences that whoever runs next depends on; they are in the KERNEL slots as well.
    """
    vm.resv_dma.assert_held()
    ops = [XeOp(OpKind.REBIND, vma) for vma in vm.rebind_list if not vma.destroyed]
    if not ops:
        return []
    for op in ops:
        check_pinned(op.vma)
    # Validation may have used the slots that were reserved before (VMB-R07).
    for locked in exec_.objects:
        locked.resv.reserve(FENCES_PER_BIND)
    return await vm.engine.parts.of(PtBind)(vm, vm.default_queue, ops).run(exec_)


def check_pinned(vma: XeBindVma) -> None:
    """VMB-B08: raise when user memory is to be bound whose pages are gone for good; stale ones are not (VMB-R17)."""
    if vma.userptr is not None and not vma.userptr.dma_pages():
        raise PropertyFailed("lifetime", "VMB-B08", f"{vma.name} is on the rebind list and has no pages")
