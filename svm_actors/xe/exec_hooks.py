"""How an exec makes a VM usable that is filled with VM_BIND: userptrs pinned, rebind list worked off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.xe.exec_vm import ExecHooks
from svm_actors.xe.pt_bind import rebind

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.exec import DrmExec
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
