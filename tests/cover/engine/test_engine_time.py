"""Virtual time: order of equal deadlines, timeouts, and timers as choices."""

from __future__ import annotations

import pytest
from engine_toys import BACKENDS, Scripted, gather, run_on

from svm_actors.engine.channel import Channel
from svm_actors.engine.engine import Engine
from svm_actors.engine.locks import WaitQueue
from svm_actors.explore.strategies import Fifo, make

on_both = pytest.mark.parametrize("back", BACKENDS)


@on_both
def test_time_moves_only_when_nothing_is_enabled(back: str) -> None:
    async def program(engine: Engine) -> None:
        async def busy() -> None:
            for _ in range(20):
                await engine.step("local")
                assert engine.now == 0

        async def sleeper() -> None:
            await engine.sleep(7)
            assert engine.now == 7

        await gather(engine, busy, sleeper)
        assert engine.now == 7

    for seed in range(5):
        assert run_on(back, program, make("random", seed)).error is None


@on_both
def test_equal_deadlines_become_enabled_by_priority_then_creation(back: str) -> None:
    order: list[str] = []

    async def program(engine: Engine) -> None:
        async def body(name: str, start: int, length: int, priority: int) -> None:
            await engine.sleep(start)
            await engine.sleep(length, priority=priority)
            order.append(name)

        async with engine.nursery() as nursery:
            # All wake at 10, whatever the order in which they went to sleep.
            for name, start, length, priority in [
                ("late-low", 3, 7, 1),
                ("first", 5, 5, 0),
                ("second", 1, 9, 0),
                ("urgent", 4, 6, -1),
                ("later", 2, 9, -5),
            ]:
                nursery.start_soon(body, name, start, length, priority)

    assert run_on(back, program, Fifo()).error is None
    assert order == ["urgent", "first", "second", "late-low", "later"]
    order.clear()


def test_zero_and_negative_sleeps_are_no_ops() -> None:
    async def program(engine: Engine) -> None:
        before = engine.steps
        await engine.sleep(0)
        await engine.sleep(-5)
        assert (engine.steps, engine.now) == (before, 0)

    assert run_on("direct", program).error is None


@on_both
def test_racing_timer_is_one_more_alternative_after_the_candidates(back: str) -> None:
    chooser = Scripted()
    woke: list[int] = []

    async def program(engine: Engine) -> None:
        async def sleeper() -> None:
            await engine.sleep(5)
            woke.append(engine.now)

        engine.spawn(sleeper(), "sleeper")
        chooser.choices = [1, 1, 1, 0]
        await engine.step("local")  # 1: the sleeper starts (and sleeps); then 1 of (main, timer): fire
        await engine.step("local")

    outcome = run_on(back, program, chooser, race_timers=True)
    assert outcome.error is None
    assert chooser.offers == [
        (["main", "sleeper"], False),
        (["main"], True),
        (["main", "sleeper"], False),
    ]
    assert outcome.engine.arity == [2, 2, 2]
    assert outcome.engine.tape == [1, 1, 1]
    assert woke == [5]


def test_without_racing_the_only_alternative_is_not_a_choice() -> None:
    async def program(engine: Engine) -> None:
        await engine.sleep(5)
        await engine.step("local")
        await engine.sleep(5)

    for race in (False, True):
        outcome = run_on("direct", program, Scripted(), race_timers=race)
        assert outcome.error is None
        assert outcome.engine.tape == []
        assert outcome.engine.now == 10


