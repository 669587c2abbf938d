"""The state machine of a fence, its implementation, its lock, its references (fences_and_scheduler 1.1 to 1.5)."""

from __future__ import annotations

import pytest
from fence_bench import Driver, Polled, on_all_schedules, run, signal, under
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import DETACHED, Fence, FenceCb, FenceLock
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.stub import dma_fence_allocate_private_stub, dma_fence_get_stub
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ECANCELED, EDEADLK, EIO, ENODATA, ENOENT, ETIME, PropertyFailed
from svm_actors.explore.strategies import Fifo


def plain(name: str = "fence", **options) -> Fence:
    """A fence nobody counts, of an engine that does not run."""
    return Fence(Engine(DirectBackend(), Fifo()), name, **options)


def fails(body, text: str, rule: str) -> None:
    with pytest.raises(PropertyFailed, match=text) as info:
        run(body)
    assert info.value.rule == rule


# -- signaling ---------------------------------------------------------------------------------


def test_the_timestamp_is_that_of_the_signal() -> None:
    async def body(memory: FenceMemory) -> None:
        now, given_ = Fence(memory.engine, "now"), Fence(memory.engine, "given")
        assert now.timestamp is None
        await memory.engine.sleep(70)
        now.signal()
        given_.signal(timestamp=30)
        assert (now.timestamp, given_.timestamp) == (70, 30)

    run(body)


@given(
    st.lists(
        st.sampled_from(["signal", "signal error", "check", "status", "enable", "add", "remove", "set_error", "poll"]),
        max_size=12,
    )
)
def test_any_sequence_of_calls_follows_the_state_machine(calls: list[str]) -> None:
    """Against a model of three variables: signaled, error, callbacks queued."""
    fence = plain()
    signaled, error, queued, seen = False, 0, [], []
    expected: list[int] = []
    for number, call in enumerate(calls):
        if call in ("signal", "signal error", "check"):
            if call == "check":
                assert fence.check_and_signal() is signaled
            else:
                assert fence.signal(EIO() if call == "signal error" else None) is not signaled
            if not signaled:
                error = error if call != "signal error" else -EIO.errno
                expected += [entry for entry, _ in queued]
                queued, signaled = [], True
        elif call == "add":
            callback = lambda _, number=number: seen.append(number)  # noqa: E731
            if signaled:
                with pytest.raises(ENOENT):
                    fence.add_callback(callback)
            else:
                queued.append((number, fence.add_callback(callback)))
        elif call == "remove" and queued:
            assert fence.remove_callback(queued.pop(0)[1]) is True
        elif call == "set_error" and not signaled:
            fence.set_error(ETIME())
            error = -ETIME.errno
        elif call == "enable":
            assert fence.enable_sw_signaling() is not signaled
        assert fence.is_signaled() is signaled
        assert fence.get_status() == ((error or 1) if signaled else 0)
    assert seen == expected


def test_an_error_that_comes_too_late_is_lost_and_counted() -> None:
    """FEN-R04: two completions race, the second one's error must not show."""

    async def body(memory: FenceMemory) -> None:
        fence = Fence(memory.engine, "fence", memory=memory)
        async with memory.engine.nursery() as nursery:
            nursery.start_soon(signal, fence, EIO())
            nursery.start_soon(signal, fence, ECANCELED())
        assert fence.get_status() in (-EIO.errno, -ECANCELED.errno)
        fence.put()

    engines = on_all_schedules(under(body))
    assert all(engine.counters["FEN-R04"] == 1 for engine in engines)


def test_an_error_set_before_is_kept_by_a_signal_without_one() -> None:
    fence = plain()
    fence.set_error(ENODATA())
    fence.signal()
    assert fence.get_status() == -ENODATA.errno


# -- the implementation ------------------------------------------------------------------------


def test_signaling_is_requested_once_by_whoever_needs_it_first() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = Driver(memory)
        assert not fence.is_signaled()
        assert fence.asked == []
        assert fence.enable_sw_signaling()
        fence.add_callback(lambda _: None)
        assert await fence.wait_timeout(0) == 0
        assert fence.asked == ["enable"]
        fence.signal()
        fence.put()

    run(body)


