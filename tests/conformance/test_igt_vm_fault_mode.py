"""Section 9 of the catalogue igt_vm_bind: long-running jobs on a VM with page faults.

A section is a buffer (an object or user memory), how it is bound, and what happens between two jobs.  Its shapes
say how many jobs on how many queues.  Every bind signals a user fence, and so does every job: those of the jobs lie
in a second region of user memory at a GPU address of its own, so writing one is a fault like any other.

Scaled: 128 jobs on 16 queues are 6 on 3, with 8 records to a page.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import attrs
import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, Scenario, hold

from svm_actors.engine.errors import EIO
from svm_actors.gpu.program import Store
from svm_actors.world import FaultVm, World
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.sync import Sync
from svm_actors.xe.vm_bind import BindFlag

RECORD = 512
"""Bytes of a record: its data, and what stands for the batch."""
FENCES = BASE + (1 << 28)
"""GPU address of the fences of jobs."""
MMAPPED = BASE + (1 << 29)
"""Where a buffer lies that is mapped anew."""
INVALID_VA = 0x1FFFFFFFFFFF000


@attrs.frozen
class Section:
    """One of the 24."""

    kind: str
    """``basic``, ``userptr``, ``rebind``, ``userptr-rebind`` or ``userptr-invalidate``."""
    bind_queue: bool
    """Binds go through a queue of the user."""
    variant: str
    """Nothing, ``-prefetch`` or ``-imm``."""

    @property
    def name(self) -> str:
        """As upstream spells it."""
        kind = f"bindexecqueue-{self.kind}".removesuffix("-basic") if self.bind_queue else self.kind
        return kind + self.variant

    @property
    def userptr(self) -> bool:
        """The buffer is memory of the process."""
        return self.kind.startswith("userptr")

    @property
    def rebind(self) -> bool:
        """Between two jobs the buffer is bound elsewhere."""
        return self.kind.endswith("rebind")

    @property
    def invalidate(self) -> bool:
        """Between two jobs new memory is mapped there."""
        return self.kind.endswith("invalidate")

    @property
    def prefetch(self) -> bool:
        """A PREFETCH to system memory comes first."""
        return self.variant == "-prefetch"

    @property
    def immediate(self) -> bool:
        """Binds write entries at once."""
        return self.variant == "-imm"


def sections() -> list[Section]:
    """As the catalogue counts them."""
    kinds = ("basic", "userptr", "rebind", "userptr-rebind", "userptr-invalidate")
    both = (False, True)
    return [
        *(Section(kind, queue, variant) for variant, queue, kind in product(("", "-prefetch"), both, kinds)),
        *(Section(kind, queue, "-imm") for queue, kind in product(both, ("basic", "userptr"))),
    ]


SECTIONS = sections()
SHAPES = {"once": (1, 1), "twice": (2, 1), "many": (6, 1), "many-execqueues": (6, 3)}
"""Jobs and queues."""


class FaultBench:
    """One run of one section."""

    def __init__(self, world: World, section: Section, vm: FaultVm, process: Any) -> None:
        self.world = world
        self.section = section
        self.vm = vm
        self.process = process
        self.queue: BindQueue | None = vm.bind_queue() if section.bind_queue else None
        self.queues: list[ExecQueue] = []
        self.addr = BASE
        """GPU address of the buffer."""
        self.user_addr = 0
        """Address of user memory in the process."""
        self.bo: XeBo | None = None
        self.sync_addr = 0
        """Where binds signal."""
        self.fence_addr = 0
        """Where jobs signal, as the process sees it."""
        self.bound = 0

    @classmethod
    async def start(cls, world: World, section: Section, queues: int) -> FaultBench:
        """VM, queues, both regions."""
        process = world.process()
        bench = cls(world, section, await world.gpu().create_vm(process, "fault", mirror=False), process)
        bench.queues = [await bench.vm.create_queue() for _ in range(queues)]
        bench.sync_addr = await process.mmap(PAGE)
        bench.fence_addr = await process.mmap(PAGE)
        await bench.make_buffer()
        flags = BindFlag.IMMEDIATE if section.immediate else 0
        await bench.vm.bind_userptr(
            FENCES, bench.fence_addr, PAGE, flags=flags, queue=bench.queue, syncs=[bench.bind_sync()]
        )
        await bench.bind_done()
        await bench.bind()
        return bench

    async def make_buffer(self) -> None:
        """An object, or user memory; what is mapped anew is a shared mapping at a fixed address."""
        if self.section.invalidate:
            self.user_addr = await self.process.mmap(PAGE, addr=MMAPPED, fixed=True, shared=True)
        elif self.section.userptr:
            self.user_addr = await self.process.mmap(PAGE)
        else:
            placement = "vram_or_system" if self.section.prefetch else "vram"
            self.bo = await self.vm.create_bo(PAGE, placement=placement)

    # -- binds -----------------------------------------------------------------------------

    def bind_sync(self) -> Sync:
        """The fence of the next bind."""
        self.bound += 1
        return Sync(user_fence=self.vm.user_fence(self.process, self.sync_addr, self.bound), signal=True)

    async def bind_done(self) -> None:
        """Wait for it."""
        await self.vm.wait_user_fence(self.process, self.sync_addr, "eq", self.bound)

    async def bind(self) -> None:
        """The buffer at the current address; entries as the section says."""
        flags = BindFlag.IMMEDIATE if self.section.immediate else 0
        syncs = [self.bind_sync()]
        if self.bo is not None:
            await self.vm.bind(self.addr, self.bo, flags=flags, queue=self.queue, syncs=syncs)
        else:
            await self.vm.bind_userptr(
                self.addr, self.user_addr, PAGE, flags=flags, queue=self.queue, syncs=syncs
            )
        await self.bind_done()
        assert self.has_entry() == self.section.immediate
        if self.section.prefetch:
            await self.prefetch()

    async def prefetch(self) -> None:
        """To system memory, with a fence of its own."""
        await self.vm.prefetch(self.addr, PAGE, region="system", queue=self.queue, syncs=[self.bind_sync()])
        await self.bind_done()
        assert self.has_entry()
        assert self.bo is None or not self.bo.in_vram

    async def move(self) -> None:
        """Unbind without a fence, bind at the next address: the queue keeps the order."""
        await self.vm.unbind(self.addr, PAGE, queue=self.queue)
        self.addr += PAGE
        await self.bind()

    async def unbind(self) -> None:
        """With a fence."""
        await self.vm.unbind(self.addr, PAGE, queue=self.queue, syncs=[self.bind_sync()])
        await self.bind_done()

    def has_entry(self) -> bool:
        """The buffer's page table entry is there."""
        return self.vm.vm.page_table.get(self.addr // PAGE) is not None

    # -- jobs ------------------------------------------------------------------------------

    async def job(self, index: int) -> None:
        """Store the value of a record, then signal."""
        place = self.addr + index * RECORD
        fence = self.vm.user_fence(self.process, FENCES + 8 * index, index + 1)
        program = [Store(place // PAGE, place % PAGE, value_of(index))]
        await self.vm.submit(self.queue_of(index), program, syncs=[Sync(user_fence=fence, signal=True)])

    def queue_of(self, index: int) -> ExecQueue:
        """Round robin."""
        return self.queues[index % len(self.queues)]

    async def job_done(self, index: int) -> None:
        """Wait for its fence; its queue must live."""
        await self.vm.wait_user_fence(
            self.process, self.fence_addr + 8 * index, "eq", index + 1, queue=self.queue_of(index)
        )

    async def check(self, index: int) -> None:
        """The CPU finds the value."""
        place = index * RECORD
        memory = self.process if self.bo is None else self.bo
        assert await memory.read(place if self.bo is not None else self.user_addr + place, 4) == value_of(index)

    async def remap(self) -> None:
        """New memory at the same address: a notifier, and a fault at the next access."""
        await self.process.mmap(PAGE, addr=MMAPPED, fixed=True, shared=True)

    async def run(self, jobs: int) -> None:
        """The loop and the end."""
        section = self.section
        for index in range(jobs):
            await self.job(index)
            last = index + 1 == jobs
            if section.invalidate:
                await self.job_done(index)
                await self.check(index)
                if not last:
                    await self.remap()
                    assert not self.has_entry()
            elif section.rebind and not last:
                await self.job_done(index)
                await self.move()
        for index in range(jobs):
            await self.job_done(index)
        await self.unbind()
        for index in range(jobs):
            if not section.invalidate or index == jobs - 1:
                await self.check(index)


def value_of(index: int) -> bytes:
    """What a job writes."""
    return (0xC0FFEE + index).to_bytes(4, "little")


async def run_section(world: World, section: Section, shape: str) -> None:
    """One section in one shape."""
    jobs, queues = SHAPES[shape]
    bench = await FaultBench.start(world, section, queues)
    await bench.run(jobs)
    await world.settle()
    if section.immediate:
        assert world.gpu().gpu.fault_queue.statistics()["faults"] == 0
    assert [vma.addr for vma in bench.vm.vm.vmas()] == [FENCES // PAGE]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_fault_mode(section: Section) -> None:
    """Every shape under the default schedule; each random schedule draws its shape."""

    def given(shape: str) -> Scenario:
        async def scenario(world: World) -> None:
            await run_section(world, section, shape)

        return scenario

    async def drawn(world: World) -> None:
        await run_section(world, section, [*SHAPES][world.choose(len(SHAPES), "shape")])

    for shape in SHAPES:
        hold(given(shape), 0)
    hold(drawn)


for _number, _section in enumerate(SECTIONS, 1):
    case(SUITE, f"F{_number}", f"*-{_section.name}")(test_fault_mode)


@case(SUITE, "F25", "invalid-va")
def test_invalid_va() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, "fault", mirror=False)
        queue, addr = await vm.create_queue(), await process.mmap(PAGE)
        await vm.bind_userptr(FENCES, addr, PAGE)
        fence = vm.user_fence(process, FENCES, 1)
        await vm.submit(queue, [Store(INVALID_VA // PAGE, 0, b"x")], syncs=[Sync(user_fence=fence, signal=True)])
        with pytest.raises(EIO):
            await vm.wait_user_fence(process, addr, "eq", 1, queue=queue)
        assert queue.dead
        assert await process.read(addr, 8) == bytes(8)
        assert vm.vm.faults == [(INVALID_VA // PAGE, "EINVAL")]

    hold(scenario)


def test_the_sections_are_those_of_the_catalogue() -> None:
    assert (len(SECTIONS), len({section.name for section in SECTIONS})) == (24, 24)
