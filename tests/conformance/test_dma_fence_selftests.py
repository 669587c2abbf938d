"""dma_fence and dma_fence_chain selftests: all 12 + 11 cases, each on many schedules.

A jiffy is a tick of virtual time.  Every case also ends with the checks the catalogue adds: no fence,
chain or callback is left alive.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from typing import Any

import pytest
from cases import case, every_schedule, on_all_schedules, run_once, table

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_chain import FenceChain, find_seqno, find_seqno_in_steps
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.fence_wait import add_callback
from svm_actors.dma_buf.rcu_pointer import RcuPointer
from svm_actors.dma_buf.stub import dma_fence_get_stub
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, EIO, ENOENT, PropertyFailed
from svm_actors.engine.locks import WaitQueue
from svm_actors.explore.strategies import make

SUITE = "dma_fence_selftests"
TICK = 1_000_000
HZ = 1000 * TICK

Body = Callable[[FenceMemory], Coroutine[Any, Any, None]]


def program(body: Body) -> Callable[[Engine], Coroutine[Any, Any, None]]:
    """A case with a memory of its own, from which everything must be gone at the end."""

    async def run(engine: Engine) -> None:
        memory = FenceMemory(engine)
        await body(memory)
        await engine.quiesce()  # irq_work and the grace period are through
        memory.check_empty()

    return run


def check(body: Body) -> list[Engine]:
    return on_all_schedules(program(body))


def mock(memory: FenceMemory, name: str = "mock") -> Fence:
    return Fence(memory.engine, name, memory=memory)


async def raise_signal(fence: Fence) -> None:
    await fence.engine.step("fence_signal", fence)
    fence.signal()


# -- dma_fence ---------------------------------------------------------------------------


@case(SUITE, "D1", "sanitycheck")
def test_d1_sanitycheck() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        fence.signal()
        assert not fence.freed
        fence.put()
        with pytest.raises(PropertyFailed, match="put more often"):
            fence.put()
        await memory.drain()
        assert fence.freed
        assert memory.born == 1

    check(body)


@case(SUITE, "D2", "test_signaling")
def test_d2_test_signaling() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        assert not fence.is_signaled()
        assert fence.check_and_signal() is False
        assert fence.is_signaled()
        assert fence.signaled
        assert fence.check_and_signal() is True
        fence.put()

    check(body)


@case(SUITE, "D3", "test_add_callback")
def test_d3_test_add_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        fence.add_callback(seen.append)
        assert seen == []
        fence.signal()
        assert seen == [fence]
        fence.put()

    check(body)


@case(SUITE, "D4", "test_late_add_callback")
def test_d4_test_late_add_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        fence.enable_sw_signaling()
        fence.signal()
        with pytest.raises(ENOENT):
            fence.add_callback(seen.append)
        assert not fence.signal()
        assert seen == []
        fence.put()

    check(body)


@case(SUITE, "D5", "test_rm_callback")
def test_d5_test_rm_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        cb = fence.add_callback(seen.append)
        assert fence.remove_callback(cb) is True
        fence.signal()
        assert seen == []
        fence.put()

    check(body)


@case(SUITE, "D6", "test_late_rm_callback")
def test_d6_test_late_rm_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        cb = fence.add_callback(seen.append)
        fence.signal()
        assert seen == [fence]
        assert fence.remove_callback(cb) is False
        fence.put()

    check(body)


@case(SUITE, "D7", "test_status")
def test_d7_test_status() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        assert fence.get_status() == 0
        fence.signal()
        assert fence.get_status() == 1
        fence.put()

    check(body)


@case(SUITE, "D8", "test_error")
def test_d8_test_error() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        fence.set_error(EIO())
        assert fence.get_status() == 0
        fence.signal()
        assert fence.get_status() == -EIO.errno
        fence.put()

    check(body)


@case(SUITE, "D9", "test_wait")
def test_d9_test_wait() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        assert await fence.wait_timeout(0) == 0
        fence.signal()
        assert await fence.wait_timeout(0) == 1
        fence.put()

    check(body)


@case(SUITE, "D10", "test_wait_timeout")
def test_d10_test_wait_timeout() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, engine = mock(memory), memory.engine
        assert await fence.wait_timeout(TICK) == 0
        assert engine.now == TICK

        async def timer() -> None:
            await engine.sleep(TICK)
            await raise_signal(fence)

        async with engine.nursery() as nursery:
            nursery.start_soon(timer)
            assert await fence.wait_timeout(HZ) == HZ - TICK
        assert engine.now == 2 * TICK
        fence.put()

    check(body)


@case(SUITE, "D11", "test_stub")
def test_d11_test_stub() -> None:
    async def body(memory: FenceMemory) -> None:
        stubs = [dma_fence_get_stub(memory.engine, memory) for _ in range(64)]
        assert all(stub.is_signaled() for stub in stubs)
        assert len(set(stubs)) == 1
        assert stubs[0].refs == 65
        for stub in stubs:
            stub.put()
        assert stubs[0].refs == 1

    check(body)


class Race:
    """D12: each side publishes a fence, takes the other's, and adds a callback to it."""

    def __init__(self, memory: FenceMemory, *, before: bool, rounds: int) -> None:
        self.memory = memory
        self.engine = memory.engine
        self.before = before
        self.rounds = rounds
        self.slots = [RcuPointer(self.engine, f"slot{side}", memory.rcu) for side in range(2)]
        self.changed = WaitQueue(self.engine, "slots")
        self.finished = [False, False]

    async def side(self, me: int) -> None:
        for number in range(self.rounds):
            await self.round(me, number)
        self.finished[me] = True
        self.changed.wake_up()

    async def publish(self, me: int, fence: Fence | None) -> None:
        await self.slots[me].assign(fence)
        self.changed.wake_up()

    async def take(self, other: int) -> Fence | None:
        """The other side's fence; it may vanish meanwhile.  None once that side is through."""
        while True:
            await self.changed.wait_event(lambda: bool(self.slots[other]) or self.finished[other])
            fence = await self.slots[other].get_safe()
            if fence is not None or self.finished[other]:
                return fence

    async def round(self, me: int, number: int) -> None:
        mine = mock(self.memory, f"mock{me}.{number}")
        await self.publish(me, mine)
        theirs = await self.take(1 - me)
        if self.before:
            await raise_signal(mine)
        seen: list[Fence] = []
        missed = not await self.add(theirs, seen)
        if not self.before:
            await raise_signal(mine)
        if theirs is not None:
            if not missed:
                await theirs.wait()
                theirs.remove_callback(seen.append)  # the pass through the other fence's lock
                assert seen == [theirs]
            theirs.put()
        await self.publish(me, None)
        mine.put()

    async def add(self, theirs: Fence | None, seen: list[Fence]) -> bool:
        if theirs is None:
            return False
        try:
            await add_callback(theirs, seen.append)
        except ENOENT:
            self.engine.count("missed")
            return False
        self.engine.count("added")
        return True


