"""Waiting: timeouts, signals, several fences, the two-step callback (fences_and_scheduler 1.3)."""

from __future__ import annotations

import pytest
from fence_bench import Driver, Scripted, every_schedule, on_all_schedules, run, signal, under

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence, FenceCb
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.fence_wait import add_callback, wait_any_timeout
from svm_actors.engine.errors import EINVAL, ENOENT, ENOMEM, ERESTARTSYS, Deadlock, PropertyFailed
from svm_actors.engine.locks import Mutex
from svm_actors.engine.signalling import signalling
from svm_actors.engine.signals import flush_signals, send_signal, signal_pending


def fence_of(memory: FenceMemory, name: str = "fence") -> Fence:
    return Fence(memory.engine, name, memory=memory)


def after(memory: FenceMemory, time: int, fence: Fence):
    """A task that signals after so much time."""

    async def later() -> None:
        await memory.engine.sleep(time)
        await signal(fence)

    return memory.engine.spawn(later(), "later")


# -- one fence ---------------------------------------------------------------------------------


def test_the_time_that_is_left_is_the_answer() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = fence_of(memory)
        assert await fence.wait_timeout(30) == 0
        assert memory.engine.now == 30
        after(memory, 20, fence)
        assert await fence.wait_timeout(30) == 10
        assert await fence.wait_timeout(30) == 30
        assert await fence.wait_timeout(0) == 1
        fence.put()

    run(body)


def test_for_ever_leaves_for_ever() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = fence_of(memory)
        after(memory, 20, fence)
        assert await fence.wait_timeout(MAX_SCHEDULE_TIMEOUT) == MAX_SCHEDULE_TIMEOUT
        fence.put()

    run(body)


def test_a_signal_in_the_last_moment_leaves_one() -> None:
    """Both timers are due: whoever comes first, the answer is 1 if it is signaled, else 0."""

    async def body(memory: FenceMemory) -> None:
        fence = fence_of(memory)
        after(memory, 30, fence)
        left = await fence.wait_timeout(30)
        assert left == int(fence.signaled)
        memory.engine.count(f"left {left}")
        await fence.wait()
        fence.put()

    engines = on_all_schedules(under(body))
    assert {name for engine in engines for name in engine.counters if name.startswith("left")} == {"left 0", "left 1"}


def test_a_negative_timeout_is_einval() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = fence_of(memory)
        with pytest.raises(EINVAL):
            await fence.wait_timeout(-1)
        with pytest.raises(EINVAL):
            await wait_any_timeout([fence], -1)
        with pytest.raises(EINVAL):
            await wait_any_timeout([])
        fence.put()

    run(body)


def test_a_signal_ends_only_an_interruptible_wait() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, engine = fence_of(memory), memory.engine
        log: list[str] = []

        async def waiter(name: str, intr: bool) -> None:
            try:
                await fence.wait(intr)
                log.append(f"{name} done")
            except ERESTARTSYS:
                assert signal_pending(engine)
                flush_signals(engine)
                log.append(f"{name} interrupted")

        tasks = [engine.spawn(waiter(name, name == "light"), name) for name in ("light", "deep")]
        await engine.sleep(1)
        for task in tasks:
            send_signal(engine, task.thread)
        await engine.sleep(1)
        assert log == ["light interrupted"]
        fence.signal()
        await engine.join(tasks[1])
        assert log == ["light interrupted", "deep done"]
        fence.put()

    on_all_schedules(under(body), seeds=10)


def test_signaled_comes_before_interrupted_and_a_poll_after() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, engine = fence_of(memory), memory.engine
        assert engine.current is not None
        send_signal(engine, engine.current.thread)
        for timeout in (0, 10, MAX_SCHEDULE_TIMEOUT):
            with pytest.raises(ERESTARTSYS):
                await fence.wait_timeout(timeout, intr=True)
        assert await fence.wait_timeout(10) == 0
        fence.signal()
        assert await fence.wait_timeout(0, intr=True) == 1
        assert await fence.wait_timeout(10, intr=True) == 10
        fence.put()

    assert run(body).now == 10


def test_waiting_is_checked_against_the_signalling_section() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = fence_of(memory, "job")
        with signalling(memory.engine):
            await fence.wait()

    with pytest.raises(PropertyFailed, match="main waits for job, inside a fence-signalling section"):
        run(body)


