"""How runs end: failures, cleanup, misuse; the same on both back ends."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from engine_toys import BACKENDS, Scripted, gather, run_on

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.channel import Channel
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, PropertyFailed, StepBudgetSpent
from svm_actors.engine.locks import Mutex, WaitQueue
from svm_actors.engine.report import round_length
from svm_actors.engine.task import Task
from svm_actors.explore.strategies import Fifo, make

on_both = pytest.mark.parametrize("back", BACKENDS)


class Boom(Exception):
    """A failure of the tests' own."""


async def forever(engine: Engine, cleaned: list[str], name: str) -> None:
    try:
        while True:
            await engine.step("local")
    finally:
        cleaned.append(name)


@on_both
def test_failure_of_a_task_ends_the_run_as_the_same_object_and_unwinds_the_others(back: str) -> None:
    boom, cleaned = Boom("b"), list[str]()

    async def program(engine: Engine) -> None:
        async def bad() -> None:
            await engine.step("local")
            raise boom

        try:
            await gather(engine, lambda: forever(engine, cleaned, "a"), bad)
        finally:
            cleaned.append("main")

    outcome = run_on(back, program, make("random", 1))
    assert outcome.error is boom
    assert sorted(cleaned) == ["a", "main"]
    assert boom.__context__ is None


@on_both
def test_failure_of_main_unwinds_the_tasks_it_left(back: str) -> None:
    boom, cleaned = Boom(), list[str]()

    async def program(engine: Engine) -> None:
        engine.spawn(forever(engine, cleaned, "child"), "child")
        await engine.step("local")
        raise boom

    # The child starts and announces its first op; then main goes on.
    outcome = run_on(back, program, Scripted(1, 0))
    assert outcome.error is boom
    assert cleaned == ["child"]


@on_both
def test_main_may_end_before_its_children_even_before_they_start(back: str) -> None:
    cleaned: list[str] = []

    async def program(engine: Engine) -> None:
        engine.spawn(forever(engine, cleaned, "started"), "started")
        await engine.step("local")
        engine.spawn(forever(engine, cleaned, "never started"), "other")

    assert run_on(back, program, Scripted(1, 0)).error is None
    assert cleaned == ["started"]


@on_both
def test_first_failure_wins_and_errors_while_unwinding_do_not_hide_it(back: str) -> None:
    boom = Boom("first")

    async def program(engine: Engine) -> None:
        async def bad() -> None:
            await engine.step("local")
            raise boom

        async def worse() -> None:
            try:
                await engine.sleep(1_000)
            finally:
                raise Boom("while unwinding")

        await gather(engine, bad, worse, worse)

    assert run_on(back, program, make("random", 0)).error is boom


@on_both
def test_error_while_unwinding_a_clean_run_counts_and_the_oldest_task_speaks(back: str) -> None:
    async def program(engine: Engine) -> None:
        async def worse(name: str) -> None:
            try:
                await engine.sleep(1_000)
            finally:
                raise Boom(name)

        for name in ("old", "young"):
            engine.spawn(worse(name), name)
        await engine.sleep(1)

    assert repr(run_on(back, program).error) == "Boom('old')"


@on_both
def test_every_op_while_closing_raises_so_cleanup_cannot_go_on(back: str) -> None:
    """Loops in cleanup code end; what follows a guarded op never sees a false guard."""
    reached: list[str] = []

    async def program(engine: Engine) -> None:
        channel: Channel[int] = Channel(engine, "c")
        mutex = Mutex(engine, "m", "m")

        async def stubborn() -> None:
            try:
                await engine.sleep(1_000)
            finally:
                reached.append("cleanup")
                try:
                    await channel.receive()
                    reached.append("received from an empty channel")
                finally:
                    async with mutex:
                        reached.append("locked")

        async def endless() -> None:
            try:
                await engine.sleep(1_000)
            finally:
                while True:
                    await engine.step("local")

        engine.spawn(stubborn(), "stubborn")
        engine.spawn(endless(), "endless")
        await engine.sleep(1)

    assert run_on(back, program).error is None
    assert reached == ["cleanup"]


@on_both
def test_nothing_is_counted_drawn_emitted_or_started_while_closing(back: str) -> None:
    seen: list[Any] = []

    async def program(engine: Engine) -> None:
        engine.listeners.append(seen.append)

        async def body() -> None:
            try:
                await engine.sleep(1_000)
            finally:
                engine.emit("event")
                engine.count("late")
                assert engine.choose(5, "late") == 0
                assert engine.spawn(engine.step("local"), "late").done

        engine.spawn(body(), "body")
        engine.emit("early")
        await engine.sleep(1)

    outcome = run_on(back, program, make("random", 0))
    assert outcome.error is None
    assert seen == ["early"]
    assert not outcome.engine.counters
    assert all(arity < 5 for arity in outcome.engine.arity)


@on_both
def test_locks_are_released_by_their_own_thread_while_unwinding(back: str) -> None:
    held: list[int] = []

    async def program(engine: Engine) -> None:
        mutex, other = Mutex(engine, "m", "m"), Mutex(engine, "o", "o")

        async def holder() -> None:
            try:
                async with mutex:
                    await engine.sleep(1_000)
            finally:
                held.append(len(mutex.holders()))

        async def waiter() -> None:
            async with other, mutex:
                pass

        engine.spawn(holder(), "holder")
        engine.spawn(waiter(), "waiter")
        await engine.sleep(1)

    assert run_on(back, program).error is None
    assert held == [0]


