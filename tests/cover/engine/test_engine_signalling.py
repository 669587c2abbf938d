"""The fence-signalling section: what it forbids, found by order and not by luck (fences_and_scheduler 5, 6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine_toys import Add, Server, check, run_on

from svm_actors.engine import signalling as sig
from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.engine.locks import Mutex, RwSem, SpinLock
from svm_actors.engine.signalling import Gfp, LockMap, signalling
from svm_actors.engine.ww_mutex import WwClass, WwMutex

Body = Callable[[Engine], Awaitable[Any]]


def fails(body: Body) -> PropertyFailed:
    outcome = run_on("direct", body)
    assert isinstance(outcome.error, PropertyFailed), outcome.error
    return outcome.error


def forbidden(body: Body, text: str) -> None:
    error = fails(body)
    assert (error.oracle, error.rule) == ("signalling", "INV-FEN-03")
    assert text in error.text


def holds(body: Body) -> None:
    check(body, range(3))


# -- what is forbidden at once ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda engine: sig.might_wait(engine, "job.finished"), "main waits for job.finished"),
        (lambda engine: sig.might_alloc(engine, "a job"), "main allocates a job with GFP_KERNEL, which may reclaim"),
        (lambda engine: sig.might_alloc(engine, "a job", Gfp.NOIO), "with GFP_NOIO"),
        (lambda engine: sig.might_alloc(engine, "a job", Gfp.NOFS), "with GFP_NOFS"),
        (lambda engine: sig.might_fault(engine, "hmm_range_fault"), "faults user memory: hmm_range_fault"),
        (lambda engine: sig.might_wait_for_user(engine, "a user fence"), "waits for user space: a user fence"),
        (lambda engine: sig.might_wait_for_notifier(engine, "read_begin"), "a notifier that waits for fences"),
        (lambda engine: sig.promised(engine, "job 1"), "fails although the fence is promised: job 1"),
    ],
)
def test_what_a_section_may_never_do(act: Callable[[Engine], None], text: str) -> None:
    async def inside(engine: Engine) -> None:
        with signalling(engine):
            act(engine)

    async def outside(engine: Engine) -> None:
        with signalling(engine):
            pass
        act(engine)

    forbidden(inside, text)
    forbidden(inside, "inside a fence-signalling section")
    holds(outside)


def test_atomic_allocation_is_allowed() -> None:
    async def body(engine: Engine) -> None:
        with signalling(engine):
            sig.might_alloc(engine, "a message", Gfp.ATOMIC)

    holds(body)


# -- locks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock_class", ["mmap_lock", "dma_resv", "fs_reclaim", "i_mmap_rwsem"])
def test_a_lock_of_the_primed_order_is_forbidden_before_anybody_waited(lock_class: str) -> None:
    async def body(engine: Engine) -> None:
        with signalling(engine):
            await RwSem(engine, "lock", lock_class).read()

    forbidden(body, f"takes {lock_class} inside a fence-signalling section")


def test_a_reservation_is_forbidden_as_a_ww_mutex_too() -> None:
    async def body(engine: Engine) -> None:
        lock = WwMutex(engine, "bo.resv", WwClass("reservation_ww_class"), "dma_resv")
        with signalling(engine):
            await lock.lock()

    forbidden(body, "takes dma_resv inside a fence-signalling section")


def test_a_lock_once_held_over_a_wait_is_forbidden() -> None:
    async def body(engine: Engine) -> None:
        vm_lock = RwSem(engine, "vm.lock", "vm_lock")
        async with vm_lock.writing():
            sig.might_wait(engine, "bind")
        with signalling(engine):
            await vm_lock.read()

    seen = "dma_fence_map after vm_lock at main"
    forbidden(body, f"main takes vm_lock inside a fence-signalling section, but elsewhere: {seen}")


def test_the_order_of_the_two_does_not_matter() -> None:
    """First the section takes the lock; then somebody waits with it held, and that one is told."""

    async def body(engine: Engine) -> None:
        lock = Mutex(engine, "jobs", "job_lock")
        with signalling(engine):
            async with lock:
                pass
        async with lock:
            sig.might_wait(engine, "job")

    seen = "job_lock after dma_fence_map at main"
    forbidden(body, f"main waits for a fence while holding job_lock, but elsewhere: {seen}")


def test_it_is_found_through_other_locks() -> None:
    async def body(engine: Engine) -> None:
        outer, middle, inner = (Mutex(engine, name, name) for name in ("outer", "middle", "inner"))
        async with inner:
            sig.might_wait(engine, "fence")
        async with middle, inner:
            pass
        async with outer, middle:
            pass
        with signalling(engine):
            await outer.acquire()

    forbidden(body, "takes outer inside a fence-signalling section")


def test_a_trylock_is_allowed_but_what_follows_counts() -> None:
    async def body(engine: Engine) -> None:
        lock = Mutex(engine, "resv", "dma_resv")
        with signalling(engine):
            assert await lock.trylock()
            lock.release()

    async def body_then(engine: Engine) -> None:
        outer, inner = Mutex(engine, "outer", "outer"), Mutex(engine, "inner", "inner")
        async with inner:
            sig.might_wait(engine, "fence")
        with signalling(engine):
            assert await outer.trylock()
            await inner.acquire()

    holds(body)
    forbidden(body_then, "takes inner inside a fence-signalling section")


def test_locks_below_the_fence_are_allowed() -> None:
    async def body(engine: Engine) -> None:
        mutex, spin = Mutex(engine, "pending", "pending_lock"), SpinLock(engine, "jobs", "job_list_lock")
        for _ in range(2):
            with signalling(engine):
                async with mutex, spin:
                    pass

    holds(body)


def test_waiting_is_allowed_under_all_that_the_primed_order_allows() -> None:
    async def body(engine: Engine) -> None:
        sig.prime(engine)
        mmap_lock, resv = RwSem(engine, "mm", "mmap_lock"), Mutex(engine, "resv", "dma_resv")
        async with mmap_lock.reading(), resv:
            sig.might_alloc(engine, "page table")
            sig.might_wait(engine, "move")

    holds(body)


def test_allocating_orders_the_locks_held_after_it() -> None:
    """A lock held over an allocation, then taken in a notifier-like place below reclaim: an inversion."""

    async def body(engine: Engine) -> None:
        sig.prime(engine)
        lock, reclaim = Mutex(engine, "queue", "queue_lock"), LockMap(engine, "reclaim", sig.FS_RECLAIM)
        async with lock:
            sig.might_alloc(engine, "a node")
        with reclaim.inside():
            await lock.acquire()

    error = fails(body)
    assert (error.oracle, error.rule) == ("lockdep", "INV-24")
    assert "takes queue_lock while holding fs_reclaim" in error.text


def test_taking_mmap_lock_under_a_reservation_is_an_inversion_of_the_primed_order() -> None:
    async def body(engine: Engine) -> None:
        sig.prime(engine)
        async with Mutex(engine, "resv", "dma_resv"):
            await RwSem(engine, "mm", "mmap_lock").read()

    error = fails(body)
    assert error.rule == "INV-24"
    assert "takes mmap_lock while holding dma_resv" in error.text


def test_priming_twice_changes_nothing() -> None:
    async def body(engine: Engine) -> None:
        sig.prime(engine)
        before = {outer: dict(inner) for outer, inner in engine.lockdep.after.items()}
        sig.prime(engine)
        assert before == engine.lockdep.after

    holds(body)


# -- the section itself ----------------------------------------------------------------------------


def test_sections_nest_and_only_the_outermost_ends_it() -> None:
    async def body(engine: Engine) -> None:
        first = sig.begin(engine)
        second = sig.begin(engine)
        assert (first, second) == (False, True)
        sig.end(engine, second)
        assert sig.in_signalling(engine)
        sig.end(engine, first)
        assert not sig.in_signalling(engine)

    holds(body)


def test_an_atomic_section_needs_none() -> None:
    async def body(engine: Engine) -> None:
        async with SpinLock(engine, "irq", "irq"):
            assert sig.begin(engine)
            assert not sig.in_signalling(engine)

    holds(body)


def test_a_section_left_open_is_reported() -> None:
    async def body(engine: Engine) -> None:
        async def worker() -> None:
            sig.begin(engine)

        await engine.join(engine.spawn(worker(), "worker"))

    outcome = run_on("direct", body)
    assert isinstance(outcome.error, EngineError)
    assert "worker ended while holding dma_fence_map" in str(outcome.error)


def test_it_belongs_to_one_thread() -> None:
    async def body(engine: Engine) -> None:
        async def other() -> None:
            assert not sig.in_signalling(engine)
            sig.might_alloc(engine, "anything")
            with signalling(engine):
                await engine.step("local")

        with signalling(engine):
            task = engine.spawn(other(), "other")
            await engine.step("local")
            await engine.step("local")
        await engine.join(task)

    check(body)


class Wait(Message[None]):
    """Wait for a fence."""


def test_a_request_served_for_a_thread_in_a_section_is_inside() -> None:
    class Waiter(Actor):
        def __init__(self, engine: Engine) -> None:
            super().__init__(engine, "waiter")
            self.handle(Wait, self.wait)

        async def wait(self, _message: Wait) -> None:
            sig.might_wait(self.engine, "a fence")

    async def body(engine: Engine) -> None:
        actor = Waiter(engine)
        actor.start()
        await actor.call(Wait())
        with signalling(engine):
            await actor.call(Wait())

    forbidden(body, "main/Wait.1 waits for a fence")


def test_calling_actors_as_such_is_allowed() -> None:
    async def body(engine: Engine) -> None:
        server = Server(engine)
        server.start()
        with signalling(engine):
            await server.call(Add(1))

    assert run_on("direct", body).error is None


def test_it_ends_when_an_exception_leaves_it() -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(ZeroDivisionError), signalling(engine):
            raise ZeroDivisionError
        assert not sig.in_signalling(engine)
        sig.might_wait(engine, "fence")

    holds(body)


# -- work queues -----------------------------------------------------------------------------------


def test_flushing_a_queue_is_forbidden_once_an_item_did_what_is() -> None:
    async def body(engine: Engine) -> None:
        work = LockMap(engine, "events", "wq:events")
        with work.inside():
            sig.might_alloc(engine, "something")
        with signalling(engine):
            work.touch()

    forbidden(body, "takes wq:events inside a fence-signalling section")


def test_flushing_a_harmless_queue_is_allowed() -> None:
    async def body(engine: Engine) -> None:
        work = LockMap(engine, "free", "wq:free")
        with work.inside():
            sig.might_alloc(engine, "a message", Gfp.ATOMIC)
        with signalling(engine):
            work.touch()

    holds(body)
