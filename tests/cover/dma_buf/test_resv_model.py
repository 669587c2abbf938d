"""A reservation against a plain record of everything ever added (INV-FEN-12)."""

from __future__ import annotations

from fence_bench import run
from hypothesis import given, settings
from hypothesis import strategies as st
from resv_bench import Bench

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import Usage

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3), st.sampled_from(list(Usage))),
        st.tuples(st.just("older"), st.integers(1, 3), st.sampled_from(list(Usage))),
        st.tuples(st.just("signal"), st.integers(0, 30), st.just(None)),
        st.tuples(st.just("again"), st.integers(0, 30), st.sampled_from(list(Usage))),
        st.tuples(st.just("replace"), st.integers(1, 3), st.sampled_from(list(Usage))),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_nobody_is_ever_let_in_too_early(actions) -> None:
    """Against a plain record of everything ever added (INV-FEN-12).

    A usage is free to go exactly when every fence added up to it is done; a numbered fence is done for
    this purpose when a later one of its timeline is, as timelines complete in order.
    """

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        model = Model(bench)
        for action, number, usage in actions:
            await model.act(action, number, usage)
            model.check()
        bench.drop()

    run(body)


class Model:
    """Every (fence, usage) ever added; timelines signal in order."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.added: list[tuple[Fence, Usage]] = []
        self.last = dict.fromkeys(range(4), 0)

    async def act(self, action: str, number: int, usage: Usage | None) -> None:
        bench = self.bench
        if action == "signal" and self.added:
            self.signal(self.added[number % len(self.added)][0])
        elif action == "add":
            self.last[number] += 10
            await self.add(bench.fence(number, self.last[number] if number else 0), usage)
        elif action == "older" and self.last[number]:
            done = max((f.seqno for f, _ in self.added if f.context == number and f.signaled), default=0)
            older = self.last[number] - 5
            if older > done and all(f.seqno != older for f, _ in self.added if f.context == number):
                await self.add(bench.fence(number, older), usage)
        elif action == "again" and self.added:
            fence = self.added[number % len(self.added)][0]
            if not fence.signaled:
                await self.add(fence, usage)
        elif action == "replace":
            self.last[number] += 10
            await self.replace(number, bench.fence(number, self.last[number]), usage)

    def signal(self, fence: Fence) -> None:
        """The hardware works a timeline off in order."""
        for other, _ in self.added:
            if other.context == fence.context != 0 and other.seqno <= fence.seqno:
                other.signal()
        fence.signal()

    async def add(self, fence: Fence, usage: Usage | None) -> None:
        assert usage is not None
        await self.bench.put_in((fence, usage))
        self.added.append((fence, usage))

    async def replace(self, context: int, fence: Fence, usage: Usage | None) -> None:
        assert usage is not None
        if not any(slot.fence.context == context for slot in self.bench.resv.fences.slots):
            return
        await self.bench.resv.lock()
        self.bench.resv.replace(context, fence, usage)
        self.bench.resv.unlock()
        # The caller promises that the replaced fences do not matter any more.
        self.added = [entry for entry in self.added if entry[0].context != context]
        self.added.append((fence, usage))

    def check(self) -> None:
        resv = self.bench.resv
        assert len(resv.fences.slots) <= max(resv.fences.max_fences, 0)
        for usage in Usage:
            waited = [fence for fence, of in self.added if of <= usage and not fence.signaled]
            left = resv.unsignaled(usage)
            assert bool(left) == bool(waited), f"{usage.name}: {left} against {waited}"
            for fence in waited:
                assert any(
                    fence is other or (fence.context == other.context != 0 and other.seqno >= fence.seqno)
                    for other in left
                ), f"{usage.name}: {fence.name} is not waited for"
