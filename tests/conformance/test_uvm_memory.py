"""Groups N8 to N12 of the catalogue kfd_svm: page tables, events, residency and submission.

See :mod:`test_uvm_kernel`.
"""

from __future__ import annotations

from cases import case
from igt_bench import BASE, PAGE, Bench, hold
from kfd_bench import SUITE, Svm, vram_in_use, word, words

from svm_actors.gpu.program import GpuFault, Load, Store
from svm_actors.mirror.messages import Perm
from svm_actors.mm.messages import IntervalNotifierInsert, IntervalNotifierRemove
from svm_actors.mm.mmu_notifier import IntervalNotifier, NotifierRange
from svm_actors.world import World
from svm_actors.xe.gem import XeBo
from svm_actors.xe.vm_bind import BindFlag

FIRST = BASE // PAGE


# -- N8, N9: page tables -----------------------------------------------------------------------

TABLE = 512
"""Entries of a table: what one large entry covers."""


@case(SUITE, "N8", "page tree: alloc, free, adjacent, remove")
def test_page_tree() -> None:
    """Dense entries share their tables, sparse ones have their own; the last one takes them along, up to the root."""

    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(PAGE)
        one = await nodes_with(bench, bo, 0)
        assert one > 0
        assert await nodes_with(bench, bo, 1) == one
        assert await nodes_with(bench, bo, TABLE - 1) == one
        two = await nodes_with(bench, bo, TABLE)
        assert two == one + 1
        assert await nodes_with(bench, bo, 3 * TABLE) == two + 1
        for page, left in ((0, two + 1), (3 * TABLE, two), (TABLE - 1, two), (1, one), (TABLE, 0)):
            await (await bench.unbind(BASE + page * PAGE, PAGE)).wait()
            assert bench.nodes() == left, page
        assert len(bench.vm.vm.page_table) == 0

    hold(scenario)


async def nodes_with(bench: Bench, bo: XeBo, page: int) -> int:
    """Tables in use once a further page is bound."""
    await (await bench.bind(BASE + page * PAGE, bo)).wait()
    return bench.nodes()


@case(SUITE, "N9", "page tree: split 4K from 2M")
def test_page_tree_split() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(TABLE * PAGE)
        await (await bench.bind(BASE, bo)).wait()
        table = bench.vm.vm.page_table
        before = dict(table.items())
        assert sorted(before) == list(range(FIRST, FIRST + TABLE))
        hole = FIRST + 1 + world.choose(TABLE - 2, "hole")
        await (await bench.unbind(hole * PAGE, PAGE)).wait()
        del before[hole]
        assert dict(table.items()) == before
        for page in (FIRST, hole - 1, hole + 1, FIRST + TABLE - 1):
            assert await bench.vm.store(page * PAGE, word(page)) is None
            assert await bo.read((page - FIRST) * PAGE, 4) == word(page)
        assert isinstance(await bench.vm.load(hole * PAGE), GpuFault)
        await (await bench.unbind(BASE, TABLE * PAGE)).wait()
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    hold(scenario)


# -- N10: events -------------------------------------------------------------------------------


class Counter:
    """A subscriber."""

    def __init__(self) -> None:
        self.seen = 0

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool:
        """The callback."""
        notifier.set_seq(seq)
        self.seen += 1
        return True


