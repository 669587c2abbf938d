"""Threads that lock ww mutexes: as a script says, or whole sets with back-off on every schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import attrs
from engine_toys import Scripted, run_on

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EALREADY, EDEADLK
from svm_actors.engine.ww_mutex import WwClass, WwCtx, WwMutex

Program = Callable[[Engine], Coroutine[Any, Any, None]]

WAIT_DIE = WwClass("toy", "wait-die")
WOUND_WAIT = WwClass("toy", "wound-wait")


# -- a script ----------------------------------------------------------------------------------


def alone(body: Callable[[Engine], Awaitable[None]]) -> None:
    """Run a body that is its own only task; what it raises comes out."""
    outcome = run_on("direct", body, Scripted())
    if outcome.error is not None:
        raise outcome.error


class Cast:
    """Threads that do one thing at a time, as the test says: stamps in the order of first appearance."""

    def __init__(self, engine: Engine, ww_class: WwClass, *locks: str) -> None:
        self.engine = engine
        self.ww_class = ww_class
        self.locks = {name: WwMutex(engine, name, ww_class) for name in locks}
        self.contexts: dict[str, WwCtx] = {}
        self.log: list[str] = []
        self.commands: dict[str, list[tuple[str, str]]] = {}
        self.tasks: dict[str, Any] = {}

    async def actor(self, who: str, *, context: bool) -> None:
        """Obey commands until told to leave; being blocked in one is visible in the log."""
        if context:
            self.contexts[who] = WwCtx(self.engine, self.ww_class)
        while True:
            await self.engine.step("local", None, who)
            if not self.commands[who]:
                await self.engine.sleep(1)
                continue
            verb, name = self.commands[who].pop(0)
            if verb == "leave":
                if context:
                    self.contexts[who].fini()
                return
            self.log.append(await self.obey(who, verb, name))

    async def obey(self, who: str, verb: str, name: str) -> str:
        lock, ctx = self.locks[name], self.contexts.get(who)
        try:
            if verb == "lock":
                await lock.lock(ctx)
            elif verb == "slow":
                assert ctx is not None
                await lock.lock_slow(ctx)
            elif verb == "try":
                return f"{who} got {name}" if await lock.trylock() else f"{who} missed {name}"
            else:
                lock.unlock()
                return f"{who} dropped {name}"
        except (EDEADLK, EALREADY) as error:
            return f"{who} {error.code} {name}"
        return f"{who} got {name}"


def play(ww_class: WwClass, script: str, *, contexts: str = "abc", threads: str = "") -> str:
    """Run a script like ``a+x b+y b+x``: lock, ``-`` unlock, ``!`` slow lock, ``?`` trylock.

    Every command is given when everybody is idle or blocked; the answer is the log, events in the order
    they happened, a space between commands' groups.
    """
    result: list[str] = []
    verbs = {"+": "lock", "-": "unlock", "!": "slow", "?": "try"}
    steps = script.split()

    async def body(engine: Engine) -> None:
        cast = Cast(engine, ww_class, *dict.fromkeys(step[2] for step in steps))
        for who in contexts + threads:
            cast.commands[who] = []
            cast.tasks[who] = engine.spawn(cast.actor(who, context=who in contexts), who, daemon=True)
            await engine.sleep(10)
        for who, verb, name in steps:
            cast.commands[who].append((verbs[verb], name))
            before = len(cast.log)
            await engine.sleep(10)
            result.append(", ".join(cast.log[before:]) or f"{who} waits for {name}")

    outcome = run_on("direct", body)
    if outcome.error is not None:
        raise outcome.error
    return "; ".join(result)


# -- whole sets --------------------------------------------------------------------------------


@attrs.frozen
class Held:
    """A thread got its whole set."""

    who: int
    """Which one; its place in the order of stamps too."""
    deaths: int
    """How often it had to back off."""
    locks: tuple[str, ...]
    """What it holds."""


class Locker:
    """One thread: takes its locks in its own order, backing off as it must."""

    def __init__(self, engine: Engine, ww_class: WwClass, who: int, locks: Sequence[WwMutex]) -> None:
        self.engine = engine
        self.who = who
        self.ww_class = ww_class
        self.locks = locks
        self.deaths = 0

    async def run(self, ctx: WwCtx) -> None:
        """Lock the set, hold it over an op, let go of it."""
        held: list[WwMutex] = []
        ctx.thread = self.engine.current.thread  # type: ignore[union-attr]
        slow: WwMutex | None = None
        while True:
            try:
                if slow is not None:
                    await slow.lock_slow(ctx)
                    held.append(slow)
                for lock in self.locks:
                    if lock is not slow:
                        await lock.lock(ctx)
                        held.append(lock)
            except EDEADLK:
                self.deaths += 1
                slow = ctx.contending
                while held:
                    held.pop().unlock()
                continue
            break
        ctx.acquire_done()
        self.engine.emit(Held(self.who, self.deaths, tuple(lock.name for lock in held)))
        await self.engine.step("local")
        assert all(lock.held_by_me() for lock in held)
        while held:
            held.pop().unlock()
        ctx.fini()


def lockers(ww_class: WwClass, orders: Sequence[str], log: list[Held]) -> Program:
    """One thread per string; letters are locks.  Stamps in the order of the strings, 0 the oldest."""

    async def program(engine: Engine) -> None:
        engine.listeners.append(log.append)
        names = sorted(set("".join(orders)))
        locks = {name: WwMutex(engine, name, ww_class) for name in names}
        contexts = [WwCtx(engine, ww_class) for _ in orders]
        threads = [
            Locker(engine, ww_class, who, [locks[name] for name in order]) for who, order in enumerate(orders)
        ]
        async with engine.nursery() as nursery:
            for thread, ctx in zip(threads, contexts, strict=True):
                nursery.start_soon(thread.run, ctx, name=f"t{thread.who}")
        assert all(not lock.holders() for lock in locks.values())

    return program


class Branch:
    """Makes given choices, then always the first; keeps what there was to choose."""

    name = "branch"

    def __init__(self, prefix: Sequence[int]) -> None:
        self.prefix = prefix
        self.taken: list[int] = []
        self.arity: list[int] = []

    def _next(self, count: int) -> int:
        at = len(self.taken)
        value = self.prefix[at] if at < len(self.prefix) else 0
        self.taken.append(value)
        self.arity.append(count)
        return value

    def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
        return self._next(len(candidates) + timer)

    def data(self, count: int, label: str) -> int:
        return self._next(count)


def every_schedule(program: Program, limit: int) -> Iterator[Engine]:
    """Depth first through all choices; more than ``limit`` runs are an error."""
    prefix: list[int] = []
    for _ in range(limit):
        branch = Branch(prefix)
        backend = DirectBackend()
        engine = Engine(backend, branch)
        try:
            backend.run(program(engine))
        except BaseException as error:
            error.add_note(f"choices: {branch.taken}")
            raise
        yield engine
        prefix = branch.taken
        while prefix and prefix[-1] + 1 == branch.arity[len(prefix) - 1]:
            prefix = prefix[:-1]
        if not prefix:
            return
        prefix = [*prefix[:-1], prefix[-1] + 1]
    raise AssertionError(f"more than {limit} schedules")
