"""Groups N1 to N7 of the catalogue kfd_svm: another driver's self tests of its data structures, asked of ours.

That driver's structures are its own; the ones that do their work here are named in each test.  What has no
counterpart is named there too.
"""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from cases import case, every_schedule, on_all_schedules
from igt_bench import BASE, PAGE, Bench, hold
from kfd_bench import SUITE, Svm, vram_in_use, word, words

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.dma_buf.unwrap import merge
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EBUSY, ENOMEM, EngineError, PropertyFailed
from svm_actors.engine.locks import Mutex, RwSem
from svm_actors.gpu.program import GpuFault, Store
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.world import World
from svm_actors.xe.gem import XeBo
from svm_actors.xe.tlb_inval import SEQNO_MAX

FIRST = BASE // PAGE


# -- N1, N2: the tree of GPU vmas --------------------------------------------------------------


@case(SUITE, "N1", "range tree, directed")
def test_range_tree_directed() -> None:
    """Registered memory: neighbours of one location are one.  What overlaps replaces, but -EBUSY where it is in use."""

    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        assert bench.registered() == []
        await bench.register(0, TASK_PAGES)
        assert bench.registered() == [(0, TASK_PAGES, "system")]
        await bench.vm.unbind(0, TASK_PAGES * PAGE)
        assert bench.registered() == []
        await bench.register(BASE, 4)
        await bench.register(BASE + 4 * PAGE, 4, "vram")
        assert bench.registered() == [(FIRST, 4, "system"), (FIRST + 4, 4, "vram")]
        await bench.register(BASE + 12 * PAGE, 4, "vram")
        assert bench.registered()[2:] == [(FIRST + 12, 4, "vram")], "no neighbour, nothing to merge with"
        await bench.register(BASE + 8 * PAGE, 4, "vram")
        assert bench.registered() == [(FIRST, 4, "system"), (FIRST + 4, 12, "vram")]
        await bench.register(BASE + 6 * PAGE, 2)
        split = [(FIRST, 4, "system"), (FIRST + 4, 2, "vram"), (FIRST + 6, 2, "system"), (FIRST + 8, 8, "vram")]
        assert bench.registered() == split
        await bench.vm.unbind(BASE + 12 * PAGE, 4 * PAGE)
        shrunk = [*split[:3], (FIRST + 8, 4, "vram")]
        assert bench.registered() == shrunk
        await bench.map(16)
        await bench.gpu_write(BASE, [word(1)])
        with pytest.raises(EBUSY):
            await bench.register(BASE, 2, "vram")
        with pytest.raises(EBUSY):
            await bench.vm.unbind(BASE, PAGE)
        assert bench.registered() == shrunk

    hold(scenario)