@case(SUITE, "N10", "perf events")
def test_events() -> None:
    """Interval notifiers: each subscriber of a place hears of an event there once, and of nothing after it has left.

    What is subscribed is a structure of the subscriber's own, so there is nothing to be registered twice.
    """

    async def scenario(world: World) -> None:
        process, counters = world.process(), [Counter(), Counter(), Counter()]
        addr = await process.mmap(4 * PAGE)
        subs = [IntervalNotifier(f"sub{number}", counter) for number, counter in enumerate(counters)]
        for sub, page in zip(subs, (0, 0, 3), strict=True):
            await world.core.call(IntervalNotifierInsert(sub, process.mm, addr // PAGE + page, 1))
        await process.munmap(addr, PAGE)
        assert [counter.seen for counter in counters] == [1, 1, 0]
        await world.core.call(IntervalNotifierRemove(subs[0]))
        await process.mmap(PAGE, addr=addr, fixed=True)
        await process.munmap(addr, PAGE)
        assert [counter.seen for counter in counters] == [1, 2, 0]
        assert counters[0].seen + counters[1].seen == 3
        for sub in subs[1:]:
            await world.core.call(IntervalNotifierRemove(sub))

    hold(scenario)


# -- N11: where memory is ----------------------------------------------------------------------


@case(SUITE, "N11", "VA-block info and residency info")
def test_residency() -> None:
    """After each move: what the CPU's tables say, what the GPU's say, and in ranges of which size."""
    npages = 16

    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        mirror = await world.mirror(bench.process)

        async def info() -> tuple[set[int], str, set[bool]]:
            codes = (await mirror.snapshot(BASE, npages)).codes
            entries = bench.vm.vm.page_table.entries_in(FIRST, FIRST + npages)
            return set(codes), bench.mapped(BASE, npages), {entry.writable for _page, entry in entries}

        await bench.map(npages)
        await bench.register(BASE, npages, "vram")
        assert await info() == ({Perm.NONE}, "none", set())
        await bench.cpu_write(BASE, words(1, npages))
        assert await info() == ({Perm.WRITE}, "none", set())
        await bench.gpu_read(BASE, 1)
        assert await info() == ({Perm.NONE}, "vram", {True})
        assert bench.ranges() == [(FIRST, FIRST + npages)]
        assert vram_in_use(world) == npages
        await bench.prefetch(BASE, npages, "system")
        assert await info() == ({Perm.WRITE}, "system", {True})
        assert await bench.cpu_read(BASE, npages) == words(1, npages)
        await bench.process.mprotect(BASE, npages * PAGE, "r")
        assert await info() == ({Perm.READ}, "none", set())
        assert isinstance(await bench.vm.load(BASE), GpuFault)
        assert bench.vm.vm.faults == [(FIRST, "EPERM")], "writable for the GPU, not for the CPU"
        await bench.process.munmap(BASE, npages * PAGE)
        await bench.vm.unbind(BASE, npages * PAGE)
        await bench.map(npages)
        await bench.cpu_write(BASE, words(2, npages))
        await bench.vm.bind_mirror(BASE, npages * PAGE, flags=BindFlag.READONLY)
        assert await bench.gpu_read(BASE, npages) == words(2, npages)
        assert await info() == ({Perm.NONE}, "vram", {False})
        assert await bench.cpu_read(BASE, npages) == words(2, npages)
        assert await info() == ({Perm.WRITE}, "none", set())
        await world.settle()
        assert vram_in_use(world) == 0

    hold(scenario)


# -- N12: pushes -------------------------------------------------------------------------------


@case(SUITE, "N12", "push sanity, concurrent pushes")
def test_concurrent_pushes() -> None:
    """Three actors on each of two queues, every job with its data: what one queue gets runs in that order.

    A job has no largest size here.
    """
    jobs = 3

    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(2 * PAGE)
        await (await bench.bind(BASE, bo)).wait()
        queues = [bench.queue, await bench.vm.create_queue()]
        pushed: list[list[tuple[int, bytes]]] = [[], []]

        async def push(number: int, actor: int) -> None:
            made = []
            for index in range(jobs):
                value, slot = word(100 * number + 10 * actor + index), 8 + 4 * (actor * jobs + index)
                program = [Store(FIRST + number, 0, value), Store(FIRST + number, slot, value)]
                made.append((value, await bench.vm.submit(queues[number], [*program, Load(FIRST + number, 0, 4)])))
            for value, job in made:
                assert (await job.wait())[-1] == value
                pushed[number].append((job.fence.seqno, value))
            assert sorted(order := [job.fence.seqno for _value, job in made]) == order

        async with world.nursery() as nursery:
            for number in range(2):
                for actor in range(3):
                    nursery.start_soon(push, number, actor)
        for number, made in enumerate(pushed):
            data = await bo.read(number * PAGE, 8 + 4 * len(made))
            assert {data[at : at + 4] for at in range(8, len(data), 4)} == {value for _seqno, value in made}
            assert len({seqno for seqno, _value in made}) == 3 * jobs
            assert data[:4] == max(made)[1], "the last job of the queue wrote last"

    hold(scenario)
