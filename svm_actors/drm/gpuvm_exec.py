"""Locking a whole VM for an exec or a bind (vm_bind sections 4.2, 4.3 and 8.4).

``prepare_*`` run inside the body of :meth:`DrmExec.until_all_locked`, so they may be run again from the
start.  :class:`DrmGpuvmExec` is the kernel's helper around them for the common case: VM, external objects,
and whatever the driver adds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm_evict import GpuvmEvict
from svm_actors.drm.gpuvm_gem import GemObject
from svm_actors.drm.gpuvm_lists import PopOne
from svm_actors.drm.gpuvm_ops import OpMap, OpRemap, OpUnmap
from svm_actors.drm.gpuvm_split import split_map, split_unmap
from svm_actors.drm.gpuvm_va import DrmGpuva

__all__ = ["DrmGpuvmExec", "GpuvmExec", "prepare"]


async def prepare(exec_: DrmExec, obj: GemObject, num_fences: int) -> None:
    """Lock an object and reserve slots; without slots, only lock it."""
    if num_fences:
        await exec_.prepare_obj(obj, num_fences)
    else:
        await exec_.lock_obj(obj)


class GpuvmExec(GpuvmEvict):
    """The part of a VM that locks objects through a drm_exec."""

    # -- what an exec locks ----------------------------------------------------------------

    async def prepare_vm(self, exec_: DrmExec, num_fences: int) -> None:
        """drm_gpuvm_prepare_vm: vm.resv.  In spinlock mode it also keeps a second walk of a list away."""
        await prepare(exec_, self.r_obj, num_fences)

    async def prepare_objects(self, exec_: DrmExec, num_fences: int) -> None:
        """drm_gpuvm_prepare_objects: every external object; those evicted go to the evict list."""
        if self.resv_protected:
            await self._prepare_protected(exec_, num_fences)
        else:
            await self._prepare_popping(exec_, num_fences)

    async def _prepare_protected(self, exec_: DrmExec, num_fences: int) -> None:
        for vm_bo in self.extobj.protected():
            if self.skips(vm_bo):
                continue
            await prepare(exec_, vm_bo.obj, num_fences)
            if vm_bo.evicted:
                await self.evicted.add(vm_bo)

    async def _prepare_popping(self, exec_: DrmExec, num_fences: int) -> None:
        walk = self.engine.parts.of(PopOne)(self.extobj, self.walk_put)
        try:
            while (vm_bo := await walk.next()) is not None:
                await prepare(exec_, vm_bo.obj, num_fences)
        finally:
            await walk.finish()

    async def prepare_range(self, exec_: DrmExec, addr: int, range_: int, num_fences: int) -> None:
        """drm_gpuvm_prepare_range: the objects mapped there."""
        for va in self.tree.overlapping(addr, addr + range_):
            if self.has_object(va):
                await prepare(exec_, va.obj, num_fences)  # type: ignore[arg-type]

    def has_object(self, va: DrmGpuva) -> bool:
        """VMB-B32: a sparse vma has none, and nothing to lock."""
        return va.obj is not None

    async def resv_add_fence(
        self,
        exec_: DrmExec,
        fence: Fence,
        private_usage: Usage,
        extobj_usage: Usage,
    ) -> None:
        """drm_gpuvm_resv_add_fence: into every reservation locked.  From here on the fence is promised."""
        await self.engine.step("write", self.resv)
        self._check_all_locked()
        for obj in exec_.objects:
            obj.resv.add(fence, extobj_usage if obj.resv is not self.resv else private_usage)
        locks = (self.resv.ww, self.driver_lock)
        self.held_off = [task.thread for lock in locks if lock is not None for task, _ready in lock.parked]

    def _check_all_locked(self) -> None:
        """INV-VMB-06: with the driver's lock held no external object can have come since they were locked."""
        if self.driver_lock is None or not self.driver_lock.held_by_me():
            return
        for vm_bo in self.extobj:
            locked = vm_bo.zombie or vm_bo.obj.resv.ww.held_by_me()
            self.require(locked, "INV-VMB-06", f"a fence is added, but not to {vm_bo.obj.name}: it is not locked")

    # -- what a bind locks -------------------------------------------------------------------

    async def sm_map_exec_lock(self, exec_: DrmExec, num_fences: int, request: OpMap) -> None:
        """drm_gpuvm_sm_map_exec_lock: the request's object with slots, every object it reaches into without.

        For an array of requests this may be asked against the tree as it is now: later ones can only
        touch objects seen by then.  The drm_exec must ignore duplicates.  -EINVAL.
        """
        if request.obj is not None:
            await prepare(exec_, request.obj, num_fences)
        self.check_range(request.addr, request.range)
        for op in split_map(self.tree, request, self.look_ops()):
            if isinstance(op, OpUnmap | OpRemap):
                await self._lock_existing(exec_, op)

    async def sm_unmap_exec_lock(self, exec_: DrmExec, addr: int, range_: int) -> None:
        """drm_gpuvm_sm_unmap_exec_lock.  -EINVAL."""
        self.check_range(addr, range_)
        for op in split_unmap(self.tree, addr, addr + range_, self.look_ops()):
            if isinstance(op, OpUnmap | OpRemap):
                await self._lock_existing(exec_, op)

    async def _lock_existing(self, exec_: DrmExec, op: OpUnmap | OpRemap) -> None:
        unmap = op.unmap if isinstance(op, OpRemap) else op
        if unmap.va.obj is not None:
            await exec_.lock_obj(unmap.va.obj)


