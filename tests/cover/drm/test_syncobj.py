"""Syncobjs: the slot, the timeline, handles and ioctls (fences_and_scheduler section 2)."""

from __future__ import annotations

import pytest
from drm_exec_bench import Scripted, on_all_schedules, run, under
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_chain import FenceChain
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_file import SyncobjFile
from svm_actors.drm.syncobj_wait import find_fence
from svm_actors.engine.errors import EINVAL, EIO, ENOENT, ENOMEM, PropertyFailed


class Bench:
    """One syncobj and fences for it; keeps a reference on each."""

    def __init__(self, memory: FenceMemory, *, signaled: bool = False) -> None:
        self.memory = memory
        self.syncobj = Syncobj(memory.engine, "sync", signaled=signaled, memory=memory)
        self.made: list[Fence] = []

    def fence(self) -> Fence:
        fence = Fence(self.memory.engine, f"job{len(self.made)}", memory=self.memory)
        self.made.append(fence)
        return fence

    def submit(self, point: int) -> Fence:
        fence = self.fence()
        self.syncobj.add_point(fence, point)
        return fence

    def drop(self) -> None:
        self.syncobj.put()
        for fence in self.made:
            fence.signal()
            fence.put()


# -- binary ----------------------------------------------------------------------------------------


def test_it_is_born_empty_or_signaled() -> None:
    async def body(memory: FenceMemory) -> None:
        empty, full = Bench(memory), Bench(memory, signaled=True)
        with pytest.raises(EINVAL):
            empty.syncobj.lookup_point(0)
        fence = full.syncobj.lookup_point(0)
        assert fence.is_signaled()
        fence.put()
        empty.drop()
        full.drop()

    run(body)


def test_a_lookup_is_a_snapshot() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        first, second = bench.fence(), bench.fence()
        bench.syncobj.replace_fence(first)
        seen = await find_fence(bench.syncobj)
        bench.syncobj.replace_fence(second)
        assert seen is first
        assert (first.refs, second.refs) == (2, 2)
        second.signal()
        assert not seen.is_signaled()
        bench.syncobj.reset()
        with pytest.raises(EINVAL):
            await find_fence(bench.syncobj)
        seen.put()
        bench.drop()

    run(body)


def test_the_last_put_empties_the_slot_and_later_use_is_reported() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fence = bench.fence()
        bench.syncobj.replace_fence(fence)
        bench.syncobj.get()
        bench.syncobj.put()
        assert fence.refs == 2
        bench.syncobj.put()
        assert fence.refs == 1
        for act in (
            bench.syncobj.get,
            bench.syncobj.put,
            bench.syncobj.fence_get,
            bench.syncobj.reset,
            lambda: bench.syncobj.add_point(fence, 1),
        ):
            with pytest.raises(PropertyFailed) as info:
                act()
            assert info.value.rule == "FEN-R32"
        fence.signal()
        fence.put()

    run(body)


# -- timeline --------------------------------------------------------------------------------------


def test_points_form_one_context() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        for point in (2, 5, 9):
            bench.submit(point)
        head = bench.syncobj.fence
        assert isinstance(head, FenceChain)
        assert (head.seqno, head.prev_seqno) == (9, 5)
        assert bench.syncobj.query() == 0
        assert bench.syncobj.query(last_submitted=True) == 9
        bench.drop()

    run(body)


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=7),
    signals=st.lists(st.integers(0, 6), max_size=7),
    asked=st.integers(0, 24),
)
def test_query_and_lookup_against_a_list(gaps: list[int], signals: list[int], asked: int) -> None:
    """The last point up to which everything is done; a lookup is done when its point is."""
    points = [sum(gaps[: index + 1]) for index in range(len(gaps))]

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        for point in points:
            bench.submit(point)
        for index in signals:
            if index < len(points):
                bench.made[index].signal()
        done = next((index for index, fence in enumerate(bench.made) if not fence.signaled), len(points))
        assert bench.syncobj.query() == (points[done - 1] if done else 0)
        if asked > points[-1]:
            with pytest.raises(EINVAL):
                bench.syncobj.lookup_point(asked)
        else:
            fence = bench.syncobj.lookup_point(asked)
            needed = points[-1] if not asked else next(point for point in points if point >= asked)
            assert fence.is_signaled() == (done == len(points) or needed < points[done])
            fence.put()
        bench.drop()

    run(body)


