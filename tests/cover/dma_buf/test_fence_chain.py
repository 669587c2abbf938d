"""Fence chains against a list of points (fences_and_scheduler section 2, FEN-R08)."""

from __future__ import annotations

import pytest
from fence_bench import Driver, Timeline, every_schedule, on_all_schedules, run, signal, under
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_chain import FenceChain, collect, find_seqno, find_seqno_in_steps, walk, walk_steps
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.steps import in_steps
from svm_actors.engine.errors import EINVAL, EIO, Deadlock, PropertyFailed
from svm_actors.explore.strategies import make


class Line:
    """A timeline under construction; we keep a reference on every node and fence."""

    def __init__(self, memory: FenceMemory, points: list[int]) -> None:
        self.memory = memory
        self.fences: list[Fence] = []
        self.nodes: list[FenceChain] = []
        for point in points:
            self.add(point)

    def add(self, point: int) -> None:
        number = len(self.nodes)
        fence = Fence(self.memory.engine, f"fence{number}", memory=self.memory)
        prev = self.nodes[-1].get() if self.nodes else None
        self.fences.append(fence)
        self.nodes.append(
            FenceChain(self.memory.engine, f"node{number}", prev, fence.get(), point, memory=self.memory)
        )

    @property
    def head(self) -> FenceChain:
        return self.nodes[-1]

    def find(self, point: int) -> Fence | None:
        found = find_seqno(self.head.get(), point)
        if found is not None:
            found.put()
        return found

    def drop(self) -> None:
        for fence in self.fences:
            fence.signal()
        for fence in (*self.nodes, *self.fences):
            fence.put()


# -- context and numbers ---------------------------------------------------------------------


def test_a_later_number_goes_on_in_the_same_context() -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [5, 9])
        first, second = line.nodes
        assert (first.context, first.seqno, first.prev_seqno) == (1, 5, 0)
        assert (second.context, second.seqno, second.prev_seqno) == (1, 9, 5)
        line.drop()

    run(body)


@pytest.mark.parametrize("point", [3, 5])
def test_a_number_that_is_not_later_starts_a_new_context_and_does_not_go_back(point: int) -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [5, point])
        assert (line.head.context, line.head.seqno, line.head.prev_seqno) == (2, 5, 0)
        line.drop()

    run(body)


def test_numbers_have_64_bits() -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [1, 1 << 40])
        assert (line.head.context, line.head.prev_seqno) == (1, 1)
        line.drop()

    run(body)


def test_a_plain_fence_may_be_the_beginning() -> None:
    async def body(memory: FenceMemory) -> None:
        plain = Timeline(memory, 9).fence()
        fence = Fence(memory.engine, "fence", memory=memory)
        node = FenceChain(memory.engine, "node", plain.get(), fence.get(), 4, memory=memory)
        assert (node.context, node.seqno, node.prev_seqno) == (1, 4, 0)
        fence.signal()
        assert not node.is_signaled()
        assert walk(node.get()) is plain
        plain.put()
        plain.signal()
        assert node.is_signaled()
        assert node.prev is None
        for one in (node, plain, fence):
            one.put()

    run(body)


def test_a_chain_is_not_contained_in_a_chain_but_an_array_is() -> None:
    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        array = FenceArray(engine, "array", [])
        inner = FenceChain(engine, "inner", None, array, 1)
        FenceChain(engine, "outer", None, inner, 1)

    with pytest.raises(PropertyFailed, match="inner, a chain, is contained in outer"):
        run(body)


# -- against a list ----------------------------------------------------------------------------

POINTS = st.lists(st.integers(1, 4), min_size=1, max_size=8).map(
    lambda gaps: [sum(gaps[: index + 1]) for index in range(len(gaps))]
)


@settings(max_examples=150, deadline=None)
@given(points=POINTS, actions=st.lists(st.tuples(st.sampled_from(["signal", "find", "walk"]), st.integers(0, 40)),
                                       max_size=14))  # fmt: skip
def test_find_and_signaled_agree_with_a_list_of_points(points: list[int], actions: list[tuple[str, int]]) -> None:
    """The answer to find(s) is signaled exactly when every fence up to the first point >= s is."""

    async def body(memory: FenceMemory) -> None:
        line = Line(memory, points)
        for action, number in actions:
            if action == "signal":
                line.fences[number % len(points)].signal()
            elif action == "walk":
                collect(line.nodes[number % len(points)].get())
            elif number == 0:
                assert line.find(0) is line.head
            elif number > points[-1]:
                line.head.get()
                with pytest.raises(EINVAL):
                    find_seqno(line.head, number)
                line.head.put()
            else:
                check_find(line, points, number)
            for index, node in enumerate(line.nodes):
                assert node.is_signaled() == all(fence.signaled for fence in line.fences[: index + 1])
        line.drop()

    run(body)


def check_find(line: Line, points: list[int], number: int) -> None:
    last = next(index for index, point in enumerate(points) if point >= number)
    needed = line.fences[: last + 1]
    found = line.find(number)
    if found is None:
        assert all(fence.signaled for fence in needed)
        return
    index = line.nodes.index(found)
    assert index <= last, "waits for more than was asked"
    assert all(fence.signaled for fence in line.fences[index + 1 : last + 1]), "waits for less than was asked"
    assert found.is_signaled() == all(fence.signaled for fence in needed)