def test_a_lock_held_over_a_wait_may_not_be_needed_by_the_signaler() -> None:
    """No schedule of this run deadlocks, and still it is reported."""

    async def body(memory: FenceMemory) -> None:
        lock, fence = Mutex(memory.engine, "queue", "queue_lock"), fence_of(memory)
        fence.signal()
        async with lock:
            await fence.wait()
        with signalling(memory.engine):
            async with lock:
                pass

    with pytest.raises(PropertyFailed, match="takes queue_lock inside a fence-signalling section") as info:
        run(body)
    assert info.value.rule == "INV-FEN-03"


# -- callbacks in two steps ----------------------------------------------------------------------


def test_the_second_look_finds_what_happened_after_the_first() -> None:
    """FEN-R01 in every interleaving: the callback runs, or its owner is told; never neither, never both."""

    async def body(memory: FenceMemory) -> None:
        fence, seen = fence_of(memory), []

        async def adder() -> None:
            try:
                await add_callback(fence, seen.append)
            except ENOENT:
                seen.append("told")

        async with memory.engine.nursery() as nursery:
            nursery.start_soon(adder)
            nursery.start_soon(signal, fence)
        assert seen in ([fence], ["told"])
        memory.engine.count("called" if seen == [fence] else "told")
        fence.put()

    engines = list(every_schedule(under(body), limit=200))
    outcomes = {(engine.counters["called"], engine.counters["FEN-R01"]) for engine in engines}
    assert outcomes == {(1, 0), (0, 0), (0, 1)}


def test_without_the_second_look_the_callback_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard taken out: the fence is queued on although it has signaled."""

    def blind(fence: Fence, callback) -> None:
        fence._callbacks.append(FenceCb(callback))

    monkeypatch.setattr("svm_actors.dma_buf.fence.Fence.add_callback", blind)

    async def body(memory: FenceMemory) -> None:
        fence, seen = fence_of(memory), []
        memory.engine.spawn(signal(fence), "signaler")
        try:
            await add_callback(fence, seen.append)
        except ENOENT:
            seen.append("told")
        await memory.engine.sleep(1)
        assert seen
        fence.put()

    with pytest.raises(AssertionError, match="assert \\[\\]"):
        list(every_schedule(under(body), limit=200))


# -- any of several ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_of_several_is_named(first: int) -> None:
    async def body(memory: FenceMemory) -> None:
        fences = [fence_of(memory, f"f{index}") for index in range(3)]
        after(memory, 5, fences[first])
        assert await wait_any_timeout(fences, 20) == (15, first)
        assert all(not fence._callbacks for fence in fences)
        for fence in fences:
            fence.put()

    on_all_schedules(under(body), seeds=10)


def test_one_that_is_signaled_already_is_found_without_sleeping() -> None:
    async def body(memory: FenceMemory) -> None:
        fences = [fence_of(memory, "f0"), fence_of(memory, "f1"), Driver(memory)]
        fences[1].signal()
        assert await wait_any_timeout(fences, 20) == (20, 1)
        assert await wait_any_timeout(fences, 0) == (1, 1)
        assert await wait_any_timeout(fences[::2], 0) == (0, None)
        assert memory.engine.now == 0
        assert fences[2].asked == []
        for fence in fences:
            fence.put()

    run(body)


def test_any_times_out_is_interrupted_and_needs_memory() -> None:
    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        fences = [fence_of(memory, "f0"), fence_of(memory, "f1")]
        with pytest.raises(ENOMEM):
            await wait_any_timeout(fences, memory=memory)
        assert await wait_any_timeout(fences, 20, memory=memory) == (0, None)
        assert engine.current is not None
        send_signal(engine, engine.current.thread)
        with pytest.raises(ERESTARTSYS):
            await wait_any_timeout(fences, intr=True)
        assert all(not fence._callbacks for fence in fences)
        for fence in fences:
            fence.put()

    engine = run(body, Scripted(1, 0), inject=True)
    assert engine.now == 20


def test_a_wait_for_any_that_nobody_ends_names_those_who_should() -> None:
    async def body(memory: FenceMemory) -> None:
        async def lazy() -> None:
            await blocker.wait()

        blocker = fence_of(memory, "blocker")
        task = memory.engine.spawn(lazy(), "lazy")
        fence = Fence(memory.engine, "fence", task)
        blocker.signaler = memory.engine.current
        await wait_any_timeout([fence])

    with pytest.raises(Deadlock, match="wait-for cycle: main -> lazy -> main"):
        run(body)
