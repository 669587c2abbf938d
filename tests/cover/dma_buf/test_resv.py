"""Reservations: slots, usages, what may replace what (fences_and_scheduler section 3, INV-FEN-04, INV-FEN-12)."""

from __future__ import annotations

import pytest
from fence_bench import Polled, Scripted, run
from resv_bench import Bench

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_chain import FenceChain
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv, Usage, usage_rw
from svm_actors.engine.errors import EDEADLK, EINVAL, ENOMEM, EngineError, PropertyFailed
from svm_actors.engine.signalling import signalling
from svm_actors.engine.ww_mutex import WwCtx


def fails(body, text: str, rule: str = "INV-FEN-04", **options) -> None:
    with pytest.raises(PropertyFailed, match=text) as info:
        run(body, **options)
    assert info.value.rule == rule


K, W, R, B = Usage.KERNEL, Usage.WRITE, Usage.READ, Usage.BOOKKEEP


# -- usages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "seen"), [(K, [K]), (W, [K, W]), (R, [K, W, R]), (B, [K, W, R, B])], ids=lambda value: str(value)
)
def test_asking_for_a_usage_yields_it_and_the_stronger_ones(asked: Usage, seen: list[Usage]) -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = {usage: bench.fence() for usage in Usage}
        await bench.put_in(*((fences[usage], usage) for usage in (R, B, K, W)))
        resv = bench.resv
        await resv.lock()
        assert sorted(slot.usage for slot in resv.entries(asked)) == seen
        assert set(resv.iter(asked)) == {fences[usage] for usage in seen}
        resv.unlock()
        assert set(resv.unsignaled(asked)) == {fences[usage] for usage in seen}
        for usage in seen:
            assert not resv.test_signaled(asked)
            fences[usage].signal()
        assert resv.test_signaled(asked)
        assert resv.test_signaled(B) == (asked is B)
        bench.drop()

    run(body)


def test_what_an_implicit_access_waits_for() -> None:
    """A reader does not wait for readers; a writer does; neither waits for bookkeeping."""
    assert usage_rw(write=False) is W
    assert usage_rw(write=True) is R


# -- slots ----------------------------------------------------------------------------------------


def test_adding_without_a_reservation_is_fatal() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        await bench.resv.lock()
        bench.resv.add(bench.fence(), K)

    fails(body, "f0 is added to bo, which has no slot reserved")


def test_a_reservation_ends_with_the_lock() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        await bench.resv.lock()
        bench.resv.reserve(3)
        bench.resv.add(bench.fence(), K)
        bench.resv.unlock()
        await bench.resv.lock()
        bench.resv.add(bench.fence(), K)

    fails(body, r"f1 is added to bo, which has no slot reserved \(capacity 1\)")


