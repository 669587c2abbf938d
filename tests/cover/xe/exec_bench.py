"""A bench for exec tests: a whole world with a VM filled by VM_BIND, every oracle attached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svm_bench import PAGE, Scenario, attempt, every, hit, run

from svm_actors.dma_buf.resv import Usage
from svm_actors.explore.run import Run
from svm_actors.gpu.program import Load, Store
from svm_actors.world import BindVm, World
from svm_actors.xe.exec import Execution, exec_ioctl
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.preempt_fence import add_lr_queue
from svm_actors.xe.sync import Sync

__all__ = ["PAGE", "attempt", "calm", "every", "exec_ioctl", "hit", "run"]

VPN = 0x100
ADDR = VPN * PAGE
SECOND = 1_000_000_000


def read(page: int = 0, length: int = 1) -> Load:
    """Load from the page with this number."""
    return Load(VPN + page, 0, length)


def write(data: bytes, page: int = 0) -> Store:
    """Store to the page with this number."""
    return Store(VPN + page, 0, data)


def calm(scenario: Scenario, schedules: int = 30, **options: Any) -> Iterator[Run]:
    """The schedules in which time moves only when nothing else can."""
    yield run(scenario, **options)
    for seed in range(2, 2 * schedules + 2, 2):
        yield run(scenario, "random", seed, **options)


async def machine(world: World, *, npages: int = 1, **options: Any) -> tuple[BindVm, Any]:
    """A VM with one object bound at ADDR."""
    vm = await world.gpu().create_vm(world.process(), mode="dma_fence")
    bo = await vm.create_bo(npages * PAGE, **options)
    await vm.bind(ADDR, bo)
    return vm, bo


async def lr_machine(world: World, *, npages: int = 1, **options: Any) -> tuple[BindVm, Any]:
    """The same in long-running mode."""
    vm = await world.gpu().create_vm(world.process(), mode="lr")
    bo = await vm.create_bo(npages * PAGE, **options)
    await vm.bind(ADDR, bo)
    await bound(vm)
    return vm, bo


async def bound(vm: BindVm) -> None:
    """Long-running jobs do not wait for binds; user space does, before it submits."""
    await vm.vm.resv_dma.wait(Usage.BOOKKEEP)


def queue_of(vm: BindVm, **options: Any) -> ExecQueue:
    """A queue for jobs with a dma-fence."""
    return ExecQueue(vm.vm, vm.vm.device, **options)


async def lr_queue_of(vm: BindVm) -> ExecQueue:
    """A long-running queue."""
    return await add_lr_queue(vm.vm, vm.vm.device)


async def submit(queue: ExecQueue, *program: Any, syncs: tuple[Sync, ...] = ()) -> Execution:
    """One exec."""
    return await exec_ioctl(queue, program, syncs)
