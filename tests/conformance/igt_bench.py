"""The bench of the catalogue igt_vm_bind: a VM, a queue, store jobs; and how a case is run.

Store jobs run on exec queues; every run has all oracles, which also count what is left over after the VM
was closed: mappings, objects, page tables, fences.  Sizes are scaled down to what still has the case's shape:
a large page is 512 pages, a unit of 1M one page.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from cases import note_schedules

from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_world
from svm_actors.gpu.program import Store
from svm_actors.world import BindVm, Config, UserSyncobj, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo

SUITE = "igt_vm_bind"
PAGE = 4096
BASE = 1 << 30
SCHEDULES = 50

Scenario = Callable[[World], Coroutine[Any, Any, None]]


def hold(scenario: Scenario, schedules: int = SCHEDULES, **config: Any) -> list[Run]:
    """The default schedule and random ones, with every oracle and the leak count; answers the runs."""
    runs = [hold_once(scenario, seed, **config) for seed in range(schedules + 1)]
    note_schedules(schedules)
    return runs


def hold_once(scenario: Scenario, seed: int, **config: Any) -> Run:
    """One schedule: the default one for seed 0, else a random one."""
    strategy = "random" if seed else "fifo"
    result = run_world(scenario, seed=seed, strategy=strategy, config=Config(**config), backend="direct", digest=False)
    assert result.failure is None, f"{strategy} {seed}: {result.failure}"
    return result


class Bench:
    """A VM, an exec queue and the fence of the last job."""

    def __init__(self, world: World, vm: BindVm, queue: ExecQueue, process: Any) -> None:
        self.world = world
        self.vm = vm
        self.queue = queue
        self.process = process
        self.last: UserSyncobj | None = None

    @classmethod
    async def start(cls, world: World) -> Bench:
        """In dma-fence mode."""
        process = world.process()
        vm = await world.gpu().create_vm(process, "dma_fence")
        return cls(world, vm, await vm.create_queue(), process)

    async def bind(self, addr: int, bo: XeBo, **options: Any) -> UserSyncobj:
        """MAP; answers its out-fence."""
        out = self.world.syncobj()
        await self.vm.bind(addr, bo, syncs=[out.sync_out()], **options)
        return out

    async def bind_user(self, addr: int, length: int) -> UserSyncobj:
        """MAP of the process's memory at the same address."""
        out = self.world.syncobj()
        await self.vm.bind_userptr(addr, addr, length, syncs=[out.sync_out()])
        return out

    async def unbind(self, addr: int, length: int) -> UserSyncobj:
        """UNMAP after the last job; answers its out-fence."""
        out = self.world.syncobj()
        ins = [] if self.last is None else [self.last.sync_in()]
        await self.vm.unbind(addr, length, syncs=[*ins, out.sync_out()])
        return out

    async def job(
        self, addr: int, data: bytes, *ins: UserSyncobj, queue: ExecQueue | None = None
    ) -> UserSyncobj:
        """A store job; answers its out-fence."""
        out = self.last = self.world.syncobj()
        program = [Store(addr // PAGE, addr % PAGE, data)]
        await self.vm.submit(queue or self.queue, program, list(ins), [out])
        return out

    def nodes(self) -> int:
        """Page-table memory in use."""
        return self.vm.vm.pt_tree.statistics()["nodes"]

    def mappings(self) -> int:
        """Vmas in the tree."""
        return len(self.vm.vm.vmas())


def value_of(addr: int) -> bytes:
    """What a job writes: derived from the address, never zero."""
    return (addr // PAGE * 2654435761 % (1 << 32) | 1).to_bytes(4, "little")
