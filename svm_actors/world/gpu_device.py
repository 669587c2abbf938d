"""One GPU with its driver, and the VMs it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, overload

from svm_actors.drm.pagemap import PopulateMm
from svm_actors.gpu.gpu import Gpu
from svm_actors.mm.constants import PAGE_SHIFT
from svm_actors.world.bind_vm import BindVm
from svm_actors.world.fault_vm import FaultVm
from svm_actors.world.gpu_vm import GpuVm
from svm_actors.world.process import Process
from svm_actors.xe.device import XeDevice
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.vm import XeVm, XeVmConfig
from svm_actors.xe.vm_create import VmCreate, XeFile, check_create, flags_of
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
        self._connect()
        self.gpu.start()
        self.driver = XeDevice(self.gpu, world.core, world.xe)
        self.driver.start()

    def _connect(self) -> None:
        """Paths to and from the GPUs built before."""
        if self.world.links is None:
            return
        self.gpu.bus.peers = []
        for other in self.world.gpus:
            if other.gpu.bus.peers is not None and self.world.linked(self.gpu.name, other.gpu.name):
                self.gpu.bus.peers.append(other.gpu.vram)
                other.gpu.bus.peers.append(self.gpu.vram)

    @overload
    async def create_vm(
        self, process: Process, mode: Literal["fault"] = ..., *, mirror: Literal[True] = ..., **options: Any
    ) -> GpuVm: ...

    @overload
    async def create_vm(
        self, process: Process, mode: Literal["fault"] = ..., *, mirror: Literal[False], **options: Any
    ) -> FaultVm: ...

    @overload
    async def create_vm(
        self, process: Process, mode: Literal["dma_fence", "lr"], *, scratch: bool = ...
    ) -> BindVm: ...

    async def create_vm(
        self, process: Process, mode: str = "fault", *, mirror: bool = True, scratch: bool = False, **options: Any
    ) -> GpuVm | BindVm:
        """``fault``: a VM that mirrors the process's whole address space, or, with ``mirror=False``, an empty one.

        ``dma_fence`` and ``lr``: an empty one, to be filled with :meth:`BindVm.bind`; with ``scratch`` what is not
        bound reads 0 and swallows writes.  -EINVAL for another mode, or scratch with faults.
        """
        check_create(VmCreate(flags_of(mode, scratch=scratch)))
        if mode == "fault" and not mirror:
            config = XeVmConfig(**options)
            fault_vm = FaultVm(self.world, await XeFaultVm.create_faulting(self.driver, process.mm, config))
            self.world.bind_vms.append(fault_vm)
            return fault_vm
        if mode != "fault":
            bind_vm = BindVm(self.world, await XeBindVm.create(self.driver, process.mm, mode, scratch=scratch))
            self.world.bind_vms.append(bind_vm)
            return bind_vm
        vm = GpuVm(self.world, await XeVm.create(self.driver, process.mm, **options))
        self.world.vms.append(vm)
        return vm

    def gt_stats(self) -> dict[str, int]:
        """The debug counters of fault service, by name; those that never moved are not there (gpusvm section 8)."""
        return dict(sorted(self.driver.gt_stats.items()))

    def open(self, process: Process) -> XeFile:
        """A client of this GPU: the ioctls on VMs as user space makes them, with numbers and flags."""
        client = XeFile(self.driver, process.mm)
        self.world.clients.append(client)
        return client

    async def populate(self, process: Process, addr: int, length: int, *, timeslice: int = 0) -> None:
        """Bring a range of a process into this GPU's memory as one allocation, as a fault or a prefetch does.

        ``timeslice`` in ns: the minimum stay.  -EBUSY lost a race, -EFAULT dying process, -ENODEV, -ENOENT, -EINVAL,
        -ENOMEM.
        """
        start, end = addr >> PAGE_SHIFT, (addr + length) >> PAGE_SHIFT
        await self.driver.pagemap.call(PopulateMm(process.mm, start, end, timeslice))

    async def remove(self) -> int:
        """The driver is unbound: nothing new is let in, memory is brought home, and the driver lets go of the region.

        Answers how many objects stayed; pages in them keep the region's structures.  No other verb of this GPU, nor of
        its VMs, is of use afterwards.
        """
        stayed = await self.driver.region.remove()
        await self.driver.region.close()
        return stayed

    async def evict(self, bytes_wanted: int) -> int:
        """Another client wants device memory: evict until that much went, or nothing more can go."""
        return await self.driver.evict(bytes_wanted >> PAGE_SHIFT)
