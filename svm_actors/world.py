"""One machine, wired: processes, memory, GPUs, drivers, mirrors; and the verbs scenarios use.

A scenario is ``async def scenario(world: World) -> None`` that raises or asserts.  Every verb is the
real interface's: system calls on a :class:`Process`, GPU programs on a :class:`GpuVm`, mirror
commands on a mirror.  Addresses are bytes.  Concurrency is ``async with world.nursery() as nursery``.

Nothing is built before it is asked for, so a small world costs little; :meth:`World.close` tears
everything down and lets the oracles count what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, TypeVar, overload

import attrs

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_wait import WaitFlags, wait_array
from svm_actors.engine.actor import Message
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, ESRCH
from svm_actors.engine.locks import WaitQueue
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.task import Task
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.program import AtomicAdd, Instruction, Load, Result, Step, Store
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.mended import MendedDevice
from svm_actors.mirror.messages import OpenMirror
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm import messages as m
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE, Prot
from svm_actors.mm.core import CoreMm
from svm_actors.mm.cpu import cpu_read, cpu_write, pieces
from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.mm.shmem import FileObject
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.device import XeDevice, XeDriver
from svm_actors.xe.exec import Execution, exec_ioctl
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.preempt_fence import add_lr_queue
from svm_actors.xe.sync import Sync
from svm_actors.xe.user_fence import UserFence
from svm_actors.xe.vm import XeVm
from svm_actors.xe.vm_bind import BindKind, BindOp, vm_bind
from svm_actors.xe.vm_mode import XeBindVm

T = TypeVar("T")

VRAM_BASE_PFN = 1 << 36
"""Device pages are numbered from here on, one region of 2**28 pages per GPU."""

MIRROR_DRIVERS: dict[str, type[MirrorDevice]] = {"mended": MendedDevice, "7.3.4": MirrorDevice}
"""What :attr:`Config.mirror_driver` may be."""

PROTECTIONS = {"none": Prot.NONE, "r": Prot.READ, "rw": Prot.READ | Prot.WRITE, "rx": Prot.READ | Prot.EXEC,
               "rwx": Prot.READ | Prot.WRITE | Prot.EXEC, "w": Prot.WRITE | Prot.READ, "x": Prot.EXEC}  # fmt: skip


@attrs.frozen
class Config:
    """The machine.  Every field has a default that makes a small world."""

    gpus: int = 1
    """Number of GPUs."""
    vram_pages: int = 4096
    """Device memory per GPU, in 4 KiB pages."""
    ram_pages: int | None = None
    """RAM in pages; None is no limit."""
    mirrors: int = 2
    """Number of mirror devices that can be opened."""
    fault_queue_size: int = 16
    """Entries of a GPU's fault queue."""
    atomics_on_system: bool = False
    """True when GPU atomics work on system memory."""
    mirror_driver: str = attrs.field(default="mended", validator=attrs.validators.in_(("mended", "7.3.4")))
    """``mended``: a correct small driver.  ``7.3.4``: the stock test driver with its traps (HM-D01 ...),
    which loses writes and uses freed pages as soon as its commands race."""


def pages_of(length: int) -> int:
    """Bytes in pages.  -EINVAL unless it is a whole number of them."""
    if length % PAGE_SIZE:
        raise EINVAL
    return length >> PAGE_SHIFT


def protection(prot: str) -> Prot:
    """``"rw"`` and friends as bits."""
    if prot not in PROTECTIONS:
        raise ValueError(f"prot is one of {', '.join(PROTECTIONS)}, not {prot!r}")
    return PROTECTIONS[prot]