@on_both
@pytest.mark.parametrize(
    ("wake_at", "timeout", "in_time", "until"),
    [(5, 10, True, 5), (20, 10, False, 10), (None, 10, False, 10), (0, 10, True, 0), (5, 0, False, 0)],
)
def test_wait_with_a_timeout(back: str, wake_at: int | None, timeout: int, in_time: bool, until: int) -> None:
    async def program(engine: Engine) -> None:
        queue, ready = WaitQueue(engine, "q"), list[bool]()

        async def waker() -> None:
            if wake_at is not None:
                await engine.sleep(wake_at)
                ready.append(True)
                queue.wake_up()

        async with engine.nursery() as nursery:
            if wake_at == 0:
                ready.append(True)
            else:
                nursery.start_soon(waker)
            assert await queue.wait_event_timeout(lambda: bool(ready), timeout) is in_time
            assert engine.now == until
            # The timer is gone with the wait: it neither wakes a later one nor moves the clock.
            await engine.sleep(100)
            assert engine.now == until + 100

    assert run_on(back, program).error is None


def test_timeout_that_fired_is_not_undone_by_a_later_change() -> None:
    async def program(engine: Engine) -> None:
        queue = WaitQueue(engine, "q")

        async def waiter() -> None:
            assert not await queue.wait_event_timeout(lambda: False, 5)

        async def fussy() -> None:
            await engine.sleep(5)
            for _ in range(3):
                queue.wake_up()
                await engine.step("wake", queue)

        await gather(engine, waiter, fussy)

    for seed in range(10):
        assert run_on("direct", program, make("random", seed)).error is None


def test_condition_that_holds_at_the_deadline_counts_as_in_time() -> None:
    """As wait_event_timeout: the condition is looked at once more after the timer."""

    async def program(engine: Engine) -> None:
        queue, ready = WaitQueue(engine, "q"), list[bool]()

        async def setter() -> None:
            await engine.sleep(5, priority=-1)
            ready.append(True)  # no wake-up: the waiter's own timer brings it back

        async def waiter() -> None:
            assert await queue.wait_event_timeout(lambda: bool(ready), 5)

        await gather(engine, waiter, setter)

    assert run_on("direct", program, Fifo()).error is None


def test_racing_timers_reach_both_outcomes_of_a_timeout() -> None:
    seen = set()
    for seed in range(40):

        async def program(engine: Engine) -> None:
            queue, ready = WaitQueue(engine, "q"), list[bool]()

            async def setter() -> None:
                await engine.step("local")
                ready.append(True)
                queue.wake_up()

            async def waiter() -> None:
                seen.add(await queue.wait_event_timeout(lambda: bool(ready), 5))

            await gather(engine, waiter, setter)

        assert run_on("direct", program, make("random", seed), race_timers=True).error is None
    assert seen == {True, False}


@on_both
def test_quiesce_waits_for_everything_that_can_still_happen(back: str) -> None:
    async def program(engine: Engine) -> None:
        channel: Channel[int] = Channel(engine, "c")

        async def worker() -> None:
            while True:
                engine.count("worked", await channel.receive())

        async def producer() -> None:
            for _ in range(3):
                await engine.sleep(10)
                await channel.send(1)

        engine.spawn(worker(), "worker", daemon=True)
        engine.spawn(producer(), "producer")
        for _ in range(2):
            await engine.quiesce()
            assert engine.counters == {"worked": 3}
            assert engine.now == 30

    for seed in range(5):
        for race in (False, True):
            assert run_on(back, program, make("random", seed), race_timers=race).error is None


@on_both
def test_task_still_blocked_at_quiescence_is_a_deadlock(back: str) -> None:
    async def program(engine: Engine) -> None:
        engine.spawn(Channel[int](engine, "c").receive(), "waiter")
        await engine.quiesce()

    assert str(run_on(back, program).error).splitlines() == [
        "deadlock at virtual time 0 ns: no task is enabled and no timer is pending",
        "  waiter is blocked in receive c; its thread holds nothing",
    ]


@on_both
def test_only_one_task_can_wait_for_quiescence(back: str) -> None:
    async def program(engine: Engine) -> None:
        await gather(engine, engine.quiesce, engine.quiesce)

    assert str(run_on(back, program).error) == "main/b.0 waits for quiescence, but main/a.0 does already"