def test_a_point_not_after_the_last_one_goes_on_with_the_higher_number() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        bench.submit(5)
        bench.submit(3)
        head = bench.syncobj.fence
        assert head is not None
        assert head.seqno == 5
        assert memory.engine.counters["syncobj.unordered_point"] == 1
        bench.drop()

    run(body)


def test_adding_a_point_collects_what_is_done() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        for point in range(1, 50):
            bench.submit(point).signal()
        await memory.drain()
        chains = [fence for fence in memory.live if isinstance(fence, FenceChain)]
        assert len(chains) <= 2
        bench.drop()

    run(body)


def test_a_point_done_and_collected_still_gives_a_fence() -> None:
    """FEN-B28: the recipient gets a signaled one, not an error."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        bench.submit(1).signal()
        bench.submit(2)
        fence = bench.syncobj.lookup_point(1)
        assert fence.is_signaled()
        fence.put()
        assert bench.syncobj.query() == 1
        bench.drop()

    run(body)


def test_replacing_ends_the_timeline() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        bench.submit(4)
        bench.syncobj.replace_fence(bench.fence())
        assert bench.syncobj.query() == bench.syncobj.query(last_submitted=True) == 0
        with pytest.raises(EINVAL):
            bench.syncobj.lookup_point(4)
        bench.drop()

    run(body)


def test_a_point_after_a_binary_fence_starts_a_timeline_that_waits_for_it() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        binary = bench.fence()
        bench.syncobj.replace_fence(binary)
        bench.submit(1).signal()
        assert bench.syncobj.query() == 0
        binary.signal()
        assert bench.syncobj.query() == 1
        bench.drop()

    run(body)


# -- handles ---------------------------------------------------------------------------------------


async def closed(table: SyncobjFile) -> None:
    await table.close()
    assert table.statistics() == {"handles": 0}


def test_handles_are_created_found_and_destroyed() -> None:
    async def body(memory: FenceMemory) -> None:
        table = SyncobjFile(memory.engine, "file", memory=memory)
        first, second = await table.create(), await table.create(signaled=True)
        assert (first, second) == (1, 2)
        await table.destroy(first)
        for act in (table.wait([first]), table.query([second, first]), table.signal([first]), table.reset([first])):
            with pytest.raises(ENOENT):
                await act
        with pytest.raises(EINVAL):
            await table.destroy(first)
        with pytest.raises(EINVAL):
            await table.reset([])
        found = table.find(second)
        assert found.refs == 2
        found.put()
        await closed(table)

    run(body)


def test_two_handles_on_one_syncobj() -> None:
    async def body(memory: FenceMemory) -> None:
        ours, theirs = (SyncobjFile(memory.engine, name, memory=memory) for name in ("ours", "theirs"))
        handle = await ours.create()
        shared = ours.find(handle)
        other = await theirs.import_syncobj(shared)
        shared.put()
        await theirs.signal([other])
        assert await ours.wait([handle], timeout=0) == (0, 0)
        await ours.destroy(handle)
        assert await theirs.wait([other], timeout=0) == (0, 0)
        await closed(ours)
        await closed(theirs)

    run(body)


def test_signal_reset_and_query_through_handles() -> None:
    async def body(memory: FenceMemory) -> None:
        table = SyncobjFile(memory.engine, "file", memory=memory)
        handles = [await table.create() for _ in range(2)]
        await table.signal(handles, [3, 0])
        assert await table.query(handles) == [3, 0]
        assert await table.query(handles, last_submitted=True) == [3, 0]
        await table.reset(handles)
        assert await table.query(handles) == [0, 0]
        with pytest.raises(EINVAL):
            await table.wait(handles)
        await closed(table)

    run(body)


def test_creating_and_signaling_a_point_need_memory() -> None:
    async def body(memory: FenceMemory) -> None:
        table = SyncobjFile(memory.engine, "file", memory=memory)
        with pytest.raises(ENOMEM):
            await table.create()
        handle = await table.create()
        with pytest.raises(ENOMEM):
            await table.signal([handle], [1])
        await table.signal([handle])
        await closed(table)

    run(body, Scripted(1, 0, 1, 0), inject=True)


# -- transfer --------------------------------------------------------------------------------------


class Pair:
    """Two handles of a file, with fences put into the first."""

    def __init__(self, memory: FenceMemory) -> None:
        self.memory = memory
        self.table = SyncobjFile(memory.engine, "file", memory=memory)
        self.fences = [Fence(memory.engine, f"job{index}", memory=memory) for index in range(3)]

    async def open(self) -> tuple[Syncobj, Syncobj]:
        for _ in range(2):
            await self.table.create()
        self.source, self.target = self.table.find(1), self.table.find(2)
        return self.source, self.target

    async def close(self) -> None:
        self.source.put()
        self.target.put()
        await closed(self.table)
        for fence in self.fences:
            fence.signal()
            fence.put()


def test_a_transfer_to_a_binary_syncobj_replaces_its_fence() -> None:
    async def body(memory: FenceMemory) -> None:
        pair = Pair(memory)
        source, target = await pair.open()
        for point, fence in enumerate(pair.fences, 1):
            source.add_point(fence, point)
        await pair.table.transfer(1, 2, 2, 0)
        moved = target.fence
        assert isinstance(moved, FenceChain)
        assert (moved.seqno, moved.fence) == (2, pair.fences[1])
        await pair.close()

    run(body)


def test_a_transfer_to_a_timeline_flattens_what_it_takes() -> None:
    async def body(memory: FenceMemory) -> None:
        pair = Pair(memory)
        source, target = await pair.open()
        for point, fence in enumerate(pair.fences, 1):
            source.add_point(fence, point)
        pair.fences[0].signal()
        await pair.table.transfer(1, 3, 2, 7)
        moved = target.fence
        assert isinstance(moved, FenceChain)
        assert moved.seqno == 7
        assert isinstance(moved.fence, FenceArray)
        assert set(moved.fence.fences) == set(pair.fences[1:])
        await pair.close()

    run(body)


def test_a_transfer_of_nothing_is_einval_and_leaves_the_target_alone() -> None:
    async def body(memory: FenceMemory) -> None:
        pair = Pair(memory)
        _source, target = await pair.open()
        target.replace_fence(pair.fences[0])
        for point in (0, 4):
            with pytest.raises(EINVAL):
                await pair.table.transfer(1, 0, 2, point)
        with pytest.raises(ENOENT):
            await pair.table.transfer(1, 0, 9, 0)
        assert target.fence is pair.fences[0]
        await pair.close()

    run(body)


def test_a_transfer_that_runs_out_of_memory_leaks_nothing() -> None:
    for failing in range(2):

        async def body(memory: FenceMemory) -> None:
            pair = Pair(memory)
            source, target = await pair.open()
            for point, fence in enumerate(pair.fences, 1):
                source.add_point(fence, point)
            with pytest.raises(ENOMEM):
                await pair.table.transfer(1, 3, 2, 7)
            assert target.fence is None
            await pair.close()

        engine = run(body, Scripted(0, 0, *([0] * failing), 1), inject=True)
        assert engine.counters["inject.enomem"] == 1


def test_ioctls_race_with_destroy_without_a_leak() -> None:
    """Whoever comes second is told so; nothing is used after it was freed."""

    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        table = SyncobjFile(engine, "file", memory=memory)
        await table.create()

        async def user(point: int) -> None:
            try:
                await table.signal([1], [point])
                await table.query([1])
            except ENOENT:
                engine.count("too late")

        async with engine.nursery() as nursery:
            for point in (0, 1, 2):
                nursery.start_soon(user, point)
            nursery.start_soon(table.destroy, 1)
        await closed(table)

    engines = on_all_schedules(under(body))
    assert {engine.counters["too late"] for engine in engines} >= {0, 3}
    assert any(engine.counters["FEN-R32"] for engine in engines)


def test_an_error_is_carried_by_the_fence_not_by_the_timeline() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        bench.submit(1).signal(EIO())
        fence = bench.syncobj.lookup_point(1)
        assert fence.get_status() == 1
        fence.put()
        bench.drop()

    run(body)
