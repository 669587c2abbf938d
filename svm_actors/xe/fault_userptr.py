"""xe_userptr of a VM in fault mode (vm_bind sections 5.3 and 11, gpusvm section 7).

Nobody pins again before a job here, so there is no list: whoever faults on user memory looks whether its pages are
still those of the process.  In return the notifier has to see to it that the GPU does not reach the old ones:
it zaps the entries and flushes, with notifier_lock held for write, and only then unmaps the pages (VMB-R09,
VMB-B06).  Since commits hold the lock for read, no zap meets half a bind.

The callback still has two passes.  Fences that are pending defer all of it to the second; when there are none, the
entries are zapped in the first, and only the wait for the flush is left for the second.  There is one second pass
at a time (VMB-R18): another notifier that comes in between waits itself.

7.3.4 has that second notifier wait for its own flush only (SVM-S04): when the entries are gone already, it has none,
and returns while translations are left that the first one's flush is still to remove.  Here it waits for both.

Pages are asked for with the VM's owner, so pages of the device itself stay where they are; the pages of one vma may
be mixed.  hmm answers a device page that the CPU may only read even if write is asked for (SVM-S02): such pages
come home first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.mm.mmu_notifier import FinishObject, IntervalNotifier, NotifierRange
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.fault_zap import zap_vma
from svm_actors.xe.userptr import Userptr, VmUserptr

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence

NEVER = 1 << 63
"""Sequence of pages that are none."""


class FaultUserptr(Userptr):
    """Subscription and pages of one vma."""

    flush: Fence | None = None
    """A flush that the second pass is still to wait for."""
    bring_home = False
    """The next pages must not be device pages."""

    # -- pages -------------------------------------------------------------------------------

    def ctx(self) -> GpusvmCtx:
        """Device pages of our own in place, unless they cannot be written there."""
        vm: Any = self.owner.vm
        owner = None if self.bring_home else vm.owner
        return GpusvmCtx(device_private_page_owner=owner, read_only=self.read_only, allow_mixed=True)

    async def pin_pages(self) -> None:
        """The same as anywhere; once more when a page came with less than what was asked for (SVM-S02).

        -EFAULT, -EPERM, -ENOMEM, -EBUSY, -EOPNOTSUPP pages of two devices.
        """
        await super().pin_pages()
        if self.read_only or all(page.cpu_write for page in self.pages.entries):
            return
        self.engine.count("SVM-R38")
        await self.owner.pages.unmap_pages(self.pages)
        self.pages.notifier_seq = NEVER
        self.bring_home = True
        try:
            await super().pin_pages()
        finally:
            self.bring_home = False

    def revive(self) -> None:
        """Back in the tree: the next fault sees for itself whether it went stale."""

    # -- the notifier ------------------------------------------------------------------------

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool | FinishObject:
        """xe_vma_userptr_invalidate_start, VMB-R09: all of it with notifier_lock for write (VMB-B06)."""
        if not event.blockable:
            return False
        async with self.owner.vm.notifier_lock.writing():
            self.engine.count("userptr.invalidate")
            self.store_sequence(seq)
            self.mark_invalidated()
            if self.owner.ask_fences():
                if self.claim_finish():
                    return self
                await self.wait_for_jobs()
            fence = await self.zap()
            if fence is not None and self.claim_finish():
                self.flush = fence
                return self
            await self.wait_for_flush(fence)
            await self.owner.pages.unmap_pages(self.pages, in_notifier=True)
        return True

    def mark_invalidated(self) -> None:
        """The sequence says it all."""

    async def finish(self) -> None:
        """Pass 2."""
        self.owns_finish()
        async with self.owner.vm.notifier_lock.writing():
            fence = None
            if self.flush is None:
                await self.wait_for_jobs()
                fence = await self.zap()
            await self.wait_for_flush(fence)
            self.flush = None
            await self.owner.pages.unmap_pages(self.pages, in_notifier=True)
            self.finish_in_use = False

    async def zap(self) -> Fence | None:
        """VMB-R09, VMB-R17: with notifier_lock for write.  Answers the flush; None: there was nothing.

        A closed VM has lost its entries as a whole, and maybe its page tables by now.
        """
        self.owner.pages.assert_notifier_write()
        vma = self.vma
        assert isinstance(vma, XeBindVma)
        if not vma.xe_vm.size:
            return None
        return await zap_vma(vma)

    async def wait_for_flush(self, fence: Fence | None) -> None:
        """INV-VMB-01: this event's flush, and one that an earlier event has left to its second pass.

        SVM-R40: only then are the entries that were found zapped out of reach (SVM-S04).
        """
        if self.flush is not None and not self.flush.is_signaled():
            self.engine.count("SVM-R40")
        for flush in (self.flush, fence):
            if flush is not None:
                await self.owner.tlb_inval.wait(flush)


class FaultVmUserptr(VmUserptr):
    """User memory of one VM in fault mode; its lists stay empty."""

    userptr_class = FaultUserptr
