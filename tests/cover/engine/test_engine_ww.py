"""ww_mutex: who waits, who gives way, who gets the lock (fences_and_scheduler 4.1).

Contexts are made in the order of the letters, so ``a`` is always the oldest.
"""

from __future__ import annotations

from typing import Any

import pytest
from engine_toys import Scripted, check, run_on
from ww_toys import WAIT_DIE, WOUND_WAIT, alone, play

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EDEADLK, EINTR, Deadlock
from svm_actors.engine.signals import flush_signals, send_signal
from svm_actors.engine.ww_mutex import WwClass, WwCtx, WwMutex

BOTH = pytest.mark.parametrize("ww_class", [WAIT_DIE, WOUND_WAIT], ids=lambda ww_class: ww_class.algorithm)


# -- one lock ------------------------------------------------------------------------------


@BOTH
def test_a_free_lock_is_taken_and_given_back(ww_class: WwClass) -> None:
    assert play(ww_class, "a+x a-x b+x b-x") == "a got x; a dropped x; b got x; b dropped x"


@BOTH
def test_who_holds_nothing_waits_whatever_its_age(ww_class: WwClass) -> None:
    assert play(ww_class, "a+x b+x a-x") == "a got x; b waits for x; a dropped x, b got x"
    assert play(ww_class, "b+x a+x b-x") == "b got x; a waits for x; b dropped x, a got x"


@BOTH
def test_sleepers_get_it_by_age_and_those_without_a_context_where_they_came(ww_class: WwClass) -> None:
    assert (
        play(ww_class, "d+x c+x a+x b+x d-x a-x b-x", contexts="abcd")
        == "d got x; c waits for x; a waits for x; b waits for x; d dropped x, a got x; a dropped x, b got x; "
        "b dropped x, c got x"
    )
    assert (
        play(ww_class, "c+x n+x b+x a+x c-x n-x a-x", threads="n")
        == "c got x; n waits for x; b waits for x; a waits for x; c dropped x, n got x; n dropped x, a got x; "
        "a dropped x, b got x"
    )


@BOTH
def test_the_same_context_again_is_ealready(ww_class: WwClass) -> None:
    assert play(ww_class, "a+x a+x") == "a got x; a EALREADY x"


@BOTH
def test_trylock_never_waits_and_nobody_dies_of_it(ww_class: WwClass) -> None:
    assert play(ww_class, "a?x b?x") == "a got x; b missed x"
    assert play(ww_class, "a?x b+y b+x a-x") == "a got x; b got y; b waits for x; a dropped x, b got x"


@BOTH
def test_without_a_context_it_is_an_ordinary_mutex(ww_class: WwClass) -> None:
    assert (
        play(ww_class, "n+x b+y b+x n-x", threads="n") == "n got x; b got y; b waits for x; n dropped x, b got x"
    )


# -- wait-die ------------------------------------------------------------------------------


def test_wait_die_a_younger_one_with_locks_dies_of_an_older_holder() -> None:
    assert play(WAIT_DIE, "a+x b+y b+x") == "a got x; b got y; b EDEADLK x"


def test_wait_die_an_older_one_waits_for_a_younger_holder() -> None:
    assert play(WAIT_DIE, "a+x b+y a+y b-y") == "a got x; b got y; a waits for y; b dropped y, a got y"


def test_wait_die_a_younger_one_with_locks_does_not_queue_behind_an_older_one() -> None:
    """The holder is younger still, but c would have to die as soon as a got the lock."""
    assert play(WAIT_DIE, "c+x a+x b+y b+x") == "c got x; a waits for x; b got y; b EDEADLK x"


def test_wait_die_an_older_one_that_queues_up_kills_younger_sleepers_with_locks() -> None:
    assert play(WAIT_DIE, "c+x b+y b+x a+x") == "c got x; b got y; b waits for x; b EDEADLK x"
    assert play(WAIT_DIE, "c+x b+x a+x c-x") == "c got x; b waits for x; a waits for x; c dropped x, a got x"


def test_wait_die_somebody_older_who_takes_a_free_lock_kills_the_sleepers() -> None:
    """A thread without a context holds x; when it lets go, a takes it past the queue, or b gets it first."""

    def last(*choices: int) -> str:
        log: list[str] = []

        async def body(engine: Engine) -> None:
            x, y = (WwMutex(engine, name, WAIT_DIE) for name in "xy")
            old = WwCtx(engine, WAIT_DIE)
            await x.trylock()

            async def b() -> None:
                ctx = WwCtx(engine, WAIT_DIE)
                await y.lock(ctx)
                try:
                    await x.lock(ctx)
                    log.append("b got x")
                    x.unlock()
                except EDEADLK:
                    log.append("b died")
                y.unlock()

            task = engine.spawn(b(), "b")
            await engine.sleep(1)
            x.unlock()
            await x.lock(old)
            log.append("a got x")
            await engine.sleep(1)
            x.unlock()
            await engine.join(task)

        outcome = run_on("direct", body, Scripted(*choices))
        assert outcome.error is None, outcome.error
        return ", ".join(log)

    assert {last(*choices) for choices in ((0,), (1,))} == {"a got x, b died", "b got x, a got x"}


def test_wait_die_after_backing_off_the_stamp_is_the_same_and_the_slow_path_cannot_die() -> None:
    assert (
        play(WAIT_DIE, "a+x b+y b+x b-y b!x a-x b+y")
        == "a got x; b got y; b EDEADLK x; b dropped y; b waits for x; a dropped x, b got x; b got y"
    )


# -- wound-wait ------------------------------------------------------------------------------


def test_wound_wait_a_younger_one_waits_for_an_older_holder() -> None:
    assert play(WOUND_WAIT, "a+x b+y b+x a-x") == "a got x; b got y; b waits for x; a dropped x, b got x"


