"""Work items, queues, delayed work and completions: pending once, never twice at a time, nothing lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from svm_actors.drm.sched_work import Completion, DelayedWork, Work, Workqueue
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import Deadlock, PropertyFailed
from svm_actors.explore.strategies import make

Body = Callable[[Engine, list[Any]], Awaitable[None]]


def run(body: Body, strategy: str = "fifo", seed: int = 0, **options: Any) -> tuple[list[Any], Engine]:
    backend = DirectBackend()
    engine = Engine(backend, make(strategy, seed), record=True, **options)
    log: list[Any] = []

    async def main() -> None:
        await body(engine, log)

    backend.run(main())
    return log, engine


def logging(engine: Engine, log: list[Any], name: str, ops: int = 1) -> Work:
    """A work item that notes when it begins and when it ends."""

    async def function() -> None:
        log.append(f"{name} begins")
        for _ in range(ops):
            await engine.step("local", None, name)
        log.append(f"{name} ends")

    return Work(engine, name, function)


# -- queues --------------------------------------------------------------------------------------


def test_an_ordered_queue_runs_one_after_the_other() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")
        for name in "abc":
            assert queue.queue_work(logging(engine, log, name))
        assert queue.statistics() == {"queued": ["a", "b", "c"]}
        await engine.quiesce()

    for seed in range(20):
        log, _ = run(body, "random", seed)
        assert log == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


def test_an_unordered_queue_runs_them_together() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq", ordered=False)
        for name in "ab":
            queue.queue_work(logging(engine, log, name, 2))
        await engine.quiesce()

    orders = {tuple(run(body, "random", seed)[0]) for seed in range(40)}
    assert ("a begins", "a ends", "b begins", "b ends") in orders
    assert ("a begins", "b begins", "a ends", "b ends") in orders
    assert ("b begins", "b ends", "a begins", "a ends") in orders


def test_the_whole_trace_of_an_ordered_queue() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")
        queue.queue_work(logging(engine, log, "a"))
        await engine.quiesce()

    _, engine = run(body)
    assert engine.trace() == [
        "wq: start",
        "wq: receive wq",
        "wq: local a",
        "main: wait quiescence",
    ]


def test_pending_once_however_often_it_is_queued() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")
        work = logging(engine, log, "a")
        assert queue.queue_work(work)
        assert not queue.queue_work(work)
        assert work.busy
        await engine.quiesce()
        assert not work.busy

    assert run(body)[0] == ["a begins", "a ends"]


@pytest.mark.parametrize("ordered", [True, False])
def test_queued_while_it_runs_it_runs_again_and_never_twice_at_a_time(ordered: bool) -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq", ordered=ordered)
        running: list[int] = []

        async def function() -> None:
            running.append(1)
            assert len(running) == 1
            await engine.step("local")
            await engine.step("local")
            running.pop()
            log.append("ran")

        work = Work(engine, "work", function)
        for _ in range(3):
            queue.queue_work(work)
            await engine.step("local")
        await engine.quiesce()
        assert not work.pending
        assert work.worker is None

    counts = {len(run(body, "random", seed)[0]) for seed in range(60)}
    assert counts == {1, 2, 3}


def test_cancel_takes_it_off() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")
        first, second = logging(engine, log, "first"), logging(engine, log, "second")
        queue.queue_work(first)
        queue.queue_work(second)
        assert await queue.cancel_work_sync(second)
        assert not await queue.cancel_work_sync(second)
        await engine.quiesce()
        assert queue.queue_work(second)
        await engine.quiesce()

    assert run(body)[0] == ["first begins", "first ends", "second begins", "second ends"]


@pytest.mark.parametrize("ordered", [True, False])
def test_cancel_waits_for_what_has_begun_even_if_it_queues_itself(ordered: bool) -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq", ordered=ordered)

        async def function() -> None:
            log.append("begins")
            await engine.step("local")
            log.append("ends")
            queue.queue_work(work)

        work = Work(engine, "work", function)
        queue.queue_work(work)
        for _ in range(3):
            await engine.step("local")
        await queue.cancel_work_sync(work)
        log.append("cancelled")
        await engine.quiesce()

    for seed in range(40):
        log, _ = run(body, "random", seed)
        assert log[-1] == "cancelled"
        assert log.count("begins") == log.count("ends")


def test_flush_waits_until_it_is_through() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")
        work = logging(engine, log, "a", 3)
        queue.queue_work(work)
        await work.wait_idle()
        log.append("flushed")

    for seed in range(10):
        assert run(body, "random", seed)[0] == ["a begins", "a ends", "flushed"]


def test_a_flush_from_inside_is_a_deadlock_that_names_itself() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")

        async def function() -> None:
            await queue.cancel_work_sync(work)

        work = Work(engine, "work", function)
        queue.queue_work(work)
        await work.wait_idle()

    with pytest.raises(Deadlock, match="wait-for cycle: wq -> wq"):
        run(body)


def test_a_destroyed_queue_takes_nothing() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")
        queue.destroy()
        queue.queue_work(logging(engine, log, "late"))

    with pytest.raises(PropertyFailed, match=r"INV-FEN-08.*late is queued on wq, which is destroyed"):
        run(body)


# -- delayed work ----------------------------------------------------------------------------------


def delayed(engine: Engine, log: list[Any], ordered: bool = True, **options: Any) -> DelayedWork:
    async def function() -> None:
        log.append(engine.now)
        await engine.step("local")

    return DelayedWork(engine, "late", function, Workqueue(engine, "wq", ordered=ordered))


@pytest.mark.parametrize("ordered", [True, False])
def test_the_timer_fires_at_its_time(ordered: bool) -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        work = delayed(engine, log, ordered)
        assert not work.mod(100)
        assert work.expires == 100
        await engine.quiesce()
        work.mod(0)
        await engine.quiesce()
        assert work.queue_delayed(50)
        assert not work.queue_delayed(10)
        await engine.quiesce()

    assert run(body)[0] == [100, 100, 150]


def test_steady_mod_postpones_it() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        work = delayed(engine, log)
        for _ in range(5):
            work.mod(100)
            await engine.sleep(60)
        assert log == []
        await engine.quiesce()

    assert run(body)[0] == [4 * 60 + 100]


def test_mod_can_also_bring_it_forward() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        work = delayed(engine, log)
        work.mod(1000)
        await engine.sleep(10)
        assert work.mod(20)
        await engine.quiesce()

    log, engine = run(body)
    assert log == [30]
    assert engine.now == 30


def test_at_once_means_once() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        work = delayed(engine, log)
        work.mod(1000)
        assert work.mod(0)
        assert work.expires is None
        await engine.quiesce()

    assert run(body)[0] == [0]


def test_nothing_is_left_of_a_run_or_a_cancel_in_an_unordered_queue() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq", ordered=False)
        first, second = logging(engine, log, "first"), logging(engine, log, "second")
        for work in (first, second):
            queue.queue_work(work)
        await queue.cancel_work_sync(second)
        queue.queue_work(second)
        await engine.quiesce()
        assert queue.statistics() == {"queued": []}

    for seed in range(20):
        log, _ = run(body, "random", seed)
        assert log.count("first ends") == 1
        assert log.count("second ends") in (1, 2)


def test_mod_steals_it_back_from_the_queue() -> None:
    """Fired, queued behind something, not begun: the deadline moves all the same."""

    async def body(engine: Engine, log: list[Any]) -> None:
        work = delayed(engine, log)
        idle = Completion(engine, "gate")
        work.queue.queue_work(Work(engine, "slow", lambda: idle.wait()))
        work.mod(10)
        await engine.sleep(20)
        await engine.step("local")
        assert work.pending
        assert work.mod(100)
        assert not work.pending
        idle.complete_all()
        await engine.quiesce()

    assert run(body)[0] == [120]


def test_cancel_disarms_it() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        work = delayed(engine, log)
        work.mod(100)
        assert work.cancel()
        assert not work.cancel()
        await engine.quiesce()
        assert engine.now == 0
        work.mod(100)
        await work.cancel_sync()
        assert not work.busy

    assert run(body)[0] == []


def test_cancel_sync_waits_for_a_run_and_beats_a_rearm() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        queue = Workqueue(engine, "wq")

        async def function() -> None:
            log.append("begins")
            await engine.step("local")
            work.mod(100)
            log.append("ends")

        work = DelayedWork(engine, "work", function, queue)
        work.mod(10)
        await engine.sleep(10)
        for _ in range(3):
            await engine.step("local")
        await work.cancel_sync()
        log.append("cancelled")
        await engine.quiesce()
        assert not work.busy

    seen = set()
    for seed in range(60):
        log, _ = run(body, "random", seed)
        assert log[-1] == "cancelled"
        assert log.count("begins") == log.count("ends")
        seen.add(len(log))
    assert seen >= {1, 3}


# -- completions -------------------------------------------------------------------------------


def test_a_completion_lets_everybody_through_until_it_is_reinitialised() -> None:
    async def body(engine: Engine, log: list[Any]) -> None:
        completion = Completion(engine, "done")

        async def waiter(name: str) -> None:
            await completion.wait()
            log.append(name)

        async with engine.nursery() as nursery:
            nursery.start_soon(waiter, "a")
            nursery.start_soon(waiter, "b")
            assert not await completion.wait_timeout(100)
            log.append(engine.now)
            completion.complete_all()
        assert await completion.wait_timeout(100)
        completion.reinit()
        assert not await completion.wait_timeout(100)
        log.append(engine.now)

    assert run(body)[0] == [100, "a", "b", 200]
