"""MADVISE_AUTORESET: attributes end with the memory that they were set for (gpusvm section 6.3).

Attributes belong to addresses and outlive their memory.  A mirror that was bound with this flag gets them back to what
they are by default when the garbage collector has taken a range apart.  The range is rarely all of the vma, so the vma
is cut, and whoever has looked it up before must look again (RULE-31, SVM-R24).

Simplified: the part with default attributes is not merged with neighbours that have them too; of a collection inside
of a prefetch the reset is put off to the next fault, work item or madvise, as an ioctl that is under way has the vma
at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.xe.madvise import MadviseSplit
from svm_actors.xe.sync import SyncList
from svm_actors.xe.vm_bind import BindKind, BindOp

if TYPE_CHECKING:
    from svm_actors.xe.fault_vm import XeFaultVm


async def reset_attributes(vm: XeFaultVm, start: int, end: int) -> bool:
    """Memory of [start, end) is gone, vm.lock held for write.  True when a vma was replaced for it."""
    vma = vm.find_vma(start)
    if vma is None or vma.mirror is None or not vma.mirror.autoreset or vma.mirror.is_default:
        return False
    replaced = vma.addr < start or end < vma.end
    if replaced:
        ioctl = MadviseSplit(vm, vm.default_queue, SyncList())
        await ioctl.run([BindOp(BindKind.MAP_MIRROR, start, end - start)])
    vm.mirror_vma(start).reset()
    vm.engine.count("madvise.reset")
    return replaced
