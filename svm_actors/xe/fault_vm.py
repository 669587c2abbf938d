"""xe_vm in fault mode, filled with VM_BIND (vm_bind sections 1, 11 and 12; gpusvm sections 1.7 and 6.4).

CPU-mirror vmas, in which SVM ranges live, lie beside vmas of objects, of user memory and of nothing.  All of them
share what a VM has one of: vm.lock, the reservation, the page table and its bookkeeping, and the notifier lock,
which is that of the gpusvm.  The two sides meet in three places:

* an update of SVM entries is written down where binds look for page-table nodes and for updates under way;
* a fault goes to the side its vma belongs to;
* a bind may not cut mirrored memory that is in use (:mod:`svm_actors.xe.fault_bind`).

Jobs are long-running, without preempt fences: what a queue may not touch any more is zapped, and it faults.

Simplified: no ``last_fault_vma`` (the tree is searched each time), so nothing can dangle there (SVM-R39).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINVAL, EngineError
from svm_actors.engine.locks import RwSem
from svm_actors.gpu.page_table import GpuPte
from svm_actors.xe.autoreset import reset_attributes
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.fault_bind import FaultIoctl
from svm_actors.xe.fault_resv import SharedResv
from svm_actors.xe.fault_service import VmaFault
from svm_actors.xe.fault_userptr import FaultVmUserptr
from svm_actors.xe.garbage import GarbageCollector
from svm_actors.xe.pt import XePt
from svm_actors.xe.pt_tree import PtUpdate
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_fault import handle_pagefault
from svm_actors.xe.svm_range import XeSvmRange
from svm_actors.xe.vm import XeVmConfig, check_access, check_config
from svm_actors.xe.vm_mode import XeBindVm
from svm_actors.xe.write_bit import POLICIES

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.gpusvm_pages import GpusvmPages
    from svm_actors.gpu.fault import PageFault
    from svm_actors.mm.folio import Folio
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.svm import XeSvm
    from svm_actors.xe.vm_vma import XeVma


class XeFaultVm(XeBindVm):
    """One VM.  Make it with :meth:`create_faulting`."""

    ioctl_class = FaultIoctl
    fault_class = VmaFault
    mm: Mm
    svm: XeSvm

    def __init__(self, device: XeDevice, mm: Mm, asid: int, config: XeVmConfig) -> None:
        self.config = config
        self.write_bit = device.engine.parts.of(type(POLICIES[config.write_bit]))()
        super().__init__(device, mm, asid, "fault")
        self.resv = SharedResv(self.resv_dma)
        self.faults: list[tuple[int, str]] = []
        """Refused faults: page and error."""
        self.owner = device.owners.acquire_owner(self)
        self.pt = self.engine.parts.of(XePt)(self)
        self.gc = self.engine.parts.of(GarbageCollector)(self)
        self.userptr: FaultVmUserptr = self.engine.parts.of(FaultVmUserptr)(self)

    @classmethod
    async def create_faulting(cls, device: XeDevice, mm: Mm, config: XeVmConfig) -> XeFaultVm:
        """xe_vm_create with LR and FAULT_MODE.  -EINVAL."""
        check_config(config)
        await device.engine.step("alloc", device, "vm")
        vm = device.engine.parts.of(cls)(device, mm, device.new_asid(), config)
        device.pagemap.get()
        device.add_bind_vm(vm)
        vm.svm.gpusvm.start()
        return vm

    def new_notifier_lock(self) -> RwSem:
        """The gpusvm's: SVM and user memory are protected alike."""
        self.svm = self.engine.parts.of(XeSvm)(self)
        return self.svm.gpusvm.notifier_lock

    # -- what SVM needs of a VM ------------------------------------------------------------

    @property
    def check_pages_threshold(self) -> int:
        """0 on parts without device memory."""
        return self.config.check_pages_threshold if self.device.is_dgfx else 0

    def kill(self) -> None:
        """xe_vm_kill."""
        self.ban()

    def assert_locked(self) -> None:
        """vm->lock is held for write."""
        if not self.lock.held_for_write() and not self.engine.closing:
            raise EngineError(f"{self.lock.name} must be held for write here")

    def mirror_vma(self, vpn: int) -> XeVma:
        """The CPU-mirror vma of a page.  -EINVAL when there is none."""
        self.lock.assert_held()
        vma = self.find_vma(vpn)
        if vma is None or vma.mirror is None:
            raise EINVAL
        return vma.mirror

    def entries_change(
        self, start: int, end: int, entries: tuple[tuple[int, GpuPte], ...], fence: Fence | None
    ) -> None:
        """VMB-R10: SVM updates count like binds: nodes are in use, and an update under way is found by the next.

        Nodes are staged and committed in one step here: nobody fails in between.
        """
        if entries:
            self.pt_tree.stage(start, end)
        self.pt_tree.commit([PtUpdate(start, end, entries)])
        if fence is not None:
            self.range_fences.insert(start, end, fence)

    async def reset_attributes(self, start: int, end: int) -> bool:
        """Of a span whose memory is gone, where a mirror asks for it; True when a vma was replaced."""
        return await self.engine.parts.of(reset_attributes)(self, start, end)

    # -- faults ----------------------------------------------------------------------------

    async def serve(self, fault: PageFault) -> None:
        """xe_pagefault_handle_vma, vm.lock held for write.  -EINVAL no vma, -EPERM, and what the handlers say.

        SVM-S03: looked up each time; the vma of the last fault may be gone by now.
        """
        vma = self.find_vma(fault.vpn)
        if vma is None:
            raise EINVAL
        check_access(vma.read_only, fault)
        if vma.mirror is not None:
            await handle_pagefault(self.svm, vma.mirror, fault)
        else:
            await self.engine.parts.of(self.fault_class)(self, vma, fault).run()

    # -- binds and close ---------------------------------------------------------------------

    async def before_bind(self) -> None:
        """xe_svm_flush: ranges of memory that is gone do not stand in the way of an unbind."""
        await self.gc.flush()

    async def drop_ranges(self, start: int, end: int) -> None:
        """xe_svm_unmap_address_range: ranges here that no mirror vma holds; vm.lock for write."""
        for range_ in self.svm.gpusvm.ranges(start, end):
            assert isinstance(range_, XeSvmRange)
            vma = self.find_vma(range_.start)
            if vma is None or vma.mirror is None or vma.end < range_.end:
                await self.gc.collect_now(range_)

    async def nuke(self) -> None:
        """SVM-R22: notifiers zap here, so they stay out until there is nothing left to zap."""
        async with self.notifier_lock.reading():
            self.size = 0
            await self.clear_root()

    async def stop_faulting(self) -> None:
        """Section 6.4, step 8: the garbage collector ends, without vm.lock, which it takes."""
        await self.gc.disable_sync()
        self.device.pagemap.put()
        self.device.owners.release_owner(self, self.owner)

    def free_page_tables(self) -> None:
        """For both sides."""
        super().free_page_tables()
        self.pt.freed = True

    async def fini_svm(self) -> None:
        """Step 13, vm.lock held for write."""
        await self.svm.fini()

    # -- for oracles -----------------------------------------------------------------------

    def range_at(self, vpn: int) -> XeSvmRange | None:
        """The SVM range of a page, whoever asks and whatever they hold."""
        notifier = self.svm.gpusvm.find_notifier(vpn)
        found = None if notifier is None else notifier.find(vpn)
        return found if isinstance(found, XeSvmRange) else None

    def expects_entry(self, vma: XeBindVma, vpn: int) -> bool:
        """Mirrored memory has entries where a range is bound."""
        if vma.mirror is None:
            return vma.valid
        range_ = self.range_at(vpn)
        return range_ is not None and range_.has_valid_mapping

    def process_page(self, vpn: int, folio: Folio) -> int | None:
        """Which page of the process the GPU reached as ``folio`` through ``vpn``; None for an object's."""
        range_ = self.range_at(vpn)
        if range_ is not None and _index_of(range_.pages, folio) == vpn - range_.start:
            return vpn
        for userptr in self.userptr.live:
            index = _index_of(userptr.pages, folio)
            if index is not None:
                return int(userptr.start + index)
        return None

    def shown_page(self, vpn: int) -> int | None:
        """Which page of the process is at ``vpn``, as the tree has it; None for objects and holes."""
        vma = self.find_vma(vpn)
        if vma is None or (vma.mirror is None and vma.userptr is None):
            return None
        return vpn if vma.mirror is not None else int(vma.userptr.start) + vpn - vma.addr

    def gpu_spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where [start, end) of the process is shown: in bound ranges, and in bound vmas of user memory.

        What an unbind under way has yet to clear is not shown any more, and may still be where a range is not bound
        yet: the mapping that a mirror takes the place of.
        """
        spans = [
            (max(start, found.start), min(end, found.end))
            for found in self.svm.gpusvm.ranges(start, end)
            if isinstance(found, XeSvmRange) and found.tile_present
        ]
        for userptr in self.userptr.live:
            first, last = max(start, userptr.start), min(end, userptr.start + userptr.npages)
            vma = userptr.vma
            if first < last and isinstance(vma, XeBindVma) and vma.present:
                spans.append((vma.addr + first - userptr.start, vma.addr + last - userptr.start))
        return spans


def _index_of(pages: GpusvmPages, folio: Folio) -> int | None:
    """Which of the pages that are mapped for the device it is."""
    if pages.flags.has_dma_mapping:
        for index, entry in enumerate(pages.entries):
            if entry.folio is folio:
                return index
    return None