def test_an_implementation_that_is_done_already_says_so_when_asked() -> None:
    """FEN-R02: enabling finds it done; the callback is refused, not lost."""

    async def body(memory: FenceMemory) -> None:
        for act in ("add", "enable", "wait"):
            fence = Driver(memory, act, willing=False)
            if act == "add":
                with pytest.raises(ENOENT):
                    fence.add_callback(lambda _: None)
            elif act == "enable":
                assert not fence.enable_sw_signaling()
            else:
                await fence.wait()
            assert fence.signaled
            fence.put()

    assert run(body).counters["FEN-R02"] == 3


def test_enabling_may_set_the_error_first() -> None:
    class Failed(Driver):
        __slots__ = ()

        def ops_enable_signaling(self) -> bool:
            self.set_error(EIO())
            return False

    async def body(memory: FenceMemory) -> None:
        fence = Failed(memory)
        await fence.wait()
        assert fence.get_status() == -EIO.errno
        fence.put()

    run(body)


def test_enabling_is_an_op_of_its_own_for_a_lazy_fence_only() -> None:
    async def body(memory: FenceMemory) -> None:
        for fence in (Driver(memory), Fence(memory.engine, "plain", memory=memory)):
            assert await fence.wait_timeout(0) == 0
            assert await fence.wait_timeout(0) == 0
            fence.put()

    trace = run(body, record=True).trace()
    assert trace[:5] == [
        "main: write driver enable_signaling",
        "main: fence_wait driver",
        "main: fence_wait driver",
        "main: fence_wait plain",
        "main: fence_wait plain",
    ]


def test_a_poll_signals_what_is_done_but_requests_nothing() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = Polled(memory), []
        assert not fence.is_signaled()
        fence.written = True
        assert not fence.signaled
        assert fence.is_signaled()
        assert fence.signaled
        assert fence.is_signaled()
        assert fence.asked == ["poll", "poll"]
        with pytest.raises(ENOENT):
            fence.add_callback(seen.append)
        fence.put()

    run(body)


def test_deadlines_keep_the_earliest_and_end_with_the_signal() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = Driver(memory)
        for time in (50, 70, 20):
            fence.set_deadline(time)
        assert fence.deadline == 20
        fence.signal()
        fence.set_deadline(1)
        assert fence.asked == ["by 50", "by 20"]
        fence.put()

    run(body)


def test_a_signaled_fence_forgets_who_made_it() -> None:
    class Pinned(Fence):
        pins_ops = True

    fence, pinned = plain("job"), Pinned(plain().engine, "pinned")
    assert fence.ops is Fence
    assert fence.timeline_name == "job"
    fence.signal()
    pinned.signal()
    assert fence.ops is None
    assert pinned.ops is Pinned
    assert fence.timeline_name == DETACHED


# -- callbacks and the lock ----------------------------------------------------------------------


def test_a_callback_struct_is_on_one_fence_at_a_time_and_free_again_in_its_own_call() -> None:
    first, second, seen = plain("first"), plain("second"), []

    def again(fence: Fence) -> None:
        seen.append(fence.name)
        if fence is first:
            second.add_callback(cb)

    cb = FenceCb(again)
    first.add_callback(cb)
    with pytest.raises(PropertyFailed, match="a callback of first is added to second too"):
        second.add_callback(cb)
    first.signal()
    second.signal()
    assert seen == ["first", "second"]
    assert cb.fence is None


def test_a_callback_can_be_removed_by_its_function() -> None:
    fence, seen = plain(), []
    fence.add_callback(seen.append)
    assert fence.remove_callback(seen.append)
    assert not fence.remove_callback(seen.append)
    fence.signal()
    assert seen == []


@pytest.mark.parametrize("act", ["signal", "add_callback", "remove_callback", "enable_sw_signaling"])
def test_a_callback_may_not_enter_a_fence_with_the_same_lock(act: str) -> None:
    """FEN-R20: completing the next job of a queue from the callback of the one before."""
    lock = FenceLock()
    engine = Engine(DirectBackend(), Fifo())
    first, second = (Fence(engine, name, lock=lock) for name in ("first", "second"))
    arguments = [lambda _: None] if act.endswith("callback") else []
    first.add_callback(lambda _: getattr(second, act)(*arguments))
    with pytest.raises(PropertyFailed, match="second is entered from a callback of first") as info:
        first.signal()
    assert info.value.rule == "FEN-R20"


def test_a_callback_may_signal_another_fence() -> None:
    first, second = plain("first"), plain("second")
    first.add_callback(lambda _: second.signal(EIO()))
    first.signal()
    assert second.get_status() == -EIO.errno


# -- references ------------------------------------------------------------------------------------


