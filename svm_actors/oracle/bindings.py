"""At rest, the page tables of VMs that are bound by hand say what their mappings say (INV-VMB-02, INV-VMB-03).

Every entry lies in a mapping that is bound; every page of a bound mapping of an object has an entry that
leads to where the object is.  An evicted object's entries are stale by design: the next exec rewrites them; in
fault mode they are gone.
A VM with work under way is not at rest and is left alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import PropertyFailed
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.vm_mode import XeBindVm

ORACLE = "bindings"


def check_bindings(world: Any) -> None:
    """Walk every VM; raise at the first disagreement."""
    for device in world.gpus:
        for vm in device.driver.bind_vms.values():
            if vm.resv_dma.test_signaled(Usage.BOOKKEEP):
                check_vm(vm)


def check_vm(vm: XeBindVm) -> None:
    """One VM, at rest."""
    vmas = vm.vmas()
    for before, after in pairwise(vmas):
        if before.end > after.addr:
            raise PropertyFailed(ORACLE, "INV-VMB-02", f"{before.name} and {after.name} overlap")
    for vm_bo in vm.gpuvm.extobj:
        if not vm.gpuvm.is_extobj(vm_bo.obj):
            raise PropertyFailed(ORACLE, "VMB-B31", f"{vm_bo.obj.name} is local to {vm.name}, but listed as external")
    if vm.pt_tree.statistics()["staged"]:
        raise PropertyFailed(ORACLE, "VMB-R08", f"{vm.name} has staged page-table nodes, and no update is under way")
    for vpn in dict(vm.page_table.items()):
        vma = vm.find_vma(vpn)
        if vma is None or not vm.expects_entry(vma, vpn):
            state = "no mapping" if vma is None else f"{vma.name}, which is not bound"
            raise PropertyFailed(ORACLE, "INV-VMB-03", f"{vm.name} has an entry for page {vpn:#x} in {state}")
        if not vm.pt_tree.has_entry(vpn):
            raise PropertyFailed(ORACLE, "INV-VMB-03", f"{vm.name} has an entry for page {vpn:#x} in no node")
    for vma in vmas:
        if vma.bo is not None and vma.valid and vma not in vm.rebind_list:
            _check_entries(vm, vma)


def _check_entries(vm: XeBindVm, vma: XeBindVma) -> None:
    bo, vm_bo = vma.bo, vma.vm_bo
    assert bo is not None
    if vm_bo is None or vm_bo.evicted:
        return
    for index in range(vma.range):
        pte = vm.page_table.get(vma.addr + index)
        if pte is None or pte.dma != bo.dma_addr(vma.offset + index):
            raise PropertyFailed(
                ORACLE, "INV-VMB-03", f"page {index} of {vma.name} is bound to {pte}, its object {bo.name} is elsewhere"
            )
