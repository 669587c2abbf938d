"""Channels of every capacity, replies, and the actors built on them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from engine_toys import BACKENDS, Add, Scripted, Server, gather, run_on
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.channel import Channel, Reply
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EAGAIN, EBUSY, EngineError
from svm_actors.engine.locks import Mutex
from svm_actors.explore.strategies import make


@given(
    capacity=st.sampled_from([None, 0, 1, 2, 3]),
    senders=st.integers(1, 3),
    receivers=st.integers(1, 3),
    items=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_every_item_arrives_once_in_the_order_of_its_sender(
    capacity: int | None, senders: int, receivers: int, items: int, seed: int
) -> None:
    got: list[tuple[int, int]] = []
    most = [0]

    async def program(engine: Engine) -> None:
        channel: Channel[tuple[int, int] | None] = Channel(engine, "c", capacity)

        async def send(sender: int) -> None:
            for item in range(items):
                await channel.send((sender, item))
                most[0] = max(most[0], len(channel))

        async def receive() -> None:
            while (item := await channel.receive()) is not None:
                got.append(item)

        async with engine.nursery() as outer:
            for _ in range(receivers):
                outer.start_soon(receive)
            async with engine.nursery() as inner:
                for sender in range(senders):
                    inner.start_soon(send, sender)
            for _ in range(receivers):
                await channel.send(None)
        assert channel.statistics() == {"queued": 0, "waiting": 0}

    outcome = run_on("direct", program, make("random", seed))
    assert outcome.error is None
    assert sorted(got) == [(sender, item) for sender in range(senders) for item in range(items)]
    if receivers == 1:
        for sender in range(senders):
            assert [item for who, item in got if who == sender] == list(range(items))
    if capacity is not None:
        assert most[0] <= max(capacity, receivers if capacity == 0 else 0)


def test_unbounded_send_never_waits() -> None:
    async def program(engine: Engine) -> None:
        channel: Channel[int] = Channel(engine, "c")
        for item in range(100):
            await channel.send(item)
        assert [await channel.receive() for _ in range(100)] == list(range(100))

    assert run_on("direct", program).error is None


@pytest.mark.parametrize("back", BACKENDS)
def test_rendezvous_has_room_only_while_a_receiver_waits(back: str) -> None:
    async def program(engine: Engine) -> None:
        channel: Channel[str] = Channel(engine, "c", 0)
        sent: list[str] = []

        async def send(name: str) -> None:
            await channel.send(name)
            sent.append(name)

        async with engine.nursery() as nursery:
            nursery.start_soon(send, "a")
            nursery.start_soon(send, "b")
            await engine.sleep(1)
            assert sent == []
            assert not channel.send_nowait("nobody waits")
            first = await channel.receive()
            await engine.sleep(1)
            assert sent == [first]  # one receive lets exactly one sender go on
            assert await channel.receive() != first

    for seed in range(10):
        assert run_on(back, program, make("random", seed)).error is None


def test_send_nowait_respects_the_capacity() -> None:
    async def program(engine: Engine) -> None:
        channel: Channel[int] = Channel(engine, "c", 2)
        assert [channel.send_nowait(item) for item in range(3)] == [True, True, False]
        assert await channel.receive() == 0
        assert channel.send_nowait(3)
        assert len(channel) == 2

    assert run_on("direct", program).error is None


def test_refused_receive_leaves_no_room_behind() -> None:
    """A receive that ends in an error (in a spinlock section) is not a waiting receiver."""
    from svm_actors.engine.locks import SpinLock

    async def program(engine: Engine) -> None:
        channel: Channel[int] = Channel(engine, "c", 0)

        async def send() -> None:
            await channel.send(1)
            engine.count("sent")

        async with engine.nursery() as nursery:
            nursery.start_soon(send)
            await engine.sleep(1)
            with pytest.raises(EngineError, match="atomic section"):
                async with SpinLock(engine, "x", "x"):
                    await channel.receive()
            await engine.sleep(1)
            assert not engine.counters
            assert await channel.receive() == 1

    for seed in range(4):
        assert run_on("direct", program, make("random", seed)).error is None


def test_reply_is_given_once() -> None:
    async def program(engine: Engine) -> None:
        reply: Reply[int] = Reply(engine, "r")
        reply.set(1)
        with pytest.raises(EngineError, match="r is answered twice"):
            reply.fail(EAGAIN())
        assert await reply.get() == 1

    assert run_on("direct", program).error is None


# -- actors ----------------------------------------------------------------------------


@attrs.frozen
class Ask(Message[list[str]]):
    """Ask who serves."""

    fail: bool = False
    """Fail with a programming error."""


class Desk(Actor):
    """Reports the task and thread that serve a request."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "desk")
        self.inside = 0
        self.most = 0
        self.handle(Ask, self.ask)

    async def ask(self, message: Ask) -> list[str]:
        if message.fail:
            raise ZeroDivisionError
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.engine.step("local")
        self.inside -= 1
        task = self.engine.current
        assert task is not None
        return [task.id, task.thread.name]


@pytest.mark.parametrize("back", BACKENDS)
def test_request_is_served_by_a_child_of_the_caller_on_the_callers_thread(back: str) -> None:
    async def program(engine: Engine) -> None:
        desk = Desk(engine)
        desk.start()

        async def client() -> None:
            for count in range(2):
                task = engine.current
                assert task is not None
                assert await desk.call(Ask()) == [f"{task.id}/Ask.{count}", task.id]

        await gather(engine, client, client)

    for seed in range(10):
        assert run_on(back, program, make("random", seed)).error is None


def test_actor_is_no_hidden_lock() -> None:
    """Two requests can be at work in one actor at once."""
    most = set()
    for seed in range(20):
        desks: list[Desk] = []

        async def program(engine: Engine, desks: list[Desk] = desks) -> None:
            desk = Desk(engine)
            desks.append(desk)
            desk.start()

            async def client() -> None:
                await desk.call(Ask())

            await gather(engine, client, client)

        assert run_on("direct", program, make("random", seed)).error is None
        most.add(desks[0].most)
    assert most == {1, 2}


def test_kernel_errors_are_raised_in_the_caller() -> None:
    async def program(engine: Engine) -> None:
        server = Server(engine)
        server.start()
        with pytest.raises(EBUSY):
            await server.call(Add(1))
        assert await server.call(Add(5)) == 5

    # The contested steps before the first draw: caller or actor loop; then the draws.
    outcome = run_on("direct", program, ScriptedData(2, 0))
    assert outcome.error is None


class ScriptedData(Scripted):
    """Only the data choices are given."""

    def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
        return 0


@pytest.mark.parametrize("back", BACKENDS)
def test_other_errors_of_a_handler_end_the_run(back: str) -> None:
    async def program(engine: Engine) -> None:
        desk = Desk(engine)
        desk.start()
        await desk.call(Ask(fail=True))

    assert isinstance(run_on(back, program).error, ZeroDivisionError)


def test_message_without_handler_is_an_error_at_the_caller() -> None:
    async def program(engine: Engine) -> None:
        await Desk(engine).call(Add(1))

    assert str(run_on("direct", program).error) == "desk has no handler for Add"


def test_lock_taken_by_the_caller_counts_as_held_in_the_request() -> None:
    """To the lock checker a call through a mailbox is a function call."""

    async def program(engine: Engine) -> None:
        server = Server(engine)
        server.start()
        async with Mutex(engine, "outer", "outer"):
            await server.call(Add(1))
        async with server.lock:
            await server.call(Add(1))

    error = run_on("direct", program).error
    assert str(error) == "lockdep [INV-24]: main/Add.1 takes server.lock twice"
