"""The helper of :mod:`svm_actors.drm.gpuvm` in the modes that Xe does not use (vm_bind sections 1 and 4.3).

In immediate mode connections of a VM and an object end where no reservation may be taken; with spinlocks the lists of
a VM change while somebody walks them.  So these scenarios are a small driver themselves: one VM and one object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import DrmGemObject, DrmGpuvm, DrmGpuvmExec, GpuvmFlags, GpuvmOps
from svm_actors.workload.witness import witness

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm import DrmGpuvmBo
    from svm_actors.world import World

IMMEDIATE = GpuvmFlags.IMMEDIATE_MODE | GpuvmFlags.RESV_PROTECTED


def new_object(world: World, name: str) -> DrmGemObject:
    """An object with a reservation of its own; one reference."""
    return DrmGemObject(world.engine, name, DmaResv(world.engine, name))


def new_vm(world: World, flags: GpuvmFlags) -> DrmGpuvm:
    """A VM whose resv object nobody else refers to."""

    async def validate(vm_bo: DrmGpuvmBo, _exec: DrmExec) -> None:
        await world.engine.step("local", vm_bo.obj)
        vm_bo.evicted = False

    r_obj = new_object(world, "r_obj")
    kind = world.engine.parts.of(DrmGpuvm)
    vm: DrmGpuvm = kind(world.engine, "vm", r_obj, range_=1 << 20, flags=flags, ops=GpuvmOps(vm_bo_validate=validate))
    r_obj.put_now()
    return vm


async def connected(vm: DrmGpuvm, obj: DrmGemObject, *, evicted: bool) -> DrmGpuvmBo:
    """The connection of both, as a bind leaves it."""
    if vm.immediate:
        vm_bo = await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj))
    async with _Locked(vm, obj):
        if not vm.immediate:
            vm_bo = await vm.vm_bo_obtain_locked(obj)
        await vm.vm_bo_extobj_add(vm_bo)
        if evicted:
            await vm.vm_bo_evict(vm_bo, True)
    return vm_bo


class _Locked:
    """Both reservations."""

    def __init__(self, vm: DrmGpuvm, obj: DrmGemObject) -> None:
        self.vm = vm
        self.obj = obj
        self.exec = DrmExec(vm.engine, f"{vm.name}.driver")

    async def __aenter__(self) -> None:
        async def body(exec_: DrmExec) -> None:
            await self.vm.prepare_vm(exec_, 1)
            await exec_.lock_obj(self.obj)

        await self.exec.until_all_locked(body)

    async def __aexit__(self, *_: object) -> None:
        self.exec.fini()


async def submit(vm: DrmGpuvm) -> None:
    """What an exec does with a VM before its job is made."""
    async with DrmGpuvmExec(vm) as vm_exec:
        await vm_exec.lock()
        await vm_exec.validate()


async def taken_apart(vm: DrmGpuvm) -> None:
    """The last of the driver."""
    if vm.immediate:
        await vm.bo_deferred_cleanup()
    await vm.put()


@witness("VMB-R30")
async def an_obtain_against_a_put(world: World) -> None:
    """Two threads connect one VM and one object for a moment, in immediate mode."""
    vm, obj = new_vm(world, IMMEDIATE), new_object(world, "bo")

    async def connect() -> None:
        for _ in range(2):
            vm_bo = await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj))
            await vm.vm_bo_put_deferred(vm_bo)

    async with world.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(connect)
        nursery.start_soon(vm.bo_deferred_cleanup)
    await taken_apart(vm)
    await obj.put()


@witness("VMB-R31")
async def a_zombie_and_its_cleanup(world: World) -> None:
    """The last connection of an object that nobody else refers to ends in immediate mode, is cleaned up, and walked."""
    vm, obj = new_vm(world, IMMEDIATE), new_object(world, "bo")
    vm_bo = await connected(vm, obj, evicted=True)
    await obj.put()

    async def cleanup() -> None:
        for _ in range(3):
            await vm.bo_deferred_cleanup()

    async with world.nursery() as nursery:
        nursery.start_soon(vm.vm_bo_put_deferred, vm_bo)
        nursery.start_soon(submit, vm)
        nursery.start_soon(cleanup)
    await taken_apart(vm)


@witness("VMB-R33 VMB-R06")
async def a_walk_against_the_last_put(world: World) -> None:
    """With spinlocks: an exec walks the external objects of a VM while the last of them goes."""
    vm, obj = new_vm(world, GpuvmFlags.NONE), new_object(world, "bo")
    vm_bo = await connected(vm, obj, evicted=False)

    async def put() -> None:
        await obj.resv.lock()
        await vm.vm_bo_put(vm_bo)
        obj.resv.unlock()
        await obj.put()

    async with world.nursery() as nursery:
        nursery.start_soon(submit, vm)
        nursery.start_soon(put)
    await taken_apart(vm)
