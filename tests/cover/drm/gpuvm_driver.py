"""A driver in miniature for racing gpuvm tests: VMs that share objects, binds, execs and evictions.

A job is a fence; while it is unsignaled the job uses every object mapped when it was submitted.  What must
hold: an object in use is resident (INV-VMB-13), and is not evicted under the job (INV-VMB-06).
"""

from __future__ import annotations

from typing import Any

from gpuvm_bench import apply, new_local, new_object, new_vm

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import (
    DrmGemObject,
    DrmGpuva,
    DrmGpuvm,
    DrmGpuvmBo,
    DrmGpuvmExec,
    GpuvmFlags,
    GpuvmOps,
    Op,
    OpMap,
    OpRemap,
    OpUnmap,
    gem_evict,
)
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import Mutex, RwSem
from svm_actors.engine.signalling import signalling

PAGES = 8


class Memory:
    """Where objects live: which are resident, which are used by jobs."""

    def __init__(self, engine: Engine, externals: int) -> None:
        self.engine = engine
        self.shared = [new_object(engine, f"ext{number}") for number in range(externals)]
        self.evicted: dict[DrmGemObject, None] = {}
        self.users: dict[DrmGemObject, int] = {}
        self.context = dma_fence_context_alloc(engine)
        self.jobs = 0

    async def evict(self, obj: DrmGemObject) -> None:
        """Wait until it is idle, take its memory, tell every VM."""
        await obj.resv.lock()
        await obj.resv.wait(Usage.BOOKKEEP)
        if self.users.get(obj):
            raise PropertyFailed("test", "INV-VMB-06", f"{obj.name} is evicted under {self.users[obj]} jobs")
        self.evicted[obj] = None
        await gem_evict(obj, True)
        obj.resv.unlock()

    def submit(self, objects: list[DrmGemObject]) -> Fence:
        """A job that uses these objects, until :meth:`finish`."""
        for obj in objects:
            if obj in self.evicted:
                raise PropertyFailed("test", "INV-VMB-13", f"a job uses {obj.name}, which is not resident")
            self.users[obj] = self.users.get(obj, 0) + 1
        self.jobs += 1
        context = dma_fence_context_alloc(self.engine)
        return Fence(self.engine, f"job{self.jobs}", context=context, seqno=1)

    async def finish(self, fence: Fence, objects: list[DrmGemObject]) -> None:
        await self.engine.step("fence_signal", fence)
        for obj in objects:
            self.users[obj] -= 1
        fence.signal()


