"""dma_fence_chain selftests: cases C1 to C11, each on many schedules, and full-length chains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import trio
from cases import case, every_schedule, on_all_schedules, run_once
from mock_fence import SUITE, Body, check, mock, program, raise_signal

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_chain import FenceChain, find_seqno, find_seqno_in_steps
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.backend import TrioBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, PropertyFailed
from svm_actors.explore.strategies import make


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


def test_both_back_ends_agree() -> None:
    """The same choices on the trio back end: the same steps."""
    body = program(waited(6, shuffled))
    direct = run_once(body, make("random", 5), record=True)
    hosting = TrioBackend()
    engine = Engine(hosting, make("random", 5), record=True)

    async def host() -> None:
        async with hosting:
            hosting.adopt_host()
            await body(engine)

    trio.run(host)
    assert engine.trace() == direct.trace()
    assert engine.counters == direct.counters


def test_a_leak_is_found() -> None:
    async def body(memory: FenceMemory) -> None:
        chains = Chains(memory, 3)
        chains.drop()
        chains.tail.fence.get()

    with pytest.raises(PropertyFailed, match=r"alive at teardown: fence2 \(refs 1\)"):
        check(body)


@pytest.mark.parametrize("order", [forward, backward])
def test_every_interleaving_of_a_waiter_and_two_signals(order: Callable[[int], list[int]]) -> None:
    """C9 and C10 at their smallest."""
    engines = list(every_schedule(program(waited(2, order)), limit=20_000))
    assert all(engine.counters["waited"] == 1 for engine in engines)
    assert len(engines) > 20


def test_every_interleaving_of_finding_and_signaling() -> None:
    """C4 at its smallest, with the signal anywhere in the walk: node 1, node 0, or nothing is left."""

    async def body(memory: FenceMemory) -> None:
        c, engine = Chains(memory, 2, enable=False), memory.engine

        async def finder() -> None:
            found = await find_seqno_in_steps(engine, c.tail.get(), 1)
            assert found in (None, c.chains[0])
            engine.count("nothing" if found is None else "chain 0")
            if found is not None:
                found.put()

        async with engine.nursery() as nursery:
            nursery.start_soon(finder)
            nursery.start_soon(raise_signal, c.fences[0])
        c.drop()

    engines = list(every_schedule(program(body), limit=20_000))
    assert {(engine.counters["nothing"], engine.counters["chain 0"]) for engine in engines} == {(1, 0), (0, 1)}