class Process:
    """A process: an address space and the system calls on it.  Any task may be its thread.

    Every call is made by a thread of the process, and a thread keeps the address space alive: an exit
    waits until the calls under way have ended, and calls made after it answer -ESRCH.
    """

    def __init__(self, world: World, mm: Mm) -> None:
        self.world = world
        self.mm = mm
        self.name = mm.name
        self.alive = True
        self._calls = 0
        self._threads_gone = WaitQueue(world.engine, f"{mm.name}.threads")

    async def mmap(
        self,
        length: int,
        *,
        addr: int = 0,
        prot: str = "rw",
        shared: bool = False,
        fixed: bool = False,
        noreplace: bool = False,
        file: Any = None,
        offset: int = 0,
    ) -> int:
        """Map memory; answers the address."""
        bits = protection(prot)
        return await self._call(
            m.Mmap(self.mm, addr, length, bits, shared, fixed, noreplace, file, offset)
        )

    async def munmap(self, addr: int, length: int) -> None:
        """Unmap memory."""
        await self._call(m.Munmap(self.mm, addr, length))

    async def mremap(
        self,
        addr: int,
        old_length: int,
        new_length: int,
        *,
        maymove: bool = True,
        to: int | None = None,
        dontunmap: bool = False,
    ) -> int:
        """Move or resize a mapping, to a fixed place with ``to``; answers the address."""
        message = m.Mremap(
            self.mm, addr, old_length, new_length, maymove, to is not None, dontunmap, 0 if to is None else to
        )
        return await self._call(message)

    async def mprotect(self, addr: int, length: int, prot: str) -> None:
        """Change protection."""
        await self._call(m.Mprotect(self.mm, addr, length, protection(prot)))

    async def madvise(self, addr: int, length: int, advice: str) -> None:
        """Advise: ``dontneed``, ``free``, ``pageout`` ..."""
        await self._call(m.Madvise(self.mm, addr, length, advice))

    async def brk(self, end: int) -> int:
        """Set the end of the heap; answers what it is now."""
        return await self._call(m.Brk(self.mm, end))

    async def swap_out(self, addr: int, length: int) -> int:
        """Let reclaim take cold pages of a range; answers how many pages went."""
        start, end = addr >> PAGE_SHIFT, (addr + length + PAGE_SIZE - 1) >> PAGE_SHIFT
        return await self._call(m.ReclaimPages(self.mm, start, end))

    async def read(self, addr: int, length: int = 1) -> bytes:
        """CPU load.  Raises SIGSEGV or SIGBUS."""
        return await self._as_thread(cpu_read(self.world.core, self.mm, addr, length))

    async def write(self, addr: int, data: bytes) -> None:
        """CPU store.  Raises SIGSEGV or SIGBUS."""
        await self._as_thread(cpu_write(self.world.core, self.mm, addr, data))

    async def fork(self, name: str | None = None) -> Process:
        """A child with a copy of the address space.  -ENOMEM."""
        world = self.world
        child = await self._call(m.Fork(self.mm, name or world.core.new_name(f"{self.name}.child")))
        return world.adopt(Process(world, child))

    async def exit(self) -> None:
        """The process ends: the last user of its mm goes, unless a GPU still holds one."""
        if self.alive:
            self.alive = False
            if self._calls:
                await self._threads_gone.wait_event(lambda: not self._calls)
            await self.mm.mmput()

    async def _call(self, message: Message[T]) -> T:
        return await self._as_thread(self.world.core.call(message))

    async def _as_thread(self, call: Coroutine[Any, Any, T]) -> T:
        if not self.alive and not self.world.engine.closing:
            call.close()
            raise ESRCH
        self._calls += 1
        try:
            return await call
        finally:
            self._calls -= 1
            if not self.alive:
                self._threads_gone.wake_up()


class GpuVm:
    """A GPU address space that mirrors one process."""

    def __init__(self, world: World, vm: XeVm) -> None:
        self.world = world
        self.vm = vm
        self.open = True

    async def run(self, program: Iterable[Instruction]) -> list[Result]:
        """Run a GPU program (``Load``, ``Store``, ``AtomicAdd`` by page) and answer its results."""
        return await self.vm.run(tuple(program))

    async def load(self, addr: int, length: int = 1) -> bytes | Result:
        """GPU load of bytes inside one page; a refused fault answers a ``GpuFault``."""
        ((vpn, offset, size),) = pieces(addr, length)
        return (await self.run([Load(vpn, offset, size)]))[-1]

    async def store(self, addr: int, data: bytes) -> Result:
        """GPU store of bytes inside one page."""
        ((vpn, offset, _size),) = pieces(addr, len(data))
        return (await self.run([Store(vpn, offset, data)]))[-1]

    async def atomic_add(self, addr: int, amount: int) -> Result:
        """GPU atomic on four bytes; answers what was there."""
        ((vpn, offset, _size),) = pieces(addr, 4)
        return (await self.run([AtomicAdd(vpn, offset, amount)]))[-1]

    async def close(self) -> None:
        """Destroy the VM; programs still running are refused."""
        if self.open:
            self.open = False
            await self.vm.close()


