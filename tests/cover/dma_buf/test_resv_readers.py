"""Looking at a reservation without its lock, and waiting for it (fences_and_scheduler section 3)."""

from __future__ import annotations

import pytest
from fence_bench import Driver, every_schedule, on_all_schedules, run, signal, under

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv, ResvCursor, Usage
from svm_actors.engine.errors import ERESTARTSYS
from svm_actors.engine.signals import send_signal


class Bench:
    """A reservation with fences that we keep references on."""

    def __init__(self, memory: FenceMemory, *, usages: str = "") -> None:
        self.memory = memory
        self.engine = memory.engine
        self.resv = DmaResv(memory.engine, "bo", memory=memory)
        self.made: list[Fence] = []
        self.initial = usages

    def fence(self) -> Fence:
        fence = Fence(self.engine, f"f{len(self.made)}", memory=self.memory)
        self.made.append(fence)
        return fence

    async def add(self, usage: Usage, count: int = 1) -> list[Fence]:
        """Under the lock, adding is an op: readers get in between."""
        fences = [self.fence() for _ in range(count)]
        await self.resv.lock()
        self.resv.reserve(count)
        for fence in fences:
            await self.engine.step("write", self.resv)
            self.resv.add(fence, usage)
        self.resv.unlock()
        return fences

    def drop(self) -> None:
        self.resv.fini()
        for fence in self.made:
            fence.signal()
            fence.put()


# -- the cursor -------------------------------------------------------------------------------


def test_a_cursor_answers_what_is_not_done_with_a_reference_until_the_next() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = await bench.add(Usage.READ, 4)
        await bench.add(Usage.BOOKKEEP)
        fences[1].signal()
        cursor, seen = ResvCursor(bench.resv, Usage.READ), []
        while (fence := await cursor.next()) is not None:
            seen.append((fence, cursor.restarted))
            assert fence.refs == 3
        assert seen == [(fences[0], True), (fences[2], False), (fences[3], False)]
        assert [fence.refs for fence in bench.made] == [2] * 5
        early = ResvCursor(bench.resv, Usage.READ)
        assert await early.next() is fences[0]
        early.end()
        assert fences[0].refs == 2
        bench.drop()

    run(body)


def test_a_cursor_starts_again_when_the_array_was_replaced() -> None:
    """FEN-R10: who collects forgets; then it has every fence that was there all the time exactly once."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        before = await bench.add(Usage.READ, 4)

        async def reader() -> None:
            cursor, collected = ResvCursor(bench.resv, Usage.READ), []
            while (fence := await cursor.next()) is not None:
                if cursor.restarted:
                    collected.clear()
                collected.append(fence)
            assert len(collected) == len(set(collected))
            assert set(before) <= set(collected)
            bench.engine.count(f"saw {len(collected)}")

        async with bench.engine.nursery() as nursery:
            nursery.start_soon(reader)
            nursery.start_soon(bench.add, Usage.READ, 2)
        bench.drop()

    engines = on_all_schedules(under(body), seeds=200)
    assert any(engine.counters["FEN-R10"] for engine in engines)
    assert all(any(engine.counters[f"saw {n}"] for engine in engines) for n in (4, 5, 6))


def test_who_does_not_forget_counts_twice() -> None:
    """The rule of FEN-R10 broken by the collector."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        await bench.add(Usage.READ, 4)

        async def reader() -> None:
            cursor, collected = ResvCursor(bench.resv, Usage.READ), []
            while (fence := await cursor.next()) is not None:
                collected.append(fence)
            assert len(collected) == len(set(collected))

        async with bench.engine.nursery() as nursery:
            nursery.start_soon(reader)
            nursery.start_soon(bench.add, Usage.READ, 1)
        bench.drop()

    with pytest.raises(AssertionError):
        on_all_schedules(under(body), seeds=200)


def test_readers_need_no_lock_and_see_what_is_added_before_unlock() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        await bench.resv.lock()
        bench.resv.reserve(1)
        fence = bench.fence()
        bench.resv.add(fence, Usage.KERNEL)

        async def reader() -> None:
            assert not bench.resv.test_signaled(Usage.KERNEL)
            cursor = ResvCursor(bench.resv, Usage.KERNEL)
            assert await cursor.next() is fence
            cursor.end()

        await bench.engine.join(bench.engine.spawn(reader(), "reader"))
        bench.resv.unlock()
        bench.drop()

    run(body)


# -- waiting ------------------------------------------------------------------------------------