def test_wound_wait_an_older_one_wounds_a_younger_sleeper() -> None:
    """b sleeps for z; a wants y, which b holds: b gives way at once."""
    assert (
        play(WOUND_WAIT, "n+z a+x b+y b+z a+y b-y", threads="n")
        == "n got z; a got x; b got y; b waits for z; b EDEADLK z; b dropped y, a got y"
    )


def test_wound_wait_the_wounded_holder_dies_when_it_would_have_to_wait_not_before() -> None:
    assert (
        play(WOUND_WAIT, "a+x b+y a+y b+z b+x b-z b-y b!x", contexts="ab")
        == "a got x; b got y; a waits for y; b got z; b EDEADLK x; b dropped z; b dropped y, a got y; b waits for x"
    )


def test_wound_wait_who_holds_nothing_wounds_nobody() -> None:
    assert play(WOUND_WAIT, "b+y a+y b+x") == "b got y; a waits for y; b got x"


def test_wound_wait_whoever_takes_it_past_an_older_sleeper_is_wounded() -> None:
    """older sleeps for x with w held; when x is free, b, younger and with y held, may come first."""

    async def body(engine: Engine) -> None:
        w, x, y = (WwMutex(engine, name, WOUND_WAIT) for name in "wxy")

        async def older() -> None:
            ctx = WwCtx(engine, WOUND_WAIT)
            await w.lock(ctx)
            await x.lock(ctx)
            x.unlock()
            w.unlock()

        await x.trylock()
        task = engine.spawn(older(), "older")
        await engine.sleep(1)
        b = WwCtx(engine, WOUND_WAIT)
        await y.lock(b)
        x.unlock()
        await x.lock(b)
        assert (b.wounded_by is not None) == (not task.done)
        x.unlock()
        y.unlock()
        await engine.join(task)

    outcomes = [run_on("direct", body, Scripted(*choices)) for choices in ((0,), (1,))]
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert [outcome.engine.counters["ww.wounded"] for outcome in outcomes] == [1, 0]


# -- signals -----------------------------------------------------------------------------------


@BOTH
def test_an_interruptible_sleep_ends_with_a_signal_and_leaves_the_queue(ww_class: WwClass) -> None:
    async def body(engine: Engine) -> None:
        lock = WwMutex(engine, "x", ww_class)
        log: list[str] = []

        async def sleeper(interruptible: bool) -> None:
            ctx = WwCtx(engine, ww_class)
            try:
                await lock.lock(ctx, interruptible=interruptible)
                log.append("got it")
                lock.unlock()
            except EINTR:
                log.append("interrupted")
                flush_signals(engine)

        await lock.lock()
        light, deep = engine.spawn(sleeper(True), "light"), engine.spawn(sleeper(False), "deep")
        await engine.sleep(1)
        assert lock.statistics()["waiting"] == 2
        for task in (light, deep):
            send_signal(engine, task.thread)
        await engine.sleep(1)
        assert log == ["interrupted"]
        lock.unlock()
        await engine.join(deep)
        assert log == ["interrupted", "got it"]
        assert not light.thread.signal
        assert deep.thread.signal

    check(body)


def test_a_free_lock_is_taken_even_with_a_signal_pending() -> None:
    async def body(engine: Engine) -> None:
        lock = WwMutex(engine, "x", WAIT_DIE)
        assert engine.current is not None
        send_signal(engine, engine.current.thread)
        await lock.lock(WwCtx(engine, WAIT_DIE), interruptible=True)
        lock.unlock()

    alone(body)


# -- injection, reports --------------------------------------------------------------------------


def test_injected_edeadlk_hits_every_lock_but_the_first() -> None:
    async def body(engine: Engine) -> None:
        ctx = WwCtx(engine, WAIT_DIE, inject=True)
        x, y = (WwMutex(engine, name, WAIT_DIE) for name in "xy")
        await x.lock(ctx)
        with pytest.raises(EDEADLK):
            await y.lock(ctx)
        assert not y.holders()
        x.unlock()
        await y.lock_slow(ctx)
        await x.lock(ctx)
        x.unlock()
        y.unlock()
        ctx.fini()

    outcome = run_on("direct", body, Scripted(1, 0))
    assert outcome.error is None, outcome.error


@BOTH
def test_a_deadlock_report_follows_the_holder_and_the_queue(ww_class: WwClass) -> None:
    """second sleeps in the queue behind first; first waits for the holder, who waits for second."""

    async def body(engine: Engine) -> None:
        x = WwMutex(engine, "x", ww_class)
        tasks: dict[str, Any] = {}

        async def holder() -> None:
            await x.lock()
            await engine.sleep(2)
            await engine.join(tasks["second"])

        async def sleeper() -> None:
            await x.lock()

        tasks["holder"] = engine.spawn(holder(), "holder")
        await engine.sleep(1)
        for name in ("first", "second"):
            tasks[name] = engine.spawn(sleeper(), name)
        await engine.join(tasks["holder"])

    outcome = run_on("direct", body)
    assert isinstance(outcome.error, Deadlock)
    assert "second is blocked in lock x; its thread holds nothing" in str(outcome.error)
    assert "wait-for cycle: holder -> second -> holder" in str(outcome.error)


def test_statistics_name_the_holder_and_its_context() -> None:
    async def body(engine: Engine) -> None:
        x = WwMutex(engine, "x", WAIT_DIE)
        assert x.statistics() == {"holders": [], "context": None, "waiting": 0}
        await x.lock(WwCtx(engine, WAIT_DIE))
        assert x.statistics() == {"holders": ["main"], "context": "toy#1", "waiting": 0}
        x.unlock()

    alone(body)