class UserSyncobj(Syncobj):
    """A syncobj as user space has it: an in- or out-fence of binds and jobs."""

    async def wait(self, timeout: int = MAX_SCHEDULE_TIMEOUT) -> None:
        """Sleep until something was submitted and is done.  -ETIME."""
        await wait_array(self.engine, [self], flags=WaitFlags.ALL | WaitFlags.FOR_SUBMIT, timeout=timeout)

    @property
    def done(self) -> bool:
        """Something was submitted and is done."""
        return self.fence is not None and self.fence.is_signaled()

    def sync_in(self) -> Sync:
        """As an in-fence."""
        return Sync(self)

    def sync_out(self) -> Sync:
        """As an out-fence."""
        return Sync(self, signal=True)


class BindVm:
    """A GPU address space that user space fills: objects are bound into it and jobs submitted to it.

    Addresses, lengths and offsets are bytes, multiples of the page size.
    """

    def __init__(self, world: World, vm: XeBindVm) -> None:
        self.world = world
        self.vm = vm
        self.open = True

    async def create_bo(
        self, length: int, *, placement: str = "vram", external: bool = False, name: str | None = None
    ) -> XeBo:
        """A buffer object, local to this VM unless ``external``."""
        name = name or self.world.core.new_name("bo")
        local = None if external else self.vm
        bo = await XeBo.create(self.vm.device, name, pages_of(length), placement=placement, vm=local)
        self.world.bos.append(bo)
        return bo

    async def bind(
        self,
        addr: int,
        bo: XeBo | None,
        *,
        offset: int = 0,
        length: int | None = None,
        flags: int = 0,
        queue: BindQueue | None = None,
        syncs: Sequence[Sync] = (),
    ) -> None:
        """MAP an object; without one (and with the NULL flag) a null mapping."""
        length = bo.npages * PAGE_SIZE - offset if length is None and bo is not None else length
        await self.bind_array([self.map_op(addr, bo, length or 0, offset, flags)], queue=queue, syncs=syncs)

    async def bind_userptr(
        self,
        addr: int,
        user_addr: int,
        length: int,
        *,
        flags: int = 0,
        queue: BindQueue | None = None,
        syncs: Sequence[Sync] = (),
    ) -> None:
        """MAP memory of the process."""
        op = BindOp(
            BindKind.MAP_USERPTR, pages_of(addr), pages_of(length), offset=pages_of(user_addr), flags=flags
        )
        await self.bind_array([op], queue=queue, syncs=syncs)

    async def unbind(
        self, addr: int, length: int, *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
    ) -> None:
        """UNMAP a range; mappings that reach out of it keep the rest."""
        await self.bind_array([self.unmap_op(addr, length)], queue=queue, syncs=syncs)

    async def unbind_all(self, bo: XeBo, *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()) -> None:
        """UNMAP_ALL: every mapping of one object."""
        await self.bind_array([BindOp(BindKind.UNMAP_ALL, bo=bo)], queue=queue, syncs=syncs)

    async def prefetch(
        self, addr: int, length: int, *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
    ) -> None:
        """PREFETCH: make resident what is mapped there, and write its entries again."""
        await self.bind_array(
            [BindOp(BindKind.PREFETCH, pages_of(addr), pages_of(length))], queue=queue, syncs=syncs
        )

    async def bind_array(
        self, ops: Sequence[BindOp], *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
    ) -> None:
        """Any operations, in order, as one."""
        await vm_bind(self.vm, ops, queue=queue, syncs=syncs)

    @staticmethod
    def map_op(addr: int, bo: XeBo | None, length: int, offset: int = 0, flags: int = 0) -> BindOp:
        """One MAP for :meth:`bind_array`."""
        return BindOp(BindKind.MAP, pages_of(addr), pages_of(length), bo, pages_of(offset), flags)

    @staticmethod
    def unmap_op(addr: int, length: int) -> BindOp:
        """One UNMAP for :meth:`bind_array`."""
        return BindOp(BindKind.UNMAP, pages_of(addr), pages_of(length))

    def bind_queue(self) -> BindQueue:
        """A further bind queue."""
        return self.vm.create_bind_queue()

    def user_fence(self, process: Process, addr: int, value: int) -> UserFence:
        """Memory of the process that gets a value."""
        return UserFence(self.world.core, process.mm, addr, value, self.vm.ufence_wq)

    async def create_queue(self) -> ExecQueue:
        """A queue to submit programs to; in ``lr`` mode one that memory management can preempt."""
        if self.vm.lr:
            return await add_lr_queue(self.vm, self.vm.device)
        return ExecQueue(self.vm, self.vm.device)

    async def submit(
        self,
        queue: ExecQueue,
        program: Iterable[Step],
        ins: Sequence[UserSyncobj] = (),
        outs: Sequence[UserSyncobj] = (),
        *,
        syncs: Sequence[Sync] = (),
    ) -> Execution:
        """Submit a program, to run after ``ins`` and to signal ``outs``; the answer can be waited for."""
        every = [*(one.sync_in() for one in ins), *(one.sync_out() for one in outs), *syncs]
        return await exec_ioctl(queue, tuple(program), every)

    async def run(self, program: Iterable[Instruction]) -> list[Result]:
        """Run a program on the compute engine at once, without a queue and without a fence."""
        return await self.vm.device.gpu.compute.run(self.vm.asid, tuple(program))

    async def load(self, addr: int, length: int = 1) -> bytes | Result:
        """GPU load of bytes inside one page."""
        ((vpn, offset, size),) = pieces(addr, length)
        return (await self.run([Load(vpn, offset, size)]))[-1]

    async def store(self, addr: int, data: bytes) -> Result:
        """GPU store of bytes inside one page."""
        ((vpn, offset, _size),) = pieces(addr, len(data))
        return (await self.run([Store(vpn, offset, data)]))[-1]

    async def close(self) -> None:
        """Destroy the VM; what was submitted completes first."""
        if self.open:
            self.open = False
            await self.vm.close()


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


