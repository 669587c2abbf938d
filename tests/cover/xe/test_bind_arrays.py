"""Arrays of bind operations: whatever they cut, write and cut again, the pages that are left lead to what was mapped.

The truth is a list of four pages.  After an array the oracles look, memory is taken away, they look again, and the GPU
reads every page.  What is easily lost is which entries were zapped before the array, and which it has written since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from typing import Any

import attrs
import pytest
from bind_bench import at, start_bind
from fault_bench import start_fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from svm_bench import PAGE, VPN, run

from svm_actors.engine.errors import EINVAL
from svm_actors.gpu.program import GpuFault, Load
from svm_actors.world import BindVm, FaultVm, Process, World
from svm_actors.xe.gem import XeBo
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp

PAGES = 4
Truth = list[int | None]
"""Per page of the GPU: the page of the backing that it shows."""


@attrs.frozen
class Step:
    """One operation: on pages [first, end), and what it does to the truth."""

    kind: str
    first: int = 0
    end: int = PAGES

    def apply(self, truth: Truth) -> None:
        """A mapping shows the backing in its own order, from its first page on."""
        if self.kind in ("map", "immediate"):
            truth[self.first : self.end] = range(self.end - self.first)
        elif self.kind != "prefetch":
            truth[self.first : self.end] = [None] * (self.end - self.first)


CUTS = [(0, 1), (1, 2), (3, 4), (0, 2), (1, 3)]
STEPS = [
    *(Step(kind, *span) for kind in ("unmap", "prefetch") for span in CUTS),
    *(Step(kind, *span) for kind in ("map", "immediate") for span in CUTS[1:3]),
    Step("prefetch"),
    Step("unmap all"),
]
"""One of each sort."""
Course = Sequence[Sequence[Step] | str]
"""Arrays, and between them ``use`` by the GPU, ``take`` (the memory goes elsewhere) and ``rest``."""


class Backing:
    """An object of the VM's own, or one that others may share."""

    def __init__(self, world: World, vm: BindVm, bo: XeBo) -> None:
        self.world = world
        self.vm = vm
        self.bo = bo

    @classmethod
    async def create(cls, world: World, process: Process, vm: BindVm, *, external: bool = False) -> Backing:
        """With its number in each page."""
        bo = await vm.create_bo(PAGES * PAGE, external=external)
        for page in range(PAGES):
            await bo.write(page * PAGE, b"%d" % page)
        return cls(world, vm, bo)

    def op(self, step: Step) -> BindOp:
        """The step as the ioctl has it."""
        addr, npages = VPN + step.first, step.end - step.first
        match step.kind:
            case "unmap all":
                return BindOp(BindKind.UNMAP_ALL, bo=self.bo)
            case "unmap":
                return BindOp(BindKind.UNMAP, addr, npages)
            case "prefetch":
                return BindOp(BindKind.PREFETCH, addr, npages)
        return self.map(addr, npages, BindFlag.IMMEDIATE if step.kind == "immediate" else 0)

    def map(self, addr: int, npages: int, flags: int) -> BindOp:
        """From its first page on."""
        return BindOp(BindKind.MAP, addr, npages, self.bo, flags=flags)

    async def take(self) -> None:
        """Its memory goes elsewhere, and what was written stays."""
        await self.world.gpu().evict(PAGES * PAGE)
        assert not self.bo.in_vram


