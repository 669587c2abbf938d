"""A GPU fault on a vma of an object, of user memory, or of nothing (vm_bind section 11).

vm.lock is held for write throughout, so there is one at a time in a VM; what it races with holds other locks.  User
memory is pinned again if it went stale.  Then, with the reservations, the object is made resident and entries are
written, in a section that looks once more whether the user memory is what was pinned; if not, all over again.  The
fault waits for the writes and not for a flush, as entries are only added.

Two faults on one page are normal: the second finds valid entries and is done.  That look takes no lock.  If an
eviction or a notifier zaps right after it, the access that is replayed faults once more (VMB-R23).

Simplified: entries are written through the VM's default bind queue, where the kernel has one of its own per tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.exec import DrmExec
from svm_actors.engine.errors import EACCES, EAGAIN, EFAULT
from svm_actors.gpu.fault import Access
from svm_actors.xe.bind_ops import OpKind, XeOp
from svm_actors.xe.pt_bind import FENCES_PER_BIND, PtBind
from svm_actors.xe.validation import validating

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.gpu.fault import PageFault
    from svm_actors.xe.bind_vma import XeBindVma
    from svm_actors.xe.fault_vm import XeFaultVm


class VmaFault:
    """handle_vma_pagefault: service of one fault."""

    def __init__(self, vm: XeFaultVm, vma: XeBindVma, fault: PageFault) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.vma = vma
        self.fault = fault
        self.needs_vram = vm.svm.needs_vram(fault.access)
        """An atomic that works in device memory only."""

    async def run(self) -> None:
        """Until the access is possible.  -EACCES, -EINVAL, -ENOMEM, and what pinning user memory raises."""
        self.vm.assert_locked()
        self.check_atomic()
        if self.is_served():
            self.engine.count("gpu.fault.valid")
            return
        while True:
            await self.pin()
            try:
                fence = await validating(self.vm.device.region.vram, self._bind)
            except EAGAIN:
                self.engine.count("gpu.retry.userptr")
                continue
            if fence is not None:
                await fence.wait()
            return

    def check_atomic(self) -> None:
        """-EACCES: nothing brings user memory into device memory.

        Nor a null vma, on which no atomic works whatever the device can do; the digest is silent, but a fault that
        was acknowledged would come back for ever.
        """
        if self.vma.is_null and self.fault.access is Access.ATOMIC:
            raise EACCES
        if self.needs_vram and self.vma.userptr is not None:
            raise EACCES

    def is_served(self) -> bool:
        """VMB-R23: a hint, read without the lock of the backing; a stale yes only faults again."""
        bo = self.vma.bo
        if not self.vma.valid:
            return False
        if bo is not None and bo.resv.is_locked():
            self.engine.count("VMB-R23")
        return not self.needs_vram or (bo is not None and bo.in_vram)

    async def pin(self) -> None:
        """xe_vma_userptr_pin_pages, if the pages are not those of the process any more; no reservation held.

        -EFAULT: they are gone, or could not be mapped for DMA.
        """
        userptr = self.vma.userptr
        if userptr is None or not userptr.stale():
            return
        try:
            await userptr.pin_pages()
        except EFAULT:
            self.engine.count("userptr.efault")
            raise

    async def _bind(self) -> Fence | None:
        """Answers the fence of the writes, None when the CPU wrote.  -EAGAIN: the user memory went stale."""
        vm, vma = self.vm, self.vma
        with self.engine.parts.of(DrmExec)(self.engine, f"{vm.name}.fault", ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(self._lock_and_prep)
            for locked in exec_.objects:
                locked.resv.reserve(FENCES_PER_BIND)
            before = vm.default_queue.last_pt
            bind = self.engine.parts.of(PtBind)(vm, vm.default_queue, [XeOp(OpKind.REBIND, vma)])
            await bind.run(exec_)
            written = vm.default_queue.last_pt
        self.engine.count("gpu.bind")
        return None if written is before else written

    async def _lock_and_prep(self, exec_: DrmExec) -> None:
        """xe_pagefault_begin; may run several times."""
        await exec_.prepare_obj(self.vm.r_obj, FENCES_PER_BIND)
        bo = self.vma.bo
        if bo is None:
            return
        await exec_.prepare_obj(bo, FENCES_PER_BIND)
        if self.needs_vram:
            await bo.migrate("vram")
        else:
            await bo.validate(exec_, evict_own=True)