class World:
    """One machine."""

    def __init__(self, engine: Engine, config: Config | None = None) -> None:
        self.engine = engine
        self.config = config or Config()
        self.allocator = PageAllocator(engine, self.config.ram_pages)
        self.core = CoreMm(engine, self.allocator)
        self.processes: list[Process] = []
        self.vms: list[GpuVm] = []
        self.bind_vms: list[BindVm] = []
        self.bos: list[XeBo] = []
        """Buffer objects made, each with its handle's reference."""
        self.syncobjs: list[UserSyncobj] = []
        self.mirrors: list[Mirror] = []
        self.files: list[FileObject] = []
        self.at_close: list[Callable[[], None]] = []
        """Checks to run once everything is torn down."""
        self.at_rest: list[Callable[[], None]] = []
        """Checks to run when the scenario is done and nothing moves, before teardown."""
        self.hooks: list[Callable[[GpuDevice], None]] = []
        """Called with each GPU as it is built: where planted bugs are installed."""
        self.xe = XeDriver(engine)
        """What all GPUs of the machine share: the migration lock and the owner groups."""
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
            device = self._gpus[index] = GpuDevice(self, index)
            for hook in self.hooks:
                hook(device)
        return self._gpus[index]

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
            device = kind(self.engine, self.core, f"mdevice{index}", index=index)
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
        syncobj = UserSyncobj(self.engine, self.core.new_name("syncobj"), signaled=signaled)
        self.syncobjs.append(syncobj)
        return syncobj

    def mm_of_asid(self, gpu: str, asid: int) -> Mm | None:
        """The address space that a GPU address space mirrors, None when it is gone."""
        for device in self.gpus:
            if device.gpu.name == gpu and asid in device.driver.vms:
                return device.driver.vms[asid].mm
        return None

    def userptr_place(self, gpu: str, asid: int, folio: Folio) -> tuple[Mm, int] | None:
        """Address space and page of a page that a VM of user space's own reached as user memory."""
        for device in self.gpus:
            vm = device.driver.bind_vms.get(asid) if device.gpu.name == gpu else None
            if vm is not None and vm.mm is not None and vm.userptr is not None:
                vpn = vm.userptr.place_of(folio)
                return None if vpn is None else (vm.mm, vpn)
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

    # -- the end -----------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until nothing more happens by itself."""
        await self.engine.quiesce()

    async def close(self) -> None:
        """Close VMs and mirrors, end processes, wait for the last worker, then check what is left."""
        await self.settle()
        for check in self.at_rest:
            check()
        for vm in self.vms:
            await vm.close()
        for bind_vm in self.bind_vms:
            await bind_vm.close()
        for bo in self.bos:
            await bo.put()
        for syncobj in self.syncobjs:
            syncobj.put()
        for mirror in self.mirrors:
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
