"""Small programs for the engine's own tests, and one way to run them on either back end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.backend import DirectBackend, TrioBackend
from svm_actors.engine.channel import Channel
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EAGAIN, EBUSY
from svm_actors.engine.locks import BitLock, CollisionSeq, Mutex, RwSem, SpinLock, WaitQueue
from svm_actors.explore.determinism import lines_digest
from svm_actors.explore.strategies import Fifo, make

Program = Callable[[Engine], Any]
BACKENDS = ("direct", "trio")


@attrs.frozen
class Outcome:
    """A finished run."""

    engine: Engine
    error: BaseException | None

    @property
    def trace(self) -> list[str]:
        return self.engine.trace()

    def facts(self) -> dict[str, Any]:
        """Everything two equal runs must agree on."""
        engine = self.engine
        return {
            "trace": self.trace,
            "tape": engine.tape,
            "arity": engine.arity,
            "counters": dict(engine.counters),
            "now": engine.now,
            "steps": engine.steps,
            "error": repr(self.error),
        }


class Scripted:
    """Makes the given choices, then the first alternative; notes what it was offered."""

    name = "scripted"

    def __init__(self, *choices: int) -> None:
        self.choices = list(choices)
        self.offers: list[tuple[list[str], bool]] = []

    def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
        self.offers.append(([task.id for task in candidates], timer))
        return self.choices.pop(0) if self.choices else 0

    def data(self, count: int, label: str) -> int:
        return self.choices.pop(0) if self.choices else 0


def run_on(backend: str, program: Program, chooser: Any = None, **options: Any) -> Outcome:
    """Run a program to its end on ``direct`` or ``trio``; errors are returned, not raised."""
    chooser = chooser or Fifo()
    engine: Engine | None = None
    try:
        if backend == "direct":
            direct = DirectBackend()
            engine = Engine(direct, chooser, record=True, **options)
            direct.run(program(engine))
        else:
            hosting = TrioBackend()
            engine = Engine(hosting, chooser, record=True, **options)
            trio.run(_host, hosting, engine, program)
    except BaseException as error:
        assert engine is not None
        return Outcome(engine, error)
    return Outcome(engine, None)


async def _host(backend: TrioBackend, engine: Engine, program: Program) -> None:
    async with backend:
        backend.adopt_host()
        await program(engine)


def check(program: Callable[[Engine], Any], seeds: range = range(20), **options: Any) -> None:
    """No seed may fail."""
    for seed in seeds:
        outcome = run_on("direct", program, make("random", seed), **options)
        assert outcome.error is None, f"seed {seed}: {outcome.error}"


def error_of(program: Callable[[Engine], Any], back: str = "direct") -> str:
    outcome = run_on(back, program)
    assert outcome.error is not None
    return str(outcome.error)


async def gather(engine: Engine, *bodies: Callable[[], Awaitable[None]], names: str = "abcdefgh") -> None:
    """Run bodies as sibling tasks of their own and wait for all."""
    async with engine.nursery() as nursery:
        for name, body in zip(names, bodies, strict=False):
            nursery.start_soon(body, name=name)  # type: ignore[arg-type]


# -- toys ------------------------------------------------------------------------------


def same(tasks: int, writes: int, log: list[int]) -> Program:
    """``same(n, k)`` of the exploration digest: n tasks, k writes of one resource each.

    The start of a task is its first scheduling point, so the first write needs no op of its own.
    """

    async def program(engine: Engine) -> None:
        async def body(index: int) -> None:
            log.append(index)
            for _ in range(writes - 1):
                await engine.step("write")
                log.append(index)

        async with engine.nursery() as nursery:
            for index in range(tasks):
                nursery.start_soon(body, index)

    return program


async def locks(engine: Engine) -> None:
    """Every lock, contended; a shared counter that only the locks protect."""
    mutex, sem, spin = Mutex(engine, "m", "m"), RwSem(engine, "s", "s"), SpinLock(engine, "x", "x")
    folio = BitLock(engine, "folio", "folio")

    async def worker() -> None:
        async with mutex:
            await engine.step("write", mutex)
        async with sem.reading():
            await engine.step("read", sem)
        async with sem.writing():
            await engine.step("write", sem)
            sem.downgrade()
            await engine.step("read", sem)
        async with spin:
            engine.count("spun")
        if await folio.trylock():
            await engine.step("flag_write", folio)
            folio.release()
        else:
            await folio.wait_clear()

    await gather(engine, worker, worker, worker)


async def channels(engine: Engine) -> None:
    """One channel of each kind, several senders and receivers."""
    for capacity in (0, 2, None):
        channel: Channel[int] = Channel(engine, f"c{capacity}", capacity)

        async def send(channel: Channel[int] = channel) -> None:
            for item in range(3):
                await channel.send(item)

        async def receive(channel: Channel[int] = channel) -> None:
            for _ in range(3):
                engine.count("sum", await channel.receive())

        await gather(engine, send, send, receive, receive)


async def timers(engine: Engine) -> None:
    """Sleeps with equal deadlines, waits with timeouts, an event that may or may not be in time."""
    queue = WaitQueue(engine, "q")
    ready: list[bool] = []

    async def sleeper() -> None:
        for length in (5, 10, 5):
            await engine.sleep(length, "nap")
            engine.count("woke")

    async def setter() -> None:
        await engine.sleep(10)
        ready.append(True)
        queue.wake_up()

    async def waiter() -> None:
        if await queue.wait_event_timeout(lambda: bool(ready), 10):
            engine.count("in time")

    await gather(engine, sleeper, sleeper, setter, waiter, waiter)


@attrs.frozen
class Add(Message[int]):
    """Add to the server's total."""

    amount: int
    """What to add."""


