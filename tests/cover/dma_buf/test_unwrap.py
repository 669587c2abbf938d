"""Unwrapping containers and merging fences (fences_and_scheduler section 2)."""

from __future__ import annotations

from fence_bench import Scripted, Timeline, every_schedule, run, signal, under
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_chain import FenceChain
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.seqno import is_later
from svm_actors.dma_buf.unwrap import deduplicate, merge, merge_in_steps, unwrap


class Zoo:
    """Numbered fences of three contexts, and containers around them; all ours to drop."""

    def __init__(self, memory: FenceMemory, numbers: list[tuple[int, int]]) -> None:
        """``numbers`` are (context 1..3, or 0 for an unnumbered fence; its number)."""
        self.memory = memory
        self.fences = [
            Fence(memory.engine, f"c{context}.{seqno}", context=100 * context, seqno=seqno, memory=memory)
            for context, seqno in numbers
        ]
        self.made: list[Fence] = list(self.fences)

    def array(self, *indices: int) -> FenceArray:
        fences = [self.fences[index].get() for index in indices]
        return self.keep(FenceArray(self.memory.engine, "array", fences, memory=self.memory))

    def chain(self, *parts: Fence) -> FenceChain:
        node: FenceChain | None = None
        for number, part in enumerate(parts):
            node = FenceChain(self.memory.engine, f"node{number}", node, part.get(), number + 1, memory=self.memory)
        assert node is not None
        return self.keep(node)

    def keep(self, fence):  # type: ignore[no-untyped-def]
        self.made.append(fence)
        return fence

    def drop(self) -> None:
        for fence in self.fences:
            fence.signal()
        for fence in self.made:
            fence.put()


# -- unwrap --------------------------------------------------------------------------------------


def test_leaves_come_out_of_every_container() -> None:
    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, [(0, number) for number in range(5)])
        a, b, c, d, e = zoo.fences
        assert unwrap(None) == []
        assert unwrap(a) == [a]
        assert unwrap(zoo.array(1, 2)) == [b, c]
        assert unwrap(zoo.chain(a, zoo.array(1, 2), d)) == [d, b, c, a]
        assert unwrap(zoo.chain(zoo.array(4))) == [e]
        zoo.drop()

    run(body)


def test_unwrapping_collects_what_is_done_on_the_way() -> None:
    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, [(0, number) for number in range(3)])
        a, b, c = zoo.fences
        chain = zoo.chain(a, b, c)
        b.signal()
        assert unwrap(chain) == [c, a]
        zoo.drop()

    run(body)


# -- merge: what is kept --------------------------------------------------------------------------


def test_nothing_to_wait_for_gives_a_stub_with_the_newest_time() -> None:
    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, [(1, 1), (2, 1)])
        zoo.fences[0].signal(timestamp=30)
        zoo.fences[1].signal(timestamp=20)
        merged = merge(memory.engine, [*zoo.fences, None], memory)
        assert merged is not None
        assert merged not in zoo.fences
        assert (merged.is_signaled(), merged.timestamp) == (True, 30)
        empty = merge(memory.engine, [], memory)
        assert empty is not None
        assert empty.is_signaled()
        for fence in (merged, empty):
            fence.put()
        zoo.drop()

    run(body)


def test_one_left_is_that_one() -> None:
    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, [(1, 1), (2, 1), (2, 2)])
        zoo.fences[0].signal()
        for fences in (zoo.fences[:2], zoo.fences[1:2], [zoo.chain(*zoo.fences[:2])]):
            merged = merge(memory.engine, fences, memory)
            assert merged is zoo.fences[1]
            merged.put()
        latest = merge(memory.engine, [zoo.fences[2], zoo.array(1, 2)], memory)
        assert latest is zoo.fences[2]
        latest.put()
        zoo.drop()

    run(body)


NUMBERS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=10, unique=True)


@settings(max_examples=150, deadline=None)
@given(numbers=NUMBERS, signaled=st.sets(st.integers(0, 9)), grouped=st.integers(0, 10))
def test_a_merge_waits_for_everything_and_keeps_one_of_each_context(numbers, signaled: set[int], grouped: int) -> None:
    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, numbers)
        for index in sorted(signaled):
            if index < len(zoo.fences):
                zoo.fences[index].signal()
        # Some of them inside an array, so that a merge has to look into it.
        inside = min(grouped, len(zoo.fences))
        inputs: list[Fence | None] = [None, zoo.array(*range(inside)), *zoo.fences[inside:]]
        pending = [fence for fence in zoo.fences if not fence.signaled]
        merged = merge(memory.engine, inputs, memory)
        assert merged is not None
        leaves = [leaf for leaf in unwrap(merged) if not leaf.signaled]
        check_kept(leaves, pending)
        assert merged.is_signaled() is not bool(pending)
        for fence in sorted(pending, key=lambda fence: (fence.context, fence.seqno)):  # timelines in order
            assert not merged.is_signaled()
            fence.signal()
        assert merged.is_signaled()
        merged.put()
        zoo.drop()

    run(body)


def check_kept(leaves: list[Fence], pending: list[Fence]) -> None:
    contexts = [leaf.context for leaf in leaves if leaf.context]
    assert len(contexts) == len(set(contexts)), "two of one context"
    assert contexts == sorted(contexts)
    for fence in pending:
        rivals = [leaf for leaf in leaves if leaf is fence or leaf.context == fence.context != 0]
        assert any(leaf is fence or not is_later(fence, leaf) for leaf in rivals), f"{fence.name} is lost"
    assert all(leaf in pending for leaf in leaves)


@given(NUMBERS)
def test_duplicates_are_found_in_any_order(numbers) -> None:
    """FEN-B06: the result is the same whatever order the fences come in."""

    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, sorted(set(numbers)))
        names = [sorted(fence.name for fence in deduplicate(order)) for order in (zoo.fences, zoo.fences[::-1])]
        assert names[0] == names[1]
        assert deduplicate([*zoo.fences, *zoo.fences]) == deduplicate(zoo.fences)
        zoo.drop()

    run(body)


# -- merge: what can go wrong -----------------------------------------------------------------------


def test_without_memory_there_is_no_merged_fence_and_no_leak() -> None:
    async def body(memory: FenceMemory) -> None:
        zoo = Zoo(memory, [(1, 1), (2, 1)])
        assert merge(memory.engine, zoo.fences, memory) is None
        single = merge(memory.engine, zoo.fences[:1], memory)  # needs none
        assert single is zoo.fences[0]
        single.put()
        zoo.drop()

    assert run(body, Scripted(1), inject=True).counters["inject.enomem"] == 1


def test_fences_that_signal_between_the_two_looks() -> None:
    """Array, single fence or stub: whatever is left at the second look, everybody is waited for."""

    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        timelines = [Timeline(memory, context) for context in (100, 200)]
        fences = [timeline.fence() for timeline in timelines]

        async def hardware() -> None:
            for fence in fences:
                await signal(fence)

        task = engine.spawn(hardware(), "hardware")
        merged = await merge_in_steps(engine, fences, memory)
        assert merged is not None
        engine.count("array" if isinstance(merged, FenceArray) else "single" if merged in fences else "stub")
        await merged.wait()
        assert all(fence.signaled for fence in fences)
        await engine.join(task)
        for fence in (merged, *fences):
            fence.put()

    engines = list(every_schedule(under(body), limit=3000))
    for outcome in ("array", "single", "stub"):
        assert any(engine.counters[outcome] for engine in engines), outcome
    assert any(engine.counters["fence.signaled_while_merging"] for engine in engines)
