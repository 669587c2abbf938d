"""Jobs per second through the GPU scheduler and its fences (fences_and_scheduler 8).

The cost of one job, from its making to its freeing, with 100, 1,000 and 10,000 of them in flight on the
hardware, or queued behind a credit limit of one.  A job must not become dearer because others wait:
the cost at 10,000 is compared with that at 100.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import Result, medians, seconds
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_mock import MockGpu, MockJob
from svm_actors.drm.sched_types import UNLIMITED_CREDITS
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.explore.strategies import Fifo

SIZES = (100, 1_000, 10_000)
"""Jobs that wait at a time."""
ENTITIES = 10
TOTAL = 10_000
"""Jobs per measurement: small crowds are run several times."""
REPEATS = 3
GROWTH = 1.5
"""How much dearer a job may be among 10,000 than among 100."""


def once(jobs: int, credit_limit: int) -> int:
    """Submit ``jobs``, all before the first is done; run them all; answer the ops that took."""
    backend = DirectBackend()
    engine = Engine(backend, Fifo(), step_budget=1 << 62)

    async def main() -> None:
        gpu = MockGpu(engine)
        sched = DrmSched(engine, "sched", gpu, credit_limit=credit_limit)
        entities = [SchedEntity(engine, f"entity{number}", [sched]) for number in range(ENTITIES)]
        for number in range(jobs):
            await MockJob(entities[number % ENTITIES], 1_000).submit()
        await engine.quiesce()
        if len(gpu.freed) != jobs:
            raise RuntimeError(f"{len(gpu.freed)} of {jobs} jobs came through")

    backend.run(main())
    return engine.steps


def cost(jobs: int, credit_limit: int, total: int) -> Callable[[], float]:
    """A measure: seconds per job."""
    rounds = max(1, total // jobs)

    def crowd() -> None:
        for _ in range(rounds):
            once(jobs, credit_limit)

    return lambda: seconds(crowd) / (rounds * jobs)


def run(sizes: tuple[int, ...] = SIZES, total: int = TOTAL, repeats: int = REPEATS) -> list[Result]:
    """Measure, as medians of several repeats taken in turns."""
    places = {"in flight": UNLIMITED_CREDITS, "queued": 1}
    names = {(place, size): f"{size} {place}" for place in places for size in sizes}
    costs = medians({name: cost(size, places[place], total) for (place, size), name in names.items()}, repeats)
    least, most = sizes[0], sizes[-1]
    results = []
    for place, limit in places.items():
        small, large = costs[names[place, least]], costs[names[place, most]]
        results.append(Result(f"cost of a job, {most} {place} / {least} {place}", large / small, GROWTH, "x"))
        results += [
            Result(f"jobs per second, {size} {place}", 1 / costs[names[place, size]], None, "/s") for size in sizes
        ]
        results.append(Result(f"ops per job, {most} {place}", once(most, limit) / most, 30, "ops"))
    return results
