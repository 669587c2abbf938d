"""The kernel's locks: exclusion, order, downgrade, handing over, and what a spinlock forbids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_toys import BACKENDS, Scripted, gather, run_on

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.engine.locks import BitLock, CollisionSeq, Mutex, RwSem, SpinLock, WaitQueue
from svm_actors.explore.strategies import make

SEEDS = range(20)


def check(program: Callable[[Engine], Any], seeds: range = SEEDS, **options: Any) -> None:
    """No seed may fail."""
    for seed in seeds:
        outcome = run_on("direct", program, make("random", seed), **options)
        assert outcome.error is None, f"seed {seed}: {outcome.error}"


def error_of(program: Callable[[Engine], Any], back: str = "direct") -> str:
    outcome = run_on(back, program)
    assert outcome.error is not None
    return str(outcome.error)


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


# -- rwsem -----------------------------------------------------------------------------


def test_rwsem_readers_share_and_writers_exclude() -> None:
    together: set[int] = set()

    async def program(engine: Engine) -> None:
        sem, readers, writers = RwSem(engine, "s", "s"), list[int](), list[int]()

        async def read() -> None:
            async with sem.reading():
                readers.append(1)
                await engine.step("read", sem)
                assert not writers
                together.add(len(readers))
                readers.pop()

        async def write() -> None:
            async with sem.writing():
                assert sem.held_for_write()
                writers.append(1)
                await engine.step("write", sem)
                assert len(writers) == 1
                assert not readers
                writers.pop()

        await gather(engine, read, write, read, write, read)

    check(program, range(60))
    assert together == {1, 2, 3}


def order_of(engine: Engine, sem: RwSem, modes: str) -> Callable[[], Any]:
    """Tasks that queue up in the order of their letters, and log when they get the lock."""

    async def body(index: int, mode: str, log: list[str]) -> None:
        await engine.sleep(1 + index)
        await (sem.read() if mode == "r" else sem.write())
        log.append(f"{mode}{index}")
        await engine.sleep(100)
        sem.release()

    async def start() -> list[str]:
        log: list[str] = []
        async with engine.nursery() as nursery:
            for index, mode in enumerate(modes):
                nursery.start_soon(body, index, mode, log)
        return log

    return start


@pytest.mark.parametrize(
    ("modes", "groups"),
    [
        ("rrr", ["r0r1r2"]),
        ("www", ["w0", "w1", "w2"]),
        ("wrr", ["w0", "r1r2"]),
        ("rwr", ["r0", "w1", "r2"]),  # the queued writer holds back the later reader
        ("rrwrrw", ["r0r1", "w2", "r3r4", "w5"]),
        ("wwrwr", ["w0", "w1", "r2", "w3", "r4"]),
    ],
)
def test_rwsem_is_first_come_first_served(modes: str, groups: list[str]) -> None:
    """Readers that stand together get in together, in any order; nobody overtakes a writer."""

    async def program(engine: Engine) -> None:
        log = await order_of(engine, RwSem(engine, "s", "s"), modes)()
        for group in groups:
            size = len(group) // 2
            assert "".join(sorted(log[:size])) == group
            del log[:size]

    check(program, range(8))


def test_whom_a_waiter_of_a_rwsem_waits_for() -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")

        async def hold(mode: str, delay: int) -> None:
            await engine.sleep(delay)
            await (sem.read() if mode == "r" else sem.write())
            await engine.sleep(100)
            sem.release()

        async with engine.nursery() as nursery:
            tasks = [nursery.start_soon(hold, mode, delay) for delay, mode in enumerate("rrwrrw", 1)]
            await engine.sleep(50)
            r1, r2, w3, _r4, _r5, w6 = [task.thread for task in tasks]
            names = [[thread.name[-1] for thread in sem.blocked_by(task)] for task in tasks[2:]]
            assert names == [["0", "1"], ["2"], ["2"], ["0", "1", "2", "3", "4"]]
            assert sem.holders() == [r1, r2]
            assert sem.blocked_by(tasks[3]) == [w3]
            assert w6 not in sem.blocked_by(tasks[4])

    check(program, range(2))


def test_downgrade_lets_readers_in_up_to_the_next_writer() -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")
        log: list[str] = []

        async def other(index: int, mode: str) -> None:
            await engine.sleep(index)
            await (sem.read() if mode == "r" else sem.write())
            log.append(f"{mode}{index}")
            sem.release()

        async with engine.nursery() as nursery:
            await sem.write()
            for index, mode in enumerate("rrwr", start=1):
                nursery.start_soon(other, index, mode)
            await engine.sleep(50)
            assert log == []
            sem.downgrade()
            assert sem.held_by_me()
            assert not sem.held_for_write()
            await engine.sleep(50)
            assert sorted(log) == ["r1", "r2"]
            sem.release()
        assert log[2:] == ["w3", "r4"]

    check(program, range(8))


def test_downgrade_without_the_write_lock() -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")
        async with sem.reading():
            sem.downgrade()

    assert error_of(program) == "s is downgraded by a thread that does not hold it for write"


@pytest.mark.parametrize(
    ("held", "queued", "read", "write"),
    [
        ("", "", True, True),
        ("r", "", True, False),
        ("w", "", False, False),
        ("r", "w", False, False),  # a sleeping writer turns a read trylock away
        ("r", "r", True, False),  # the second reader does not sleep, it has the lock
    ],
)
def test_rwsem_trylocks(held: str, queued: str, read: bool, write: bool) -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")

        async def hold(mode: str, delay: int) -> None:
            await engine.sleep(delay)
            await (sem.read() if mode == "r" else sem.write())
            await engine.sleep(100)
            sem.release()

        async def try_both() -> None:
            await engine.sleep(10)
            assert await sem.try_read() is read
            if read:
                sem.release()
            assert await sem.try_write() is write
            if write:
                sem.release()

        bodies = [lambda mode=mode, delay=delay: hold(mode, delay) for delay, mode in enumerate(held + queued, 1)]
        await gather(engine, try_both, *bodies)

    check(program, range(4))


def test_recursive_reading_is_reported_before_it_can_deadlock() -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")
        async with sem.reading(), sem.reading():
            pass

    assert error_of(program) == "lockdep [INV-24]: main takes s twice"


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


def test_two_threads_downgrading_is_refused() -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")

        async def thief() -> None:
            with pytest.raises(EngineError, match="does not hold it for write"):
                sem.downgrade()

        async with sem.writing():
            await gather(engine, thief)

    check(program, range(2))
