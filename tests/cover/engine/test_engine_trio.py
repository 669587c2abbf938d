"""The trio back end among other trio code: cancellation from outside and inside, foreign tasks, misuse."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from engine_toys import channels

from svm_actors.engine.backend import TrioBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.engine.locks import WaitQueue
from svm_actors.explore.strategies import Fifo, RandomWalk

pytestmark = pytest.mark.trio


class Boom(Exception):
    """A failure of the tests' own."""


async def forever(engine: Engine, cleaned: list[str], name: str) -> None:
    try:
        while True:
            await engine.step("local")
    finally:
        cleaned.append(name)


async def hosted(engine_of: Any, body: Any) -> None:
    backend = TrioBackend()
    engine = Engine(backend, RandomWalk(1))
    engine_of(engine)
    async with backend:
        backend.adopt_host()
        await body(engine)


async def test_cancellation_from_outside_ends_the_world_and_is_no_failure() -> None:
    cleaned: list[str] = []
    engines: list[Engine] = []

    async def body(engine: Engine) -> None:
        for name in ("a", "b"):
            engine.spawn(forever(engine, cleaned, name), name)
        try:
            while True:
                await engine.step("local")
                await trio.lowlevel.checkpoint()
        finally:
            cleaned.append("host")

    with trio.move_on_after(0.05) as scope:
        await hosted(engines.append, body)
    assert scope.cancelled_caught
    assert engines[0].failure is None
    assert engines[0].closing
    assert "host" in cleaned


async def test_cancellation_from_outside_at_any_moment() -> None:
    """However far the world has come: nothing hangs, nothing but the cancellation comes out."""
    came_through = 0
    for ticks in range(60):
        async with trio.open_nursery() as nursery:

            async def cancel(scope: trio.CancelScope = nursery.cancel_scope, ticks: int = ticks) -> None:
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            engines: list[Engine] = []
            await hosted(engines.append, channels)
            came_through += 1
        assert engines == [] or engines[0].failure is None
    assert 0 < came_through < 60


@pytest.mark.parametrize("parked", [True, False])
async def test_cancellation_from_outside_while_others_run(parked: bool) -> None:
    """The host is parked in an op (or in trio itself) when the outer scope is cancelled."""
    cleaned: list[str] = []
    with trio.CancelScope() as scope:

        async def canceller(engine: Engine) -> None:
            try:
                await engine.step("local")
                scope.cancel()
                await engine.step("local")
                await engine.sleep(5)
                cleaned.append("went on")
            finally:
                cleaned.append("canceller")

        async def body(engine: Engine) -> None:
            engine.spawn(canceller(engine), "canceller")
            engine.spawn(forever(engine, cleaned, "other"), "other")
            if parked:
                await engine.sleep(10)
            else:
                scope.cancel()
                await trio.sleep_forever()

        await hosted(lambda engine: None, body)
    assert scope.cancelled_caught
    assert "went on" not in cleaned


async def test_cancellation_between_the_pick_and_the_start_of_a_task() -> None:
    """The picked task has not started when the world is cut off: not a line of it may run."""
    ran: list[str] = []
    with trio.CancelScope() as scope:

        class Cancels(RandomWalk):
            def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
                scope.cancel()
                return 1

        async def child() -> None:
            ran.append("child")

        backend = TrioBackend()
        engine = Engine(backend, Cancels(0))
        async with backend:
            backend.adopt_host()
            engine.spawn(child(), "child")
            await engine.step("local")
            ran.append("host")
    assert scope.cancelled_caught
    assert ran == []
    assert engine.failure is None


async def test_inner_cancel_scope_is_refused_with_a_clear_error() -> None:
    async def body(engine: Engine) -> None:
        async def ticker() -> None:
            while True:
                await engine.sleep(1)
                await trio.sleep(0.001)

        engine.spawn(ticker(), "ticker")
        with trio.move_on_after(0.02):
            await WaitQueue(engine, "q").wait_event(lambda: False)
        engine.count("went on")

    engines: list[Engine] = []
    with pytest.raises(EngineError, match="cancelled by a trio cancel scope inside the world"):
        await hosted(engines.append, body)
    assert not engines[0].counters


async def test_trio_calls_of_the_host_schedule_nothing() -> None:
    engines: list[Engine] = []

    async def body(engine: Engine) -> None:
        engine.spawn(forever(engine, [], "other"), "other")
        before = engine.steps
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(0):
            await trio.sleep_forever()
        assert engine.steps == before

    await hosted(engines.append, body)
    assert engines[0].failure is None


async def test_use_from_a_foreign_trio_task_is_refused() -> None:
    async def body(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.step, "local")

    with pytest.RaisesGroup(pytest.RaisesExc(EngineError, match="the world did not start")):
        await hosted(lambda engine: None, body)


async def test_use_after_the_world_is_closed() -> None:
    engines: list[Engine] = []

    async def body(engine: Engine) -> None:
        await engine.step("local")

    await hosted(engines.append, body)
    with pytest.raises(EngineError, match="this world is closed"):
        await engines[0].step("local")


async def test_shielded_cleanup_does_not_hang() -> None:
    async def body(engine: Engine) -> None:
        async def stubborn() -> None:
            try:
                await engine.sleep(1_000)
            finally:
                with trio.CancelScope(shield=True):
                    await engine.step("local")

        engine.spawn(stubborn(), "stubborn")
        await engine.sleep(1)

    with pytest.raises(EngineError, match="stubborn goes on, shielded, after the run has ended"):
        await hosted(lambda engine: None, body)


async def test_spawn_before_the_back_end_is_entered() -> None:
    engine = Engine(TrioBackend(), Fifo())
    with pytest.raises(EngineError, match="before the back end was entered"):
        engine.spawn(engine.step("local"), "early")


async def test_a_world_can_be_built_before_its_host_is_adopted() -> None:
    backend = TrioBackend()
    engine = Engine(backend, Fifo())
    ran: list[str] = []

    async def early() -> None:
        ran.append("early")

    async with backend:
        engine.spawn(early(), "early")
        backend.adopt_host()
        await engine.sleep(1)
    assert ran == ["early"]


async def test_body_that_fails_keeps_its_cause_and_drops_no_error() -> None:
    cause = ValueError("cause")

    async def body(engine: Engine) -> None:
        engine.spawn(forever(engine, [], "other"), "other")
        await engine.step("local")
        raise Boom("effect") from cause

    with pytest.raises(Boom) as caught:
        await hosted(lambda engine: None, body)
    assert caught.value.__cause__ is cause