def test_a_fence_nobody_counts_ignores_references() -> None:
    fence = plain()
    assert fence.get() is fence
    assert fence.get_rcu() is fence
    for _ in range(3):
        fence.put()
    assert fence.signal()


def test_a_counted_fence_without_a_memory_is_gone_at_once() -> None:
    fence = plain(counted=True)
    fence.get()
    fence.put()
    assert not fence.freed
    fence.put()
    assert fence.freed


def test_use_after_free_is_reported_whatever_the_use() -> None:
    for act in (
        lambda fence: fence.signal(),
        lambda fence: fence.is_signaled(),
        lambda fence: fence.add_callback(print),
        lambda fence: fence.remove_callback(print),
        lambda fence: fence.enable_sw_signaling(),
        lambda fence: fence.set_error(EIO()),
        lambda fence: fence.get(),
        lambda fence: fence.get_rcu(),
        lambda fence: fence.put(),
        lambda fence: fence.timeline_name,
    ):
        fence = plain(counted=True)
        fence.put()
        with pytest.raises(PropertyFailed) as info:
            act(fence)
        assert (info.value.oracle, info.value.rule) == ("lifetime", "FEN-R05")


def test_a_broken_promise_is_an_error_not_a_hang() -> None:
    """The last put of an unsignaled fence with a callback: -EDEADLK for those who wait (1.3)."""
    fence, seen = plain(counted=True), []
    fence.add_callback(lambda fence: seen.append((fence.signaled, fence.error)))
    fence.put()
    assert len(seen) == 1
    assert seen[0][0]
    assert isinstance(seen[0][1], EDEADLK)
    assert fence.engine.counters["fence.released_unsignaled"] == 1


def test_an_unsignaled_fence_nobody_waits_for_just_goes() -> None:
    fence = plain(counted=True)
    fence.put()
    assert not fence.signaled
    assert not fence.engine.counters


def test_a_waiter_without_a_reference_is_reported() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = Fence(memory.engine, "fence", memory=memory)
        async with memory.engine.nursery() as nursery:
            nursery.start_soon(fence.wait)
            await memory.engine.step("local")
            await memory.engine.sleep(1)
            fence.put()

    fails(body, "fence is waited for after its last reference was dropped", "FEN-R05")


def test_the_last_reference_may_not_go_inside_the_own_lock() -> None:
    """FEN-R33: whoever signals holds a reference over it."""
    fence = plain(counted=True)
    fence.add_callback(lambda fence: fence.put())
    with pytest.raises(PropertyFailed, match="dropped inside its own lock") as info:
        fence.signal()
    assert info.value.rule == "FEN-R33"

    careful = plain(counted=True)
    careful.add_callback(lambda fence: fence.put())
    careful.get()
    careful.signal()
    careful.put()
    assert careful.freed


def test_release_runs_once_with_the_last_put() -> None:
    class Released(Driver):
        __slots__ = ()

        def ops_release(self) -> None:
            self.asked.append("release")
            self.free()

    async def body(memory: FenceMemory) -> None:
        fence = Released(memory)
        fence.get()
        fence.put()
        assert fence.asked == []
        fence.put()
        assert fence.asked == ["release"]
        assert not fence.freed
        await memory.drain()
        assert fence.freed

    run(body)


# -- stubs, memory --------------------------------------------------------------------------------


def test_stubs_are_born_signaled() -> None:
    engine = Engine(DirectBackend(), Fifo())
    engine.now = 9
    for stub in (
        dma_fence_get_stub(engine),
        dma_fence_allocate_private_stub(engine),
        dma_fence_allocate_private_stub(engine, 4),
    ):
        assert stub.is_signaled()
        assert (stub.context, stub.seqno, stub.get_status()) == (0, 0, 1)
    assert dma_fence_allocate_private_stub(engine).timestamp == 9
    assert dma_fence_allocate_private_stub(engine, 4).timestamp == 4


def test_the_books_of_a_memory() -> None:
    async def body(memory: FenceMemory) -> None:
        assert memory.statistics() == {"live": 0}
        fences = [Fence(memory.engine, f"f{i}", memory=memory) for i in range(3)]
        fences[1].get()
        assert memory.statistics() == {"live": 3}
        for fence in fences:
            fence.put()
        await memory.drain()
        with pytest.raises(PropertyFailed, match=r"f1 \(refs 1\)$") as info:
            memory.check_empty()
        assert info.value.rule == "INV-FEN-10"
        fences[1].put()
        assert memory.born == 3

    run(body)
