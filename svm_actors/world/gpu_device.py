"""One GPU with its driver, and the VMs it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, overload

from svm_actors.gpu.gpu import Gpu
from svm_actors.mm.constants import PAGE_SHIFT
from svm_actors.world.bind_vm import BindVm
from svm_actors.world.gpu_vm import GpuVm
from svm_actors.world.process import Process
from svm_actors.xe.device import XeDevice
from svm_actors.xe.vm import XeVm
from svm_actors.xe.vm_mode import XeBindVm

if TYPE_CHECKING:
    from svm_actors.world.world import World

VRAM_BASE_PFN: Final = 1 << 36
"""Device pages are numbered from here on, one region of 2**28 pages per GPU."""


class GpuDevice:
    """One GPU with its driver."""

    def __init__(self, world: World, index: int) -> None:
        config = world.config
        self.world = world
        self.gpu = Gpu(
            world.engine,
            f"gpu{index}",
            vram_pages=config.vram_pages,
            base_pfn=VRAM_BASE_PFN + (index << 28),
            fault_queue_size=config.fault_queue_size,
            atomics_on_system=config.atomics_on_system,
        )
        self.gpu.start()
        self.driver = XeDevice(self.gpu, world.core, world.xe)
        self.driver.start()

    @overload
    async def create_vm(self, process: Process, mode: Literal["fault"] = ..., **options: Any) -> GpuVm: ...

    @overload
    async def create_vm(self, process: Process, mode: Literal["dma_fence", "lr"]) -> BindVm: ...

    async def create_vm(self, process: Process, mode: str = "fault", **options: Any) -> GpuVm | BindVm:
        """``fault``: a VM that mirrors the process's whole address space.

        ``dma_fence`` and ``lr``: an empty one, to be filled with :meth:`BindVm.bind`.  -EINVAL for another mode.
        """
        if mode != "fault":
            bind_vm = BindVm(self.world, await XeBindVm.create(self.driver, process.mm, mode))
            self.world.bind_vms.append(bind_vm)
            return bind_vm
        vm = GpuVm(self.world, await XeVm.create(self.driver, process.mm, **options))
        self.world.vms.append(vm)
        return vm

    async def evict(self, bytes_wanted: int) -> int:
        """Another client wants device memory: evict until that much went, or nothing more can go."""
        return await self.driver.evict(bytes_wanted >> PAGE_SHIFT)