class UserMemory(Backing):
    """Memory of the process."""

    def __init__(self, world: World, vm: BindVm, process: Process, addr: int) -> None:
        self.world = world
        self.vm = vm
        self.process = process
        self.addr = addr

    @classmethod
    async def create(cls, world: World, process: Process, vm: BindVm, *, external: bool = False) -> UserMemory:
        """With its number in each page."""
        addr = await process.mmap(PAGES * PAGE)
        for page in range(PAGES):
            await process.write(addr + page * PAGE, b"%d" % page)
        return cls(world, vm, process, addr)

    def map(self, addr: int, npages: int, flags: int) -> BindOp:
        """From its first page on."""
        return BindOp(BindKind.MAP_USERPTR, addr, npages, offset=self.addr // PAGE, flags=flags)

    async def take(self) -> None:
        """Out to swap."""
        await self.process.madvise(self.addr, PAGES * PAGE, "pageout")


Make = Callable[[World, Process, BindVm], Awaitable[Backing]]
Look = Callable[[Any, Truth], Awaitable[None]]


async def look_with_faults(vm: FaultVm, truth: Truth) -> None:
    """Every page by itself; what is not mapped faults for good."""
    for page, shown in enumerate(truth):
        expected = GpuFault(EINVAL().errno) if shown is None else b"%d" % shown
        assert await vm.load(at(page)) == expected


async def look_with_a_job(vm: BindVm, truth: Truth) -> None:
    """One program over all that is mapped."""
    queue = await vm.create_queue()
    mapped = [(page, shown) for page, shown in enumerate(truth) if shown is not None]
    job = await vm.submit(queue, [Load(VPN + page, 0, 1) for page, _shown in mapped])
    assert await job.wait() == [b"%d" % shown for _page, shown in mapped]


async def follow(world: World, backing: Backing, course: Course, look: Look) -> None:
    """Arrays, and what happens between them; then memory is taken away and everything is looked at."""
    truth: Truth = [None] * PAGES
    for part in (*course, "rest", "take", "use"):
        match part:
            case "take":
                await backing.take()
            case "rest":
                await world.settle()
            case "use":
                await world.settle()  # an unbind is through when its fence is
                await look(backing.vm, truth)
            case _:
                await backing.vm.bind_array([backing.op(step) for step in part])
                for step in part:
                    step.apply(truth)


def attempt(backing: Make, course: Course, *, faulting: bool = True) -> None:
    """One course in a world of its own."""

    async def scenario(world: World) -> None:
        process, vm = await (start_fault if faulting else start_bind)(world)
        look = look_with_faults if faulting else look_with_a_job
        await follow(world, await backing(world, process, vm), course, look)

    run(scenario)


def shared(world: World, process: Process, vm: BindVm) -> Awaitable[Backing]:
    """An object that other VMs could map."""
    return Backing.create(world, process, vm, external=True)


BACKINGS: dict[str, Make] = {"local": Backing.create, "shared": shared, "user": UserMemory.create}


def fits(backing: str, steps: Sequence[Step]) -> bool:
    """User memory has no object whose mappings could all go."""
    return backing != "user" or all(step.kind != "unmap all" for step in steps)


@pytest.mark.parametrize("before", [(), ("use",), ("use", "take")], ids=["untouched", "used", "taken"])
@pytest.mark.parametrize("backing", BACKINGS)
def test_every_array_of_two_under_faults(backing: str, before: tuple[str, ...]) -> None:
    for steps in product(STEPS, repeat=2):
        if fits(backing, steps):
            attempt(BACKINGS[backing], [[Step("map")], *before, steps])


SPANS = st.sampled_from([(first, end) for first in range(PAGES) for end in range(first + 1, PAGES + 1)])
ANY_STEP = st.one_of(
    st.builds(lambda kind, span: Step(kind, *span), st.sampled_from(["unmap", "prefetch", "map", "immediate"]), SPANS),
    st.just(Step("unmap all")),
)
ANY_COURSE = st.lists(
    st.one_of(st.lists(ANY_STEP, min_size=1, max_size=4), st.sampled_from(["rest", "take", "use"])),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(list(BACKINGS)), ANY_COURSE, st.booleans())
def test_any_course(backing: str, course: list[list[Step] | str], faulting: bool) -> None:
    steps = [step for part in course if not isinstance(part, str) for step in part]
    if fits(backing, steps):
        attempt(BACKINGS[backing], course, faulting=faulting)
