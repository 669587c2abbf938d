"""xe_vma of a VM that user space binds itself: an object, user memory, a mirror, or nothing (vm_bind section 1).

``present`` and ``staged`` are the page-table state of section 6 for the one tile there is.  A vma that was
taken out of the tree is DESTROYED: nobody puts it on a list of the VM any more (VMB-R16), but it lives
on, and so does its object, until the fence of its unbind has signaled (VMB-R14, INV-VMB-10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svm_actors.drm.gpuvm import DrmGpuva
from svm_actors.engine.errors import PropertyFailed

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.xe.gem import XeBo
    from svm_actors.xe.user_fence import UserFence
    from svm_actors.xe.vm_mode import XeBindVm
    from svm_actors.xe.vm_vma import XeVma

LARGE_PAGES = 512
"""A 2 MiB entry, in pages."""


class XeBindVma(DrmGpuva):
    """One mapping.  With none of ``bo``, ``userptr`` and ``mirror`` it is a null mapping."""

    def __init__(
        self,
        vm: XeBindVm,
        addr: int,
        npages: int,
        *,
        bo: XeBo | None = None,
        offset: int = 0,
        userptr: Any = None,
        read_only: bool = False,
        mirror: XeVma | None = None,
    ) -> None:
        super().__init__(addr, npages, bo, offset)
        self.xe_vm = vm
        self.bo = bo
        self.userptr = userptr
        """The user memory behind it, with its notifier; see :mod:`svm_actors.xe.userptr`."""
        self.mirror = mirror
        """Fault mode: it mirrors the process at the same addresses; entries are those of SVM ranges inside."""
        self.read_only = read_only
        self.deferred = False
        """Fault mode: no entries are written before the first fault."""
        self.present = False
        """Entries are written, or the job that will is queued."""
        self.invalidated = False
        """Fault mode: its entries were zapped since; a fault writes them again."""
        self.staged = False
        """An operation of the ioctl under way has prepared its entries."""
        self.destroyed = False
        """XE_VMA_DESTROYED: out of the tree for good."""
        self.freed = False
        """The memory of the vma itself is gone."""
        self.large = False
        """Bound with entries of 2 MiB: a cut that is not aligned to them rewrites what stays."""
        self.ufence: UserFence | None = None
        """What its last bind will signal; the vma cannot be unbound before."""

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.xe_vm.name}.vma[{self.addr:#x},{self.end:#x})"

    @property
    def is_null(self) -> bool:
        """Reads give 0, writes are dropped."""
        return self.bo is None and self.userptr is None and self.mirror is None

    @property
    def valid(self) -> bool:
        """xe_vm_has_valid_gpu_mapping: without the lock of its backing a hint (VMB-R23)."""
        return self.present and not self.invalidated

    def born(self) -> None:
        """It is going to be used: it holds the VM and its object from now on."""
        self.xe_vm.get()
        self.xe_vm.live_vmas += 1
        if self.bo is not None:
            self.bo.get()

    def alive(self, doing: str) -> None:
        """Raise when it was freed (INV-VMB-10)."""
        if self.freed:
            raise PropertyFailed("lifetime", "INV-VMB-10", f"{doing} {self.name}, which is freed")

    def may_have_large_entries(self) -> bool:
        """A whole aligned 2 MiB of one object lie inside."""
        first = -(-self.addr // LARGE_PAGES) * LARGE_PAGES
        return self.bo is not None and first + LARGE_PAGES <= self.end

    def keeps_entries_at(self, cut: int) -> bool:
        """The rewrite of what stays beyond ``cut`` can be skipped (8.5)."""
        return self.userptr is None and not (self.large and cut % LARGE_PAGES)

    async def destroy_late(self, fence: Fence | None) -> None:
        """xe_vma_destroy_late: in process context, after the unbind fence."""
        self.unbind_is_over(fence)
        await self.xe_vm.engine.step("free", self)
        self.xe_vm.alive(f"{self.name} is taken out of")
        self.freed = True
        if self.userptr is not None:
            await self.userptr.remove()
        if self.bo is not None:
            self.bo.put_now()
        self.xe_vm.live_vmas -= 1
        self.xe_vm.put()

    def unbind_is_over(self, fence: Fence | None) -> None:
        """VMB-R14: neither a page-table job nor a TLB flush of its unbind is under way."""
        if fence is not None and not fence.signaled:
            raise PropertyFailed("lifetime", "VMB-R14", f"{self.name} is freed before {fence.name} has signaled")