def race(*, before: bool, rounds: int) -> Body:
    async def body(memory: FenceMemory) -> None:
        both = Race(memory, before=before, rounds=rounds)
        async with memory.engine.nursery() as nursery:
            for me in range(2):
                nursery.start_soon(both.side, me)

    return body


@case(SUITE, "D12", "race_signal_callback")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_d12_race_signal_callback(before: bool) -> None:
    engines = on_all_schedules(program(race(before=before, rounds=4)), seeds=200)
    for window in ("added", "missed", "FEN-R01", "FEN-R05"):
        assert any(engine.counters[window] for engine in engines), window


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_d12_every_interleaving_of_signal_and_add(before: bool) -> None:
    """The core of D12 without the slots: both hold both fences, one round."""

    async def body(memory: FenceMemory) -> None:
        fences = [mock(memory, f"mock{side}") for side in range(2)]
        both = Race(memory, before=before, rounds=1)

        async def side(me: int) -> None:
            seen: list[Fence] = []
            if before:
                await raise_signal(fences[me])
            added = await both.add(fences[1 - me], seen)
            if not before:
                await raise_signal(fences[me])
            if added:
                await fences[1 - me].wait()
                assert seen == [fences[1 - me]]

        async with memory.engine.nursery() as nursery:
            for me in range(2):
                nursery.start_soon(side, me)
        for fence in fences:
            fence.put()

    outcomes = {
        (engine.counters["added"], engine.counters["FEN-R01"]) for engine in every_schedule(program(body), limit=3000)
    }
    # Signaling first leaves at most one side something to wait for; adding first may leave both.
    assert outcomes == ({(0, 0), (0, 1), (1, 0)} if before else {(1, 0), (1, 1), (2, 0)})


# -- dma_fence_chain ---------------------------------------------------------------------