class DrmGpuvmExec:
    """drm_gpuvm_exec: lock, validate, add the fence, unlock.

    async with DrmGpuvmExec(gpuvm, num_fences=1) as vm_exec:
        await vm_exec.lock()
    """

    def __init__(
        self,
        vm: GpuvmExec,
        *,
        num_fences: int = 1,
        extra: Callable[[DrmGpuvmExec], Awaitable[None]] | None = None,
        interruptible: bool = False,
        memory: FenceMemory | None = None,
        inject: bool = False,
    ) -> None:
        """``extra`` locks what else the driver needs; it may run several times."""
        self.vm = vm
        self.num_fences = num_fences
        self.extra = extra
        self.exec = DrmExec(
            vm.engine,
            f"{vm.name}.exec",
            interruptible=interruptible,
            ignore_duplicates=True,
            memory=memory,
            inject=inject,
        )

    async def lock(self) -> None:
        """drm_gpuvm_exec_lock: the VM, its external objects, and ``extra``."""

        async def body(exec_: DrmExec) -> None:
            await self.vm.prepare_vm(exec_, self.num_fences)
            await self.vm.prepare_objects(exec_, self.num_fences)
            if self.extra is not None:
                await self.extra(self)

        await self._until_all_locked(body)

    async def lock_array(self, objects: Iterable[GemObject]) -> None:
        """drm_gpuvm_exec_lock_array: the same, and these objects."""
        own, objects = self.extra, list(objects)

        async def more(vm_exec: DrmGpuvmExec) -> None:
            if own is not None:
                await own(vm_exec)
            for obj in objects:
                await prepare(vm_exec.exec, obj, vm_exec.num_fences)

        self.extra = more
        try:
            await self.lock()
        finally:
            self.extra = own

    async def lock_range(self, addr: int, range_: int) -> None:
        """drm_gpuvm_exec_lock_range: the VM and the objects mapped in a range, external or not."""

        async def body(exec_: DrmExec) -> None:
            await self.vm.prepare_vm(exec_, self.num_fences)
            await self.vm.prepare_range(exec_, addr, range_, self.num_fences)
            if self.extra is not None:
                await self.extra(self)

        await self._until_all_locked(body)

    async def _until_all_locked(self, body: Callable[[DrmExec], Awaitable[None]]) -> None:
        try:
            await self.exec.until_all_locked(body)
        except Exception:
            self.exec.fini()
            raise

    async def validate(self) -> None:
        """drm_gpuvm_exec_validate."""
        await self.vm.validate(self.exec)

    async def resv_add_fence(self, fence: Fence, private_usage: Usage, extobj_usage: Usage) -> None:
        """drm_gpuvm_exec_resv_add_fence."""
        await self.vm.resv_add_fence(self.exec, fence, private_usage, extobj_usage)

    def unlock(self) -> None:
        """drm_gpuvm_exec_unlock."""
        self.exec.fini()

    async def __aenter__(self) -> DrmGpuvmExec:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.unlock()
