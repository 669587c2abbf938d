"""xe_vm: one GPU address space in fault mode (gpusvm sections 1.7 and 6.4).

``vm->lock`` is the outermost lock: held for write by fault service, garbage collector and close.  A VM
that is closed has size 0; that is written under vm->lock for write and notifier_lock for read, and read
by callbacks under notifier_lock for write (SVM-R22).

The VM is referenced by its creator, by every range and by every fault in service.

Simplified: fault mode only; no exec queues (programs run on the compute engine directly), so whoever
closes a VM with programs running gets their faults refused; no device removal.  A VM with mirror vmas of
its own choice, and others beside them, is :class:`svm_actors.xe.fault_vm.XeFaultVm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EINVAL, ENOENT, EPERM, EngineError, PropertyFailed
from svm_actors.engine.locks import RwSem
from svm_actors.gpu.fault import Access, PageFault
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.gpu.program import Instruction, Result
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.mm_struct import Mm
from svm_actors.xe.garbage import GarbageCollector
from svm_actors.xe.pt import XePt
from svm_actors.xe.resv import VmResv
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_fault import handle_pagefault
from svm_actors.xe.vm_vma import XeVma
from svm_actors.xe.write_bit import POLICIES

if TYPE_CHECKING:
    from svm_actors.xe.device import XeDevice

NOTIFIER_PAGES = 131_072
"""svm_notifier_size: 512 MiB."""
CHUNK_PAGES = (512, 16, 1)
"""2 MiB, 64 KiB, 4 KiB."""
CHECK_PAGES_THRESHOLD = 16
"""64 KiB: smaller or equal chunks are taken only over memory the CPU has populated."""


@attrs.frozen
class XeVmConfig:
    """How a VM is set up."""

    placement: str = "vram"
    """Preferred location of the mirror VMA: ``vram`` or ``system``."""
    read_only: bool = False
    """The mirror VMA is read-only."""
    notifier_pages: int = NOTIFIER_PAGES
    """Span of a notifier in pages, a power of two."""
    chunk_pages: tuple[int, ...] = CHUNK_PAGES
    """Range sizes in pages, descending powers of two down to 1."""
    check_pages_threshold: int = CHECK_PAGES_THRESHOLD
    """Chunks up to this many pages must be populated; 0 asks for none (always so without device memory)."""
    write_bit: str = "capped"
    """``capped`` or ``7.3.4``: what read-only CPU entries of device pages mean (SVM-S02)."""
    bind_by_gpu: bool = False
    """Page-table updates are always jobs, never written by the CPU."""


class XeVm:
    """One GPU VM.  Make it with :meth:`create`."""

    def __init__(self, device: XeDevice, mm: Mm, asid: int, config: XeVmConfig) -> None:
        engine = device.engine
        self.engine = engine
        self.device = device
        self.mm = mm
        self.asid = asid
        self.config = config
        self.name = f"{device.gpu.name}.vm{asid}"
        self.lock = RwSem(engine, f"{self.name}.lock", "vm_lock")
        self.resv = VmResv(engine, self.name)
        self.page_table = GpuPageTable(f"{self.name}.pt")
        self.write_bit = engine.parts.of(type(POLICIES[config.write_bit]))()
        self.size = TASK_PAGES
        """Pages of the address space; 0 once closed."""
        self.refs = 1
        self.killed = False
        """An operation failed half way; the VM serves nothing any more."""
        self.faults: list[tuple[int, str]] = []
        """Refused faults: page and error."""
        self.last_fault_vma: XeVma | None = None
        """One-entry cache of the fault path."""
        self.vmas = [XeVma(0, TASK_PAGES, config.read_only, config.placement)]
        self.owner = device.owners.acquire_owner(self)
        """Owner cookie: device pages of this owner are mapped in place."""
        self.svm = engine.parts.of(XeSvm)(self)
        self.pt = engine.parts.of(XePt)(self)
        self.gc = engine.parts.of(GarbageCollector)(self)

    @property
    def gpu(self) -> Gpu:
        """The device it stands on, for owner groups."""
        return self.device.gpu

    @property
    def check_pages_threshold(self) -> int:
        """0 on parts without device memory."""
        return self.config.check_pages_threshold if self.device.is_dgfx else 0

    @classmethod
    async def create(
        cls,
        device: XeDevice,
        mm: Mm,
        *,
        placement: str = "vram",
        read_only: bool = False,
        notifier_pages: int = NOTIFIER_PAGES,
        chunk_pages: tuple[int, ...] = CHUNK_PAGES,
        check_pages_threshold: int = CHECK_PAGES_THRESHOLD,
        write_bit: str = "capped",
        bind_by_gpu: bool = False,
    ) -> XeVm:
        """A VM in fault mode that mirrors all of ``mm``; the options are :class:`XeVmConfig`'s.  -EINVAL, -ENOMEM."""
        config = XeVmConfig(
            placement,
            read_only,
            notifier_pages,
            chunk_pages,
            check_pages_threshold,
            write_bit,
            bind_by_gpu,
        )
        check_config(config)
        await device.engine.step("alloc", device, "vm")
        device.engine.faults.fail("memory")
        vm = device.engine.parts.of(cls)(device, mm, device.new_asid(), config)
        device.pagemap.get()
        device.add_vm(vm)
        vm.svm.gpusvm.start()
        return vm

    # -- state -----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """xe_vm_is_closed_or_banned."""
        return not self.size or self.killed

    def kill(self) -> None:
        """xe_vm_kill."""
        self.killed = True
        self.engine.count("vm.killed")

    def assert_locked(self) -> None:
        """vm->lock is held for write."""
        if not self.lock.held_for_write() and not self.engine.closing:
            raise EngineError(f"{self.lock.name} must be held for write here")

    def get(self) -> None:
        """xe_vm_get."""
        self.alive("a reference is taken on")
        self.refs += 1

    def alive(self, doing: str) -> None:
        """Raise when it was freed."""
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "SVM-R47", f"{doing} {self.name}, which is freed")

    def put(self) -> None:
        """xe_vm_put; freeing never sleeps here, a worker does the rest in the kernel."""
        self.refs -= 1
        if self.refs < 0:
            raise PropertyFailed("lifetime", "SVM-R47", f"{self.name} is put more often than it was taken")
        if not self.refs:
            self.device.live_vms -= 1

    def mirror_vma(self, vpn: int) -> XeVma:
        """xe_vm_find_vma_by_addr, the cached one first; vm->lock held.  -EINVAL."""
        self.lock.assert_held()
        cached = self.last_fault_vma
        if cached is not None and cached.start <= vpn < cached.end:
            return cached
        for vma in self.vmas:
            if vma.start <= vpn < vma.end:
                return vma
        raise EINVAL

    def entries_change(
        self, start: int, end: int, entries: tuple[tuple[int, GpuPte], ...], fence: Fence | None
    ) -> None:
        """Nobody but SVM writes entries here, so nobody needs to know."""

    async def reset_attributes(self, start: int, end: int) -> bool:
        """Nobody can advise on this kind of VM."""
        return False

    # -- use -------------------------------------------------------------------------

    async def serve(self, fault: PageFault) -> None:
        """xe_pagefault_handle_vma.  -EINVAL no GPU VMA, -EPERM it is read-only, and what the handler says."""
        vma = self.mirror_vma(fault.vpn)
        check_access(vma.read_only, fault)
        await handle_pagefault(self.svm, vma, fault)
        self.last_fault_vma = vma

    async def run(self, program: Sequence[Instruction]) -> list[Result]:
        """Run a program on the compute engine.  -ENOENT closed VM, -EINVAL bad program."""
        if self.closed:
            raise ENOENT
        return await self.device.gpu.compute.run(self.asid, program)

    # -- close -----------------------------------------------------------------------

    async def close(self) -> None:
        """xe_vm_close_and_put, in the order of 6.4 (RULE-34)."""
        await self._close()
        await self.gc.disable_sync()
        self._leave_device()
        await self.lock.write()
        self.vmas.clear()
        self.last_fault_vma = None
        self.free_page_tables()
        await self.svm.fini()
        self.lock.release()
        await self._erase_asid()
        self.put()

    async def _close(self) -> None:
        """Steps 2 to 6: closed mark, drain, nuke, flush; late callbacks only unmap DMA from here on."""
        await self.lock.write()
        await self.svm.gpusvm.notifier_lock.read()
        if not self.size:
            raise EngineError(f"{self.name} is closed twice")
        self.size = 0
        await self.resv.wait_all()
        await self.pt.clear_root()
        await self.flush_all()
        self.svm.gpusvm.notifier_lock.release()
        self.lock.release()

    async def flush_all(self) -> None:
        """SVM-R22: the whole address space leaves the TLB before the page tables are freed (SVM-B61)."""
        tlb_inval = self.device.tlb_inval
        await tlb_inval.wait(await tlb_inval.submit(self.asid, 0, TASK_PAGES))

    def _leave_device(self) -> None:
        """Step 8: put the region, leave the owner group."""
        self.device.pagemap.put()
        self.device.owners.release_owner(self, self.owner)

    def free_page_tables(self) -> None:
        """Step 12: the walker finds nothing from here on."""
        self.device.gpu.detach_vm(self.asid)
        self.pt.freed = True

    async def _erase_asid(self) -> None:
        """Step 14: last, so that late faults find the VM and see that it is closed (SVM-R47)."""
        await self.engine.step("write", self.device, "asid")
        del self.device.vms[self.asid]

    def __repr__(self) -> str:
        return f"<{self.name} of {self.mm.name}>"


def check_access(read_only: bool, fault: PageFault) -> None:
    """-EPERM: anything but a read of a read-only GPU VMA."""
    if read_only and fault.access is not Access.READ:
        raise EPERM


def check_config(config: XeVmConfig) -> None:
    """-EINVAL on an unknown placement or policy; sizes are checked by the gpusvm."""
    if config.placement not in ("vram", "system") or config.write_bit not in POLICIES:
        raise EINVAL
