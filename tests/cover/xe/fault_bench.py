"""A bench for VMs in fault mode that user space fills: where things are mapped, and what is bound there."""

from __future__ import annotations

from typing import Any

from bind_bench import at
from svm_bench import PAGE, VPN

from svm_actors.world import FaultVm, Process, World
from svm_actors.xe.gem import XeBo
from svm_actors.xe.sync import Sync

MIRROR, OBJECT, USER = 0, 512, 1024
"""Pages from BASE on at which tests put mirrored memory, objects and user memory: a page-table node for each."""


async def start_fault(world: World, **options: Any) -> tuple[Process, FaultVm]:
    """A process and an empty VM."""
    process = world.process()
    return process, await world.gpu().create_vm(process, "fault", mirror=False, **options)


async def with_object(world: World, npages: int = 2, **options: Any) -> tuple[Process, FaultVm, XeBo]:
    """With an object, bound and not touched yet."""
    process, vm = await start_fault(world)
    bo = await vm.create_bo(npages * PAGE, **options)
    await vm.bind(at(OBJECT), bo)
    return process, vm, bo


async def with_user_memory(world: World, npages: int = 2, **options: Any) -> tuple[Process, FaultVm, int]:
    """With user memory, bound and not touched yet; answers its address in the process."""
    process, vm = await start_fault(world)
    addr = await process.mmap(npages * PAGE, **options)
    await vm.bind_userptr(at(USER), addr, npages * PAGE)
    return process, vm, addr


async def with_mirror(world: World, npages: int = 4, **options: Any) -> tuple[Process, FaultVm]:
    """With memory of the process, mirrored and not touched yet."""
    process, vm = await start_fault(world)
    await process.mmap(npages * PAGE, addr=at(MIRROR), fixed=True)
    await vm.bind_mirror(at(MIRROR), npages * PAGE, **options)
    return process, vm


def entries(vm: FaultVm, first: int, npages: int) -> str:
    """One letter per page: ``w`` writable, ``r`` read-only, ``-`` nothing."""
    ptes = [vm.vm.page_table.get(VPN + first + index) for index in range(npages)]
    return "".join("-" if pte is None else "w" if pte.writable else "r" for pte in ptes)


def spans(vm: FaultVm) -> list[tuple[int, int, str]]:
    """Mappings: first page, one past the last, kind."""
    return [(vma.addr - VPN, vma.end - VPN, kind_of(vma)) for vma in vm.vm.vmas()]


def kind_of(vma: Any) -> str:
    """What is behind a vma."""
    if vma.mirror is not None:
        return "mirror"
    return "user" if vma.userptr is not None else "null" if vma.bo is None else vma.bo.name


class Signals:
    """User fences in memory of the process, for binds."""

    def __init__(self, vm: FaultVm, process: Process, addr: int) -> None:
        self.vm = vm
        self.process = process
        self.addr = addr
        self.count = 0

    @classmethod
    async def start(cls, vm: FaultVm, process: Process) -> Signals:
        """With a page for them."""
        return cls(vm, process, await process.mmap(PAGE))

    def next(self) -> list[Sync]:
        """The syncs of one bind."""
        self.count += 1
        return [Sync(user_fence=self.vm.user_fence(self.process, self.addr, self.count), signal=True)]

    async def wait(self) -> None:
        """Until that bind is through."""
        await self.vm.wait_user_fence(self.process, self.addr, "eq", self.count, timeout=-1)