class Server(Actor):
    """Adds under a mutex; sometimes busy, as drawn."""

    def __init__(self, engine: Engine, name: str = "server") -> None:
        super().__init__(engine, name)
        self.total = 0
        self.lock = Mutex(engine, f"{name}.lock", f"{name}.lock")
        self.handle(Add, self.add)

    async def add(self, message: Add) -> int:
        if self.engine.choose(3, "busy") == 2:
            raise EBUSY
        async with self.lock:
            before = self.total
            await self.engine.step("read", self)
            self.total = before + message.amount
        return self.total


async def actors(engine: Engine) -> None:
    """Clients that call a server and try again when it is busy."""
    server = Server(engine)
    server.start()

    async def client() -> None:
        for amount in (1, 2):
            try:
                await server.call(Add(amount))
            except EBUSY:
                engine.count("busy")

    await gather(engine, client, client, client)
    engine.count("total", server.total)


async def sequence(engine: Engine) -> None:
    """Readers of a collision-retry sequence against writers, with retry."""
    seq = CollisionSeq(engine, "seq")

    async def writer() -> None:
        seq.begin(matched=True)
        await engine.step("seq_write", seq.queue)
        if seq.end():
            seq.wake()

    async def reader() -> None:
        while True:
            value = seq.value
            if value & 1:
                await seq.wait_past(value)
                continue
            await engine.step("seq_read", seq.queue)
            if seq.value == value:
                return
            engine.count("retry")

    await gather(engine, writer, reader, writer, reader)


async def dining(engine: Engine) -> None:
    """Two philosophers: deadlock in some schedules."""
    forks = [Mutex(engine, f"fork{index}", "fork") for index in range(2)]

    async def left() -> None:
        async with forks[0], forks[1]:
            pass

    async def right() -> None:
        async with forks[1], forks[0]:
            pass

    await gather(engine, left, right)


async def failing(engine: Engine) -> None:
    """A task that fails when it runs first, with cleanup everywhere."""
    mutex = Mutex(engine, "m", "m")
    order: list[str] = []

    async def body(name: str) -> None:
        try:
            async with mutex:
                await engine.step("write", mutex)
                order.append(name)
                if order == ["b"]:
                    raise EAGAIN(name)
        finally:
            engine.count("cleaned")

    await gather(engine, lambda: body("a"), lambda: body("b"))


TOYS: dict[str, Program] = {
    "same": same(3, 3, []),
    "locks": locks,
    "channels": channels,
    "timers": timers,
    "actors": actors,
    "sequence": sequence,
    "dining": dining,
    "failing": failing,
}


def digests(seeds: range = range(4)) -> list[str]:
    """One line per toy and seed; equal in every process."""
    lines = []
    for name, program in TOYS.items():
        for seed in seeds:
            outcome = run_on(BACKENDS[seed % 2], program, make("random", seed), race_timers=seed % 4 > 1)
            facts = sorted(outcome.engine.counters.items())
            lines.append(f"{name} {seed} {lines_digest(outcome.trace)} {facts} {outcome.error!r}")
    return lines


if __name__ == "__main__":
    print("\n".join(digests()))
