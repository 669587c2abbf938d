"""dma_fence: one way, first signal wins, callbacks in order (fences_and_scheduler 1.1 and 1.3)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EIO, ENOENT, ETIME, Deadlock
from svm_actors.engine.task import Task


class Newest:
    """The youngest candidate goes on."""

    name = "newest"

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        return len(candidates) - 1

    def data(self, count: int, label: str) -> int:
        return 0


@pytest.fixture
def engine() -> Engine:
    return Engine(DirectBackend(), Newest(), record=True)


def drive(engine: Engine, main: Coroutine[Any, Any, None]) -> None:
    assert isinstance(engine.backend, DirectBackend)
    engine.backend.run(main)


def test_waiters_sleep_until_the_signal(engine: Engine) -> None:
    fence = Fence(engine, "fence")
    log: list[str] = []

    async def waiter(name: str) -> None:
        await fence.wait()
        log.append(name)

    async def main() -> None:
        tasks = [engine.spawn(waiter(name), name) for name in "ab"]
        await engine.step("local")
        await engine.step("fence_signal", fence)
        log.append("signal")
        fence.signal()
        for task in tasks:
            await engine.join(task)

    drive(engine, main())
    assert log == ["signal", "b", "a"]
    assert engine.trace() == [
        "b: start",
        "a: start",
        "main: local",
        "main: fence_signal fence",
        "b: fence_wait fence",
        "a: fence_wait fence",
        "main: join a",
        "main: join b",
    ]


def test_waiting_for_a_signaled_fence_is_one_op_and_does_not_sleep(engine: Engine) -> None:
    async def main() -> None:
        fence = Fence(engine, "fence")
        fence.signal()
        await fence.wait()

    drive(engine, main())
    assert engine.trace() == ["main: fence_wait fence"]


def test_an_error_is_kept_and_not_raised_in_the_waiter(engine: Engine) -> None:
    fence = Fence(engine, "fence")

    async def main() -> None:
        fence.signal(EIO())
        await fence.wait()

    drive(engine, main())
    assert isinstance(fence.error, EIO)
    assert repr(fence) == "<fence signaled EIO>"


def test_the_first_signal_wins(engine: Engine) -> None:
    fence = Fence(engine, "fence")
    calls: list[Fence] = []
    fence.add_callback(calls.append)
    assert repr(fence) == "<fence unsignaled>"
    assert fence.signal(EIO())
    assert not fence.signal(ETIME())
    assert isinstance(fence.error, EIO)
    assert calls == [fence]


def test_callbacks_run_in_order_and_see_the_fence_signaled(engine: Engine) -> None:
    fence = Fence(engine, "fence")
    log: list[tuple[str, bool, str | None]] = []

    def note(name: str) -> None:
        fence.add_callback(lambda f: log.append((name, f.signaled, f.error.code if f.error else None)))

    note("first")
    note("second")
    fence.signal(EIO())
    assert log == [("first", True, "EIO"), ("second", True, "EIO")]


def test_a_callback_added_too_late_is_refused_and_not_called(engine: Engine) -> None:
    fence = Fence(engine, "fence")
    calls: list[Fence] = []
    late: list[str] = []

    def add_another(_: Fence) -> None:
        with pytest.raises(ENOENT):
            fence.add_callback(calls.append)
        late.append("refused")

    fence.add_callback(add_another)
    fence.signal()
    with pytest.raises(ENOENT):
        fence.add_callback(calls.append)
    assert calls == []
    assert late == ["refused"]


def test_callbacks_run_inside_the_step_that_signals(engine: Engine) -> None:
    fence = Fence(engine, "fence")
    seen: list[int] = []
    fence.add_callback(lambda _: seen.append(engine.steps))

    async def other() -> None:
        await engine.step("local")

    async def main() -> None:
        engine.spawn(other(), "other")
        await engine.step("fence_signal", fence)
        before = engine.steps
        fence.signal()
        assert seen == [before]

    drive(engine, main())
    assert len(seen) == 1


def test_a_deadlock_report_follows_the_signaler(engine: Engine) -> None:
    async def signaler(own: Fence, other: Fence) -> None:
        await other.wait()
        await engine.step("fence_signal", own)
        own.signal()

    async def main() -> None:
        first, second = Fence(engine, "first"), Fence(engine, "second")
        first.signaler = engine.spawn(signaler(first, second), "a")
        second.signaler = engine.spawn(signaler(second, first), "b")
        await first.wait()

    with pytest.raises(Deadlock) as info:
        drive(engine, main())
    assert "a is blocked in fence_wait second" in str(info.value)
    assert "wait-for cycle: a -> b -> a" in str(info.value)
