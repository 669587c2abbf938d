"""Deadlock reports, word for word: pending ops, locks held, lost wake-ups, and the cycle."""

from __future__ import annotations

import attrs
import pytest
from engine_toys import BACKENDS, Add, Server, gather, run_on

from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.channel import Channel
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import Deadlock
from svm_actors.engine.locks import Mutex, RwSem, WaitQueue
from svm_actors.explore.strategies import Fifo

on_both = pytest.mark.parametrize("back", BACKENDS)
HEAD = "deadlock at virtual time {} ns: no task is enabled and no timer is pending"


def report(program, back: str = "direct") -> list[str]:  # type: ignore[no-untyped-def]
    error = run_on(back, program, Fifo()).error
    assert isinstance(error, Deadlock), error
    return str(error).splitlines()


async def hold_then_want(engine: Engine, first: Mutex, second: Mutex) -> None:
    async with first:
        await engine.sleep(1)
        async with second:
            pass


@on_both
def test_two_locks_taken_both_ways(back: str) -> None:
    async def program(engine: Engine) -> None:
        # One class, so that lock order does not speak first.
        a, b = Mutex(engine, "A", "page"), Mutex(engine, "B", "page")
        await gather(engine, lambda: hold_then_want(engine, a, b), lambda: hold_then_want(engine, b, a))

    assert report(program, back) == [
        HEAD.format(1),
        "  main is blocked in join main/nursery.0; its thread holds nothing",
        "  main/a.0 is blocked in lock B; its thread holds A (w)",
        "  main/b.0 is blocked in lock A; its thread holds B (w)",
        "  wait-for cycle: main/a.0 -> main/b.0 -> main/a.0",
    ]


def test_cycle_of_three_leaves_bystanders_out() -> None:
    async def program(engine: Engine) -> None:
        locks = [Mutex(engine, name, "page") for name in "ABC"]

        async def bystander() -> None:
            await engine.sleep(2)
            async with locks[0]:
                pass

        bodies = [lambda i=i: hold_then_want(engine, locks[i], locks[(i + 1) % 3]) for i in range(3)]
        await gather(engine, bystander, *bodies)

    lines = report(program)
    assert lines[-1] == "  wait-for cycle: main/b.0 -> main/c.0 -> main/d.0 -> main/b.0"
    assert len(lines) == 1 + 5 + 1


@on_both
def test_cycle_through_a_request_to_an_actor(back: str) -> None:
    """Caller -> the task that serves it -> the thread that holds the server's lock -> the caller's lock."""

    async def program(engine: Engine) -> None:
        server = Server(engine)
        server.lock.lock_class = "page"
        server.start()
        mine = Mutex(engine, "mine", "page")

        async def caller() -> None:
            async with mine:
                await engine.sleep(1)
                await server.call(Add(1))

        async def other() -> None:
            async with server.lock:
                await engine.sleep(5)
                async with mine:
                    pass

        await gather(engine, caller, other)

    assert report(program, back) == [
        HEAD.format(5),
        "  main is blocked in join main/nursery.0; its thread holds nothing",
        "  main/a.0 is blocked in reply server.Add; its thread holds mine (w)",
        "  main/b.0 is blocked in lock mine; its thread holds server.lock (w)",
        "  main/a.0/Add.0 is blocked in lock server.lock; its thread holds mine (w)",
        "  wait-for cycle: main/a.0 -> main/a.0/Add.0 -> main/b.0 -> main/a.0",
    ]


@attrs.frozen
class Relay(Message[int]):
    """Pass the request on to the other server."""


class Relayer(Actor):
    """Holds its lock while it calls another actor."""

    def __init__(self, engine: Engine, name: str, lock: Mutex) -> None:
        super().__init__(engine, name)
        self.lock = lock
        self.other: Actor = self
        self.handle(Relay, self.relay)
        self.handle(Add, self.add)

    async def relay(self, message: Relay) -> int:
        async with self.lock:
            await self.engine.sleep(1)
            return await self.other.call(Add(1))

    async def add(self, message: Add) -> int:
        async with self.lock:
            return message.amount


