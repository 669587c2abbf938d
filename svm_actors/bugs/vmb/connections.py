"""Deviations of what connects a VM and an object: how it ends, and who may still meet it (vm_bind section 4.3)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.gpuvm import DrmGpuvm, DrmGpuvmBo
from svm_actors.drm.gpuvm_lists import PopOne


async def dropped_early(vm: DrmGpuvm, vm_bo: DrmGpuvmBo) -> bool:
    """The count goes to zero, and then the lock is taken."""
    del vm
    if not vm_bo.drop():
        return False
    await vm_bo.obj.gpuva.lock.acquire()
    return True


async def published_early(vm: DrmGpuvm, vm_bo: DrmGpuvmBo) -> None:
    """The mutex is let go of when all is done."""
    lock = vm_bo.obj.gpuva.lock
    await vm._publish(vm_bo)
    await vm.engine.step("unlock", lock)
    lock.release()


def never_skips(_vm: DrmGpuvm, _vm_bo: DrmGpuvmBo) -> bool:
    """What is listed is there."""
    return False


def unreferenced(original: type[PopOne]) -> type[PopOne]:
    """What is on the list is referenced by somebody, as it seems."""

    class Unreferenced(original):  # type: ignore[misc, valid-type]
        def hold(self, vm_bo: DrmGpuvmBo) -> bool:
            return not vm_bo.zombie

        async def _drop(self) -> None:
            self._held = None

    return Unreferenced


VMB_R30 = Bug(
    id="VMB-R30",
    title="the last reference to a connection is dropped before the object's gpuva lock is taken",
    removes="GpuvmBos.drop_last",
    races=("VMB-R30",),
    oracles=("lifetime", "gpuvm"),
    story="an-obtain-against-a-put",
    plant=replace_guard(DrmGpuvm, "drop_last", dropped_early),
)

VMB_R31 = Bug(
    id="VMB-R31",
    title="a zombie is published for cleanup while the object's mutex is held",
    removes="GpuvmBos.publish_zombie",
    races=("VMB-R31",),
    oracles=("lifetime/VMB-R31",),
    story="a-zombie-and-its-cleanup",
    plant=replace_guard(DrmGpuvm, "publish_zombie", published_early),
)

VMB_B34 = Bug(
    id="VMB-B34",
    title="walks of the VM's lists do not pass zombies by",
    removes="GpuvmEvict.skips",
    races=("VMB-R31",),
    oracles=("gpuvm/INV-VMB-07", "lifetime"),
    story="a-zombie-and-its-cleanup",
    plant=replace_guard(DrmGpuvm, "skips", never_skips),
)

VMB_B38 = Bug(
    id="VMB-B38",
    title="a walk of the external objects holds no reference to what it is at",
    removes="PopOne.hold",
    races=("VMB-R33",),
    oracles=("lifetime", "gpuvm"),
    story="a-walk-against-the-last-put",
    plant=replace_part(PopOne, unreferenced),
)
