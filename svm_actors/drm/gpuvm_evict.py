"""External objects, eviction and revalidation in a drm_gpuvm (vm_bind sections 4.1 to 4.3).

Whoever evicts an object holds its reservation, and for an external object that is not the VM's.  So the
evict list of a RESV_PROTECTED VM is out of reach: only ``evicted`` is set, and the next exec, which
holds both, moves the object to the list while it walks the external ones (VMB-R06).  With spinlocks the
list is reached from anywhere.
"""

from __future__ import annotations

from typing import Any

from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm_bo import DrmGpuvmBo, GpuvmBos
from svm_actors.drm.gpuvm_gem import GemObject
from svm_actors.drm.gpuvm_lists import PopOne
from svm_actors.engine.errors import EOPNOTSUPP
from svm_actors.engine.task import Thread

__all__ = ["GpuvmEvict", "gem_evict"]


class GpuvmEvict(GpuvmBos):
    """The part of a VM that keeps its lists."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held_off: list[Thread] = []
        """Who was waiting for a lock when the last fence was added; for the window event of VMB-R33 only."""

    # -- external objects ----------------------------------------------------------------

    async def vm_bo_extobj_add(self, vm_bo: DrmGpuvmBo) -> None:
        """drm_gpuvm_bo_extobj_add: under vm.lock, and vm.resv if RESV_PROTECTED."""
        if not self.belongs_to_extobj(vm_bo):
            return
        if vm_bo not in self.extobj:
            self.extobj_may_grow(vm_bo)
        await self.extobj.add(vm_bo)

    def belongs_to_extobj(self, vm_bo: DrmGpuvmBo) -> bool:
        """VMB-B31: not a local object; who locks the VM has locked it, and would lock it once more."""
        return self.is_extobj(vm_bo.obj)

    def extobj_may_grow(self, vm_bo: DrmGpuvmBo) -> None:
        """VMB-R33: no exec is between locking the external objects and adding its fence to them.

        vm.lock is held, for read by an exec and for write by a bind.
        """
        self.require(self.holds_driver_lock(), "VMB-R33", f"{vm_bo.name} becomes external without the driver's lock")
        task = self.engine.current
        if task is not None and task.thread in self.held_off:
            self.engine.count("VMB-R33")

    # -- eviction ------------------------------------------------------------------------

    async def vm_bo_evict(self, vm_bo: DrmGpuvmBo, evict: bool) -> None:
        """drm_gpuvm_bo_evict: note that the object lost its memory, or got it back; under obj.resv."""
        held = vm_bo.obj.resv.ww.held_by_me()
        self.require(held, "INV-VMB-05", f"{vm_bo.name} is evicted without the reservation of {vm_bo.obj.name}")
        vm_bo.evicted = evict
        if self.evict_list_out_of_reach(vm_bo):
            if evict and not self.resv.ww.held_by_me():
                self.engine.count("VMB-R06")
        elif evict:
            await self.evicted.add(vm_bo)
        else:
            await self.evicted.remove(vm_bo)

    def evict_list_out_of_reach(self, vm_bo: DrmGpuvmBo) -> bool:
        """VMB-R06: the evict list needs vm.resv, and whoever evicts an external object need not hold it.

        The answer does not ask who holds what just now: the flag has to do.
        """
        return self.resv_protected and self.is_extobj(vm_bo.obj)

    # -- revalidation ----------------------------------------------------------------------

    async def validate(self, exec_: DrmExec) -> None:
        """drm_gpuvm_validate: the driver makes every evicted object resident; its error stops the walk.

        -EOPNOTSUPP when the driver has no such function.
        """
        if self.ops.vm_bo_validate is None:
            raise EOPNOTSUPP
        if self.resv_protected:
            for vm_bo in self.evicted.protected():
                if not self.skips(vm_bo):
                    await self._validate_one(vm_bo, exec_)
            return
        walk = self.engine.parts.of(PopOne)(self.evicted, self.walk_put)
        try:
            while (popped := await walk.next()) is not None:
                await self._validate_one(popped, exec_)
        finally:
            await walk.finish()

    async def _validate_one(self, vm_bo: DrmGpuvmBo, exec_: DrmExec) -> None:
        obj = vm_bo.obj
        self.require(not vm_bo.zombie, "INV-VMB-07", f"{vm_bo.name} is validated, but it is a zombie")
        # It came to the list after the external objects were locked.
        self.require(obj.resv.ww.held_by_me(), "VMB-R33", f"{obj.name} is validated, but this exec has not locked it")
        assert self.ops.vm_bo_validate is not None
        await self.ops.vm_bo_validate(vm_bo, exec_)
        if not vm_bo.evicted:
            await self.evicted.remove(vm_bo)

    def skips(self, vm_bo: DrmGpuvmBo) -> bool:
        """VMB-B34: a zombie stays on lists that need vm.resv until the cleanup (VMB-R31); walkers pass it by."""
        if vm_bo.zombie:
            self.engine.count("gpuvm.zombie_skipped")
        return vm_bo.zombie

    async def walk_put(self, vm_bo: DrmGpuvmBo) -> None:
        """Drop the reference of a walk's step; its object is locked by then, or nobody else lets go of it."""
        if self.immediate:
            await self.vm_bo_put_deferred(vm_bo)
        else:
            await self.vm_bo_put(vm_bo)


async def gem_evict(obj: GemObject, evict: bool) -> None:
    """drm_gpuvm_bo_gem_evict: tell every VM that maps the object; under obj.resv.

    Takes ``gpuva.lock`` where a VM is in immediate mode.
    """
    bos = [*obj.gpuva.bos]
    if any(vm_bo.vm.immediate for vm_bo in bos):
        async with obj.gpuva.lock:
            await _evict_all(obj, evict)
    else:
        await _evict_all(obj, evict)


async def _evict_all(obj: GemObject, evict: bool) -> None:
    for vm_bo in [*obj.gpuva.bos]:
        vm_bo.vm.assert_gpuva_lock(obj, "the object's list is walked")
        await vm_bo.vm.vm_bo_evict(vm_bo, evict)