def test_waiting_ends_when_all_that_was_there_is_done() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = await bench.add(Usage.WRITE, 3)
        bookkeeping = await bench.add(Usage.BOOKKEEP)

        async def waiter() -> None:
            assert await bench.resv.wait(Usage.READ) == MAX_SCHEDULE_TIMEOUT
            assert all(fence.signaled for fence in fences)
            assert not bookkeeping[0].signaled

        async with bench.engine.nursery() as nursery:
            nursery.start_soon(waiter)
            for fence in fences[::-1]:
                nursery.start_soon(signal, fence)
        bench.drop()

    on_all_schedules(under(body))


def test_the_time_is_one_for_all_fences_together() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = await bench.add(Usage.READ, 2)

        async def hardware() -> None:
            for fence in fences:
                await bench.engine.sleep(10)
                await signal(fence)

        task = bench.engine.spawn(hardware(), "hardware")
        assert await bench.resv.wait(Usage.READ, timeout=15) == 0
        assert bench.engine.now == 15
        assert await bench.resv.wait(Usage.READ, timeout=15) == 10
        assert await bench.resv.wait(Usage.READ, timeout=15) == 15
        await bench.engine.join(task)
        bench.drop()

    run(body)


def test_a_timeout_of_zero_polls_every_fence_and_never_sleeps() -> None:
    """FEN-B02: the zero stays zero after the first fence too."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        assert await bench.resv.wait(Usage.BOOKKEEP, timeout=0) == 1
        fences = await bench.add(Usage.READ, 3)
        for done in range(4):
            assert await bench.resv.wait(Usage.READ, timeout=0) == int(done == 3)
            if done < 3:
                fences[done].signal()
        assert bench.engine.now == 0
        bench.drop()

    run(body)


def test_a_signal_ends_an_interruptible_wait_and_nothing_stays_referenced() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = await bench.add(Usage.READ, 2)
        assert bench.engine.current is not None
        send_signal(bench.engine, bench.engine.current.thread)
        with pytest.raises(ERESTARTSYS):
            await bench.resv.wait(Usage.READ, intr=True)
        assert await bench.resv.wait(Usage.READ, timeout=5) == 0
        assert [fence.refs for fence in fences] == [2, 2]
        bench.drop()

    run(body)


def test_what_is_added_after_the_look_is_missed_without_the_lock() -> None:
    """FEN-R11, both ways: the wait may end with a new fence left; under the lock it cannot."""

    def body(locked: bool):
        async def run_it(memory: FenceMemory) -> None:
            bench = Bench(memory)
            fences = await bench.add(Usage.READ)

            async def waiter() -> None:
                if locked:
                    await bench.resv.lock()
                await bench.resv.wait(Usage.READ)
                if locked:
                    assert bench.resv.test_signaled(Usage.READ)
                    bench.resv.unlock()

            async def writer() -> None:
                added = await bench.add(Usage.READ)
                await bench.engine.sleep(10)
                await signal(added[0])

            async with bench.engine.nursery() as nursery:
                nursery.start_soon(waiter)
                nursery.start_soon(writer)
                nursery.start_soon(signal, fences[0])
            bench.drop()

        return run_it

    open_window = on_all_schedules(under(body(False)))
    assert any(engine.counters["FEN-R11"] for engine in open_window)
    closed = on_all_schedules(under(body(True)))
    assert not any(engine.counters["FEN-R11"] for engine in closed)


def test_a_fence_dies_only_after_its_waiter_is_through() -> None:
    """The reservation drops its reference while somebody waits for the fence: every interleaving."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fence = (await bench.add(Usage.READ))[0]

        async def hardware() -> None:
            await signal(fence)
            await bench.resv.lock()
            bench.made.remove(fence)
            fence.put()
            bench.resv.reserve(4)
            bench.resv.unlock()

        async with bench.engine.nursery() as nursery:
            nursery.start_soon(bench.resv.wait, Usage.READ)
            nursery.start_soon(hardware)
        bench.drop()

    assert len(list(every_schedule(under(body), limit=10_000))) > 20


def test_deadlines_are_passed_on_to_what_is_asked_for() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = [Driver(memory, f"d{index}") for index in range(2)]
        await bench.resv.lock()
        bench.resv.reserve(2)
        for fence, usage in zip(fences, (Usage.READ, Usage.BOOKKEEP), strict=True):
            bench.resv.add(fence, usage)
        bench.resv.unlock()
        await bench.resv.set_deadline(Usage.READ, 33)
        assert [fence.asked for fence in fences] == [["by 33"], []]
        bench.made += fences
        bench.drop()

    run(body)