def test_two_reservations_of_one_slot_are_one_slot() -> None:
    """Seen once the four slots of the first allocation are used."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        await bench.put_in(*((bench.fence(), B) for _ in range(4)))
        await bench.resv.lock()
        assert bench.resv.fences.max_fences == 4
        bench.resv.reserve(4)
        bench.resv.reserve(4)
        assert bench.resv.fences.max_fences == 8
        for _ in range(5):
            bench.resv.add(bench.fence(), B)

    fails(body, r"capacity 8")


@pytest.mark.parametrize("n", [0, -1])
def test_reserving_nothing_is_einval(n: int) -> None:
    async def body(memory: FenceMemory) -> None:
        resv = DmaResv(memory.engine, "bo")
        await resv.lock()
        with pytest.raises(EINVAL):
            resv.reserve(n)
        resv.unlock()

    run(body)


@pytest.mark.parametrize(("n", "room"), [(1, 4), (4, 4), (5, 8), (9, 16)])
def test_the_first_allocation_is_a_power_of_two_and_at_least_four(n: int, room: int) -> None:
    async def body(memory: FenceMemory) -> None:
        resv = DmaResv(memory.engine, "bo")
        await resv.lock()
        resv.reserve(n)
        assert resv.fences.max_fences == room
        resv.unlock()
        assert resv.fences.max_fences == 0

    run(body)


def test_growing_doubles_and_drops_what_is_done() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        old = [bench.fence() for _ in range(4)]
        await bench.put_in(*((fence, B) for fence in old))
        old[1].signal()
        old[3].signal()
        assert old[1].refs == 2
        await bench.resv.lock()
        bench.resv.reserve(1)
        assert bench.resv.fences.max_fences == 8
        assert bench.resv.iter(B) == [old[0], old[2]]
        assert [fence.refs for fence in old] == [2, 1, 2, 1]
        bench.resv.unlock()
        bench.drop()

    run(body)


def test_without_memory_nothing_changes() -> None:
    async def body(memory: FenceMemory) -> None:
        resv = DmaResv(memory.engine, "bo", memory=memory)
        await resv.lock()
        before = resv.fences
        with pytest.raises(ENOMEM):
            resv.reserve(1)
        assert resv.fences is before
        resv.reserve(1)
        with pytest.raises(ENOMEM):
            resv.get_fences(B)
        resv.unlock()

    run(body, Scripted(1, 0, 1), inject=True)


def test_reserving_allocates_so_not_in_a_signalling_section() -> None:
    async def body(memory: FenceMemory) -> None:
        resv = DmaResv(memory.engine, "bo")
        assert await resv.trylock()
        with signalling(memory.engine):
            resv.reserve(1)

    fails(body, "allocates fence slots with GFP_KERNEL", "INV-FEN-03")


def test_locking_one_in_a_signalling_section_is_reported() -> None:
    async def body(memory: FenceMemory) -> None:
        resv = DmaResv(memory.engine, "bo")
        with signalling(memory.engine):
            await resv.lock()

    fails(body, "takes dma_resv inside a fence-signalling section", "INV-FEN-03")


# -- the rules need the lock -------------------------------------------------------------------------


def test_writing_needs_the_lock() -> None:
    for act in (
        lambda resv, fence: resv.reserve(1),
        lambda resv, fence: resv.add(fence, K),
        lambda resv, fence: resv.replace(1, fence, K),
        lambda resv, fence: resv.entries(K),
        lambda resv, fence: resv.copy_fences(resv),
    ):

        async def body(memory: FenceMemory, act=act) -> None:
            act(DmaResv(memory.engine, "bo"), Fence(memory.engine, "fence"))

        with pytest.raises(EngineError, match="bo.resv must be held here"):  # noqa: RUF043
            run(body)


def test_two_reservations_need_one_context() -> None:
    async def body(memory: FenceMemory) -> None:
        first, second = (DmaResv(memory.engine, name) for name in ("a", "b"))
        await first.lock()
        await second.lock()

    fails(body, r"takes b.resv while holding a.resv", "INV-FEN-05")


def test_contexts_and_backing_off_work_through_it() -> None:
    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        first, second = (DmaResv(engine, name) for name in ("a", "b"))

        async def old() -> None:
            ctx = WwCtx(engine, first.ww.ww_class)
            await first.lock(ctx)
            await engine.sleep(5)
            first.unlock()

        engine.spawn(old(), "old")
        await engine.sleep(1)
        ctx = WwCtx(engine, first.ww.ww_class)
        await second.lock(ctx)
        with pytest.raises(EDEADLK):
            await first.lock(ctx)
        second.unlock()
        await first.lock_slow(ctx)
        assert first.is_locked()
        await second.lock_interruptible(ctx)
        first.unlock()
        second.unlock()
        assert not first.is_locked()
        ctx.fini()

    run(body)


def test_containers_may_not_go_in() -> None:
    for make in (
        lambda engine: FenceArray(engine, "box", []),
        lambda engine: FenceChain(engine, "box", None, Fence(engine, "x"), 1),
    ):

        async def body(memory: FenceMemory, make=make) -> None:
            resv = DmaResv(memory.engine, "bo")
            await resv.lock()
            resv.reserve(1)
            resv.add(make(memory.engine), K)

        fails(body, "box, a container, is added to bo")


def test_it_may_not_be_destroyed_while_locked() -> None:
    async def body(memory: FenceMemory) -> None:
        resv = DmaResv(memory.engine, "bo")
        await resv.lock()
        resv.fini()

    with pytest.raises(EngineError, match="bo is destroyed while main holds its lock"):
        run(body)


# -- what replaces what ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ((1, 5, R), (1, 6, R), [(6, R)]),  # later, same usage
        ((1, 5, R), (1, 6, W), [(6, W)]),  # later and stronger: promoted
        ((1, 5, W), (1, 6, R), [(5, W), (6, R)]),  # later but weaker: both stay
        ((1, 5, R), (1, 4, R), [(5, R), (4, R)]),  # FEN-B01: an earlier one replaces nothing
        ((1, 5, R), (1, 4, W), [(5, R), (4, W)]),
        ((1, 5, R), (2, 6, R), [(5, R), (6, R)]),  # another timeline
        ((0, 5, R), (0, 6, R), [(5, R), (6, R)]),  # nobody's numbers
    ],
)
def test_same_timeline_replacement(old, new, left) -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        for context, seqno, usage in (old, new):
            await bench.put_in((bench.fence(context, seqno), usage))
        assert [(slot.fence.seqno, slot.usage) for slot in bench.resv.fences.slots] == left
        bench.drop()

    run(body)


def test_the_same_fence_again_can_be_promoted_but_not_demoted() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fence = bench.fence(1, 1)
        for usage, slots in ((R, [R]), (W, [W]), (K, [K]), (B, [K, B])):
            await bench.put_in((fence, usage))
            assert [slot.usage for slot in bench.resv.fences.slots] == slots
        assert fence.refs == 3
        bench.drop()

    run(body)


def test_a_done_fence_gives_its_slot_to_anybody() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        polled = Polled(memory)
        await bench.put_in((polled, K))
        polled.written = True
        await bench.resv.lock()
        bench.resv.add(bench.fence(), B)  # no reservation needed: a poll finds the old one done
        bench.resv.unlock()
        assert len(bench.resv.fences.slots) == 1
        polled.put()
        bench.drop()

    run(body)


def test_all_of_a_context_are_replaced_at_once() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        mine, other, new = bench.fence(1, 5), bench.fence(2, 1), bench.fence(3, 9)
        await bench.put_in((mine, W), (other, R), (bench.fence(1, 6), B))
        await bench.resv.lock()
        bench.resv.replace(1, new, K)
        bench.resv.unlock()
        assert [(slot.fence, slot.usage) for slot in bench.resv.fences.slots] == [(new, K), (other, R), (new, K)]
        assert (mine.refs, other.refs, new.refs) == (1, 2, 3)
        bench.drop()

    run(body)


# -- collecting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_one_fence_for_all(n: int) -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        fences = [bench.fence() for _ in range(n)]
        done = bench.fence()
        await bench.put_in(*((fence, W) for fence in (*fences, done)))
        done.signal()
        single = bench.resv.get_singleton(R)
        if n == 0:
            assert single is None
        elif n == 1:
            assert single is fences[0]
        else:
            assert isinstance(single, FenceArray)
            assert list(single.fences) == fences
        assert bench.resv.get_singleton(K) is None
        if single is not None:
            single.put()
        bench.drop()

    run(body)


def test_copying_takes_the_unsignaled_ones_and_replaces_the_old() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory)
        target = DmaResv(memory.engine, "copy", memory=memory)
        done, pending, old = bench.fence(), bench.fence(), bench.fence()
        await bench.put_in((done, W), (pending, R))
        done.signal()
        await target.lock()
        target.reserve(1)
        target.add(old, K)
        target.copy_fences(bench.resv)
        assert target.entries() == [(pending, R)]
        target.unlock()
        assert (done.refs, pending.refs, old.refs) == (2, 3, 1)
        assert target.statistics() == {"fences": 1, "pending": 1}
        target.fini()
        bench.drop()

    run(body)
