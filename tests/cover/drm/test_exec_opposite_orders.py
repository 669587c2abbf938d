"""Two execs lock the same eight objects in opposite orders (FEN-R12, INV-FEN-05).

With wait-die, what reservations really use, no schedule deadlocks and the older one never gives way;
with plain mutexes the same two threads deadlock, and the engine shows the cycle.
"""

from __future__ import annotations

import pytest
import trio
from drm_exec_bench import Bo, bos, idle, locking, on_all_schedules, run_once, under

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import RESERVATION_WW_CLASS, DmaResv
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.backend import DirectBackend, TrioBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import Deadlock
from svm_actors.engine.locks import Mutex
from svm_actors.engine.ww_mutex import WwClass
from svm_actors.explore.strategies import make

OBJECTS = 8
SCHEDULES = {"wait-die": 10_000, "wound-wait": 400}
"""Random schedules: many for the algorithm reservations use, a sample for the other one."""


class Two:
    """The two threads; their tickets tell who is the older one."""

    def __init__(self, engine: Engine, objects: list[Bo], ww_class: WwClass) -> None:
        self.engine = engine
        self.orders = [objects, objects[::-1]]
        self.ww_class = ww_class
        self.finished: list[DrmExec] = []

    async def thread(self, order: list[Bo]) -> None:
        with DrmExec(self.engine, ww_class=self.ww_class) as exec_:
            await exec_.until_all_locked(locking(order))
            assert exec_.objects == order
            await self.engine.step("local")
            assert all(bo.resv.ww.held_by_me() for bo in order)
            self.finished.append(exec_)

    async def run(self) -> None:
        async with self.engine.nursery() as nursery:
            for order in self.orders:
                nursery.start_soon(self.thread, order)

    @property
    def by_age(self) -> list[DrmExec]:
        return sorted(self.finished, key=lambda exec_: exec_.ticket.stamp)  # type: ignore[union-attr]


@pytest.mark.parametrize(("algorithm", "schedules"), SCHEDULES.items())
def test_with_contexts_nobody_deadlocks_and_the_older_one_never_gives_way(algorithm, schedules) -> None:
    ww_class = WwClass("reservation_ww_class", algorithm)
    passes: list[list[int]] = []

    async def body(memory: FenceMemory) -> None:
        objects = [
            Bo(memory, f"bo{index}", DmaResv(memory.engine, f"bo{index}", ww_class=ww_class))
            for index in range(OBJECTS)
        ]
        two = Two(memory.engine, objects, ww_class)
        await two.run()
        passes.append([exec_.passes for exec_ in two.by_age])
        assert idle(objects)

    on_all_schedules(under(body), seeds=schedules)
    assert len(passes) == schedules + 1
    assert {older for older, _ in passes} == {1}
    fought = sum(younger > 1 for _, younger in passes)
    assert fought > schedules // 4, "hardly ever did the two meet"


def test_both_back_ends_agree() -> None:
    """The same choices on the trio back end give the same fight."""

    async def program(engine: Engine) -> None:
        objects = bos(FenceMemory(engine), OBJECTS)
        await Two(engine, objects, RESERVATION_WW_CLASS).run()

    direct = run_once(program, make("random", 3), record=True)
    hosting = TrioBackend()
    engine = Engine(hosting, make("random", 3), record=True)

    async def host() -> None:
        async with hosting:
            hosting.adopt_host()
            await program(engine)

    trio.run(host)
    assert engine.trace() == direct.trace()
    assert engine.counters == direct.counters
    assert engine.counters["exec.retry"]


def test_with_more_execs_than_objects_everybody_gets_through() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 4)

        async def thread(first: int) -> None:
            order = objects[first:] + objects[:first]
            for _ in range(2):
                with DrmExec(engine) as exec_:
                    await exec_.until_all_locked(locking(order))
                engine.count("done")

        async with engine.nursery() as nursery:
            for index in range(6):
                nursery.start_soon(thread, index % 4)
        assert idle(objects)

    engines = on_all_schedules(under(body), seeds=100)
    assert all(engine.counters["done"] == 12 for engine in engines)
    assert any(engine.counters["FEN-R13"] for engine in engines)


def opposite_mutexes(engine: Engine):
    """The same two threads with the ordinary kind of lock."""

    async def main() -> None:
        locks = [Mutex(engine, f"bo{index}.mutex", "bo_mutex") for index in range(OBJECTS)]

        async def thread(order: list[Mutex]) -> None:
            for lock in order:
                await lock.acquire()
            for lock in order:
                lock.release()

        async with engine.nursery() as nursery:
            nursery.start_soon(thread, locks, name="up")
            nursery.start_soon(thread, locks[::-1], name="down")

    return main()


def test_with_plain_mutexes_they_deadlock_and_the_cycle_is_shown() -> None:
    deadlocks: list[str] = []
    for seed in range(40):
        backend = DirectBackend()
        engine = Engine(backend, make("random", seed))
        try:
            backend.run(opposite_mutexes(engine))
        except Deadlock as error:
            deadlocks.append(str(error))
    assert len(deadlocks) > 20
    for text in deadlocks:
        assert "wait-for cycle: main/down.0 -> main/up.0 -> main/down.0" in text or (
            "wait-for cycle: main/up.0 -> main/down.0 -> main/up.0" in text
        )
        assert "main/up.0 is blocked in lock bo" in text
        assert "bo0.mutex (w)" in text
        assert "bo7.mutex (w)" in text
