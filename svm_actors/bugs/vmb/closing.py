"""Deviations of VM close: what goes first, and what keeps the VM itself (vm_bind section 12).

VMB-B19: the kernel freed a VM in a worker, and until that had run the number led to it.  The deviation brings the
worker along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.engine.errors import EINVAL
from svm_actors.xe.pagefault import Pagefaults
from svm_actors.xe.vm_mode import XeBindVm

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm import DrmGpuvm
    from svm_actors.gpu.fault import PageFault


async def tables_first(self: XeBindVm) -> None:
    """The tree is empty, so the page tables can go."""
    contested = await self.remove_vmas()
    self.free_page_tables()
    await self.unlink_contested(contested)


async def left_live(_vm: XeBindVm) -> None:
    """Mappings go when the VM is destroyed; that is soon enough, as it seems."""


async def referenced_late(self: Pagefaults, fault: PageFault) -> None:
    """The VM is found, its lock is waited for, and only then is it held."""
    vm = self.device.faulting_vm(fault.asid)
    if vm is None:
        raise EINVAL
    async with vm.lock.writing():
        vm.get()
        try:
            await self._serve(vm, fault)
        finally:
            vm.put()


def found_until_freed(original: type[XeBindVm]) -> type[XeBindVm]:
    """The number is given up by whoever frees the VM, after its last reference."""

    class FoundUntilFreed(original):  # type: ignore[misc, valid-type]
        def erase_asid(self) -> None:
            """Not yet."""

        def _freed(self, gpuvm: DrmGpuvm) -> None:
            super()._freed(gpuvm)
            self.engine.spawn(self._forget(), f"{self.name}.destroy_work")

        async def _forget(self) -> None:
            await self.engine.step("write", self.device, "asid")
            del self.device.bind_vms[self.asid]

    return FoundUntilFreed


def freed_by_the_driver(original: type[XeBindVm]) -> type[XeBindVm]:
    """The driver counts its own references; that mappings hold some of the gpuvm's does not matter to it."""

    class FreedByTheDriver(original):  # type: ignore[misc, valid-type]
        async def drop_creator(self) -> None:
            super()._freed(self.gpuvm)
            await super().drop_creator()

        def _freed(self, gpuvm: DrmGpuvm) -> None:
            """It is freed already."""

    return FreedByTheDriver


VMB_B04 = Bug(
    id="VMB-B04",
    title="page tables are freed at close before mappings of external objects are unlinked",
    removes="XeBindVm.take_apart",
    races=("VMB-R25",),
    oracles=("lifetime/VMB-R25",),
    story="a-close-under-programs",
    plant=replace_guard(XeBindVm, "take_apart", tables_first),
)
"""Noticed when an eviction finds such a mapping, and zaps it."""

VMB_B19 = Bug(
    id="VMB-B19",
    title="a VM can be found by its number until it is freed",
    removes="XeBindVm.erase_asid",
    races=("VMB-R24", "SVM-R47"),
    oracles=("gpuvm/INV-VMB-07", "lifetime"),
    story="faults-in-a-vm-that-goes",
    plant=replace_part(XeBindVm, found_until_freed),
)
"""Noticed when a fault takes a reference to it."""

VMB_R24 = Bug(
    id="VMB-R24",
    title="a fault finds its VM, waits for the lock of it, and holds it only then",
    removes="Pagefaults.lookup",
    races=("VMB-R24", "SVM-R47"),
    oracles=("gpuvm/INV-VMB-07", "lifetime"),
    story="faults-in-a-vm-that-goes",
    plant=replace_guard(Pagefaults, "service", referenced_late),
)

VMB_B28 = Bug(
    id="VMB-B28",
    title="a VM that is closed keeps its entries and translations until it is destroyed",
    removes="XeBindVm.clear_root",
    races=("VMB-R24",),
    oracles=("lifetime", "invalidation/INV-01", "coherence", "ranges/RULE-18", "leaks/INV-34"),
    story="a-close-under-programs",
    plant=replace_guard(XeBindVm, "clear_root", left_live),
)
"""Noticed because notifiers leave a closed VM alone."""

VMB_B33 = Bug(
    id="VMB-B33",
    title="a VM is freed with the driver's last reference to it, not with the last of the gpuvm",
    removes="XeBindVm.drop_creator",
    races=("VMB-R14",),
    oracles=("lifetime/INV-VMB-07",),
    story="a-close-with-mappings-left",
    plant=replace_part(XeBindVm, freed_by_the_driver),
)
"""Noticed by a worker that frees a mapping, which is still linked to the VM."""
