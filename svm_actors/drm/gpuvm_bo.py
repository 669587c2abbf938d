"""drm_gpuvm_bo: the one connection of a VM and an object, and how it ends (vm_bind sections 1 and 4.3).

There is at most one per pair (INV-VMB-07).  It holds a reference on both; every linked gpu_vma holds one
on it.  The last one is dropped with the object's gpuva lock held, so whoever obtains the pair under that
lock finds either a live one or none, never one that is about to go (VMB-R30).

In immediate mode the last reference can go inside the fence-signalling section, where vm.resv may not be
taken and the object may not be freed.  So it becomes a *zombie*: off the object's list, references gone,
but possibly still on the VM's lists, and queued for :meth:`GpuvmBos.bo_deferred_cleanup`.

Simplified: the lock-free list of zombies is a Python list and its order that of publication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svm_actors.dma_buf.fence_memory import allocate
from svm_actors.drm.gpuvm_base import DrmGpuvmBase
from svm_actors.drm.gpuvm_gem import GemObject
from svm_actors.drm.gpuvm_va import DrmGpuva
from svm_actors.engine.errors import PropertyFailed

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm import DrmGpuvm
    from svm_actors.engine.task import Thread

__all__ = ["DrmGpuvmBo", "GpuvmBos"]


class DrmGpuvmBo:
    """drm_gpuvm_bo; drivers subclass it."""

    def __init__(self, vm: DrmGpuvm, obj: GemObject) -> None:
        self.vm = vm
        self.obj = obj
        self.name = f"{vm.name}.bo({obj.name})"
        self.refs = 1
        self.evicted = False
        """The object has lost its memory; protected by obj.resv."""
        self.vas: dict[DrmGpuva, None] = {}
        """Linked mappings, in order; protected by the gpuva lock."""

    @property
    def zombie(self) -> bool:
        """No reference is left; only the cleanup may still touch it."""
        return not self.refs

    def get(self) -> DrmGpuvmBo:
        """drm_gpuvm_bo_get."""
        if not self.get_unless_zero():
            raise PropertyFailed("lifetime", "VMB-R30", f"{self.name} is brought back from the dead")
        return self

    def get_unless_zero(self) -> bool:
        """kref_get_unless_zero."""
        if self.refs <= 0:
            return False
        self.refs += 1
        return True

    def drop(self) -> bool:
        """Drop one reference; True when it was the last."""
        self.refs -= 1
        if self.refs < 0:
            raise PropertyFailed("lifetime", "INV-VMB-07", f"{self.name} is put more often than it was taken")
        return not self.refs

    def __repr__(self) -> str:
        return f"<{self.name} refs={self.refs}{' evicted' if self.evicted else ''}>"


class GpuvmBos(DrmGpuvmBase):
    """The part of a VM that makes and ends them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.live_bos = 0
        self.bo_defer: list[DrmGpuvmBo] = []
        """Zombies to clean up."""
        self._publishing = 0
        """Zombies on their way there; for the window event of VMB-R31 only."""
        self._overtaken: list[Thread] = []
        """Who was waiting for the gpuva lock when a gpu_vm_bo went; for the window event of VMB-R30 only."""

    # -- obtaining ---------------------------------------------------------------------

    async def vm_bo_create(self, obj: GemObject) -> DrmGpuvmBo:
        """drm_gpuvm_bo_create: one that nobody can find yet.  -ENOMEM; not under ``gpuva.lock``."""
        await self.engine.step("alloc", self)
        allocate(self.engine, self.memory, "gpu_vm_bo")
        make = self.ops.vm_bo_alloc or DrmGpuvmBo
        vm_bo = make(self, obj)  # type: ignore[arg-type]  # a VM is always the whole class
        self.get()
        obj.get()
        self.live_bos += 1
        return vm_bo

    def vm_bo_find(self, obj: GemObject) -> DrmGpuvmBo | None:
        """drm_gpuvm_bo_find: the one of this pair, with a reference; under the gpuva lock."""
        self.assert_gpuva_lock(obj, "the object's list is searched")
        for vm_bo in obj.gpuva.bos:
            if vm_bo.vm is self:
                return vm_bo.get()
        return None

    async def vm_bo_obtain_locked(self, obj: GemObject) -> DrmGpuvmBo:
        """drm_gpuvm_bo_obtain_locked: found or made; staged mode, under obj.resv.  -ENOMEM."""
        self.require(not self.immediate, "INV-VMB-05", "a gpu_vm_bo would be allocated under gpuva.lock")
        found = self.vm_bo_find(obj)
        if found is not None:
            return found
        return self._attach(await self.vm_bo_create(obj))

    async def vm_bo_obtain_prealloc(self, spare: DrmGpuvmBo) -> DrmGpuvmBo:
        """drm_gpuvm_bo_obtain_prealloc: the one there is, else ``spare``, made before; takes gpuva.lock.

        A spare that is not needed is given up.
        """
        self.require(self.immediate, "INV-VMB-05", "a spare gpu_vm_bo is for immediate mode")
        obj = spare.obj
        async with obj.gpuva.lock:
            found = self.vm_bo_find(obj)
            if found is None:
                return self._attach(spare)
        spare.drop()
        await self._free(spare)
        return found

    def _attach(self, vm_bo: DrmGpuvmBo) -> DrmGpuvmBo:
        """Make it findable."""
        bos = vm_bo.obj.gpuva.bos
        self.require(all(other.vm is not self for other in bos), "INV-VMB-07", f"a second {vm_bo.name}")
        task = self.engine.current
        if task is not None and task.thread in self._overtaken:
            self.engine.count("VMB-R30")
        bos[vm_bo] = None
        return vm_bo

    # -- linking -----------------------------------------------------------------------

    def va_link(self, va: DrmGpuva, vm_bo: DrmGpuvmBo) -> None:
        """drm_gpuva_link: under vm.lock and the gpuva lock."""
        if va.obj is None:
            return
        self.assert_gpuva_lock(vm_bo.obj, f"{va} is linked")
        self.require(va.obj is vm_bo.obj, "INV-VMB-07", f"{va} is linked to {vm_bo.name}")
        va.vm_bo = vm_bo.get()
        vm_bo.vas[va] = None

    async def va_unlink(self, va: DrmGpuva) -> None:
        """drm_gpuva_unlink: under the gpuva lock, and in RESV_PROTECTED mode vm.resv if it may be the last."""
        vm_bo = va.vm_bo
        if vm_bo is None:
            return
        self.assert_gpuva_lock(vm_bo.obj, f"{va} is unlinked")
        del vm_bo.vas[va]
        va.vm_bo = None
        await self.vm_bo_put(vm_bo)

    async def va_unlink_defer(self, va: DrmGpuva) -> None:
        """drm_gpuva_unlink_defer: for the signalling section of immediate mode; takes gpuva.lock itself."""
        vm_bo = va.vm_bo
        if vm_bo is None:
            return
        self.require(self.immediate, "INV-VMB-05", f"{va} is unlinked by run_job in staged mode")
        await vm_bo.obj.gpuva.lock.acquire()
        del vm_bo.vas[va]
        va.vm_bo = None
        if vm_bo.drop():
            await self._into_zombie(vm_bo)
            await self.publish_zombie(vm_bo)
        else:
            vm_bo.obj.gpuva.lock.release()

    # -- the end -----------------------------------------------------------------------

    async def vm_bo_put(self, vm_bo: DrmGpuvmBo) -> None:
        """drm_gpuvm_bo_put: whoever may hold the last reference holds the gpuva lock."""
        await self.engine.step("put", vm_bo)
        if vm_bo.drop():
            self.last_put_is_locked(vm_bo)
            await self._destroy(vm_bo)

    def last_put_is_locked(self, vm_bo: DrmGpuvmBo) -> None:
        """VMB-R30: else an obtain meanwhile would find what is being taken apart."""
        held = self.gpuva_lock(vm_bo.obj).held_by_me()
        self.require(held, "VMB-R30", f"the last reference to {vm_bo.name} is dropped without the gpuva lock")

    async def _destroy(self, vm_bo: DrmGpuvmBo) -> None:
        """drm_gpuvm_bo_destroy."""
        await self.extobj.remove(vm_bo)
        await self.evicted.remove(vm_bo)
        self._detach(vm_bo)
        await self._free(vm_bo)

    def _detach(self, vm_bo: DrmGpuvmBo) -> None:
        """Nobody can find it any more."""
        self.assert_gpuva_lock(vm_bo.obj, f"{vm_bo.name} leaves the object's list")
        del vm_bo.obj.gpuva.bos[vm_bo]
        self._overtaken = [task.thread for task, _ready in self.gpuva_lock(vm_bo.obj).parked]

    async def _free(self, vm_bo: DrmGpuvmBo) -> None:
        await self.engine.step("put", vm_bo.obj)
        if self.ops.vm_bo_free is not None:
            self.ops.vm_bo_free(vm_bo)
        self.live_bos -= 1
        vm_bo.obj.put_now()
        self.put_now()

    # -- the end in immediate mode -------------------------------------------------------

    async def vm_bo_put_deferred(self, vm_bo: DrmGpuvmBo) -> None:
        """drm_gpuvm_bo_put_deferred: may be called where vm.resv cannot be taken."""
        self.require(self.immediate, "INV-VMB-05", f"{vm_bo.name} is put the deferred way in staged mode")
        await self.engine.step("put", vm_bo)
        if await self.drop_last(vm_bo):
            await self._into_zombie(vm_bo)
            await self.publish_zombie(vm_bo)

    async def drop_last(self, vm_bo: DrmGpuvmBo) -> bool:
        """VMB-R30, kref_put_mutex: the count reaches zero only under gpuva.lock.  True: it did, and it is held."""
        if vm_bo.refs > 1:
            vm_bo.drop()
            return False
        lock = vm_bo.obj.gpuva.lock
        await lock.acquire()
        if vm_bo.drop():
            return True
        # Somebody obtained it while this one waited for the lock.
        self.engine.count("VMB-R30")
        lock.release()
        return False

    async def _into_zombie(self, vm_bo: DrmGpuvmBo) -> None:
        """drm_gpuvm_bo_into_zombie: under gpuva.lock.  Lists that need vm.resv have to wait for the cleanup."""
        if not self.resv_protected:
            await self.extobj.remove(vm_bo)
            await self.evicted.remove(vm_bo)
        self._detach(vm_bo)

    async def publish_zombie(self, vm_bo: DrmGpuvmBo) -> None:
        """VMB-R31: let go of the object's mutex first.

        From the moment it is published a cleanup may free the zombie, and with it the object and its mutex.
        """
        vm_bo.obj.gpuva.lock.release()
        await self._publish(vm_bo)

    async def _publish(self, vm_bo: DrmGpuvmBo) -> None:
        self._publishing += 1
        await self.engine.step("write", self)
        self._publishing -= 1
        self.bo_defer.append(vm_bo)

    async def bo_deferred_cleanup(self) -> None:
        """drm_gpuvm_bo_deferred_cleanup: in process context, with no lock held."""
        await self.engine.step("write", self)
        if self._publishing:
            self.engine.count("VMB-R31")
        batch, self.bo_defer = self.bo_defer, []
        if batch and self.resv_protected:
            await self.resv.lock()
            for vm_bo in batch:
                await self.extobj.remove(vm_bo)
                await self.evicted.remove(vm_bo)
            self.resv.unlock()
        for vm_bo in batch:
            await self._free(vm_bo)
