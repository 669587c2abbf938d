"""The kernel's locks: exclusion, order, downgrade, handing over, and what a spinlock forbids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_toys import BACKENDS, Scripted, check, error_of, gather, run_on

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.engine.locks import BitLock, CollisionSeq, Mutex, RwSem, SpinLock, WaitQueue
from svm_actors.explore.strategies import make

# -- mutex -----------------------------------------------------------------------------


def test_mutex_excludes() -> None:
    async def program(engine: Engine) -> None:
        mutex, inside = Mutex(engine, "m", "m"), list[int]()

        async def body() -> None:
            for _ in range(3):
                async with mutex:
                    inside.append(1)
                    assert mutex.held_by_me()
                    await engine.step("write", mutex)
                    assert len(inside) == 1
                    inside.pop()
                assert not mutex.held_by_me()

        await gather(engine, body, body, body)
        assert mutex.statistics() == {"holders": [], "waiting": 0}

    check(program)


def test_mutex_waiters_barge() -> None:
    """Whoever is picked after the release takes it, even one that came later."""
    orders = set()
    for seed in range(30):
        order: list[str] = []

        async def program(engine: Engine, order: list[str] = order) -> None:
            mutex = Mutex(engine, "m", "m")

            async def body(name: str) -> None:
                async with mutex:
                    await engine.step("write", mutex)
                    order.append(name)

            await gather(engine, lambda: body("a"), lambda: body("b"), lambda: body("c"))

        run_on("direct", program, make("random", seed))
        orders.add("".join(order))
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_only_those_who_could_take_the_lock_are_candidates() -> None:
    async def program(engine: Engine) -> None:
        mutex = Mutex(engine, "m", "m")

        async def body() -> None:
            async with mutex:
                await engine.sleep(1)

        async with engine.nursery() as nursery:
            tasks = [nursery.start_soon(body) for _ in range(3)]
            await mutex.acquire()
            await engine.sleep(1)
            assert engine.enabled == [engine.current]
            mutex.release()
            assert engine.enabled == [engine.current, *tasks]
            assert mutex.statistics() == {"holders": [], "waiting": 3}
            assert await mutex.trylock()
            assert engine.enabled == [engine.current]
            mutex.release()

    assert run_on("direct", program, Scripted()).error is None


def test_trylock_never_waits() -> None:
    async def program(engine: Engine) -> None:
        mutex = Mutex(engine, "m", "m")

        async def body() -> None:
            if await mutex.trylock():
                engine.count("got it")
                await engine.sleep(1)
                mutex.release()
            else:
                assert mutex.holders()
                engine.count("busy")

        await gather(engine, body, body)
        assert engine.counters == {"got it": 1, "busy": 1}

    check(program)


@pytest.mark.parametrize("kind", [Mutex, SpinLock, RwSem, BitLock])
def test_release_by_a_thread_that_does_not_hold_it(kind: type[Mutex]) -> None:
    async def program(engine: Engine) -> None:
        lock = kind(engine, "it", "it")
        async with engine.nursery() as nursery:
            nursery.start_soon(other, lock)

    async def other(lock: Mutex) -> None:
        lock.release()

    assert error_of(program) == "main/other.0 releases it but does not hold it"


def test_assert_held() -> None:
    async def program(engine: Engine) -> None:
        mutex = Mutex(engine, "m", "m")
        async with mutex:
            mutex.assert_held()
        mutex.assert_held()

    assert error_of(program) == "m must be held here"


# -- spinlock --------------------------------------------------------------------------

SLEEPERS: dict[str, Callable[[Engine], Any]] = {
    "step": lambda engine: engine.step("read"),
    "sleep": lambda engine: engine.sleep(5),
    "mutex": lambda engine: Mutex(engine, "m", "m").acquire(),
    "trylock": lambda engine: Mutex(engine, "m", "m").trylock(),
    "wait": lambda engine: WaitQueue(engine, "q").wait_event(lambda: True),
    "timeout": lambda engine: WaitQueue(engine, "q").wait_event_timeout(lambda: True, 5),
    "nursery": lambda engine: gather(engine),
}


@pytest.mark.parametrize("back", BACKENDS)
@pytest.mark.parametrize("sleeper", SLEEPERS)
def test_op_in_a_spinlock_section_is_an_error_that_names_the_lock(back: str, sleeper: str) -> None:
    async def program(engine: Engine) -> None:
        async with SpinLock(engine, "ptl", "ptl"):
            await SLEEPERS[sleeper](engine)

    error = error_of(program, back)
    assert error.startswith("main announces '")
    assert error.endswith("in an atomic section: it holds ptl, and whoever holds a spinlock must not sleep")


def test_spinlocks_nest_without_an_op() -> None:
    async def program(engine: Engine) -> None:
        outer, inner = SpinLock(engine, "outer", "outer"), SpinLock(engine, "inner", "inner")

        async def body() -> None:
            await outer.acquire()
            before = engine.steps
            async with inner:
                assert engine.atomic == [outer, inner]
            assert await inner.trylock()
            assert not await inner.trylock()
            outer.release()  # not in the reverse order: allowed
            assert engine.atomic == [inner]
            with pytest.raises(EngineError, match="it holds inner, and"):
                await engine.step("local")
            inner.release()
            assert engine.steps == before
            await engine.step("local")

        await gather(engine, body, body)

    check(program)


def test_spinlocks_nested_both_ways_are_an_inversion() -> None:
    async def program(engine: Engine) -> None:
        one, two = SpinLock(engine, "one", "one"), SpinLock(engine, "two", "two")
        async with one, two:
            pass
        async with two, one:
            pass

    assert "takes one while holding two" in error_of(program)


def test_section_that_fails_lets_the_lock_go() -> None:
    async def program(engine: Engine) -> None:
        lock = SpinLock(engine, "ptl", "ptl")
        with pytest.raises(ValueError):
            async with lock:
                raise ValueError
        await engine.step("local")
        assert await lock.trylock()
        lock.release()

    check(program, range(1))


def test_task_that_ends_in_an_atomic_section() -> None:
    async def program(engine: Engine) -> None:
        await gather(engine, SpinLock(engine, "ptl", "ptl").acquire)

    assert error_of(program) == "main/a.0 ended while holding ptl"


# -- lock bits -------------------------------------------------------------------------


def test_wait_clear_waits_and_takes_nothing() -> None:
    async def program(engine: Engine) -> None:
        folio, seen = BitLock(engine, "folio", "folio"), list[str]()

        async def waiter() -> None:
            await folio.wait_clear()
            assert not folio.held_by_me()
            seen.append("through")

        async with engine.nursery() as nursery:
            assert folio.trylock_now()
            assert not folio.trylock_now()
            nursery.start_soon(waiter)
            nursery.start_soon(waiter)
            await engine.sleep(5)
            assert seen == []
            folio.release()
        assert seen == ["through", "through"]

    check(program, range(8))


def test_lock_given_away_stays_locked_for_waiters_and_belongs_to_the_new_thread() -> None:
    """Handing over is no release: nobody may slip in between."""

    async def program(engine: Engine) -> None:
        folio = BitLock(engine, "folio", "folio")
        order: list[str] = []

        async def io() -> None:
            await engine.sleep(10)
            assert folio.held_by_me()
            order.append("io")
            folio.release()

        async def locker() -> None:
            await folio.acquire()
            order.append("locker")
            folio.release()

        async with engine.nursery() as nursery:
            await folio.acquire()
            worker = nursery.start_soon(io)
            nursery.start_soon(locker)
            nursery.start_soon(folio.wait_clear)
            await engine.sleep(1)
            folio.give(worker.thread)
            assert not folio.held_by_me()
            assert [task.id for task in engine.enabled] == ["main"]
        assert order == ["io", "locker"]

    check(program, range(8))


# -- wait queues and the sequence --------------------------------------------------------


def test_condition_that_turned_false_again_is_waited_for_again() -> None:
    """A wake-up whose condition was gone by the time the task ran: it sleeps on, as kernel loops do."""

    async def program(engine: Engine) -> None:
        queue, tokens = WaitQueue(engine, "q"), list[int]()

        async def taker() -> None:
            await queue.wait_event(lambda: bool(tokens))
            tokens.pop()  # tells nobody

        async def giver() -> None:
            for _ in range(2):
                await engine.sleep(1)
                tokens.append(1)
                queue.wake_up()

        await gather(engine, taker, taker, giver)
        assert tokens == []

    check(program)


def test_wake_up_makes_candidates_only_of_those_whose_condition_holds() -> None:
    async def program(engine: Engine) -> None:
        queue, level = WaitQueue(engine, "q"), [0]

        async def waiter(least: int) -> None:
            await queue.wait_event(lambda: level[0] >= least)

        async with engine.nursery() as nursery:
            for least in (1, 2):
                nursery.start_soon(waiter, least)
            await engine.sleep(1)
            for level[0] in (1, 2):
                queue.wake_up()
                assert len(engine.enabled) == 1 + level[0]

    check(program, range(1))


def test_collision_sequence_merges_overlapping_writers_into_one_odd_period() -> None:
    async def program(engine: Engine) -> None:
        seq, past = CollisionSeq(engine, "seq"), list[int]()
        assert seq.begin(matched=False) == 2
        assert not seq.end()
        assert seq.value == 2
        assert seq.begin(matched=True) == seq.begin(matched=True) == 3

        async def reader() -> None:
            await seq.wait_past(3)
            past.append(seq.value)

        async with engine.nursery() as nursery:
            nursery.start_soon(reader)
            await engine.sleep(1)
            assert not seq.end()
            seq.wake()
            await engine.sleep(1)
            assert past == []
            assert seq.end()
            seq.wake()
        assert past == [4]

    check(program, range(4))


def test_lock_order_inversion_is_found_without_a_deadlock() -> None:
    async def program(engine: Engine) -> None:
        mmap, notifier = RwSem(engine, "mm1.mmap_lock", "mmap_lock"), Mutex(engine, "n.lock", "notifier_lock")
        async with mmap.reading(), notifier:
            pass
        async with notifier, mmap.writing():
            pass

    outcome = run_on("direct", program, Scripted())
    assert isinstance(outcome.error, PropertyFailed)
    assert outcome.error.text == (
        "main takes mmap_lock while holding notifier_lock, but elsewhere: notifier_lock after mmap_lock at main"
    )
