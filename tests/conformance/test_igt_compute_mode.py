"""Section 8 of the catalogue igt_vm_bind: jobs of a long-running VM, whose fences are in the records they write.

Every section is run in the four shapes.  Scaled down under the random schedules: 8 execs stand for 128, 4 for 64 and
2 queues for 16; under the default schedule the large shapes have their own numbers.  A record has 160 bytes, so
several share a page.
"""

from __future__ import annotations

import attrs
import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, Scenario, hold

from svm_actors.gpu.program import Store
from svm_actors.mm.cpu import pieces
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.sync import Sync

RECORD = 160
DATA = 8
"""Offset in a record, whose first eight bytes are the fence of its exec."""
SECOND = 1_000_000_000
MAGIC = 0xDEADBEEFDEADBEEF


@attrs.frozen
class Section:
    """What is special about it."""

    userptr: bool = False
    early: bool = False
    """A private object, and the queues are there before it is bound."""
    rebind: bool = False
    invalidate: bool = False
    bind_queue: bool = False


SECTIONS = {
    "basic": Section(),
    "preempt-fence-early": Section(early=True),
    "userptr": Section(userptr=True),
    "rebind": Section(rebind=True),
    "userptr-rebind": Section(userptr=True, rebind=True),
    "userptr-invalidate": Section(userptr=True, invalidate=True),
    "bindexecqueue": Section(bind_queue=True),
    "bindexecqueue-userptr": Section(bind_queue=True, userptr=True),
    "bindexecqueue-rebind": Section(bind_queue=True, rebind=True),
}


@attrs.frozen
class Shape:
    """How much of it."""

    execs: int
    queues: int = 1


SHAPES = {"once": Shape(1), "twice": Shape(2), "many": Shape(128), "many-execqueues": Shape(128, 16)}


class Compute:
    """One run of a section."""

    def __init__(self, world: World, section: Section, shape: Shape) -> None:
        self.world = world
        self.section = section
        self.shape = shape
        self.size = -(-shape.execs * RECORD // PAGE) * PAGE
        self.addr = BASE
        """Where the GPU finds the records."""
        self.binds = 0

    async def run(self) -> None:
        """Bind, exec, unbind, check."""
        await self._start()
        for index in range(self.shape.execs):
            await self._exec(index)
            last = index == self.shape.execs - 1
            if self.section.rebind and not last:
                await self._wait(index)
                await self._unbind()
                self.addr += self.size
                await self._bind()
            if self.section.invalidate and not last:
                await self._wait(index)
                await self._check(index)
                await self._new_memory()
        every = range(self.shape.execs)
        for index in [*every][-1:] if self.section.invalidate else every:
            await self._wait(index)
        await self._unbind()
        for index in [*every][-1:] if self.section.invalidate else every:
            await self._check(index)

    async def _start(self) -> None:
        section, world = self.section, self.world
        self.process: Process = world.process()
        self.vm: BindVm = await world.gpu().create_vm(self.process, "lr")
        self.bind_queue: BindQueue | None = self.vm.bind_queue() if section.bind_queue else None
        self.fence = await self.process.mmap(PAGE)
        self.queues: list[ExecQueue] = []
        if section.early:
            await self._create_queues()
        self.memory: XeBo | Process = self.process
        self.at = 0
        """Where the CPU finds the records: in the process, or in the object."""
        if section.userptr:
            self.at = await self.process.mmap(self.size, shared=True)
        else:
            self.memory = await self.vm.create_bo(self.size, external=not section.early)
        await self._bind()
        if not section.early:
            await self._create_queues()

    async def _create_queues(self) -> None:
        self.queues += [await self.vm.create_queue() for _ in range(self.shape.queues)]

    # -- binds --------------------------------------------------------------------------------

    async def _bind(self) -> None:
        syncs = self._bind_fence()
        if isinstance(self.memory, Process):
            await self.vm.bind_userptr(self.addr, self.at, self.size, queue=self.bind_queue, syncs=syncs)
        else:
            await self.vm.bind(self.addr, self.memory, queue=self.bind_queue, syncs=syncs)
        await self._bind_done()

    async def _unbind(self) -> None:
        await self.vm.unbind(self.addr, self.size, queue=self.bind_queue, syncs=self._bind_fence())
        await self._bind_done()

    def _bind_fence(self) -> list[Sync]:
        self.binds += 1
        return [Sync(user_fence=self.vm.user_fence(self.process, self.fence, self.binds), signal=True)]

    async def _bind_done(self) -> None:
        await self.vm.wait_user_fence(self.process, self.fence, "eq", self.binds, timeout=SECOND)

    # -- jobs ---------------------------------------------------------------------------------

    async def _exec(self, index: int) -> None:
        addr = self.addr + index * RECORD
        ((page, offset, _size),) = pieces(addr + DATA, 4)
        fence = Sync(user_fence=self.vm.user_fence(self.process, addr, MAGIC), signal=True)
        queue = self.queues[index % len(self.queues)]
        await self.vm.submit(queue, [Store(page, offset, value_of(index))], syncs=[fence])

    async def _wait(self, index: int) -> None:
        queue = self.queues[index % len(self.queues)]
        at = self.at + index * RECORD
        await self.vm.wait_user_fence(self.memory, at, "eq", MAGIC, timeout=SECOND, queue=queue)

    async def _check(self, index: int) -> None:
        found = await self.memory.read(self.at + index * RECORD + DATA, 4)
        assert found == value_of(index), f"record {index}"

    async def _new_memory(self) -> None:
        """At the same address, of which the GPU learns through the notifier."""
        await self.process.mmap(self.size, addr=self.at, fixed=True, shared=True)


def value_of(index: int) -> bytes:
    """What exec number ``index`` writes."""
    return (index * 2654435761 % (1 << 32) | 1).to_bytes(4, "little")


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", SECTIONS)
def test_compute_mode(name: str, size: str) -> None:
    section, shape = SECTIONS[name], SHAPES[size]
    if section.rebind or section.invalidate:
        shape = attrs.evolve(shape, execs=min(shape.execs, 64))
    small = attrs.evolve(shape, execs=-(-shape.execs // 16), queues=-(-shape.queues // 8)) if shape.execs > 2 else shape

    def scenario_of(shape: Shape) -> Scenario:
        async def scenario(world: World) -> None:
            await Compute(world, section, shape).run()

        return scenario

    runs = hold(scenario_of(small))
    if shape != small:
        hold(scenario_of(shape), schedules=0)
    if section.invalidate and shape.execs > 1:
        assert all(run.counters["exec.preempted"] and run.counters["userptr.invalidate"] for run in runs)


for _number, _name in enumerate(SECTIONS, 1):
    case(SUITE, f"P{_number}", f"xe_exec_compute_mode {_name}: once, twice, many, many-execqueues")(test_compute_mode)
