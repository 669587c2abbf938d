"""xe_device: one GPU with its driver; and what all devices of the driver share.

Lock order, outermost first (gpusvm section 1.7, vm_bind section 2): hw_engine_group_mode_sem, vm_lock,
driver_migrate_lock, mmap_lock, dma_resv, folio_lock, anon_vma, notifier_lock, gc_lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.pagemap_hold import Provider
from svm_actors.drm.pagemap_util import OwnerList
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import KernelError
from svm_actors.engine.locks import RwSem
from svm_actors.engine.signalling import INVALIDATE_START
from svm_actors.mm.mmu_notifier import NON_BLOCK
from svm_actors.xe.engine_group import MODE_SEM
from svm_actors.xe.evict import evict_bo, lock_victim
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.pagefault import Pagefaults
from svm_actors.xe.pagemap import xe_pagemap_create
from svm_actors.xe.pt_update import PtUpdateQueue
from svm_actors.xe.submission import Submission
from svm_actors.xe.suspend import Power
from svm_actors.xe.tlb_inval import XeTlbInval

if TYPE_CHECKING:
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.core import CoreMm
    from svm_actors.xe.svm_host import SvmHost
    from svm_actors.xe.vm import XeVm
    from svm_actors.xe.vm_mode import XeBindVm

LOCK_ORDER = (
    MODE_SEM,
    "vm_lock",
    "driver_migrate_lock",
    "mmap_lock",
    "dma_resv",
    "folio_lock",
    "anon_vma",
    "notifier_lock",
    "gc_lock",
)


class XeDriver:
    """What is one per driver, not per device."""

    def __init__(self, engine: Engine) -> None:
        self.migrate_lock = RwSem(engine, "driver_migrate_lock", "driver_migrate_lock")
        """Read by migrations to device memory; write by the second attempt of one that lost (SVM-R09)."""
        self.owners = engine.parts.of(OwnerList)()
        """Owner groups of VMs and regions."""
        self.module = Provider(engine, "xe")
        """The driver's code."""
        engine.lockdep.declare(*LOCK_ORDER)
        engine.lockdep.declare(INVALIDATE_START, "notifier_lock")
        engine.lockdep.declare("notifier_lock", NON_BLOCK)


class XeDevice:
    """One device.  Give all devices of a machine the same ``driver``."""

    def __init__(self, gpu: Gpu, core: CoreMm, driver: XeDriver | None = None) -> None:
        self.engine = core.engine
        self.gpu = gpu
        self.core = core
        self.name = f"{gpu.name}.xe"
        self.driver = driver if driver is not None else XeDriver(core.engine)
        self.owners = self.driver.owners
        self.region = xe_pagemap_create(core, gpu, self.owners, self.driver.module)
        """The device memory and its buffer objects."""
        self.pagemap = self.region.dpagemap
        """The same as the pagemap layer sees it."""
        self.tlb_inval = core.engine.parts.of(XeTlbInval)(gpu)
        self.bind_queue = PtUpdateQueue(core.engine, gpu)
        self.power = Power(self)
        """System suspend."""
        self.submission = Submission(self)
        """Exec queues and what they share."""
        self.pagefaults = core.engine.parts.of(Pagefaults)(self)
        self.vms: dict[int, XeVm] = {}
        """VMs by asid, until the end of their close."""
        self.bind_vms: dict[int, XeBindVm] = {}
        """VMs that user space binds itself, by asid, until the end of their close."""
        self.needs_64k = False
        """XE_VRAM_FLAGS_NEED64K: device memory is mapped in pieces of 64 KiB or more; smaller ranges stay in RAM."""
        self.live_vms = 0
        """VMs not freed."""
        self.gt_stats: dict[str, int] = {}
        """Debug counters of the GT, by name; see :meth:`count_stat`."""
        self._next_asid = 1

    @property
    def is_dgfx(self) -> bool:
        """A discrete part: it has memory of its own."""
        return self.gpu.vram.npages > 0

    def start(self) -> None:
        """Start the region's actor.  Fault service starts with the first VM."""
        self.region.start()

    def new_asid(self) -> int:
        """Cyclic allocation: a number is not used again soon."""
        self._next_asid += 1
        return self._next_asid - 1

    def add_vm(self, vm: XeVm) -> None:
        """Make a VM known to the hardware and to fault service."""
        self.live_vms += 1
        self.vms[vm.asid] = vm
        self.gpu.attach_vm(vm.asid, vm.page_table)
        self.pagefaults.start()

    def add_bind_vm(self, vm: XeBindVm) -> None:
        """The same for one that user space fills; its faults are served in fault mode only."""
        self.live_vms += 1
        self.bind_vms[vm.asid] = vm
        self.gpu.attach_vm(vm.asid, vm.page_table)
        self.pagefaults.start()

    async def evict(self, npages: int) -> int:
        """Memory pressure: evict, least recently used first, until so many pages went; answers how many."""
        vram = self.region.vram
        cursor = gone = 0
        while gone < npages and (victim := vram.next_in_lru(cursor)) is not None:
            cursor = victim.stamp
            if not await lock_victim(victim):
                continue
            size = victim.npages
            alive = bool(victim.refs)
            if alive:
                victim.get()
            try:
                await evict_bo(victim)
                gone += size
            except KernelError as error:
                self.engine.count(f"evict.error.{error.code}")
            victim.unlock()
            if alive:
                await victim.put()
        return gone

    def count_stat(self, name: str) -> None:
        """xe_gt_stats_incr."""
        self.gt_stats[name] = self.gt_stats.get(name, 0) + 1

    def faulting_vm(self, asid: int) -> SvmHost | None:
        """The VM in fault mode with this number."""
        vm = self.vms.get(asid)
        if vm is not None:
            return vm
        bind_vm = self.bind_vms.get(asid)
        return bind_vm if isinstance(bind_vm, XeFaultVm) else None

    def svm_vms(self) -> list[SvmHost]:
        """All VMs in fault mode, by asid within each kind."""
        return [*self.vms.values(), *(vm for vm in self.bind_vms.values() if isinstance(vm, XeFaultVm))]

    def statistics(self) -> dict[str, int]:
        """What is alive; all 0 when everything has been given back."""
        ranges = [vm.svm.gpusvm.statistics() for vm in self.svm_vms()]
        return {
            "vms": self.live_vms,
            "ranges": sum(numbers["ranges"] for numbers in ranges),
            "notifiers": sum(numbers["notifiers"] for numbers in ranges),
            "vmas": sum(vm.live_vmas for vm in self.bind_vms.values()),
            "bind_jobs": self.bind_queue.seqno - self.bind_queue.done,
            **self.region.statistics(),
        }
