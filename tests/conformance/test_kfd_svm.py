"""Cases K1 to K6 of the catalogue kfd_svm: ranges of a process's memory, registered, split and unmapped.

XNACK on is a VM in fault mode.  XNACK off, where memory is mapped as long as queues run and a notifier stops them,
is a long-running VM with user memory bound: preempt fences, and a worker that binds again.  Such memory does not
migrate, so the cases that move pages to VRAM have one mode here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import pytest
from cases import case, not_applicable
from igt_bench import BASE, PAGE, SCHEDULES, Scenario, hold
from kfd_bench import SUITE, Svm, vram_in_use, word, words

from svm_actors.engine.errors import EBUSY, EFAULT, EINVAL
from svm_actors.gpu.program import GpuFault, Load, Store
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.sync import Sync

not_applicable(
    SUITE,
    "K",
    "the SVM cases that move pages to VRAM, with XNACK off",
    "memory of a process migrates only in a VM with page faults: CPU_ADDR_MIRROR asks for fault mode, and what a "
    "long-running VM binds without it stays in system memory, to which nobody else moves it",
)

FIRST = BASE // PAGE
LOCATIONS = ("system", "vram")
PAGES = 16
"""Of a mapping in K4 to K6."""


class NoFaults:
    """XNACK off: a queue of a long-running VM, and user memory bound at its own address."""

    def __init__(self, process: Process, vm: BindVm, queue: ExecQueue, fence: int) -> None:
        self.process = process
        self.vm = vm
        self.queue = queue
        self.fence = fence
        self.count = 0

    @classmethod
    async def start(cls, world: World) -> NoFaults:
        process = world.process()
        vm = await world.gpu().create_vm(process, "lr")
        fence = await process.mmap(PAGE)
        bench = cls(process, vm, await vm.create_queue(), fence)
        await bench.register(fence, 1)
        return bench

    def signal(self) -> list[Sync]:
        """The next value of the one user fence."""
        self.count += 1
        return [Sync(user_fence=self.vm.user_fence(self.process, self.fence, self.count), signal=True)]

    async def done(self) -> None:
        await self.vm.wait_user_fence(self.process, self.fence, "eq", self.count, timeout=5_000_000_000)

    async def register(self, addr: int, npages: int) -> None:
        await self.vm.bind_userptr(addr, addr, npages * PAGE, syncs=self.signal())
        await self.done()

    async def unregister(self, addr: int, npages: int) -> None:
        await self.vm.unbind(addr, npages * PAGE, syncs=self.signal())
        await self.done()

    async def copy(self, source: int, target: int) -> None:
        """One job reads, the next writes what it found."""
        execution = await self.vm.submit(self.queue, [Load(source // PAGE, 0, 4)], syncs=self.signal())
        await self.done()
        (found,) = execution.batch.results
        assert isinstance(found, bytes)
        await self.vm.submit(self.queue, [Store(target // PAGE, 0, found)], syncs=self.signal())
        await self.done()


# -- registering -------------------------------------------------------------------------------


@case(SUITE, "K1", "BasicSystemMemTest")
@pytest.mark.parametrize("xnack", [True, False], ids=["xnack-on", "xnack-off"])
def test_basic_system_mem(xnack: bool) -> None:
    async def scenario(world: World) -> None:
        bench = await Svm.start(world) if xnack else await NoFaults.start(world)
        process = bench.process
        source, target = await process.mmap(PAGE), await process.mmap(PAGE)
        await bench.register(source, 1)
        await bench.register(target, 1)
        await process.write(source, b"\x01" * PAGE)
        await bench.copy(source, target)
        assert await process.read(target, 8) == b"\x01" * 4 + bytes(4)
        faults = world.gpu().gpu.fault_queue.statistics()["faults"]
        assert bool(faults) == xnack

    hold(scenario)


@case(SUITE, "K2", "SetGetAttributesTest: access and location")
def test_set_get_attributes() -> None:
    """What is not registered: a VM that mirrors everything reaches it by a fault (ACCESS), one without faults does
    not (NO_ACCESS).  A location reads back as set.  Flags and granularity are KFD's own."""

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        await process.write(addr, word(1))
        everything = await world.gpu().create_vm(process)
        assert await everything.load(addr, 4) == word(1)
        nothing = await world.gpu().create_vm(process, "lr")
        assert isinstance(await nothing.load(addr, 4), GpuFault)
        bench = await Svm.start(world, process)
        assert isinstance(await bench.vm.load(addr, 4), GpuFault)
        assert bench.registered() == []
        for location in ("vram", "system", "vram"):
            await bench.register(addr, 1, location)
            assert bench.registered() == [(addr // PAGE, 1, location)]
            assert await bench.vm.load(addr, 4) == word(1)
        with pytest.raises(EINVAL):
            await bench.register(addr, 1, "elsewhere")
        assert bench.registered() == [(addr // PAGE, 1, "vram")]

    hold(scenario)


@case(SUITE, "K3", "InvalidRangeTest")
def test_invalid_range() -> None:
    """Binding such memory fails; an address space mirrored as a whole is refused when the GPU touches it."""
    addr = 0x10000

    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        without = await world.gpu().create_vm(bench.process, "lr")
        with pytest.raises(EFAULT):
            await without.bind_userptr(addr, addr, PAGE)
        assert without.vm.vmas() == []
        await bench.register(addr, 1)
        await bench.prefetch(addr, 1)
        assert isinstance(await bench.vm.load(addr), GpuFault)
        assert bench.mapped(addr, 1) == "none"
        assert (bench.ranges(), vram_in_use(world)) == ([], 0)

    hold(scenario)


# -- splitting ---------------------------------------------------------------------------------

Step = tuple[str, int, int]
"""``set`` or ``unset`` so many pages from a page on, or ``munmap`` all."""

SPLITS: dict[str, list[Step]] = {
    "1-middle": [("set", 8, 1)],
    "2a-tail": [("set", 1, 15)],
    "2b-beyond": [("set", 2, 16)],
    "3-head": [("set", 0, 14)],
    "4a-same": [("set", 0, 16)],
    "4b-longer": [("set", 0, 18)],
    "5-islands": [("set", 2, 2), ("set", 8, 2), ("set", 0, 16), ("unset", 8, 2), ("unset", 0, 16), ("unset", 2, 2)],
    "6-unmapped": [("set", 4, 2), ("munmap", 0, 16), ("unset", 4, 2)],
}


def spans(pages: dict[int, str]) -> list[tuple[int, int, str]]:
    """Longest runs of one location."""
    found: list[tuple[int, int, str]] = []
    for page in sorted(pages):
        if found and sum(found[-1][:2]) == FIRST + page and found[-1][2] == pages[page]:
            first, npages, location = found.pop()
            found.append((first, npages + 1, location))
        else:
            found.append((FIRST + page, 1, pages[page]))
    return found


class Splitter:
    """One sequence of steps on a mapping registered as a whole, and what must come of it."""

    def __init__(self, bench: Svm) -> None:
        self.bench = bench
        self.wanted: dict[int, str] = {}
        self.memory = PAGES

    async def do(self, step: Step, location: str) -> None:
        kind, first, npages = step
        addr = BASE + first * PAGE
        if kind == "set":
            await self.bench.register(addr, npages, location)
            self.wanted.update(dict.fromkeys(range(first, first + npages), location))
        elif kind == "unset":
            await self.bench.vm.unbind(addr, npages * PAGE)
            for page in range(first, first + npages):
                self.wanted.pop(page, None)
        else:
            await self.bench.process.munmap(addr, npages * PAGE)
            self.memory = 0
        assert self.bench.registered() == spans(self.wanted)

    async def touch(self, pages: Iterable[int]) -> None:
        """The GPU finds what is registered and mapped, where it belongs, and nothing else."""
        bench = self.bench
        for page in pages:
            addr = BASE + page * PAGE
            found = await bench.vm.load(addr, 4)
            if page in self.wanted and page < self.memory:
                assert found == words(1, PAGES)[page]
                assert bench.mapped(addr, 1) == self.wanted[page]
            else:
                assert isinstance(found, GpuFault), page


EDGES = (0, 1, 2, 8, 9, 14, 15, 16, 17)
"""Pages that some sequence has at an edge: those looked at under random schedules."""


def split(location: str) -> None:
    """All of it registered at one location, then the steps at either: each sequence by default, any one at random."""

    def fixed(steps: Sequence[Step], other: str) -> Scenario:
        async def scenario(world: World) -> None:
            await split_once(world, steps, location, other, range(PAGES + 2))

        return scenario

    async def drawn(world: World) -> None:
        steps = [*SPLITS.values()][world.choose(len(SPLITS), "sequence")]
        await split_once(world, steps, location, LOCATIONS[world.choose(2, "location")], EDGES)

    for steps, other in product(SPLITS.values(), LOCATIONS):
        hold(fixed(steps, other), 0)
    hold(drawn, 2 * SCHEDULES)


async def split_once(world: World, steps: Sequence[Step], location: str, other: str, pages: Iterable[int]) -> None:
    """One sequence."""
    bench = await Svm.start(world)
    await bench.map(PAGES)
    await bench.cpu_write(BASE, words(1, PAGES))
    splitter = Splitter(bench)
    await splitter.do(("set", 0, PAGES), location)
    for step in steps:
        await splitter.do(step, other)
    await splitter.touch(pages)
    if splitter.memory:
        assert await bench.cpu_read(BASE, PAGES) == words(1, PAGES)
        await bench.process.munmap(BASE, PAGES * PAGE)
    await bench.vm.unbind(BASE, (PAGES + 2) * PAGE)
    await world.settle()
    assert (bench.registered(), bench.ranges(), vram_in_use(world)) == ([], [], 0)


@case(SUITE, "K4", "SplitSystemRangeTest")
def test_split_system_range() -> None:
    split("system")


@case(SUITE, "K5", "SplitVramRangeTest")
def test_split_vram_range() -> None:
    split("vram")


@pytest.mark.parametrize("location", LOCATIONS)
def test_what_the_gpu_uses_is_not_split(location: str) -> None:
    """To K4 and K5: a part of memory in use gets no other location; that is said, and nothing is changed."""

    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        await bench.map(PAGES)
        await bench.cpu_write(BASE, words(1, PAGES))
        await bench.register(BASE, PAGES, location)
        await bench.gpu_read(BASE, PAGES)
        with pytest.raises(EBUSY):
            await bench.register(BASE + 8 * PAGE, 1, "vram" if location == "system" else "system")
        assert bench.registered() == [(FIRST, PAGES, location)]
        assert bench.mapped(BASE, PAGES) == location
        await bench.register(BASE + 8 * PAGE, 1, location)
        assert bench.mapped(BASE, PAGES) == location

    hold(scenario)


@case(SUITE, "K6", "PartialUnmapSysMemTest")
@pytest.mark.parametrize("xnack", [True, False], ids=["xnack-on", "xnack-off"])
def test_partial_unmap_sys_mem(xnack: bool) -> None:
    """Without faults user space says first what it is going to unmap: the mapping of the VM is one whole.

    At the end new memory takes the place of a page that is left: a notifier, and the GPU finds what is there now.
    """

    async def scenario(world: World) -> None:
        bench = await Svm.start(world) if xnack else await NoFaults.start(world)
        process = bench.process
        target = await process.mmap(PAGE)
        await process.mmap(PAGES * PAGE, addr=BASE, fixed=True)
        await bench.register(BASE, PAGES)
        await bench.register(target, 1)
        for page in range(PAGES):
            await process.write(BASE + page * PAGE, word(page))
        await bench.copy(BASE + 2 * PAGE, target)
        if isinstance(bench, NoFaults):
            await bench.unregister(BASE + 2 * PAGE, 4)
        await process.munmap(BASE + 2 * PAGE, 4 * PAGE)
        for page in (6, 0):
            await bench.copy(BASE + page * PAGE, target)
            assert await process.read(target, 4) == word(page)
        if isinstance(bench, Svm):
            assert await bench.gpu_read(BASE, 2) + await bench.gpu_read(BASE + 6 * PAGE, 10) == [
                word(page) for page in range(PAGES) if not 2 <= page < 6
            ]
            inside = [span for span in bench.ranges() if FIRST <= span[0] < FIRST + PAGES]
            assert inside == [(FIRST, FIRST + 2), (FIRST + 6, FIRST + PAGES)]
            assert isinstance(await bench.vm.load(BASE + 2 * PAGE), GpuFault)
        await process.mmap(PAGE, addr=BASE + 6 * PAGE, fixed=True)
        await process.write(BASE + 6 * PAGE, word(100))
        await bench.copy(BASE + 6 * PAGE, target)
        assert await process.read(target, 4) == word(100)

    for run in hold(scenario):
        stopped = [name for name in ("userptr.invalidate", "exec.preempted", "exec.rebound") if name in run.counters]
        assert len(stopped) == (0 if xnack else 3)
