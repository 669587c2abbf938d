"""rw_semaphore: sharing, first come first served, downgrade, trylocks, whom a waiter waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_toys import check, error_of, gather

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.engine.locks import RwSem


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


def test_two_threads_downgrading_is_refused() -> None:
    async def program(engine: Engine) -> None:
        sem = RwSem(engine, "s", "s")

        async def thief() -> None:
            with pytest.raises(EngineError, match="does not hold it for write"):
                sem.downgrade()

        async with sem.writing():
            await gather(engine, thief)

    check(program, range(2))