class Chains:
    """``chains(n, f)``: n fences, node i on node i - 1 with fence i and number f(i)."""

    def __init__(
        self, memory: FenceMemory, n: int, number: Callable[[int], int] = lambda i: i + 1, *, enable: bool = True
    ) -> None:
        self.engine = memory.engine
        self.fences = [mock(memory, f"fence{i}") for i in range(n)]
        self.chains: list[FenceChain] = []
        prev: FenceChain | None = None
        for i, fence in enumerate(self.fences):
            before = None if prev is None else prev.get()
            prev = FenceChain(self.engine, f"chain{i}", before, fence.get(), number(i), memory=memory)
            self.chains.append(prev)
            if enable:
                prev.enable_sw_signaling()

    @property
    def tail(self) -> FenceChain:
        return self.chains[-1]

    def find(self, chain: Fence, seqno: int) -> Fence | None:
        """The answer, its reference dropped again: the builder's own ones keep everything alive."""
        found = find_seqno(chain.get(), seqno)
        if found is not None:
            found.put()
        return found

    def refused(self, chain: Fence, seqno: int) -> bool:
        chain.get()
        try:
            find_seqno(chain, seqno)
        except EINVAL:
            chain.put()
            return True
        return False

    def drop(self) -> None:
        for fence in self.fences:
            fence.signal()
        for fence in (*self.chains, *self.fences):
            fence.put()


@case(SUITE, "C1", "sanitycheck")
def test_c1_sanitycheck() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        chain = FenceChain(memory.engine, "chain", None, fence.get(), 1, memory=memory)
        chain.enable_sw_signaling()
        fence.signal()
        chain.put()
        fence.put()

    check(body)


@case(SUITE, "C2", "find_seqno")
def test_c2_find_seqno() -> None:
    async def body(memory: FenceMemory) -> None:
        c = Chains(memory, 64)
        assert c.find(c.tail, 0) is c.tail
        for i in range(64):
            assert c.find(c.tail, i + 1) is c.chains[i]
            assert c.find(c.chains[i], i + 1) is c.chains[i]
            assert c.refused(c.chains[i], i + 2)
            assert c.find(c.chains[i], i) is c.chains[i - 1 if i else 0]
        c.drop()

    check(body)


@case(SUITE, "C3", "find_signaled")
def test_c3_find_signaled() -> None:
    async def body(memory: FenceMemory) -> None:
        c = Chains(memory, 2)
        await raise_signal(c.fences[0])
        assert c.find(c.tail, 1) in (None, c.chains[0])
        c.drop()

    check(body)


@case(SUITE, "C4", "find_out_of_order")
def test_c4_find_out_of_order() -> None:
    async def body(memory: FenceMemory) -> None:
        c = Chains(memory, 3)
        await raise_signal(c.fences[1])
        assert c.find(c.tail, 2) is c.chains[0]
        assert c.tail.prev is c.chains[0]
        c.drop()

    check(body)


@case(SUITE, "C5", "find_gap")
def test_c5_find_gap() -> None:
    async def body(memory: FenceMemory) -> None:
        c = Chains(memory, 64, lambda i: 2 * (i + 1))
        for i in range(64):
            assert c.find(c.tail, 2 * i + 1) is c.chains[i]
            assert c.find(c.chains[i], 2 * i + 2) is c.chains[i]
        c.drop()

    check(body)


def find_race(n: int, threads: int, loops: int) -> Body:
    """Finders that collect while others find and signal; the last fence is never signaled."""

    async def body(memory: FenceMemory) -> None:
        c, engine = Chains(memory, n), memory.engine

        async def finder() -> None:
            for _ in range(loops):
                seqno = engine.choose(n, "seqno") + 1
                found = await find_seqno_in_steps(engine, c.tail.get(), seqno)
                if found is not None and found.seqno == seqno:
                    found = await find_seqno_in_steps(engine, found, seqno)
                if found is not None:
                    found.put()
                await raise_signal(c.fences[engine.choose(n - 1, "signal")])

        async with engine.nursery() as nursery:
            for _ in range(threads):
                nursery.start_soon(finder)
        assert not c.tail.is_signaled()
        c.drop()

    return body


@case(SUITE, "C6", "find_race")
def test_c6_find_race() -> None:
    engines = on_all_schedules(program(find_race(n=8, threads=3, loops=4)))
    assert any(engine.counters["FEN-R08"] for engine in engines)


