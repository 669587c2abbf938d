"""Fence arrays: done when all children are, from irq_work, with the first error (fences_and_scheduler 2)."""

from __future__ import annotations

import pytest
from fence_bench import Driver, every_schedule, on_all_schedules, run, signal, under
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.errors import EIO, ETIME, Deadlock, PropertyFailed


class Array:
    """An array of n counted fences, with a reference of our own on each."""

    def __init__(self, memory: FenceMemory, n: int) -> None:
        self.children = [Fence(memory.engine, f"child{index}", memory=memory) for index in range(n)]
        fences = [child.get() for child in self.children]
        self.array = FenceArray(memory.engine, "array", fences, memory=memory)

    def drop(self) -> None:
        self.array.put()
        for child in self.children:
            child.put()


def test_it_is_done_when_the_last_child_is_in_any_order() -> None:
    async def body(memory: FenceMemory) -> None:
        a, engine = Array(memory, 3), memory.engine
        seen: list[list[bool]] = []
        a.array.add_callback(lambda _: seen.append([child.signaled for child in a.children]))
        async with engine.nursery() as nursery:
            for child in a.children:
                nursery.start_soon(signal, child)
            await a.array.wait()
        assert seen == [[True, True, True]]
        assert a.array.get_status() == 1
        a.drop()

    on_all_schedules(under(body))


def test_the_last_child_does_not_signal_it_inside_its_own_lock() -> None:
    async def body(memory: FenceMemory) -> None:
        a = Array(memory, 1)
        a.array.enable_sw_signaling()
        a.children[0].signal()
        assert not a.array.signaled
        await memory.engine.quiesce()
        assert a.array.signaled
        a.drop()

    assert "array.irq_work: fence_signal array" in run(body, record=True).trace()


def test_a_poll_before_the_irq_work_finds_it_done_too() -> None:
    async def body(memory: FenceMemory) -> None:
        a = Array(memory, 2)
        a.array.enable_sw_signaling()
        for child in a.children:
            assert not a.array.is_signaled()
            child.signal()
        assert a.array.is_signaled()
        a.drop()

    run(body)


def test_before_signaling_is_requested_a_poll_asks_every_child() -> None:
    """FEN-B05: the counter says nothing before the callbacks are out."""

    async def body(memory: FenceMemory) -> None:
        a = Array(memory, 2)
        assert not a.array.is_signaled()
        for child in a.children:
            child.signal()
        assert not a.array.enabled
        assert a.array.is_signaled()
        a.drop()

    run(body)


def test_a_poll_against_enabling_and_completion_is_never_early() -> None:
    """FEN-R07 in every interleaving of a poller, one who requests signaling, and the children."""

    async def body(memory: FenceMemory) -> None:
        a, engine = Array(memory, 2), memory.engine

        async def poller() -> None:
            for _ in range(2):
                await engine.step("read", a.array)
                if a.array.is_signaled():
                    assert all(child.signaled for child in a.children)
                    engine.count("polled")

        async def requester() -> None:
            await engine.step("write", a.array)
            a.array.enable_sw_signaling()

        async def hardware() -> None:
            for child in a.children:
                await signal(child)

        async with engine.nursery() as nursery:
            for task in (poller, requester, hardware):
                nursery.start_soon(task)
        await a.array.wait()
        a.drop()

    engines = list(every_schedule(under(body), limit=30_000))
    assert {engine.counters["polled"] for engine in engines} == {0, 1, 2}


@pytest.mark.parametrize("early", [0, 1, 2, 3])
def test_children_that_are_done_before_signaling_is_requested(early: int) -> None:
    async def body(memory: FenceMemory) -> None:
        a = Array(memory, 3)
        for child in a.children[:early]:
            child.signal()
        assert a.array.enable_sw_signaling() is (early < 3)
        for child in a.children[early:]:
            assert not a.array.is_signaled()
            child.signal()
        assert a.array.is_signaled()
        a.drop()

    run(body)


@settings(max_examples=60, deadline=None)
@given(
    errors=st.lists(st.sampled_from([None, EIO, ETIME]), min_size=1, max_size=5),
    enabled_after=st.integers(0, 5),
    data=st.data(),
)
def test_the_error_is_that_of_the_first_child_that_failed(errors, enabled_after: int, data: st.DataObject) -> None:
    """In the order the array learns of them: children done before the request are asked in their order."""
    order = data.draw(st.permutations(range(len(errors))))

    async def body(memory: FenceMemory) -> None:
        a = Array(memory, len(errors))
        for number, index in enumerate(order):
            if number == enabled_after:
                a.array.enable_sw_signaling()
            error = errors[index]
            a.children[index].signal(error() if error is not None else None)
        a.array.enable_sw_signaling()
        await a.array.wait()
        learned = sorted(order[:enabled_after]) + order[enabled_after:]
        first = next((errors[index] for index in learned if errors[index] is not None), None)
        assert a.array.get_status() == (1 if first is None else -first.errno)
        a.drop()

    run(body)


def test_an_empty_array_is_done() -> None:
    async def body(memory: FenceMemory) -> None:
        empty = FenceArray(memory.engine, "array", [], memory=memory)
        await empty.wait()
        empty.put()

    run(body)


def test_it_has_a_context_of_its_own_or_the_one_given() -> None:
    async def body(memory: FenceMemory) -> None:
        first, second = (FenceArray(memory.engine, "array", []) for _ in range(2))
        assert (first.context, first.seqno, second.context, second.seqno) == (1, 1, 2, 1)
        given_ = FenceArray(memory.engine, "array", [], context=77, seqno=5)
        assert (given_.context, given_.seqno) == (77, 5)

    run(body)


def test_containers_may_not_be_children() -> None:
    async def body(memory: FenceMemory) -> None:
        inner = FenceArray(memory.engine, "inner", [])
        FenceArray(memory.engine, "outer", [inner])

    with pytest.raises(PropertyFailed, match="inner, a container, is put into outer"):
        run(body)


def test_a_deadline_goes_to_the_children() -> None:
    async def body(memory: FenceMemory) -> None:
        children = [Driver(memory, f"child{index}") for index in range(2)]
        array = FenceArray(memory.engine, "array", children, memory=memory)
        array.set_deadline(40)
        assert [child.asked for child in children] == [["by 40"], ["by 40"]]
        for child in children:
            child.signal()
        array.put()

    run(body)


def test_a_deadlock_report_looks_through_it() -> None:
    async def body(memory: FenceMemory) -> None:
        async def hardware() -> None:
            await memory.engine.join(main)

        main = memory.engine.current
        assert main is not None
        task = memory.engine.spawn(hardware(), "hardware")
        await FenceArray(memory.engine, "array", [Fence(memory.engine, "child", task)]).wait()

    with pytest.raises(Deadlock, match="wait-for cycle: main -> hardware -> main"):
        run(body)
