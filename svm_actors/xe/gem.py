"""xe_bo: buffer objects of user space (vm_bind sections 1, 3 and 4).

A *local* object shares the reservation of the one VM it can be mapped in, an *external* one has its own.
Its memory is made at the first :meth:`XeBo.validate` and may move whenever the reservation is held: to
system memory when somebody else needs the VRAM (:mod:`svm_actors.xe.evict`), back at the next validation.

A move is a copy job.  It waits for everything in the reservation (BOOKKEEP), and its fence goes in as
KERNEL, so whoever locks the object afterwards waits for it.  Every VM that maps the object is told: the
flag of its gpu_vm_bo, and the VM's evict list where the reservation covers that (VMB-R06).  Page-table entries
are not touched: the next exec revalidates before it runs (section 4.1).  In a VM in fault mode they are zapped
before the move (:mod:`svm_actors.xe.fault_zap`), and a fault brings the object back.

Placements: ``vram`` evicts others when it must; ``system`` is RAM mapped for the device;
``vram_or_system`` has RAM as its fallback, as TTM knows it: a new object evicts others for VRAM too, and goes
to RAM when no victim would go; one that was evicted comes back when there is VRAM free and evicts nobody.

Simplified: the evictor waits until the VRAM is empty, where TTM hands it on with the move fence.  Objects
in RAM are not swapped out.  A CPU access is one step that waits for moves, as its page fault would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm_gem import DrmGemObject
from svm_actors.engine.errors import EINVAL, ENOENT, ENOMEM, ENOSPC, EngineError, KernelError
from svm_actors.engine.signals import restarting
from svm_actors.gpu.copy_engine import SubmitCopy
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.xe.fault_zap import ObjectZap, move_notify
from svm_actors.xe.gem_memory import Memory, SystemMemory, VramMemory
from svm_actors.xe.validation import validating

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.buddy import Block
    from svm_actors.drm.gpuvm import DrmGpuvm
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.ww_mutex import WwCtx
    from svm_actors.gpu.address import DmaAddr
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.folio import Folio
    from svm_actors.xe.pagemap import XePagemap

PLACEMENTS = ("vram", "system", "vram_or_system")


class BoDevice(Protocol):
    """What an object needs of its device; :class:`~svm_actors.xe.device.XeDevice` has it."""

    engine: Engine
    gpu: Gpu
    core: CoreMm
    region: XePagemap


class BoVm(Protocol):
    """What a local object needs of its VM."""

    @property
    def resv_dma(self) -> DmaResv:
        """The VM's reservation."""

    @property
    def gpuvm(self) -> DrmGpuvm:
        """What counts references to the VM; the object holds one."""