def test_c6_find_race_at_full_length() -> None:
    run_once(program(find_race(n=4096, threads=2, loops=6)), make("random", 1))


@case(SUITE, "C7", "signal_forward")
def test_c7_signal_forward() -> None:
    async def body(memory: FenceMemory) -> None:
        c = Chains(memory, 64)
        for i in range(64):
            await raise_signal(c.fences[i])
            assert c.chains[i].is_signaled()
            assert i + 1 == 64 or not c.chains[i + 1].is_signaled()
        c.drop()

    check(body)


@case(SUITE, "C8", "signal_backward")
def test_c8_signal_backward() -> None:
    async def body(memory: FenceMemory) -> None:
        c = Chains(memory, 64)
        for i in reversed(range(1, 64)):
            await raise_signal(c.fences[i])
            assert not c.chains[i].is_signaled()
        await raise_signal(c.fences[0])
        assert all(chain.is_signaled() for chain in c.chains)
        c.drop()

    check(body)


def waited(n: int, order: Callable[[int], list[int]], *, enable: bool = True) -> Body:
    """A waiter on the tail, and somebody who signals all fences in this order."""

    async def body(memory: FenceMemory) -> None:
        c, engine = Chains(memory, n, enable=enable), memory.engine

        async def waiter() -> None:
            await c.tail.wait()
            assert all(fence.signaled for fence in c.fences)
            engine.count("waited")

        async with engine.nursery() as nursery:
            nursery.start_soon(waiter)
            for i in order(n):
                await raise_signal(c.fences[i])
        c.drop()

    return body


def forward(n: int) -> list[int]:
    return list(range(n))


def backward(n: int) -> list[int]:
    return forward(n)[::-1]


def shuffled(n: int) -> list[int]:
    """A fixed permutation that jumps all over: multiples of a number prime to n."""
    return [i * 1531 % n for i in range(n)]


@case(SUITE, "C9", "wait_forward")
def test_c9_wait_forward() -> None:
    assert all(engine.counters["waited"] == 1 for engine in check(waited(16, forward)))


@case(SUITE, "C10", "wait_backward")
def test_c10_wait_backward() -> None:
    assert all(engine.counters["waited"] == 1 for engine in check(waited(16, backward)))


@case(SUITE, "C11", "wait_random")
def test_c11_wait_random() -> None:
    assert all(engine.counters["waited"] == 1 for engine in check(waited(16, shuffled)))


@contextmanager
def few_frames(extra: int):
    """Python's own depth limit, a little above where we are."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + extra)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("order", "enable"),
    [(forward, True), (backward, False), (shuffled, True)],
    ids=["forward", "backward", "random"],
)
def test_full_length_chains_signal_and_die_without_recursion(order: Callable[[int], list[int]], enable: bool) -> None:
    """C9 to C11 with 4096 nodes.

    Backward, only the waiter's node has signaling enabled: with all of them every signal would move all
    younger nodes one fence on, which is quadratic in the kernel too.
    """
    with few_frames(60):
        engine = run_once(program(waited(4096, order, enable=enable)), make("fifo", 0))
    assert engine.counters["waited"] == 1


# -- the model-level checks --------------------------------------------------------------


def test_callbacks_run_once_each_in_registration_order() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        for number in range(20):
            fence.add_callback(lambda _, number=number: seen.append(number))
        await raise_signal(fence)
        await raise_signal(fence)
        assert seen == list(range(20))
        fence.put()

    check(body)


def test_an_error_after_the_signal_is_reported() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.signal()
        fence.set_error(EIO())

    with pytest.raises(PropertyFailed, match="EIO after it has signaled"):
        check(body)


def test_a_leak_is_found() -> None:
    async def body(memory: FenceMemory) -> None:
        chains = Chains(memory, 3)
        chains.drop()
        chains.tail.fence.get()

    with pytest.raises(PropertyFailed, match=r"alive at teardown: fence2 \(refs 1\)"):
        check(body)


def test_the_table_has_every_case_of_the_catalogue() -> None:
    rows = table(SUITE)
    assert [row.id for row in rows] == [f"C{i}" for i in range(1, 12)] + [f"D{i}" for i in range(1, 13)]
    assert {row.verdict for row in rows} == {"tested"}
    assert all(row.test is not None and row.test.partition("::")[2].endswith(row.name) for row in rows)
