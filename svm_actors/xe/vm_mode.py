"""xe_vm that user space fills with VM_BIND: dma-fence and long-running mode (vm_bind sections 1, 2, 4, 12).

``mode="dma_fence"``: jobs end with a dma-fence; an exec makes everything resident before its job is
queued.  ``mode="lr"``: queues run for ever and are stopped with preempt fences; the rebind worker
brings everything back.  The fault mode is :class:`svm_actors.xe.fault_vm.XeFaultVm`, made of this one.

Locks, outermost first: ``vm.lock``, the reservations (one ww ticket for the VM's and those of external
objects), ``vm.notifier_lock``.  ``vm.resv_dma`` protects residency of local objects, ``rebind_list``, the
lists of the gpuvm, fence slots and the staging of page tables.

A VM is referenced through its gpuvm: the creator, every vma and every gpu_vm_bo hold a reference.  So it
is *closed* first, which empties it, and freed with the last reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import DrmGemObject, DrmGpuvm, DrmGpuvmBo, GpuvmFlags, GpuvmOps
from svm_actors.drm.sched_work import Work, Workqueue
from svm_actors.engine.errors import EINVAL, ENOENT, EngineError, PropertyFailed
from svm_actors.engine.locks import RwSem
from svm_actors.gpu.page_table import GpuPageTable
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.exec_hooks import hooks_of
from svm_actors.xe.exec_vm import VmExecs
from svm_actors.xe.pt_tree import PtTree
from svm_actors.xe.range_fence import RangeFenceTree
from svm_actors.xe.scratch import drop_scratch, use_scratch
from svm_actors.xe.validation import keeping_out
from svm_actors.xe.vm_bind import Ioctl
from svm_actors.xe.wait_user_fence import UfenceQueue

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.dma_buf.fence_memory import FenceMemory
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.device import XeDevice

Mode = Literal["dma_fence", "lr", "fault"]

VM_PAGES = 1 << 36
"""A 48-bit address space."""


class XeBindVm:
    """One VM that is bound by hand.  Make it with :meth:`create`."""

    ioctl_class = Ioctl

    def __init__(self, device: XeDevice, mm: Mm | None, asid: int, mode: Mode) -> None:
        engine = device.engine
        self.engine = engine
        self.device = device
        self.mm = mm
        """Whose memory userptr vmas are made of, and where user fences live."""
        self.asid = asid
        self.mode: Mode = mode
        self.name = f"{device.gpu.name}.vm{asid}"
        self.lock = RwSem(engine, f"{self.name}.lock", "vm_lock")
        self.notifier_lock = self.new_notifier_lock()
        """Read by whoever publishes a fence after a last look at user memory, write by notifiers (VMB-R01)."""
        self.resv_dma = engine.parts.of(DmaResv)(engine, self.name)
        self.r_obj = DrmGemObject(engine, f"{self.name}.resv", self.resv_dma)
        """Lends the reservation to the gpuvm and to local objects."""
        self.gpuvm = device.engine.parts.of(DrmGpuvm)(
            engine,
            self.name,
            self.r_obj,
            range_=VM_PAGES,
            flags=GpuvmFlags.RESV_PROTECTED,
            ops=GpuvmOps(vm_free=self._freed, vm_bo_validate=self._validate),
        )
        self.r_obj.put_now()
        self.gpuvm.driver_set_lock(self.lock)
        self.page_table = GpuPageTable(f"{self.name}.pt")
        self.pt_tree = device.engine.parts.of(PtTree)(engine, self.name)
        self.range_fences = device.engine.parts.of(RangeFenceTree)(engine, self.name)
        self.rebind_list: dict[XeBindVma, None] = {}
        """Vmas whose entries must be written again before the next job; protected by ``resv_dma``."""
        self.userptr: Any = None
        """Lists of user memory; set by the first userptr vma."""
        self.exec_queues: list[Any] = []
        """Exec queues of this VM."""
        self.bind_queues: list[BindQueue] = []
        """Bind queues, the default one first."""
        self.size = VM_PAGES
        """Pages of the address space; 0 once closed."""
        self.banned = False
        """An operation failed half way: binds answer -ENOENT, execs -ECANCELED."""
        self.tlb_flush_seqno = 0
        """Grows with every rewrite of entries in use."""
        self.freed = False
        """The struct itself is gone."""
        self.live_vmas = 0
        """Vmas whose memory is not freed."""
        self.memory: FenceMemory | None = None
        """Where failing allocations come from."""
        self.inject_contention = False
        """Locks of a bind may fail with -EDEADLK for no reason: a data choice."""
        self.destroy_wq = Workqueue(engine, f"{self.name}.destroy", ordered=False)
        self.ufence_wq = UfenceQueue(engine, f"{self.name}.ufence")
        """Who waits for user fences: of binds, of execs, or for the death of a queue."""
        self.default_queue = self.create_bind_queue()
        self.execs = VmExecs(self, device, hooks_of(self))
        """What exec queues and the rebind worker keep in the VM."""

    @classmethod
    async def create(cls, device: XeDevice, mm: Mm | None, mode: str, *, scratch: bool = False) -> XeBindVm:
        """xe_vm_create.  -EINVAL for a mode that does not exist."""
        if mode not in ("dma_fence", "lr"):
            raise EINVAL
        await device.engine.step("alloc", device, "vm")
        kind = device.engine.parts.of(cls)
        vm = kind(device, mm, device.new_asid(), "lr" if mode == "lr" else "dma_fence")
        if scratch:
            use_scratch(vm.page_table)
        device.add_bind_vm(vm)
        return vm

    def new_notifier_lock(self) -> RwSem:
        """The one lock of all notifiers of this VM."""
        return RwSem(self.engine, f"{self.name}.notifier_lock", "notifier_lock")

    # -- state ---------------------------------------------------------------------------

    @property
    def lr(self) -> bool:
        """Long-running: jobs publish no dma-fence.  With preempt fences, or with page faults."""
        return self.mode != "dma_fence"

    @property
    def faulting(self) -> bool:
        """Page faults are served: what is not bound is bound when it is touched."""
        return self.mode == "fault"

    @property
    def gpu(self) -> Gpu:
        """The device it stands on."""
        return self.device.gpu

    @property
    def closed(self) -> bool:
        """xe_vm_is_closed_or_banned."""
        return not self.size or self.banned

    def check_open(self) -> None:
        """-ENOENT once it is closed or banned; under vm.lock."""
        if self.closed:
            raise ENOENT

    def get(self) -> None:
        """xe_vm_get."""
        self.gpuvm.get()

    def put(self) -> None:
        """xe_vm_put; what remains to be done is no op."""
        self.gpuvm.put_now()

    def ban(self) -> None:
        """xe_vm_kill: sticky (INV-VMB-11)."""
        self.banned = True
        self.engine.count("vm.killed")
        for queue in self.exec_queues:
            queue.kill()

    def create_bind_queue(self) -> BindQueue:
        """A bind queue: binds on one end in order, binds on different ones do not.  -ENOENT once closed."""
        if not self.size:
            raise ENOENT
        queue = self.engine.parts.of(BindQueue)(self, f"{self.name}.bind{len(self.bind_queues)}")
        self.bind_queues.append(queue)
        return queue

    # -- vmas ----------------------------------------------------------------------------

    def vmas(self) -> list[XeBindVma]:
        """In address order."""
        return [va for va in self.gpuvm.tree if isinstance(va, XeBindVma)]

    def find_vma(self, vpn: int) -> XeBindVma | None:
        """The vma of a page."""
        va = self.gpuvm.va_find_first(vpn, 1)
        assert va is None or isinstance(va, XeBindVma)
        return va

    def expects_entry(self, vma: XeBindVma, _vpn: int) -> bool:
        """For oracles: at rest, may a page of this vma have an entry?"""
        return vma.valid

    async def _validate(self, vm_bo: DrmGpuvmBo, exec_: DrmExec) -> None:
        """xe_gpuvm_validate: the object's vmas must be bound again, and the object made resident first."""
        bo = None
        for va in vm_bo.vas:
            assert isinstance(va, XeBindVma)
            bo = va.bo
            if not va.destroyed:
                self.rebind_list[va] = None
        if bo is not None:
            await bo.validate(exec_)
        vm_bo.evicted = False

    def destroy_on(self, vma: XeBindVma, fence: Fence | None) -> None:
        """xe_vma_destroy, VMB-R14: a worker frees it once the fence has signaled."""
        work = Work(self.engine, f"{vma.name}.destroy", lambda: vma.destroy_late(fence))
        if fence is None or fence.is_signaled():
            self.destroy_wq.queue_work(work)
            return
        self.engine.count("VMB-R14")
        fence.add_callback(lambda _fence: self._queue_destroy(work))

    def _queue_destroy(self, work: Work) -> None:
        self.destroy_wq.queue_work(work)

    # -- close ---------------------------------------------------------------------------

    async def close(self) -> None:
        """xe_vm_close_and_put, in the order of section 12."""
        await self._close()
        await self.execs.flush()
        for queue in [*self.exec_queues]:
            await queue.destroy()
        await self.stop_faulting()
        for bind_queue in self.bind_queues:
            await bind_queue.kill()
        async with self.lock.writing():
            await self.take_apart()
            await self.fini_svm()
        await self.engine.step("write", self.device, "asid")
        self.erase_asid()
        await self.drop_creator()

    async def _close(self) -> None:
        """The closed mark; then nothing is reachable any more (VMB-B28)."""
        async with self.lock.writing():
            if not self.size:
                raise EngineError(f"{self.name} is closed twice")
            await self.nuke()

    async def nuke(self) -> None:
        """Notifiers do not look at page tables in these modes, so they may come in as soon as the mark is set."""
        async with self.notifier_lock.reading():
            self.size = 0
        await self.clear_root()

    async def clear_root(self) -> None:
        """VMB-B28: nothing pending, no entry, no translation; what is destroyed only later cannot be reached."""
        await self.resv_dma.wait(Usage.BOOKKEEP)
        await self.engine.step("pte_write", self.page_table)
        self.page_table.clear_range(0, VM_PAGES)
        drop_scratch(self.page_table)
        inval = self.device.tlb_inval
        await inval.wait(await inval.submit(self.asid, 0, VM_PAGES))

    async def before_bind(self) -> None:
        """Fault mode only: what has to be finished before a bind looks at the VM; no lock held."""

    async def stop_faulting(self) -> None:
        """Fault mode only: no garbage collector any more, the device memory is left; no lock held."""

    async def fini_svm(self) -> None:
        """Fault mode only: the end of the gpusvm, after the page tables; vm.lock for write."""

    async def take_apart(self) -> None:
        """VMB-R25: page tables go when no eviction can find a mapping any more (VMB-B04)."""
        await self.unlink_contested(await self.remove_vmas())
        self.free_page_tables()

    async def remove_vmas(self) -> list[XeBindVma]:
        """Answers external ones, which are contested: an eviction that holds the object's lock may be walking them."""
        contested: list[XeBindVma] = []
        await self.resv_dma.lock()
        for vma in self.vmas():
            self.gpuvm.va_remove(vma)
            self._out_of_lists(vma)
            if vma.obj is not None and self.gpuvm.is_extobj(vma.obj):
                contested.append(vma)
            else:
                await self.gpuvm.va_unlink(vma)
                self.destroy_on(vma, None)
        self.resv_dma.unlock()
        return contested

    async def unlink_contested(self, contested: list[XeBindVma]) -> None:
        """VMB-R25: each with its object's reservation, which an eviction may hold."""
        for vma in contested:
            assert vma.obj is not None
            if vma.obj.resv.is_locked():
                self.engine.count("VMB-R25")
            await self.unlink_locked(vma)
            self.destroy_on(vma, None)

    async def unlink_locked(self, vma: XeBindVma) -> None:
        """Off the object's list and the VM's lists, with both reservations.  A way back: it does not fail."""
        async with keeping_out(self.device.region.vram):
            await self._unlink_locked(vma)

    async def _unlink_locked(self, vma: XeBindVma) -> None:
        obj = vma.obj
        assert obj is not None
        new_exec = self.engine.parts.of(DrmExec)
        with new_exec(self.engine, f"{self.name}.unlink", ignore_duplicates=True, room=2) as exec_:

            async def body(exec_: DrmExec) -> None:
                await exec_.lock_obj(self.r_obj)
                await exec_.lock_obj(obj)

            await exec_.until_all_locked(body)
            await self.gpuvm.va_unlink(vma)

    def _out_of_lists(self, vma: XeBindVma) -> None:
        vma.destroyed = True
        self.rebind_list.pop(vma, None)
        if vma.userptr is not None:
            vma.userptr.unlink()

    def free_page_tables(self) -> None:
        """The last thing, when no eviction can find a vma any more; not twice."""
        if any(self.vmas()):
            raise PropertyFailed("lifetime", "VMB-R25", f"page tables of {self.name} are freed while vmas are left")
        self.device.gpu.detach_vm(self.asid)
        self.pt_tree.free()
        self.range_fences.fini()

    def erase_asid(self) -> None:
        """VMB-R24, VMB-B19: while the creator's reference is there, so a fault finds a VM that lives, or none."""
        del self.device.bind_vms[self.asid]

    async def drop_creator(self) -> None:
        """VMB-B33: one reference of many; vmas and gpu_vm_bos that are still there keep the VM."""
        await self.gpuvm.put()

    def alive(self, doing: str) -> None:
        """Raise when it was freed (INV-VMB-07)."""
        if self.freed:
            raise PropertyFailed("lifetime", "INV-VMB-07", f"{doing} {self.name}, which is freed")

    def _freed(self, _gpuvm: DrmGpuvm) -> None:
        """The last reference is gone."""
        self.alive("somebody frees")
        self.freed = True
        self.device.live_vms -= 1

    def __repr__(self) -> str:
        return f"<{self.name} {self.mode}>"