def test_cycle_through_two_actors_and_locks_taken_by_their_requests() -> None:
    async def program(engine: Engine) -> None:
        left = Relayer(engine, "left", Mutex(engine, "left.lock", "actor"))
        right = Relayer(engine, "right", Mutex(engine, "right.lock", "actor"))
        left.other, right.other = right, left
        for actor in (left, right):
            actor.start()

        async def call(actor: Relayer) -> None:
            await actor.call(Relay())

        await gather(engine, lambda: call(left), lambda: call(right))

    assert report(program)[-1] == (
        "  wait-for cycle: main/a.0 -> main/a.0/Relay.0 -> main/a.0/Relay.0/Add.0"
        " -> main/b.0 -> main/b.0/Relay.0 -> main/b.0/Relay.0/Add.0 -> main/a.0"
    )


def test_cycle_through_the_queue_of_a_rwsem() -> None:
    """A reader behind a queued writer, which waits for a reader, which waits for the first one's lock."""

    async def program(engine: Engine) -> None:
        sem, mutex = RwSem(engine, "sem", "page"), Mutex(engine, "mutex", "page")

        async def holder() -> None:
            async with sem.reading():
                await engine.sleep(3)
                async with mutex:
                    pass

        async def writer() -> None:
            await engine.sleep(1)
            async with sem.writing():
                pass

        async def late_reader() -> None:
            async with mutex:
                await engine.sleep(2)
                async with sem.reading():
                    pass

        await gather(engine, holder, writer, late_reader)

    assert report(program)[-1] == "  wait-for cycle: main/a.0 -> main/c.0 -> main/b.0 -> main/a.0"


def test_cycle_through_a_second_task_of_a_thread() -> None:
    """The thread's oldest task is not in it: any task of the thread may hold the story's end."""

    async def program(engine: Engine) -> None:
        a, b = Mutex(engine, "A", "page"), Mutex(engine, "B", "page")

        async def idle() -> None:
            task = engine.current
            assert task is not None
            engine.spawn(hold_then_want(engine, a, b), "helper", parent=task, thread=task.thread)
            await WaitQueue(engine, "nothing").wait_event(lambda: False)

        await gather(engine, idle, lambda: hold_then_want(engine, b, a))

    assert report(program)[-1] == "  wait-for cycle: main/b.0 -> main/a.0/helper.0 -> main/b.0"


def test_readers_do_not_wait_for_readers() -> None:
    """The reader in the cycle's neighbourhood shares the lock: it is no blocker."""

    async def program(engine: Engine) -> None:
        sem, mutex = RwSem(engine, "sem", "page"), Mutex(engine, "mutex", "page")

        async def reader() -> None:
            async with sem.reading():
                await engine.sleep(1)
                await mutex.acquire()
                await WaitQueue(engine, "nothing").wait_event(lambda: False)

        await gather(engine, reader, reader)

    lines = report(program)
    assert lines[2] == "  main/a.0 is blocked in wait nothing; its thread holds sem (r), mutex (w)"
    assert lines[3] == "  main/b.0 is blocked in lock mutex; its thread holds sem (r)"
    assert len(lines) == 4


@on_both
def test_lost_wake_up_is_named(back: str) -> None:
    async def program(engine: Engine) -> None:
        queue, ready = WaitQueue(engine, "q"), list[bool]()

        async def waiter() -> None:
            await queue.wait_event(lambda: bool(ready))

        async def forgetful() -> None:
            await engine.sleep(1)
            ready.append(True)

        await gather(engine, waiter, forgetful)

    assert report(program, back)[2] == (
        "  main/a.0 is blocked in wait q; its thread holds nothing; its condition holds, but nobody woke it"
    )


def test_idle_actors_are_left_out_and_busy_daemons_come_last() -> None:
    async def program(engine: Engine) -> None:
        Server(engine).start()
        queue = WaitQueue(engine, "work")
        engine.spawn(queue.wait_event(lambda: False), "worker", daemon=True)
        await Channel[int](engine, "c").receive()

    assert report(program) == [
        HEAD.format(0),
        "  main is blocked in receive c; its thread holds nothing",
        "  worker (daemon) is blocked in wait work; its thread holds nothing",
    ]


def test_task_that_joins_itself() -> None:
    async def program(engine: Engine) -> None:
        task = engine.current
        assert task is not None
        await engine.join(task)

    assert report(program)[-1] == "  wait-for cycle: main -> main"


def test_joins_in_a_ring_through_a_nursery() -> None:
    async def program(engine: Engine) -> None:
        main = engine.current
        assert main is not None
        await gather(engine, lambda: engine.join(main))

    assert report(program)[-1] == "  wait-for cycle: main -> main/a.0 -> main"