class Driver:
    """One VM and the driver's part of it."""

    def __init__(
        self, memory: Memory, name: str, flags: GpuvmFlags, cls: type[DrmGpuvm] = DrmGpuvm, locked_binds: bool = True
    ) -> None:
        engine = memory.engine
        self.engine = engine
        self.memory = memory
        ops = GpuvmOps(
            vm_bo_validate=self.validate,
            sm_step_map=self.step_map,
            sm_step_remap=self.step_remap,
            sm_step_unmap=self.step_unmap,
        )
        self.vm: DrmGpuvm = new_vm(engine, flags, range_=PAGES, ops=ops, cls=cls, name=name)
        self.lock = RwSem(engine, f"{name}.lock", "vm_lock")
        self.locked_binds = locked_binds
        """False: binds do not take vm.lock, for the test of what that lock is good for."""
        if locked_binds:
            self.vm.driver_set_lock(self.lock)
        self.op_lock = Mutex(engine, f"{name}.op_lock", "op_lock")
        """Immediate mode: what makes run_job exclusive."""
        self.objects = [new_local(self.vm, f"{name}.local"), *memory.shared]

    async def validate(self, vm_bo: DrmGpuvmBo, exec_: DrmExec) -> None:
        await self.engine.step("local", vm_bo.obj)
        self.memory.evicted.pop(vm_bo.obj, None)
        vm_bo.evicted = False

    # -- binds -----------------------------------------------------------------------

    async def bind(self, obj: DrmGemObject, start: int, length: int) -> None:
        await self.locked(self._bind, OpMap(start, length, obj, 0))

    async def unbind(self, start: int, length: int) -> None:
        await self.locked(self._unbind, start, length)

    async def locked(self, body: Any, *args: Any) -> None:
        if self.locked_binds:
            async with self.lock.writing():
                await body(*args)
        else:
            await body(*args)

    async def _bind(self, request: OpMap) -> None:
        if self.vm.immediate:
            await self._bind_immediate(request)
            return

        async def body(exec_: DrmExec) -> None:
            await self.prepare_lists(exec_)
            await self.vm.sm_map_exec_lock(exec_, 1, request)

        with DrmExec(self.engine, f"{self.vm.name}.bind", ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(body)
            vm_bo = await self.vm.vm_bo_obtain_locked(request.obj)
            await self.note_new(vm_bo)
            for op in self.vm.sm_map_ops_create(request):
                await self.carry_out(op)
            await self.vm.vm_bo_put(vm_bo)

    async def prepare_lists(self, exec_: DrmExec) -> None:
        """A bind needs vm.resv for the lists that it protects, and for nothing else."""
        if self.vm.resv_protected:
            await self.vm.prepare_vm(exec_, 1)

    async def note_new(self, vm_bo: DrmGpuvmBo) -> None:
        """With the object locked, and vm.resv if it protects the lists."""
        await self.vm.vm_bo_extobj_add(vm_bo)
        if vm_bo.obj in self.memory.evicted:
            await self.vm.vm_bo_evict(vm_bo, True)

    async def carry_out(self, op: Op) -> None:
        """Staged: apply and link; every object concerned is locked."""
        old = old_of(op)
        new = apply(self.vm, op)
        for va in new:
            assert va.obj is not None
            vm_bo = self.vm.vm_bo_find(va.obj)
            assert vm_bo is not None
            self.vm.va_link(va, vm_bo)
            await self.vm.vm_bo_put(vm_bo)
        if old is not None:
            await self.vm.va_unlink(old)

    async def _unbind(self, start: int, length: int) -> None:
        if self.vm.immediate:
            await self.run_job(lambda: self.vm.sm_unmap(start, length))
            return

        await self.unbind_all([(start, length)])

    async def unbind_all(self, ranges: list[tuple[int, int]], ahead: bool = False) -> None:
        """Staged: several unmap requests under one set of locks; ``ahead`` makes all lists first (VMB-R29)."""

        async def body(exec_: DrmExec) -> None:
            await self.prepare_lists(exec_)
            for start, length in ranges:
                await self.vm.sm_unmap_exec_lock(exec_, start, length)

        with DrmExec(self.engine, f"{self.vm.name}.unbind", ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(body)
            lists = (self.vm.sm_unmap_ops_create(start, length) for start, length in ranges)
            for ops in list(lists) if ahead else lists:
                for op in ops:
                    await self.carry_out(op)

    # -- immediate mode ----------------------------------------------------------------

    async def _bind_immediate(self, request: OpMap) -> None:
        assert request.obj is not None
        vm_bo = await self.vm.vm_bo_obtain_prealloc(await self.vm.vm_bo_create(request.obj))

        async def body(exec_: DrmExec) -> None:
            await self.prepare_lists(exec_)
            await exec_.lock_obj(request.obj)

        with DrmExec(self.engine, f"{self.vm.name}.bind", ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(body)
            await self.note_new(vm_bo)

        async def job() -> None:
            await self.vm.sm_map(request, vm_bo)
            await self.vm.vm_bo_put_deferred(vm_bo)

        self.engine.spawn(self.run_job(job), "run_job", parent=self.engine.current)

    async def run_job(self, body: Any) -> None:
        """What the scheduler runs: it may not allocate, nor take a reservation."""
        with signalling(self.engine):
            async with self.op_lock:
                await body()

    async def step_map(self, op: OpMap, vm_bo: DrmGpuvmBo) -> None:
        await self.engine.step("pte_write", self.vm)
        (va,) = apply(self.vm, op)
        await self.link(va, vm_bo)

    async def step_remap(self, op: OpRemap, priv: Any) -> None:
        await self.engine.step("pte_write", self.vm)
        old = op.unmap.va
        assert old.vm_bo is not None
        for va in apply(self.vm, op):
            await self.link(va, old.vm_bo)
        await self.vm.va_unlink_defer(old)

    async def step_unmap(self, op: OpUnmap, priv: Any) -> None:
        await self.engine.step("pte_write", self.vm)
        self.vm.va_unmap(op)
        await self.vm.va_unlink_defer(op.va)

    async def link(self, va: DrmGpuva, vm_bo: DrmGpuvmBo) -> None:
        async with vm_bo.obj.gpuva.lock:
            self.vm.va_link(va, vm_bo)

    # -- execs -------------------------------------------------------------------------

    async def exec(self) -> None:
        """Lock, validate, submit; a job of its own ends later."""
        async with self.lock.reading():
            vm_exec = DrmGpuvmExec(self.vm, num_fences=1)
            await vm_exec.lock()
            await vm_exec.validate()
            mapped = {va.obj: None for va in self.vm.tree}
            objects = [obj for obj in mapped if obj is not None]
            fence = self.memory.submit(objects)  # type: ignore[arg-type]
            await vm_exec.resv_add_fence(fence, Usage.BOOKKEEP, Usage.BOOKKEEP)
            vm_exec.unlock()
        self.engine.spawn(self.memory.finish(fence, objects), "job", parent=self.engine.current)  # type: ignore[arg-type]


def old_of(op: Op) -> DrmGpuva | None:
    if isinstance(op, OpRemap):
        return op.unmap.va
    return op.va if isinstance(op, OpUnmap) else None
