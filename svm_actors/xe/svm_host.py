"""What SVM, its page tables, its garbage collector and fault service need of a GPU VM in fault mode.

There are two of them.  :class:`svm_actors.xe.vm.XeVm` is one CPU-mirror vma over everything and nothing else, and
costs little; :class:`svm_actors.xe.fault_vm.XeFaultVm` is filled with VM_BIND, and has mirror vmas beside objects,
user memory and null vmas.  In the kernel both are one struct.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.pagemap_util import Owner
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.locks import RwSem
    from svm_actors.gpu.fault import PageFault
    from svm_actors.gpu.page_table import GpuPageTable, GpuPte
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.garbage import GarbageCollector
    from svm_actors.xe.pt import XePt
    from svm_actors.xe.svm import XeSvm
    from svm_actors.xe.vm import XeVmConfig
    from svm_actors.xe.vm_vma import XeVma
    from svm_actors.xe.write_bit import WriteBitPolicy


class SvmResv(Protocol):
    """The VM's reservation as SVM uses it: a lock, and fences of one kind."""

    @property
    def lock(self) -> AbstractAsyncContextManager[object]:
        """Taken inside vm->lock by whoever adds fences."""

    def add(self, fence: Fence) -> None:
        """Publish with usage BOOKKEEP, under the lock."""

    def pending(self) -> list[Fence]:
        """Fences not signaled yet."""

    @property
    def idle(self) -> bool:
        """None is pending."""

    async def wait_all(self) -> None:
        """Wait for whatever is pending now."""


class SvmHost(Protocol):
    """A VM in fault mode."""

    engine: Engine
    device: XeDevice
    name: str
    asid: int
    mm: Mm
    config: XeVmConfig
    lock: RwSem
    """vm->lock."""
    page_table: GpuPageTable
    write_bit: WriteBitPolicy
    owner: Owner
    """Owner cookie: device pages of this owner are mapped in place."""
    size: int
    """Pages of the address space; 0 once closed."""
    faults: list[tuple[int, str]]
    """Refused faults: page and error."""
    svm: XeSvm
    pt: XePt
    gc: GarbageCollector

    @property
    def resv(self) -> SvmResv:
        """Its reservation."""

    @property
    def closed(self) -> bool:
        """Closed or banned."""

    @property
    def check_pages_threshold(self) -> int:
        """0 on parts without device memory."""

    def kill(self) -> None:
        """An operation failed half way."""

    def assert_locked(self) -> None:
        """vm->lock is held for write."""

    def alive(self, doing: str) -> None:
        """Raise when it was freed."""

    def get(self) -> None:
        """Take a reference."""

    def put(self) -> None:
        """Drop one; never sleeps."""

    def mirror_vma(self, vpn: int) -> XeVma:
        """The CPU-mirror vma of a page.  -EINVAL."""

    def entries_change(
        self, start: int, end: int, entries: tuple[tuple[int, GpuPte], ...], fence: Fence | None
    ) -> None:
        """SVM writes (or, without entries, clears) a span: at once, or by the job of ``fence``."""

    async def reset_attributes(self, start: int, end: int) -> bool:
        """Memory of a span is gone, vm->lock held for write; True when a GPU VMA was replaced."""

    async def serve(self, fault: PageFault) -> None:
        """Make the access of a fault possible, vm->lock held for write.  The error refuses it."""
