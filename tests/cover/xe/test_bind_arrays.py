"""Arrays of bind operations: whatever they cut, write and cut again, the pages that are left lead to what was mapped.

The truth is a list of pages.  After an array the oracles look, memory is taken away, they look again, and the GPU reads
every page.  What is easily lost is which entries were zapped before the array, which it has written since, and what was
at the addresses of a mirror before it.
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

from svm_actors.engine.errors import EBUSY, EINVAL
from svm_actors.gpu.program import GpuFault, Load
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.gem import XeBo
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp

PAGES = 4
Truth = list[tuple[str, int] | None]
"""Per page of the GPU: which page of what it shows."""


@attrs.frozen
class Step:
    """One operation, on pages [first, end); a map and an unmap of everything name what is mapped."""

    kind: str
    first: int = 0
    end: int = PAGES
    what: str = ""

    def apply(self, truth: Truth) -> None:
        """A mirror shows its own pages, anything else what it has from its first page on."""
        if self.kind in ("map", "immediate"):
            shown = self.first if self.what == "mirror" else 0
            truth[self.first : self.end] = [(self.what, shown + i) for i in range(self.end - self.first)]
        elif self.kind == "unmap":
            truth[self.first : self.end] = [None] * (self.end - self.first)
        elif self.kind == "unmap all":
            truth[:] = [None if page is not None and page[0] == self.what else page for page in truth]


Course = Sequence[Sequence[Step] | str]
"""Arrays, and between them ``use`` by the GPU, ``take`` (all memory goes elsewhere) and ``rest``."""
Look = Callable[["Memory", Truth], Awaitable[None]]


class Memory:
    """What a VM can map: two objects, memory of the process, the process itself at its own addresses, and nothing."""

    def __init__(self, world: World, process: Process, vm: Any) -> None:
        self.world = world
        self.process = process
        self.vm = vm
        self.objects: dict[str, XeBo] = {}
        self.user = 0

    @classmethod
    async def create(cls, world: World, process: Process, vm: BindVm) -> Memory:
        """Each page holds its number and whose it is."""
        memory = cls(world, process, vm)
        await process.mmap(PAGES * PAGE, addr=at(0), fixed=True)
        memory.user = await process.mmap(PAGES * PAGE)
        for what in ("local", "shared"):
            memory.objects[what] = await vm.create_bo(PAGES * PAGE, external=what == "shared")
        for page in range(PAGES):
            for what, bo in memory.objects.items():
                await bo.write(page * PAGE, memory.content((what, page)))
            for what, addr in (("user", memory.user), ("mirror", at(0))):
                await process.write(addr + page * PAGE, memory.content((what, page)))
        return memory

    @staticmethod
    def content(shown: tuple[str, int]) -> bytes:
        """Two bytes."""
        what, page = shown
        return bytes(2) if what == "null" else b"%s%d" % (what[:1].encode(), page)

    def op(self, step: Step) -> BindOp:
        """As the ioctl has it."""
        addr, npages = VPN + step.first, step.end - step.first
        flags = BindFlag.IMMEDIATE if step.kind == "immediate" and step.what != "mirror" else BindFlag(0)
        match step.kind, step.what:
            case "unmap all", what:
                return BindOp(BindKind.UNMAP_ALL, bo=self.objects[what])
            case ("unmap" | "prefetch") as kind, _:
                return BindOp(BindKind(kind), addr, npages)
            case _, "user":
                return BindOp(BindKind.MAP_USERPTR, addr, npages, offset=self.user // PAGE, flags=flags)
            case _, "mirror":
                return BindOp(BindKind.MAP_MIRROR, addr, npages)
            case _, "null":
                return BindOp(BindKind.MAP, addr, npages, flags=flags | BindFlag.NULL)
        return BindOp(BindKind.MAP, addr, npages, self.objects[step.what], flags=flags)

    async def bind(self, steps: Sequence[Step], truth: Truth) -> None:
        """All of it, or nothing: mirrored memory that is in use may not be replaced."""
        mirrored = any(page is not None and page[0] == "mirror" for page in truth)
        try:
            await self.vm.bind_array([self.op(step) for step in steps])
        except EBUSY:
            assert mirrored or any(step.what == "mirror" for step in steps)
        else:
            for step in steps:
                step.apply(truth)

    async def take(self) -> None:
        """Objects to system memory, the rest out to swap; what was written stays."""
        await self.world.gpu().evict(2 * PAGES * PAGE)
        for addr in (self.user, at(0)):
            await self.process.madvise(addr, PAGES * PAGE, "pageout")
        assert not any(bo.in_vram for bo in self.objects.values())


async def look_with_faults(memory: Memory, truth: Truth) -> None:
    """Every page by itself; what is not mapped faults for good."""
    for page, shown in enumerate(truth):
        expected = GpuFault(EINVAL().errno) if shown is None else memory.content(shown)
        assert await memory.vm.load(at(page), 2) == expected


async def look_with_a_job(memory: Memory, truth: Truth) -> None:
    """One program over all that is mapped."""
    mapped = [(page, shown) for page, shown in enumerate(truth) if shown is not None]
    queue = await memory.vm.create_queue()
    job = await memory.vm.submit(queue, [Load(VPN + page, 0, 2) for page, _shown in mapped])
    assert await job.wait() == [memory.content(shown) for _page, shown in mapped]


async def follow(memory: Memory, course: Course, look: Look) -> None:
    """Arrays, and what happens between them; then memory is taken away and everything is looked at."""
    truth: Truth = [None] * PAGES
    for part in (*course, "rest", "take", "use"):
        match part:
            case "take":
                await memory.take()
            case "rest":
                await memory.world.settle()
            case "use":
                await memory.world.settle()  # an unbind is through when its fence is
                await look(memory, truth)
            case _:
                await memory.bind(part, truth)  # type: ignore[arg-type]


def attempt(course: Course, *, faulting: bool, seed: int = 0) -> None:
    """One course in a world of its own, where no timer races: a bind may have too little time then, and fail."""

    async def scenario(world: World) -> None:
        process, vm = await (start_fault if faulting else start_bind)(world)
        look = look_with_faults if faulting else look_with_a_job
        await follow(await Memory.create(world, process, vm), course, look)

    run(scenario, "random" if seed else "fifo", 2 * seed)


CUTS = [(0, 1), (1, 2), (3, 4), (0, 2), (1, 3)]


def one_of_each(what: str) -> list[Step]:
    """One operation of each sort, on a mapping of this."""
    return [
        *(Step(kind, *span) for kind in ("unmap", "prefetch") for span in CUTS),
        *(Step(kind, *span, what) for kind in ("map", "immediate") for span in CUTS[1:3]),
        Step("prefetch"),
        *([Step("unmap all", what=what)] if what in ("local", "shared") else []),
    ]


@pytest.mark.parametrize("before", [(), ("use",), ("use", "take")], ids=["untouched", "used", "taken"])
@pytest.mark.parametrize("what", ["local", "shared", "user", "mirror"])
def test_every_array_of_two_under_faults(what: str, before: tuple[str, ...]) -> None:
    for steps in product(one_of_each(what), repeat=2):
        attempt([[Step("map", what=what)], *before, steps], faulting=True)


def test_a_prefetch_of_a_mirror_is_not_undone_by_what_the_mirror_has_replaced() -> None:
    """All of it in one array, on entries of an object, of user memory and of nothing."""
    for what in ("local", "shared", "user", "null"):
        replaced = [Step("map", 1, 3, "mirror"), Step("prefetch", 1, 3)]
        attempt([[Step("immediate", what=what)], "use", replaced], faulting=True)
        attempt([[Step("immediate", what=what), *replaced]], faulting=True)


def courses(*mapped: str) -> st.SearchStrategy[Course]:
    """Any course over these."""
    spans = st.sampled_from([(first, end) for first in range(PAGES) for end in range(first + 1, PAGES + 1)])
    changes = st.builds(lambda kind, span: Step(kind, *span), st.sampled_from(["unmap", "prefetch"]), spans)
    maps = st.builds(
        lambda kind, span, what: Step(kind, *span, what),
        st.sampled_from(["map", "immediate"]), spans, st.sampled_from(mapped),
    )  # fmt: skip
    ends = st.builds(lambda what: Step("unmap all", what=what), st.sampled_from(["local", "shared"]))
    array = st.lists(st.one_of(changes, maps, maps, ends), min_size=1, max_size=4)
    return st.lists(st.one_of(array, array, st.sampled_from(["rest", "take", "use"])), min_size=1, max_size=8)


longer = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@longer
@given(courses("local", "shared", "user", "mirror", "null"), st.integers(0, 3))
def test_any_course_under_faults(course: Course, seed: int) -> None:
    attempt(course, faulting=True, seed=seed)


@longer
@given(courses("local", "shared", "user", "null"), st.integers(0, 3))
def test_any_course_with_jobs(course: Course, seed: int) -> None:
    attempt(course, faulting=False, seed=seed)