@case(SUITE, "N2", "range tree, random")
def test_range_tree_random() -> None:
    """Against a shadow copy, while it grows and while it shrinks."""
    size, steps = 24, 24

    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        shadow: dict[int, str] = {}
        for step in range(steps):
            first = world.choose(size, "first")
            npages = 1 + world.choose(size - first, "pages")
            pages = range(first, first + npages)
            if bool(world.choose(4, "kind")) == (step < steps // 2):
                location = ("system", "vram")[world.choose(2, "location")]
                await bench.register(BASE + first * PAGE, npages, location)
                shadow.update(dict.fromkeys(pages, location))
            else:
                await bench.vm.unbind(BASE + first * PAGE, npages * PAGE)
                for page in pages:
                    shadow.pop(page, None)
            check_against(shadow, bench.registered())

    hold(scenario)


def check_against(shadow: dict[int, str], found: list[tuple[int, int, str]]) -> None:
    """The same pages, in order and without overlap; neighbours of one location are one."""
    flat = [(page - FIRST, location) for first, npages, location in found for page in range(first, first + npages)]
    assert flat == sorted(shadow.items())
    for left, right in pairwise(found):
        assert left[0] + left[1] < right[0] or left[2] != right[2]


# -- N3, N7: VRAM ------------------------------------------------------------------------------


async def free(world: World, bo: XeBo) -> None:
    """Close its handle."""
    world.bos.remove(bo)
    await bo.put()
    await world.settle()


@case(SUITE, "N3", "range allocator, basic")
def test_range_allocator() -> None:
    """The allocator of VRAM; addresses of a GPU are user space's to give away."""
    vram = 16
    orders = list(permutations(range(4)))

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), "dma_fence")
        with pytest.raises(ENOMEM):
            await vm.create_bo((vram + 1) * PAGE)
        quarters = [await vm.create_bo(vram // 4 * PAGE) for _ in range(4)]
        assert vram_in_use(world) == vram
        first = world.gpu().gpu.vram.base_pfn
        starts = [bo.folios[0].pfn - first for bo in quarters]
        assert sorted(starts) == [0, 4, 8, 12]
        for done, index in enumerate(orders[world.choose(len(orders), "order")], 1):
            await free(world, quarters[index])
            assert vram_in_use(world) == vram - done * vram // 4
        whole = await vm.create_bo(vram * PAGE)
        assert [folio.pfn - first for folio in whole.folios] == list(range(vram))
        await free(world, whole)
        assert vram_in_use(world) == 0

    hold(scenario, vram_pages=vram)


@case(SUITE, "N7", "PMM basic")
@pytest.mark.parametrize("npages", [1, 2, 4, 8])
def test_pmm_basic(npages: int) -> None:
    """All of VRAM in objects of one size, filled by jobs; some go, new ones come, and nobody else's data changes."""
    vram = 8

    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        held: dict[int, tuple[XeBo, int]] = {}
        patterns = {"every other": lambda slot: slot % 2, "front": lambda slot: slot < vram // npages // 2}
        gone = list(patterns.values())[world.choose(len(patterns), "pattern")]
        for round_ in range(2):
            for slot in range(vram // npages):
                if slot in held:
                    continue
                bo = await bench.vm.create_bo(npages * PAGE)
                held[slot] = bo, round_
                await (await bench.bind(BASE + slot * npages * PAGE, bo)).wait()
                await fill(bench, slot, npages, round_)
            assert vram_in_use(world) == vram
            pfns = [folio.pfn for bo, _filled in held.values() for folio in bo.folios]
            assert len(set(pfns)) == vram, "two objects share a page"
            for slot, (bo, filled) in held.items():
                found = [await bo.read(index * PAGE, 4) for index in range(npages)]
                assert found == words(slot * 2 + filled, npages)
            for slot in [slot for slot in held if round_ or gone(slot)]:
                await (await bench.unbind(BASE + slot * npages * PAGE, npages * PAGE)).wait()
                await free(world, held.pop(slot)[0])
        assert (vram_in_use(world), bench.mappings(), bench.nodes()) == (0, 0, 0)

    hold(scenario, vram_pages=vram)


async def fill(bench: Bench, slot: int, npages: int, round_: int) -> None:
    """By a job."""
    first = FIRST + slot * npages
    values = words(slot * 2 + round_, npages)
    program = [Store(first + index, 0, value) for index, value in enumerate(values)]
    await (await bench.vm.submit(bench.queue, program)).wait()


# -- N4, N5: what is still to come -------------------------------------------------------------


@case(SUITE, "N4", "tracker, basic and completion")
def test_tracker() -> None:
    """Merged fences: of each context the latest counts, and what is done drops out."""

    async def program(engine: Engine) -> None:
        memory = FenceMemory(engine)
        contexts = [dma_fence_context_alloc(engine) for _ in range(3)]

        def fence(channel: int, value: int) -> Fence:
            return Fence(engine, f"{channel}.{value}", context=contexts[channel], seqno=value, memory=memory)

        entries = [fence(0, 1), fence(0, 3), fence(0, 2), fence(1, 5), fence(2, 1)]
        tracker = merge(engine, entries, memory)
        assert isinstance(tracker, FenceArray)
        assert sorted(leaf.name for leaf in tracker.fences) == ["0.3", "1.5", "2.1"]
        order = list(permutations((1, 3, 4)))[engine.choose(6, "order")]
        waited: list[int] = []

        async def wait() -> None:
            await tracker.wait()
            waited.append(sum(entries[index].is_signaled() for index in order))

        async with engine.nursery() as nursery:
            nursery.start_soon(wait)
            for left, index in zip((2, 1, 0), order, strict=True):
                assert not tracker.is_signaled()
                await engine.step("fence_signal", entries[index])
                entries[index].signal()
                rest = merge(engine, [entries[index] for index in order], memory)
                assert rest is not None
                names = [leaf.name for leaf in rest.fences] if isinstance(rest, FenceArray) else [rest.name]
                assert rest.is_signaled() if not left else len(names) == left
                rest.put()
        assert waited == [3]
        for index in (0, 2):
            entries[index].signal()
        tracker.put()
        for one in entries:
            one.put()
        await engine.quiesce()
        memory.check_empty()

    on_all_schedules(program)


@case(SUITE, "N5", "GPU semaphore tracking")
def test_semaphore_tracking() -> None:
    """The numbers of TLB invalidations come round; a late one is told from an early one by half the range.

    A jump is not looked for: the firmware acknowledges in order, and what it leaves out is done as well.
    """
    npages = 8

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        tlb = world.gpu().driver.tlb_inval
        tlb.seqno, tlb.seqno_recv = SEQNO_MAX - 3, SEQNO_MAX - 4
        addrs = [await process.mmap(PAGE, addr=BASE + index * 64 * PAGE, fixed=True) for index in range(npages)]
        for addr in addrs:
            assert await vm.store(addr, b"x") is None
        async with world.nursery() as nursery:
            for addr in addrs:
                nursery.start_soon(process.munmap, addr, PAGE)
        for addr in addrs:
            assert isinstance(await vm.load(addr), GpuFault)
        await world.settle()
        assert tlb.seqno < SEQNO_MAX // 2
        assert tlb.seqno_recv == tlb.seqno - 1
        assert (tlb.pending, tlb.stats.completed) == ({}, tlb.requests)

    hold(scenario)


# -- N6: locks ---------------------------------------------------------------------------------


class Locks:
    """Two locks with an order, one without, and what can be done wrong with them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.outer = RwSem(engine, "outer", "outer")
        self.inner = Mutex(engine, "inner", "inner")
        self.other = Mutex(engine, "other", "inner")

    async def right(self) -> None:
        """Every mode, in order."""
        async with self.outer.reading(), self.inner:
            self.outer.assert_held()
            self.inner.assert_held()
        async with self.outer.writing():
            assert self.outer.held_for_write()
            self.outer.downgrade()
            assert not self.outer.held_for_write()

    async def wrong_order(self) -> None:
        async with self.inner:
            await self.outer.read()

    async def twice(self) -> None:
        async with self.inner:
            await self.inner.acquire()

    async def not_held(self) -> None:
        self.inner.release()

    async def other_instance(self) -> None:
        async with self.inner:
            self.other.release()

    async def downgrade_without_lock(self) -> None:
        self.outer.downgrade()

    async def downgrade_of_a_reader(self) -> None:
        async with self.outer.reading():
            self.outer.downgrade()

    async def assertion(self) -> None:
        self.inner.assert_held()


MISTAKES = {
    "wrong_order": PropertyFailed,
    "twice": PropertyFailed,
    "not_held": EngineError,
    "other_instance": EngineError,
    "downgrade_without_lock": EngineError,
    "downgrade_of_a_reader": EngineError,
    "assertion": EngineError,
}


@case(SUITE, "N6", "lock sanity")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_lock_sanity(mistake: str) -> None:
    """What is right passes, in any order of two tasks; each mistake is reported, also when another task is right."""

    async def program(engine: Engine) -> None:
        locks = Locks(engine)
        async with engine.nursery() as nursery:
            nursery.start_soon(locks.right)
            nursery.start_soon(locks.right)
        with pytest.raises(MISTAKES[mistake]):
            await getattr(locks, mistake)()
        await locks.right()

    on_all_schedules(program)
    assert len(list(every_schedule(program, limit=100))) > 1
