"""Section 7 of the catalogue igt_vm_bind: more buffer objects than there is VRAM for.

Scaled down: an object of 1/128 of the VRAM is one page of four, with as many fewer of them that their total stays
the same multiple of the VRAM; 1/4 is two pages of eight, and 3/32 is 3/16.  Page tables take no VRAM in the model, so
where it is they that make the original exceed the VRAM the objects are half as many again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, hold

from svm_actors.engine.locks import WaitQueue
from svm_actors.gpu.program import Store
from svm_actors.world import BindVm, UserSyncobj, World
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.sync import Sync

RECORD = 160
DATA = 8
"""Offset in a record, whose first eight bytes are the fence of its exec."""
LIMIT = 20_000_000_000


@attrs.frozen
class Shape:
    """Parameters of a case."""

    queues: int
    execs: int
    npages: int
    """Of one object."""
    external: bool = False
    vms: int = 1
    """Two: the queues take turns."""
    vram_only: bool = False
    bind_queue: bool = False
    lr: bool = False
    threads: int = 1
    vram: int = 4
    """Pages of VRAM."""


SMALL, LARGE = Shape(4, 14, 1), Shape(4, 16, 2, vram=8)
MULTI = Shape(4, 12, 1, vms=2, vram_only=True, external=True)
THREADS = Shape(2, 6, 1, vram_only=True, threads=2)

SHAPES = {
    "small": SMALL,
    "small-external": attrs.evolve(SMALL, external=True),
    "large": LARGE,
    "large-external": attrs.evolve(LARGE, external=True),
    "small-multi-vm": MULTI,
    "beng-small": attrs.evolve(SMALL, bind_queue=True),
    "beng-small-external": attrs.evolve(SMALL, bind_queue=True, external=True),
    "beng-large": attrs.evolve(LARGE, bind_queue=True),
    "small-cm": attrs.evolve(SMALL, lr=True),
    "small-external-cm": attrs.evolve(SMALL, lr=True, external=True),
    "small-multi-vm-cm": attrs.evolve(MULTI, lr=True),
    "large-cm": attrs.evolve(LARGE, lr=True),
    "beng-small-cm": attrs.evolve(SMALL, lr=True, bind_queue=True),
    "threads-small": THREADS,
    "cm-threads-small": attrs.evolve(THREADS, lr=True),
    "threads-large": Shape(2, 8, 3, vram_only=True, threads=2, vram=16),
    "beng-threads-small": attrs.evolve(THREADS, bind_queue=True),
}


class Client:
    """One thread: its own VMs, queues and objects."""

    def __init__(self, world: World, shape: Shape) -> None:
        self.world = world
        self.shape = shape
        self.vms: list[BindVm] = []
        self.bind_queues: list[BindQueue | None] = []
        self.queues: list[ExecQueue] = []
        self.bos: list[XeBo] = []
        self.bound: list[UserSyncobj] = []
        """Of each object, for jobs to wait for; none in long-running mode, where the thread itself waits."""
        self.process = world.process()
        self.fence = 0
        """Address of the user fence of the binds."""

    async def start(self) -> None:
        """VMs and queues; of several VMs the last one never executes, and long-running mode has none such."""
        shape, gpu = self.shape, self.world.gpu()
        mode: Any = "lr" if shape.lr else "dma_fence"
        for _ in range(shape.vms + (shape.vms > 1 and not shape.lr)):
            vm = await gpu.create_vm(self.process, mode)
            self.vms.append(vm)
            self.bind_queues.append(vm.bind_queue() if shape.bind_queue else None)
        for index in range(shape.queues):
            self.queues.append(await self.vms[index % shape.vms].create_queue())
        self.fence = await self.process.mmap(PAGE)

    async def run(self, between: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Fill, wait for the others, use everything again, check."""
        half = self.shape.execs // 2
        done: list[UserSyncobj] = []
        for index in range(half):
            await self._add_bo(index)
            done.append(await self._exec(index))
        await between()
        done += [await self._exec(index) for index in range(half, 2 * half)]
        await self._wait(done)
        for index in range(2 * half):
            found = await self.bos[index % half].read(self._record(index) + DATA, 4)
            assert found == value_of(index), f"record {index}"

    # -- objects ----------------------------------------------------------------------------

    async def _add_bo(self, index: int) -> None:
        shape = self.shape
        vm = self.vms[index % shape.vms]
        external = shape.vms > 1 or (shape.external and index < -(-shape.execs // 8))
        placement = "vram" if shape.vram_only else "vram_or_system"
        bo = await vm.create_bo(shape.npages * PAGE, placement=placement, external=external)
        self.bos.append(bo)
        for idle in range(shape.vms, len(self.vms)):
            await self._bind(idle, index, bo)
        bound = await self._bind(index % shape.vms, index, bo)
        if bound is not None:
            self.bound.append(bound)

    async def _bind(self, number: int, index: int, bo: XeBo) -> UserSyncobj | None:
        vm, queue = self.vms[number], self.bind_queues[number]
        if not self.shape.lr:
            out = self.world.syncobj()
            await vm.bind(self._addr(index), bo, queue=queue, syncs=[out.sync_out()])
            return out
        fence = Sync(user_fence=vm.user_fence(self.process, self.fence, index + 1), signal=True)
        await vm.bind(self._addr(index), bo, queue=queue, syncs=[fence])
        await vm.wait_user_fence(self.process, self.fence, "eq", index + 1, timeout=LIMIT)
        return None

    def _addr(self, index: int) -> int:
        return BASE + index * self.shape.npages * PAGE

    # -- jobs ---------------------------------------------------------------------------------

    def _record(self, index: int) -> int:
        """Offset in its object."""
        return index // (self.shape.execs // 2) * RECORD

    async def _exec(self, index: int) -> UserSyncobj:
        bo = index % (self.shape.execs // 2)
        number = index % len(self.queues)
        vm, queue = self.vms[number % self.shape.vms], self.queues[number]
        addr = self._addr(bo) + self._record(index)
        program = [Store(addr // PAGE, addr % PAGE + DATA, value_of(index))]
        out = self.world.syncobj()
        if self.shape.lr:
            fence = vm.user_fence(self.process, addr, index + 1)
            await vm.submit(queue, program, syncs=[Sync(user_fence=fence, signal=True)])
        else:
            await vm.submit(queue, program, [self.bound[bo]], [out])
        return out

    async def _wait(self, done: list[UserSyncobj]) -> None:
        for index, out in enumerate(done):
            if self.shape.lr:
                vm, bo = self.vms[index % self.shape.vms], self.bos[index % len(self.bos)]
                await vm.wait_user_fence(bo, self._record(index), "eq", index + 1, timeout=LIMIT)
            else:
                await out.wait()
                assert out.fence is not None
                assert out.fence.error is None


class Barrier:
    """Everybody waits for everybody."""

    def __init__(self, world: World, count: int) -> None:
        self.missing = count
        self.queue = WaitQueue(world.engine, "barrier")

    async def wait(self) -> None:
        """pthread_barrier_wait."""
        self.missing -= 1
        self.queue.wake_up()
        await self.queue.wait_event(lambda: not self.missing)


def value_of(index: int) -> bytes:
    """What exec number ``index`` writes."""
    return (index * 2654435761 % (1 << 32) | 1).to_bytes(4, "little")


@pytest.mark.parametrize("name", SHAPES)
def test_evict(name: str) -> None:
    shape = SHAPES[name]

    async def scenario(world: World) -> None:
        barrier = Barrier(world, shape.threads)
        clients = [Client(world, shape) for _ in range(shape.threads)]
        async with world.nursery() as nursery:
            for client in clients:
                await client.start()
                nursery.start_soon(client.run, barrier.wait)

    for run in hold(scenario, vram_pages=shape.vram):
        assert run.counters["bo.evict"], "nothing had to go"
        assert "vm.killed" not in run.counters


for _number, _name in enumerate(SHAPES, 1):
    case(SUITE, f"E{_number}", f"evict-{_name}")(test_evict)
