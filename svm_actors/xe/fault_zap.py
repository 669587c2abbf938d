"""Taking entries away under a GPU that may fault at any time (vm_bind sections 6 and 11).

Two things must hold in fault mode: when pages go back to whoever owns them, no entry and no translation leads to
them any more; and nobody writes entries while somebody takes them away.  The second is a lock that both sides
hold: the object's reservation for objects, notifier_lock for user memory (see :mod:`fault_userptr`) and for SVM
ranges (see :mod:`svm`).

A zap clears entries and flushes; it never frees page-table nodes, which is what unbinding does (VMB-R09).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.resv import Usage
from svm_actors.xe.bind_vma import XeBindVma

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.gpuvm_bo import DrmGpuvmBo
    from svm_actors.xe.gem import XeBo


async def zap_vma(vma: XeBindVma) -> Fence | None:
    """VMB-R09: xe_pt_zap_ptes: clear what is there, ask for the flush and answer its fence; None: nothing was there.

    A vma without entries is passed by: nodes of its own it has none.  That its bind is only under way is no
    reason to do anything: the commit looks again (VMB-R17), and a job that is queued was waited for.
    """
    vm = vma.xe_vm
    if vma.destroyed:
        vm.engine.count("VMB-R09")
    if not vma.valid:
        return None
    nodes = vm.pt_tree.walk(vma.addr, vma.end)
    single = vma.addr if vma.range == 1 else None
    await vm.engine.step("pte_write", vm.page_table, single)
    for node in nodes:
        node.must_live()
    vm.page_table.clear_range(vma.addr, vma.end)
    vma.invalidated = True
    vm.engine.count("fault.zapped")
    return await vm.device.tlb_inval.submit(vm.asid, vma.addr, vma.end)


class ObjectZap:
    """xe_bo_trigger_rebind for VMs in fault mode: before an object moves, nothing of them leads to it."""

    def __init__(self, bo: XeBo) -> None:
        self.bo = bo
        self.engine = bo.engine

    async def run(self) -> None:
        """The object's reservation is held from here until the move has published its fence."""
        self.bo.resv.assert_held()
        vmas = self.vmas()
        if not vmas:
            return
        await self.wait_for_binds()
        for vma in vmas:
            if vma.xe_vm.lock.holders():
                self.engine.count("VMB-R23")
            fence = await zap_vma(vma)
            if fence is not None:
                await self.wait_for_flush(vma, fence)

    def vmas(self) -> list[XeBindVma]:
        """Mappings of it in VMs in fault mode, in the order of the object's list."""
        found = [vma for vm_bo in self.bo.gpuva.bos for vma in vm_bo.vas]
        return [vma for vma in found if isinstance(vma, XeBindVma) and vma.xe_vm.faulting]

    async def wait_for_binds(self) -> None:
        """VMB-R23: entries that a job is still to write must be there before they are zapped (BOOKKEEP)."""
        if not self.bo.resv.test_signaled(Usage.BOOKKEEP):
            self.engine.count("fault.zap_waits")
        await self.bo.resv.wait(Usage.BOOKKEEP)

    async def wait_for_flush(self, vma: XeBindVma, fence: Fence) -> None:
        """INV-VMB-01: the memory is not given to anybody else while a translation leads there."""
        await vma.xe_vm.device.tlb_inval.wait(fence)


async def move_notify(bo: XeBo) -> None:
    """xe_bo_move_notify: fault mode zaps; elsewhere the next exec or the rebind worker validates (VMB-R05, VMB-R06)."""
    await bo.engine.parts.of(bo.zap_class)(bo).run()
    for vm_bo in [*bo.gpuva.bos]:
        if not is_faulting(vm_bo):
            await vm_bo.vm.vm_bo_evict(vm_bo, True)


def is_faulting(vm_bo: DrmGpuvmBo) -> bool:
    """It belongs to a VM in fault mode, which has no evict list: a fault finds out by itself."""
    return any(isinstance(vma, XeBindVma) and vma.xe_vm.faulting for vma in vm_bo.vas)