# -- signaling -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(6)), watched=st.integers(0, 5), seed=st.integers(0, 1000))
def test_a_node_signals_after_the_last_fence_up_to_it(order: list[int], watched: int, seed: int) -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [1, 2, 3, 4, 5, 6])
        seen: list[int] = []
        line.nodes[watched].add_callback(lambda _: seen.append(sum(fence.signaled for fence in line.fences)))
        for index in order:
            await signal(line.fences[index])
        await memory.engine.quiesce()
        enough = max(order.index(index) for index in range(watched + 1)) + 1
        assert len(seen) == 1
        assert seen[0] >= enough
        line.drop()

    run(body, make("random", seed))


def test_it_keeps_one_callback_on_the_first_fence_that_is_left() -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [1, 2, 3])
        line.head.enable_sw_signaling()

        def queued() -> list[int]:
            return [len(fence._callbacks) for fence in line.fences]

        assert queued() == [0, 0, 1]
        line.fences[1].signal()
        line.fences[2].signal()
        assert queued() == [0, 0, 0]
        await memory.engine.quiesce()
        assert queued() == [1, 0, 0]
        assert not line.head.signaled
        line.fences[0].signal()
        assert not line.head.signaled
        await memory.engine.quiesce()
        assert line.head.signaled
        line.drop()

    run(body)


def test_errors_of_contained_fences_are_not_propagated() -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [1])
        line.fences[0].signal(EIO())
        await line.head.wait()
        assert line.head.get_status() == 1
        line.drop()

    run(body)


def test_a_node_is_kept_alive_by_its_own_callback() -> None:
    """Everybody drops the timeline while signaling is enabled; it goes when the last fence signals."""

    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [1, 2])
        line.head.enable_sw_signaling()
        for node in line.nodes:
            node.put()
        await memory.engine.quiesce()
        assert not line.head.freed
        for fence in line.fences[::-1]:
            await signal(fence)
            fence.put()

    on_all_schedules(under(body), seeds=10)


def test_deadlines_reach_what_is_left() -> None:
    async def body(memory: FenceMemory) -> None:
        fences = [Driver(memory, f"fence{index}") for index in range(3)]
        node: FenceChain | None = None
        for index, fence in enumerate(fences):
            node = FenceChain(memory.engine, f"node{index}", node, fence.get(), index + 1, memory=memory)
        assert node is not None
        fences[1].signal()
        node.set_deadline(7)
        assert [fence.asked for fence in fences] == [["by 7"], [], ["by 7"]]
        for fence in fences:
            fence.signal()
            fence.put()
        node.put()

    run(body)


def test_a_deadlock_report_looks_through_it() -> None:
    async def body(memory: FenceMemory) -> None:
        async def hardware() -> None:
            await memory.engine.join(main)

        main = memory.engine.current
        assert main is not None
        task = memory.engine.spawn(hardware(), "hardware")
        first = FenceChain(memory.engine, "first", None, Fence(memory.engine, "a", task), 1)
        await FenceChain(memory.engine, "second", first, Fence(memory.engine, "b"), 2).wait()

    with pytest.raises(Deadlock, match="wait-for cycle: main -> hardware -> main"):
        run(body)


# -- collection ------------------------------------------------------------------------------------


def test_walking_drops_what_is_done_and_frees_what_nobody_else_holds() -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [1, 2, 3, 4])
        inner = line.nodes[1:3]
        for node in inner:
            node.put()
        line.fences[1].signal()
        line.fences[2].signal()
        assert line.find(4) is line.head
        collect(line.head.get())
        assert line.head.prev is line.nodes[0]
        await memory.drain()
        assert all(node.freed for node in inner)
        del line.nodes[1:3]
        line.drop()

    run(body)


def collectors(memory: FenceMemory):
    """Two walkers over the same done node."""

    async def body() -> None:
        line, engine = Line(memory, [1, 2]), memory.engine
        line.fences[0].signal()
        line.nodes.pop(0).put()  # only the line itself holds it now, so dropping it twice is noticed

        async def walker() -> None:
            node: Fence | None = line.head.get()
            while node is not None:
                node = await in_steps(engine, walk_steps(node))

        async with engine.nursery() as nursery:
            nursery.start_soon(walker)
            nursery.start_soon(walker)
        assert line.head.prev is None
        line.drop()

    return body()


def test_two_walkers_never_drop_a_node_twice() -> None:
    engines = list(every_schedule(under(collectors), limit=30_000))
    assert any(engine.counters["FEN-R08"] for engine in engines)


def test_without_compare_exchange_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain_store(self, expected, replacement):  # type: ignore[no-untyped-def]
        self.prev = replacement
        return True

    monkeypatch.setattr(FenceChain, "replace_prev", plain_store)
    with pytest.raises(PropertyFailed) as info:
        list(every_schedule(under(collectors), limit=30_000))
    assert info.value.oracle in ("lifetime", "leaks")


def test_find_in_steps_gives_what_find_gives_when_alone() -> None:
    async def body(memory: FenceMemory) -> None:
        line = Line(memory, [2, 4, 6])
        line.fences[0].signal()
        for point in range(7):
            found = await find_seqno_in_steps(memory.engine, line.head.get(), point)
            assert found is line.find(point)
            if found is not None:
                found.put()
        line.head.get()
        with pytest.raises(EINVAL):
            await find_seqno_in_steps(memory.engine, line.head, 7)
        line.head.put()
        line.drop()

    run(body)


def test_a_plain_fence_has_only_point_zero() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = Fence(memory.engine, "fence", memory=memory)
        assert find_seqno(fence, 0) is fence
        with pytest.raises(EINVAL):
            find_seqno(fence, 1)
        fence.put()

    run(body)