class XeBo(DrmGemObject):
    """A buffer object of ``npages``; nothing is allocated before :meth:`validate`."""

    zap_class = ObjectZap

    def __init__(
        self, device: BoDevice, name: str, npages: int, *, placement: str = "vram", vm: BoVm | None = None
    ) -> None:
        """With a VM it is local to it.  -EINVAL."""
        if npages <= 0 or placement not in PLACEMENTS:
            raise EINVAL
        own = device.engine.parts.of(DmaResv)
        super().__init__(device.engine, name, vm.resv_dma if vm is not None else own(device.engine, name))
        self.device = device
        self.manager = device.region.vram
        self.npages = npages
        self.placement = placement
        self.vm = vm
        self.memory: Memory | None = None
        """Where it is; None before the first validation and after the end."""
        self.blocks: list[Block] = []
        """Its VRAM; what the manager gives back."""
        self.stamp = 0
        """Place in the LRU order."""
        self.building = False
        """For the manager, which also has objects that are under construction."""
        self.lost = False
        """A copy or a clear of it has failed: nobody knows what its bytes are."""
        self._dying: list[Fence] = []
        """What a dead object's memory still waits for."""
        if vm is not None:
            vm.gpuvm.get()
        self.manager.live_bos += 1

    @classmethod
    async def create(
        cls, device: BoDevice, name: str, npages: int, *, placement: str = "vram", vm: BoVm | None = None
    ) -> XeBo:
        """xe_bo_create_user: with memory from the start.  -EINVAL, -ENOMEM, -EFAULT."""
        await device.engine.step("alloc", device.region.vram, name)
        device.engine.faults.fail("memory")
        bo = cls(device, name, npages, placement=placement, vm=vm)
        try:
            await validating(bo.manager, bo._first_validation)
        except KernelError:
            await bo.put()
            raise
        return bo

    async def _first_validation(self) -> None:
        with self.engine.parts.of(DrmExec)(self.engine, f"{self.name}.create", interruptible=True) as exec_:

            async def body(exec_: DrmExec) -> None:
                await exec_.lock_obj(self)
                await self.validate(exec_, evict_own=True)

            await exec_.until_all_locked(body)

    # -- what it is ------------------------------------------------------------------------

    @property
    def gem(self) -> XeBo:
        """The drm_gem_object it embeds: what gpuvm and drm_exec take."""
        return self

    @property
    def is_local(self) -> bool:
        """It can be mapped in one VM only."""
        return self.vm is not None

    @property
    def resident(self) -> bool:
        """It is where it is allowed to be."""
        return self.memory is not None and (self.memory.in_vram or self.placement != "vram")

    @property
    def in_vram(self) -> bool:
        """It is in device memory now."""
        return self.memory is not None and self.memory.in_vram

    @property
    def folios(self) -> list[Folio]:
        """Its pages in order; good as long as the reservation is held, or a fence that a move waits for is out."""
        return self._memory().folios

    def dma_addr(self, index: int) -> DmaAddr:
        """Where the device finds a page; the same goes for it."""
        return self._memory().dma_addr(index)

    def _memory(self) -> Memory:
        if self.memory is None:
            raise EngineError(f"{self.name} has no memory: validate it first")
        return self.memory

    # -- validation ------------------------------------------------------------------------

    async def validate(self, exec_ctx: DrmExec | None = None, *, evict_own: bool = False) -> None:
        """xe_bo_validate: make it resident, reservation held.

        ``evict_own``: other objects of the same reservation may be victims; never in an exec or an array
        of binds, which would throw out what it has just validated (VMB-B16).  -ENOMEM, -EFAULT.
        """
        self.resv.assert_held()
        if exec_ctx is not None and all(obj.resv is not self.resv for obj in exec_ctx.objects):
            raise EngineError(f"{self.name} is validated by {exec_ctx.name}, which has not locked it")
        new = None
        if not self.resident:
            new = await self._get_memory(self.resv if evict_own else None)
        elif self.placement == "vram_or_system" and not self.in_vram:
            new = await self._free_vram()
        if new is None:
            self.manager.touch(self)
        else:
            await self._move(new)

    async def _free_vram(self) -> Memory | None:
        """For one in its fallback, which is a legal place: VRAM that is nobody's, None when there is none."""
        try:
            return await self._vram_memory(evict=False)
        except ENOSPC:
            return None

    async def migrate(self, region: str) -> None:
        """xe_bo_migrate: to ``vram`` or ``system``, reservation held.  -EINVAL when it may not be there; -ENOMEM."""
        self.resv.assert_held()
        if self.placement not in (region, "vram_or_system"):
            raise EINVAL
        if self.memory is not None and self.in_vram == (region == "vram"):
            self.manager.touch(self)
        elif region == "system":
            await self._move(await self._system_memory())
        else:
            await self._move(await self._vram_memory(evict=True))

    async def _get_memory(self, own: DmaResv | None) -> Memory:
        """ttm_bo_alloc_resource over the placements.  -ENOMEM when no victim would go."""
        if self.placement != "system":
            try:
                return await self._vram_memory(evict=True, own=own)
            except ENOMEM:
                if self.placement == "vram":
                    raise
        return await self._system_memory()

    async def _vram_memory(self, *, evict: bool, own: DmaResv | None = None) -> VramMemory:
        """-ENOSPC without ``evict`` when there is no room, -ENOMEM with it when no victim would go."""
        ticket = self._ticket() if evict else None
        try:
            space = await self.manager.get_space(self.npages, evict=evict, own=own, ticket=ticket)
        except ENOSPC:
            if evict:
                self.manager.refusals += 1
                raise ENOMEM from None
            raise
        return VramMemory(self, space)

    def _ticket(self) -> WwCtx | None:
        """dma_resv_locking_ctx: the transaction that holds the object, while it may still take more."""
        context = self.resv.ww.context
        return context if context is not None and not context.done else None

    async def _system_memory(self) -> SystemMemory:
        device = self.device
        return await SystemMemory.alloc(self.engine, device.gpu, device.core.allocator, self.npages)

    # -- moves -----------------------------------------------------------------------------

    async def _move(self, new: Memory) -> None:
        """xe_bo_move: bring it from where it is, if anywhere, to ``new``.  -ENOMEM: it stays, and ``new`` goes back.

        VMs were told of the move by then, perhaps; they look again where it is, and find it where it was.
        """
        old = self.memory
        try:
            self.resv.reserve(1)
            gate = await self._gate_of_move(old, new)
        except KernelError:
            new.free()
            raise
        if old is None:
            self.memory = new
            if new.in_vram:
                self.publish_move(await self._submit(None, new, gate))
            return
        fence = await self._submit(old, new, gate)
        self.publish_move(fence)
        self.memory = new
        await self._retire(old, fence)

    async def _gate_of_move(self, old: Memory | None, new: Memory) -> Fence | None:
        """What it has to wait for; RAM is zeroed by the CPU, which waits for nobody.  -ENOMEM."""
        if old is not None:
            await self.move_notify()
            return self.move_waits_for()
        return self.clear_waits_for() if new.in_vram else None

    async def move_notify(self) -> None:
        """xe_bo_move_notify: no VM may run another job with the old addresses (VMB-R05, VMB-R06).

        A VM in fault mode loses its entries and translations here and now (vm_bind section 11).
        """
        await move_notify(self)

    def clear_waits_for(self) -> Fence | None:
        """A first clear: nothing of the user's knows this memory, so moves are all there is to wait for."""
        return self._gate(Usage.KERNEL)

    def move_waits_for(self) -> Fence | None:
        """VMB-R04: every job, bind and preempt fence that relies on where the object is (section 3)."""
        return self._gate(Usage.BOOKKEEP)

    def _gate(self, usage: Usage) -> Fence | None:
        """One fence for all of them; what has to be stopped first is asked to stop now."""
        gate = self.resv.get_singleton(usage)
        if gate is not None:
            gate.enable_sw_signaling()
        return gate

    async def _submit(self, old: Memory | None, new: Memory, gate: Fence | None) -> Fence:
        """xe_migrate_copy or xe_migrate_clear, behind ``gate``, of which it takes the reference."""
        pages = range(self.npages)
        pairs = tuple((None if old is None else old.dma_addr(page), new.dma_addr(page)) for page in pages)
        fence = await self.device.gpu.copy.call(SubmitCopy(pairs, gate))
        self._watch(fence)
        if gate is not None:
            held = gate
            try:
                fence.add_callback(lambda _fence: held.put())
            except ENOENT:
                held.put()
        return fence

    def _watch(self, fence: Fence) -> None:
        """For oracles: note when it fails.

        The error of a fence is advisory (fences_and_scheduler 1.5), and the driver does not look at that of a move:
        whoever waited for it goes on, with whatever is in the memory.
        """

        def ended(fence: Fence) -> None:
            if fence.error is not None:
                self.lost = True
                self.engine.count("bo.copy_failed")

        try:
            fence.add_callback(ended)
        except ENOENT:
            ended(fence)

    def publish_move(self, fence: Fence) -> None:
        """INV-VMB-06: whoever locks the object from here on finds the move (VMB-B02 if nobody looked)."""
        self.resv.add(fence, Usage.KERNEL)

    async def _retire(self, old: Memory, fence: Fence) -> None:
        """The old pages go back when the copy has read them: VRAM by the evictor, RAM by a worker."""
        if old.in_vram:
            await fence.wait()
            old.free()
            self.engine.count("bo.moved_out")
            return

        async def later(memory: Memory) -> None:
            await fence.wait()
            await self.engine.step("write", self.device.gpu.iommu, "unmap")
            memory.free()

        self.engine.count("bo.moved_in")
        self.manager.works.queue("ttm_bo_cleanup", later, old)

    # -- eviction --------------------------------------------------------------------------

    async def evict(self) -> None:
        """ttm_bo_evict, reservation held: on return its VRAM is free.  -ENOMEM, -EFAULT."""
        self.resv.assert_held()
        if not self.refs:
            await self._wait_dying()
            self._free_memory()
        elif self.in_vram:
            self.engine.count("bo.evict")
            await self._move(await self._system_memory())

    def unlock(self) -> None:
        """xe_bo_unlock."""
        self.resv.unlock()

    def note_busy(self) -> None:
        """An evictor has met somebody who relies on the object: VMB-R04 local, VMB-R05 external."""
        self.engine.count("VMB-R04" if self.is_local else "VMB-R05")

    # -- the CPU ---------------------------------------------------------------------------

    async def read(self, offset: int, length: int = 1) -> bytes:
        """CPU load of bytes inside one page, through a mapping of the object."""
        await self._cpu_access("load", offset)
        data = self.folios[offset // PAGE_SIZE].content.read(offset % PAGE_SIZE, length)
        self.resv.unlock()
        return data

    async def write(self, offset: int, data: bytes) -> None:
        """CPU store of bytes inside one page."""
        await self._cpu_access("store", offset)
        folio = self.folios[offset // PAGE_SIZE]
        folio.content = folio.content.write(offset % PAGE_SIZE, data)
        self.resv.unlock()

    async def _cpu_access(self, kind: str, offset: int) -> None:
        """ttm_bo_vm_fault: with the reservation held, memory there and moves through.  -EINVAL outside.

        A signal ends the fault, and the access is made again.
        """
        if not 0 <= offset < self.npages * PAGE_SIZE:
            raise EINVAL
        await restarting(self.engine, self._cpu_fault)
        await self.engine.step(kind, self, offset // PAGE_SIZE)

    async def _cpu_fault(self) -> None:
        """-ERESTARTSYS, -EINTR, and then nothing is held."""
        await self.resv.lock_interruptible()
        try:
            if self.memory is None:
                await self.validate()
            await self.resv.wait(Usage.KERNEL, intr=True)
        except KernelError:
            self.resv.unlock()
            raise

    # -- the end ---------------------------------------------------------------------------

    def free(self) -> None:
        """ttm_bo_release: at once when idle and nobody holds it, else by a worker that waits.

        The object gets a reservation of its own, so that its end does not hold up the VM.
        """
        pending = self.still_used_by(self.resv.unsignaled(Usage.BOOKKEEP))
        if self.is_local:
            self.resv = DmaResv(self.engine, f"{self.name}.dying")
        if not pending and not self.resv.is_locked():
            self._destroy()
            return
        self._dying = [fence.get() for fence in pending]
        self.manager.works.queue("delayed_delete", XeBo._delayed_delete, self)

    def still_used_by(self, fences: list[Fence]) -> list[Fence]:
        """xe_ttm_bo_release_notify, VMB-B29: no queue is stopped for what is not mapped any more.

        The fence of its unbind is among them, and after that no long-running queue gets there.
        """
        return [fence for fence in fences if not fence.lazy]

    async def _delayed_delete(self) -> None:
        await self._wait_dying()
        await self.resv.lock()
        self._free_memory()
        self.resv.unlock()
        for fence in self._dying:
            fence.put()
        self._destroy()

    async def _wait_dying(self) -> None:
        for fence in self._dying:
            await fence.wait()

    def _free_memory(self) -> None:
        if self.memory is not None:
            self.memory.free()
            self.memory = None

    def _destroy(self) -> None:
        self._free_memory()
        self.resv.fini()
        self.manager.live_bos -= 1
        if self.vm is not None:
            self.vm.gpuvm.put_now()
