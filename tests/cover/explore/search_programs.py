"""Small random programs over the engine's own locks, for comparing searches with each other.

What a program does is its outcome: what every task saw, what is left in the variables, how it ended.
Everything tasks share is announced, as a search requires of a model.
"""

from __future__ import annotations

from random import Random

import attrs

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.channel import Channel
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import Deadlock
from svm_actors.engine.locks import BitLock, Mutex, RwSem, SpinLock
from svm_actors.explore.search.search import Cut
from svm_actors.explore.toys import Variable

ACTIONS = (
    "read",
    "write",
    "add",
    "page",
    "draw",
    "lock",
    "trylock",
    "nested",
    "sem_read",
    "sem_write",
    "spin",
    "bit",
    "clear",
    "send",
    "receive",
    "spawn",
)

Script = tuple[tuple[str, ...], ...]
"""The actions of each task."""


@attrs.frozen
class Outcome:
    """What one run came to."""

    seen: tuple[tuple[object, ...], ...]
    left: tuple[object, ...]
    end: str


def random_script(seed: int, tasks: int, most: int) -> Script:
    """So many tasks of one to ``most`` actions each."""
    random = Random(f"script/{seed}")
    return tuple(tuple(random.choice(ACTIONS) for _ in range(random.randint(1, most))) for _ in range(tasks))


class Program:
    """One instance of a script."""

    def __init__(self, engine: Engine, script: Script) -> None:
        self.engine = engine
        self.script = script
        self.seen: list[list[object]] = [[] for _ in script]
        self.x, self.y = Variable("x"), Variable("y")
        self.values = {"x": 0, "y": 0}
        self.pages = [0, 0]
        self.mutex, self.other = Mutex(engine, "m", "m"), Mutex(engine, "n", "n")
        self.sem = RwSem(engine, "sem", "sem")
        self.spin = SpinLock(engine, "spin", "spin")
        self.bit = BitLock(engine, "bit", "bit")
        self.channel: Channel[int] = Channel(engine, "channel")

    async def main(self) -> None:
        """All tasks, side by side."""
        async with self.engine.nursery() as nursery:
            for number, actions in enumerate(self.script):
                nursery.start_soon(self._task, number, actions)

    async def _task(self, number: int, actions: tuple[str, ...]) -> None:
        for action in actions:
            await getattr(self, f"_{action}")(number)

    async def _touch(self, kind: str, variable: Variable, number: int) -> None:
        await self.engine.step(kind, variable)
        self.seen[number].append(self.values[variable.name])
        if kind == "write":
            self.values[variable.name] = number + 1

    async def _read(self, number: int) -> None:
        await self._touch("read", self.x, number)

    async def _write(self, number: int) -> None:
        await self._touch("write", self.x, number)

    async def _add(self, number: int) -> None:
        await self.engine.step("get", self.y)
        self.values["y"] += 1

    async def _page(self, number: int) -> None:
        await self.engine.step("pte_write", self.y, number % 2)
        self.pages[number % 2] = 10 * self.pages[number % 2] + number

    async def _draw(self, number: int) -> None:
        if self.engine.choose(2, "draw"):
            await self._touch("write", self.x, number)

    async def _lock(self, number: int) -> None:
        async with self.mutex:
            await self._touch("write", self.x, number)

    async def _trylock(self, number: int) -> None:
        got = await self.mutex.trylock()
        self.seen[number].append(got)
        if got:
            await self.engine.step("local")
            self.mutex.release()

    async def _nested(self, number: int) -> None:
        first, second = (self.mutex, self.other) if number % 2 else (self.other, self.mutex)
        await first.acquire()
        got = await second.trylock()
        self.seen[number].append(got)
        if got:
            second.release()
        first.release()

    async def _sem_read(self, number: int) -> None:
        async with self.sem.reading():
            await self._touch("read", self.x, number)

    async def _sem_write(self, number: int) -> None:
        async with self.sem.writing():
            await self._touch("write", self.x, number)
            self.sem.downgrade()
            await self._touch("read", self.x, number)

    async def _spin(self, number: int) -> None:
        async with self.spin:
            got = self.bit.trylock_now()
        self.seen[number].append(got)
        if got:
            await self.engine.step("local")
            self.bit.release()

    async def _bit(self, number: int) -> None:
        await self.bit.acquire()
        await self._touch("read", self.x, number)
        self.bit.release()

    async def _clear(self, number: int) -> None:
        await self.bit.wait_clear()

    async def _send(self, number: int) -> None:
        await self.channel.send(number)

    async def _receive(self, number: int) -> None:
        self.seen[number].append(await self.channel.receive())

    async def _spawn(self, number: int) -> None:
        task = self.engine.spawn(self._write(number), "child", parent=self.engine.current)
        await self.engine.join(task)

    def outcome(self, end: str) -> Outcome:
        """What it came to."""
        left = (*self.values.values(), *self.pages, len(self.channel))
        return Outcome(tuple(tuple(each) for each in self.seen), left, end)


def run_script(script: Script, chooser: Chooser, outcomes: list[Outcome]) -> BaseException | None:
    """Run it once and note the outcome, unless the search cut the run short."""
    home = DirectBackend()
    engine = Engine(home, chooser)
    program = Program(engine, script)
    error: BaseException | None = None
    try:
        home.run(program.main())
    except Cut:
        return None
    except Deadlock as deadlock:
        error = deadlock
    outcomes.append(program.outcome("done" if error is None else "deadlock"))
    return error