@on_both
def test_locks_are_released_by_their_own_thread_after_an_op_in_cleanup(back: str) -> None:
    """Several tasks unwind in turns; each op in cleanup lets the next one begin."""
    held: list[int] = []

    async def program(engine: Engine) -> None:
        async def holder(name: str) -> None:
            mutex = Mutex(engine, name, "m")
            await mutex.acquire()
            try:
                await engine.sleep(1_000)
            finally:
                try:
                    await engine.step("local")
                finally:
                    mutex.release()
                    held.append(len(mutex.holders()))

        for name in "abcd":
            engine.spawn(holder(name), name)
        await engine.sleep(1)

    assert run_on(back, program).error is None
    assert held == [0] * 4


@on_both
def test_oracle_verdict_cannot_be_swallowed_by_the_model(back: str) -> None:
    async def program(engine: Engine) -> None:
        def oracle(event: Any) -> None:
            raise PropertyFailed("toy", "INV-00", str(event))

        engine.listeners.append(oracle)
        try:
            engine.emit("bad")
        except Exception:
            engine.count("swallowed")
        await engine.step("local")
        engine.count("went on")

    outcome = run_on(back, program)
    assert str(outcome.error) == "toy [INV-00]: bad"
    assert not outcome.engine.counters


@on_both
@pytest.mark.parametrize("bad", [2, -1, 99])
def test_strategy_that_chooses_out_of_range_ends_the_run(back: str, bad: int) -> None:
    async def program(engine: Engine) -> None:
        await gather(engine, lambda: engine.step("local"), lambda: engine.step("local"))

    error = run_on(back, program, Scripted(bad)).error
    assert str(error) == f"strategy scripted chose {bad}, but there are 2 alternatives"


@on_both
def test_data_choice_out_of_range_ends_the_run_even_if_swallowed(back: str) -> None:
    async def program(engine: Engine) -> None:
        with suppress(EngineError):
            engine.choose(3, "fault")
        await engine.step("local")

    assert "chose 7, but there are 3" in str(run_on(back, program, Scripted(7)).error)


@on_both
def test_strategy_that_fails_at_the_end_of_a_task_ends_the_run(back: str) -> None:
    class Fails(Fifo):
        def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
            if running is not None and running.done:
                raise Boom("no idea")
            return super().schedule(running, candidates, timer)

    async def program(engine: Engine) -> None:
        await gather(engine, *[lambda: engine.step("local")] * 3)

    assert repr(run_on(back, program, Fails()).error) == "Boom('no idea')"


@on_both
def test_step_budget_names_the_op_it_went_into(back: str) -> None:
    async def program(engine: Engine) -> None:
        queue = WaitQueue(engine, "stuck")
        while True:
            await engine.step("read", queue)

    error = run_on(back, program, step_budget=50).error
    assert isinstance(error, StepBudgetSpent)
    assert str(error) == (
        "step budget of 50 spent at virtual time 0 ns; most frequent of the last 50 steps: main: read stuck (50 times)"
    )


@on_both
def test_step_budget_names_the_same_op_wherever_it_ends_in_a_round(back: str) -> None:
    """Every round has pages of its own; two of them are read."""

    async def program(engine: Engine) -> None:
        number = 0
        while True:
            for kind, name in (("lock", "list"), ("read", "page"), ("write", "entry"), ("read", "page")):
                number += 1
                await engine.step(kind, WaitQueue(engine, name if name == "list" else f"{name}{number}"))

    def named(budget: int) -> str:
        return str(run_on(back, program, step_budget=budget).error)

    pattern = r"step budget of \d+ spent at .*; most frequent of the last 400 steps: main: read page\d+ \(200 times\)"
    assert all(re.fullmatch(pattern, named(budget)) for budget in range(480, 490))


@pytest.mark.parametrize(
    ("ops", "expected"), [("", 0), ("a", 1), ("aaaa", 1), ("abcabcab", 3), ("abcabc", 3), ("abcab", 5), ("aabaac", 6)]
)
def test_a_round_is_what_comes_again_all_along(ops: str, expected: int) -> None:
    assert round_length(list(ops)) == expected


@on_both
def test_close_ends_a_run_early_without_failure(back: str) -> None:
    async def program(engine: Engine) -> None:
        engine.spawn(forever(engine, [], "other"), "other")
        await engine.step("local")
        engine.close()
        await engine.step("local")
        engine.count("went on")

    outcome = run_on(back, program)
    assert outcome.error is None
    assert not outcome.engine.counters


@on_both
def test_task_that_ends_with_a_lock_held(back: str) -> None:
    async def program(engine: Engine) -> None:
        mutex = Mutex(engine, "m", "m")
        await gather(engine, mutex.acquire)

    assert str(run_on(back, program).error) == "main/a.0 ended while holding m"


@on_both
def test_main_that_ends_with_a_lock_held(back: str) -> None:
    async def program(engine: Engine) -> None:
        await Mutex(engine, "m", "m").acquire()

    assert str(run_on(back, program).error) == "main ended while holding m"


@on_both
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through(back: str, kind: type[BaseException]) -> None:
    async def program(engine: Engine) -> None:
        async def body() -> None:
            raise kind

        await gather(engine, body)

    assert type(run_on(back, program).error) is kind


# -- the direct back end only ------------------------------------------------------------


def test_direct_engine_runs_once() -> None:
    backend = DirectBackend()
    engine = Engine(backend, Fifo())
    backend.run(engine.step("local"))
    with pytest.raises(EngineError, match="runs once"):
        backend.run(engine.step("local"))


def test_direct_names_the_task_that_awaits_something_foreign() -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield "a trap"

    async def program(engine: Engine) -> None:
        async def body() -> None:
            await Foreign()

        await gather(engine, body)

    assert str(run_on("direct", program).error) == "main/a.0 awaits what is not the engine's: str"
