"""One machine, wired: processes, memory, GPUs, drivers, mirrors; and the verbs scenarios use.

A scenario is ``async def scenario(world: World) -> None`` that raises or asserts.  Every verb is the
real interface's: system calls on a :class:`Process`, GPU programs on a :class:`GpuVm`, mirror
commands on a mirror.  Addresses are bytes.  Concurrency is ``async with world.nursery() as nursery``.

Nothing is built before it is asked for, so a small world costs little; :meth:`World.close` tears
everything down and lets the oracles count what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from svm_actors.engine.engine import Engine
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.task import Task
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.mended import MendedDevice
from svm_actors.mirror.messages import OpenMirror
from svm_actors.mirror.mirror import Mirror
from svm_actors.mirror.two_pass import TwoPassDevice
from svm_actors.mm.core import CoreMm
from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.mm.shmem import FileObject
from svm_actors.world.bind_vm import BindVm, UserSyncobj
from svm_actors.world.config import Config
from svm_actors.world.gpu_device import GpuDevice
from svm_actors.world.gpu_vm import GpuVm
from svm_actors.world.process import Process
from svm_actors.xe.device import XeDriver
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.gem import XeBo
from svm_actors.xe.suspend import resume_system, suspend_system
from svm_actors.xe.vm_create import XeFile

MIRROR_DRIVERS: dict[str, type[MirrorDevice]] = {
    "mended": MendedDevice,
    "two-pass": TwoPassDevice,
    "7.3.4": MirrorDevice,
}
"""What :attr:`Config.mirror_driver` may be."""


class World:
    """One machine."""

    def __init__(self, engine: Engine, config: Config | None = None) -> None:
        self.engine = engine
        self.config = config or Config()
        engine.faults.allow(self.config.faults, self.config.most_faults, self.config.fault_odds)
        self.allocator = PageAllocator(engine, self.config.ram_pages)
        self.core = CoreMm(engine, self.allocator)
        self.processes: list[Process] = []
        self.vms: list[GpuVm] = []
        self.bind_vms: list[BindVm] = []
        self.clients: list[XeFile] = []
        """Open files of GPUs."""
        self.bos: list[XeBo] = []
        """Buffer objects made, each with its handle's reference."""
        self.syncobjs: list[UserSyncobj] = []
        self.mirrors: list[Mirror] = []
        self.files: list[FileObject] = []
        self.at_close: list[Callable[[], None]] = []
        """Checks to run once everything is torn down."""
        self.at_rest: list[Callable[[], None]] = []
        """Checks to run when the scenario is done and nothing moves, before teardown."""
        self.xe = XeDriver(engine)
        """What all GPUs of the machine share: the migration lock and the owner groups."""
        self.links: set[tuple[str, str]] | None = None
        """GPUs with a fast interconnect, both ways round, by name; None: nobody asked for one."""
        self._gpus: dict[int, GpuDevice] = {}
        self._mirror_devices: dict[int, MirrorDevice] = {}
        self.core.start()

    # -- parts -----------------------------------------------------------------------

    def process(self, name: str | None = None) -> Process:
        """A new process with an empty address space."""
        return self.adopt(Process(self, self.core.new_mm(name or self.core.new_name("p"))))

    def adopt(self, process: Process) -> Process:
        """Book a process so that closing the world ends it."""
        self.processes.append(process)
        return process

    def gpu(self, index: int = 0) -> GpuDevice:
        """The GPU with this number, built at first use."""
        if not 0 <= index < self.config.gpus:
            raise ValueError(f"this world has {self.config.gpus} GPUs; there is no GPU {index}")
        if index not in self._gpus:
            self._gpus[index] = GpuDevice(self, index)
        return self._gpus[index]

    def connect(self, first: int, second: int) -> None:
        """These two GPUs reach each other's memory, so they may join one owner group.  Before any GPU is built."""
        if self._gpus:
            raise ValueError("GPUs are connected before the first of them is built")
        if self.links is None:
            self.links = set()
            self.xe.owners.has_interconnect = lambda one, other: one is other or self.linked(one.name, other.name)
        self.links |= {(f"gpu{first}", f"gpu{second}"), (f"gpu{second}", f"gpu{first}")}

    def linked(self, one: str, other: str) -> bool:
        """True when there is a path from one GPU to the memory of another."""
        return self.links is not None and (one, other) in self.links

    @property
    def gpus(self) -> list[GpuDevice]:
        """GPUs built so far, by number."""
        return [self._gpus[index] for index in sorted(self._gpus)]

    def mirror_device(self, index: int = 0) -> MirrorDevice:
        """The mirror device with this number, created at first use."""
        if not 0 <= index < self.config.mirrors:
            raise ValueError(f"this world has {self.config.mirrors} mirror devices; there is no device {index}")
        if index not in self._mirror_devices:
            kind = MIRROR_DRIVERS[self.config.mirror_driver]
            device = self.engine.parts.of(kind)(self.engine, self.core, f"mdevice{index}", index=index)
            device.start()
            self._mirror_devices[index] = device
        return self._mirror_devices[index]

    @property
    def mirror_devices(self) -> list[MirrorDevice]:
        """Mirror devices created so far, by number."""
        return [self._mirror_devices[index] for index in sorted(self._mirror_devices)]

    async def mirror(self, process: Process, device: int = 0) -> Mirror:
        """Open a mirror device for a process."""
        mirror = await self.mirror_device(device).call(OpenMirror(process.mm))
        self.mirrors.append(mirror)
        return mirror

    def file(self, name: str) -> Any:
        """A file of zeros that can be mapped; its page cache outlives its mappings, not the world."""
        file = FileObject(self.core, f"file:{name}", keep=True)
        self.files.append(file)
        return file

    def syncobj(self, *, signaled: bool = False) -> UserSyncobj:
        """A syncobj: an in- or out-fence of binds and jobs."""
        syncobj = self.engine.parts.of(UserSyncobj)(self.engine, self.core.new_name("syncobj"), signaled=signaled)
        self.syncobjs.append(syncobj)
        return syncobj

    def mm_of_asid(self, gpu: str, asid: int) -> Mm | None:
        """The address space that a GPU address space mirrors, None when it is gone."""
        for device in self.gpus:
            if device.gpu.name == gpu and asid in device.driver.vms:
                return device.driver.vms[asid].mm
        return None

    def userptr_place(self, gpu: str, asid: int, folio: Folio, vpn: int) -> tuple[Mm, int] | None:
        """Address space and page of a page that a VM filled by user space reached as memory of the process."""
        for device in self.gpus:
            vm = device.driver.bind_vms.get(asid) if device.gpu.name == gpu else None
            if isinstance(vm, XeFaultVm):
                page = vm.process_page(vpn, folio)
                return None if page is None else (vm.mm, page)
            if vm is not None and vm.mm is not None and vm.userptr is not None:
                page = vm.userptr.place_of(folio)
                return None if page is None else (vm.mm, page)
        return None

    # -- concurrency -------------------------------------------------------------------

    def nursery(self) -> Nursery:
        """Concurrent tasks: ``async with world.nursery() as n: n.start_soon(f, *args)``."""
        return self.engine.nursery()

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Task:
        """A task that nobody waits for; closing the world waits until it is done."""
        return self.engine.spawn(coro, name, parent=self.engine.current)

    async def sleep(self, nanoseconds: int) -> None:
        """Let virtual time pass."""
        await self.engine.sleep(nanoseconds)

    def choose(self, count: int, label: str = "scenario") -> int:
        """A data choice in ``range(count)`` from the run's tape."""
        return self.engine.choose(count, label)

    # -- power -------------------------------------------------------------------------

    async def suspend(self) -> None:
        """System suspend; on return every GPU is off.  -EBUSY: one could not be emptied, and nothing is suspended.

        User space is frozen: an exec or a bind sleeps, or is run again, until :meth:`resume`.
        """
        await suspend_system([device.driver for device in self.gpus])

    async def resume(self) -> None:
        """The end of a system suspend."""
        await resume_system([device.driver for device in self.gpus])

    # -- the end -----------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until nothing more happens by itself."""
        await self.engine.quiesce()

    async def close(self) -> None:
        """Wake up, close VMs and mirrors, end processes, wait for the last worker, then check what is left."""
        await self.resume()
        await self.settle()
        for check in self.at_rest:
            check()
        for vm in self.vms:
            await vm.close()
        for bind_vm in self.bind_vms:
            await bind_vm.close()
        for client in self.clients:
            await client.close()
        for bo in self.bos:
            await bo.put()
        for syncobj in self.syncobjs:
            syncobj.put()
        for mirror in self.mirrors:
            if not mirror.closed:
                await mirror.close()
        for process in self.processes:
            await process.exit()
        await self.settle()
        for file in self.files:
            file.drop()
        for check in self.at_close:
            check()

    def statistics(self) -> dict[str, dict[str, Any]]:
        """What is alive, by owner; all zero after :meth:`close`."""
        numbers: dict[str, dict[str, Any]] = {"core_mm": dict(self.core.statistics())}
        for device in self.gpus:
            numbers[device.gpu.name] = dict(device.gpu.statistics())
            numbers[device.driver.name] = dict(device.driver.statistics())
        for mirror_device in self.mirror_devices:
            numbers[mirror_device.name] = dict(mirror_device.statistics())
        return numbers
