"""ww mutexes used wrongly: what the kernel's debug checks and its lock checker say (fences_and_scheduler 4.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from engine_toys import gather
from ww_toys import WAIT_DIE, alone, play

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import Mutex
from svm_actors.engine.ww_mutex import WwClass, WwCtx, WwMutex


def misuse(body: Callable[[Engine], Awaitable[None]], text: str, rule: str = "INV-FEN-05") -> None:
    with pytest.raises(PropertyFailed, match=text) as info:
        alone(body)
    assert info.value.rule == rule


def test_a_lock_after_acquire_done_is_misuse() -> None:
    async def body(engine: Engine) -> None:
        ctx = WwCtx(engine, WAIT_DIE)
        ctx.acquire_done()
        await WwMutex(engine, "x", WAIT_DIE).lock(ctx)

    misuse(body, "toy#1 takes x after acquire_done")


def test_a_context_may_not_end_with_locks_held() -> None:
    async def body(engine: Engine) -> None:
        ctx = WwCtx(engine, WAIT_DIE)
        await WwMutex(engine, "x", WAIT_DIE).lock(ctx)
        ctx.fini()

    misuse(body, "ends while it holds 1 locks")


def test_a_context_of_another_class_is_misuse() -> None:
    async def body(engine: Engine) -> None:
        await WwMutex(engine, "x", WAIT_DIE).lock(WwCtx(engine, WwClass("other")))

    misuse(body, "is a context of other, x is a lock of toy")


def test_a_context_belongs_to_its_thread() -> None:
    async def body(engine: Engine) -> None:
        ctx = WwCtx(engine, WAIT_DIE)
        lock = WwMutex(engine, "x", WAIT_DIE)
        await gather(engine, lambda: lock.lock(ctx))

    misuse(body, "of main is used by main/a.0")


def test_after_edeadlk_everything_is_dropped_and_the_contended_lock_comes_first() -> None:
    def script(*rest: str) -> str:
        return " ".join(["a+x", "b+y", "b+x", *rest])

    for rest, text in (
        (("b+x",), "has to back off and take x first"),
        (("b-y", "b+y"), "takes y, but it has to back off and take x first"),
        (("b!x",), "takes the slow path while it holds 1 locks"),
    ):
        with pytest.raises(PropertyFailed, match=text):
            play(WAIT_DIE, script(*rest))


def test_the_plain_lock_is_as_good_as_the_slow_one_once_nothing_is_held() -> None:
    assert play(WAIT_DIE, "a+x b+y b+x b-y b+x a-x").endswith("b waits for x; a dropped x, b got x")


# -- lock order ----------------------------------------------------------------------------------


def test_two_of_a_class_without_a_context_are_reported_before_they_deadlock() -> None:
    async def body(engine: Engine) -> None:
        x, y = (WwMutex(engine, name, WAIT_DIE) for name in "xy")
        await x.lock()
        await y.lock()

    misuse(body, "main takes y while holding x, and not in one acquire context")


def test_two_contexts_of_one_thread_are_reported() -> None:
    async def body(engine: Engine) -> None:
        x, y = (WwMutex(engine, name, WAIT_DIE) for name in "xy")
        await x.lock(WwCtx(engine, WAIT_DIE))
        await y.lock(WwCtx(engine, WAIT_DIE))

    misuse(body, "not in one acquire context")


def test_one_got_by_trylock_may_be_held_too() -> None:
    async def body(engine: Engine) -> None:
        x, y = (WwMutex(engine, name, WAIT_DIE) for name in "xy")
        assert await x.trylock()
        ctx = WwCtx(engine, WAIT_DIE)
        await y.lock(ctx)
        y.unlock()
        x.unlock()
        ctx.fini()

    alone(body)


def test_other_classes_are_ordered_as_usual() -> None:
    async def body(engine: Engine) -> None:
        ww, mutex = WwMutex(engine, "x", WAIT_DIE), Mutex(engine, "m", "outer")
        async with mutex:
            await ww.lock()
            ww.unlock()
        await ww.lock()
        await mutex.acquire()

    misuse(body, "main takes outer while holding toy", "INV-24")


def test_the_same_one_twice_without_a_context_is_reported() -> None:
    async def body(engine: Engine) -> None:
        x = WwMutex(engine, "x", WAIT_DIE)
        await x.lock()
        await x.lock()

    misuse(body, "takes x twice", "INV-24")
