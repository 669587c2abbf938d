"""The kernel's unit tests of its GPU scheduler, case by case (catalogue drm_sched_kunit, G1 to G15).

Every case runs under the default schedule and under many random ones.  Whatever a case asserts by
itself, the scheduler's invariants are checked at every event: ``scheduled`` before ``finished``, the
hardware fence before ``finished``, the jobs of an entity in push order, every job freed exactly once and
none left at the end.  Times are virtual.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from statistics import fmean
from typing import Any

import pytest
from cases import case, on_all_schedules

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_fence import SchedFence
from svm_actors.drm.sched_invariants import SchedInvariants
from svm_actors.drm.sched_mock import MockFlags, MockGpu, MockJob
from svm_actors.drm.sched_types import Priority
from svm_actors.drm.sched_user import ProcessGroup
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ESRCH, ETIMEDOUT
from svm_actors.engine.locks import WaitQueue

SUITE = "drm_sched_kunit"
US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000


class Suite:
    """One scheduler on a mock GPU, its entities and every job submitted."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine = engine
        self.memory = FenceMemory(engine)
        self.checker = SchedInvariants()
        engine.listeners.append(self.checker)
        self.gpu = MockGpu(engine, memory=self.memory)
        self.sched = DrmSched(engine, "sched", self.gpu, memory=self.memory, **options)
        self.process = ProcessGroup("test")
        self.entities: list[SchedEntity] = []
        self.jobs: list[MockJob] = []
        self.fences: list[SchedFence] = []
        """Of the jobs, in the same order; the test holds a reference on each."""

    def entity(self, priority: Priority = Priority.NORMAL) -> SchedEntity:
        name = f"entity{len(self.entities)}"
        self.entities.append(SchedEntity(self.engine, name, [self.sched], priority, process=self.process))
        return self.entities[-1]

    async def submit(self, entity: SchedEntity, duration: int = 0, after: MockJob | None = None) -> MockJob:
        """Init, dependency, arm, push."""
        job = MockJob(entity, duration)
        if after is not None:
            job.add_dependency(self.fence_of(after).finished.get())
        self.jobs.append(job)
        async with entity.submission():
            await job.arm()
            self.fences.append(job.s_fence)
            job.s_fence.finished.get()
            await job.push(self.process)
        return job

    def fence_of(self, job: MockJob) -> SchedFence:
        return job.s_fence

    async def scheduled(self, job: MockJob, timeout: int = SECOND) -> bool:
        return await self.fence_of(job).scheduled.wait_timeout(timeout) > 0

    async def finished(self, job: MockJob, timeout: int = SECOND) -> bool:
        """The hardware completed it normally."""
        return await job.done.wait_timeout(timeout)

    def finish_order(self) -> list[MockJob]:
        return [job for job in self.gpu.freed if MockFlags.DONE in job.flags]

    async def close(self) -> None:
        """Entities, then the scheduler; nothing may be left."""
        for entity in self.entities:
            if not entity.freed:
                await entity.fini()
        await self.sched.fini()
        await self.engine.quiesce()
        self.checker.at_close()
        assert len(self.gpu.freed) == len(set(self.gpu.freed)) == len(self.jobs)
        for pair in self.fences:
            assert pair.scheduled.signaled
            assert pair.finished.signaled
            pair.finished.put()
        self.sched.free()
        await self.memory.drain()
        self.memory.check_empty()


Body = Callable[[Suite], Awaitable[None]]


def check(body: Body, **options: Any) -> list[Engine]:
    """Run a case under all its schedules."""

    def program(engine: Engine) -> Coroutine[Any, Any, None]:
        async def main() -> None:
            suite = Suite(engine, **options)
            await body(suite)
            await engine.quiesce()
            suite.checker.at_rest()
            await suite.close()

        return main()

    return on_all_schedules(program)


# -- G1 --------------------------------------------------------------------------------------


@case(SUITE, "G1", "drm_sched_basic_submit")
def test_basic_submit() -> None:
    async def body(suite: Suite) -> None:
        job = await suite.submit(suite.entity())
        assert await suite.scheduled(job)
        assert not await suite.finished(job, SECOND // 2)
        assert not suite.fence_of(job).finished.signaled
        assert await suite.gpu.advance(1) == 1
        assert await suite.finished(job)

    check(body)


# -- G2 to G5 ----------------------------------------------------------------------------------

JOBS = 100


async def hundred_jobs(suite: Suite, entities: int, chain: bool) -> None:
    """100 jobs of 1 ms dealt round robin; with ``chain`` each depends on the one before it."""
    queues = [suite.entity() for _ in range(entities)]
    job = None
    for number in range(JOBS):
        job = await suite.submit(queues[number % entities], 1000 * US, job if chain else None)
    assert job is not None
    assert await suite.finished(job)
    assert suite.engine.now >= JOBS * MS
    await suite.engine.quiesce()
    done = suite.finish_order()
    assert len(done) == JOBS
    for queue in range(entities):
        mine = suite.jobs[queue::entities]
        assert [job for job in done if job in set(mine)] == mine
    if chain:
        assert done == suite.jobs
        assert [job.finished_at for job in done] == [(n + 1) * MS for n in range(JOBS)]


@case(SUITE, "G2", "drm_sched_basic_test: single entity")
def test_single_entity() -> None:
    check(lambda suite: hundred_jobs(suite, 1, chain=False))


@case(SUITE, "G3", "drm_sched_basic_test: chain of dependent jobs")
def test_chain_of_dependent_jobs() -> None:
    """A dependency on the own entity is redundant: it is skipped, and does not deadlock."""
    check(lambda suite: hundred_jobs(suite, 1, chain=True))


@case(SUITE, "G4", "drm_sched_basic_test: multiple independent queues")
def test_multiple_independent_queues() -> None:
    check(lambda suite: hundred_jobs(suite, 4, chain=False))


@case(SUITE, "G5", "drm_sched_basic_test: multiple inter-dependent queues")
def test_multiple_inter_dependent_queues() -> None:
    check(lambda suite: hundred_jobs(suite, 4, chain=True))


# -- G6 ----------------------------------------------------------------------------------------


async def entity_cleanup(suite: Suite) -> None:
    """Destroy the entities in the middle of the chain, then the scheduler."""
    queues = [suite.entity() for _ in range(4)]
    job = None
    for number in range(JOBS):
        job = await suite.submit(queues[number % 4], 1000 * US, job)
    assert await suite.finished(suite.jobs[JOBS // 2])
    on_hardware = list(suite.sched.pending)
    suite.process.exit()
    for entity in queues:
        await entity.destroy(suite.process, 0)
    await suite.engine.quiesce()
    for job in on_hardware:
        assert isinstance(job, MockJob)
        assert MockFlags.DONE in job.flags
    errors = [pair.finished.error for pair in suite.fences]
    killed = [error for error in errors if error is not None]
    assert all(isinstance(error, ESRCH) for error in killed)
    assert errors[: JOBS // 2 + 1] == [None] * (JOBS // 2 + 1)
    suite.engine.count("test.killed", len(killed))


@case(SUITE, "G6", "drm_sched_basic_entity_cleanup")
def test_basic_entity_cleanup() -> None:
    """Without a credit limit everything is on the hardware by then; with one the rest is killed."""
    assert all(engine.counters["test.killed"] == 0 for engine in check(entity_cleanup))
    killed = [engine.counters["test.killed"] for engine in check(entity_cleanup, credit_limit=2)]
    assert min(killed) >= JOBS // 2 - 5


# -- G7 ----------------------------------------------------------------------------------------


@case(SUITE, "G7", "drm_sched_basic_timeout")
def test_basic_timeout() -> None:
    async def body(suite: Suite) -> None:
        entity = suite.entity()
        job = await suite.submit(entity)
        assert await suite.scheduled(job)
        assert not await suite.finished(job, 100 * MS)
        assert MockFlags.TIMEDOUT not in job.flags
        hardware = job.hardware
        assert hardware is not None
        hardware.get()
        assert not await suite.finished(job, 200 * MS)
        assert MockFlags.TIMEDOUT in job.flags
        assert isinstance(hardware.error, ETIMEDOUT)
        hardware.put()
        finished = suite.fences[0].finished
        assert finished.signaled
        assert isinstance(finished.error, ETIMEDOUT)
        assert finished.timestamp == 200 * MS
        await entity.fini()

    check(body, timeout=200 * MS)


# -- G8 ----------------------------------------------------------------------------------------


@case(SUITE, "G8", "drm_sched_priorities")
def test_priorities() -> None:
    async def body(suite: Suite) -> None:
        queues = [suite.entity(priority) for priority in Priority]
        for number in range(JOBS):
            await suite.submit(queues[number % 4], 1000 * US)
        assert await suite.finished(suite.jobs[-1])
        await suite.engine.quiesce()
        assert len(suite.finish_order()) == JOBS

    check(body)


# -- G9 ----------------------------------------------------------------------------------------


@case(SUITE, "G9", "drm_sched_test_credits")
def test_credits() -> None:
    async def body(suite: Suite) -> None:
        entity = suite.entity()
        first, second = await suite.submit(entity), await suite.submit(entity)
        assert await suite.scheduled(first)
        assert not await suite.scheduled(second)
        assert await suite.gpu.advance(1) == 1
        assert await suite.finished(first)
        assert await suite.scheduled(second)
        assert not second.done.done
        assert await suite.gpu.advance(1) == 1
        assert await suite.finished(second)

    check(body, credit_limit=1)


# -- G10 ---------------------------------------------------------------------------------------

SUBMITTERS, EACH = 16, 8


async def parallel_submit(suite: Suite) -> None:
    """16 threads, released together."""
    gate = WaitQueue(suite.engine, "gate")
    opened: list[bool] = []

    async def submitter(entity: SchedEntity) -> None:
        await gate.wait_event(lambda: bool(opened))
        jobs = [await suite.submit(entity) for _ in range(EACH)]
        for job in jobs:
            assert await suite.scheduled(job)

    async with suite.engine.nursery() as nursery:
        for number in range(SUBMITTERS):
            nursery.start_soon(submitter, suite.entity(), name=f"submitter{number}")
        await suite.engine.step("local")
        opened.append(True)
        gate.wake_up()
    assert await suite.gpu.advance(SUBMITTERS * EACH) == SUBMITTERS * EACH
    for job in suite.jobs:
        assert await suite.finished(job)


@case(SUITE, "G10", "parallel_submit")
def test_parallel_submit() -> None:
    """Some schedule must have pushed while the worker was at work (FEN-R15)."""
    engines = check(parallel_submit)
    assert sum(engine.counters["FEN-R15"] for engine in engines) > 100


# -- G11 ---------------------------------------------------------------------------------------


@case(SUITE, "G11", "queue_overhead")
def test_queue_overhead() -> None:
    async def body(suite: Suite) -> None:
        entity = suite.entity()
        blocker = await suite.submit(entity)
        for _ in range(1000):
            await suite.submit(entity, MS)
        assert await suite.scheduled(blocker)
        begin = suite.engine.now
        assert await suite.gpu.advance(1) == 1
        assert await suite.finished(suite.jobs[-1], 5 * SECOND)
        # Virtual time passes on the hardware only, so anything but the ideal is a bubble.
        assert suite.engine.now - begin == SECOND

    engines = check(body, credit_limit=1)
    # Overhead per job in steps of the model: bounded, and independent of the queue's length.
    assert max(engine.steps for engine in engines) < 1001 * 50


# -- G12 to G15 --------------------------------------------------------------------------------

BUDGET, JOB, SUBMIT_COST = SECOND, 8000 * US, 20 * US


class Client:
    """Submits jobs one after the other without waiting for them."""

    def __init__(self, suite: Suite, priority: Priority) -> None:
        self.suite = suite
        self.entity = suite.entity(priority)
        self.submitted: list[tuple[int, MockJob]] = []

    async def loop(self) -> None:
        for _ in range(BUDGET // JOB):
            await self.suite.engine.sleep(SUBMIT_COST)
            self.submitted.append((self.suite.engine.now, await self.suite.submit(self.entity, JOB)))

    def report(self) -> str:
        """Latency from submission to completion and share of the GPU while both had work."""
        latencies = [(job.finished_at or 0) - at for at, job in self.submitted]
        times = [fmean(latencies), min(latencies), max(latencies)]
        shared = sum(1 for _, job in self.submitted if (job.finished_at or 0) <= BUDGET) * JOB / BUDGET
        return "avg {:.0f} ms, min {:.0f} ms, max {:.0f} ms, share {:.0%}".format(*(t / MS for t in times), shared)


async def two_clients(suite: Suite, priorities: tuple[Priority, Priority], reports: list[list[str]]) -> None:
    clients = [Client(suite, priority) for priority in priorities]
    async with suite.engine.nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(client.loop, name=f"client{number}")
    await suite.engine.quiesce()
    for client in clients:
        assert len(client.submitted) == BUDGET // JOB
        assert all(MockFlags.DONE in job.flags for _, job in client.submitted)
    reports.append([client.report() for client in clients])


def compete(first: Priority, second: Priority, credit_limit: int, report: Callable[[str, object], None]) -> None:
    reports: list[list[str]] = []
    check(lambda suite: two_clients(suite, (first, second), reports), credit_limit=credit_limit)
    for client, text in zip((first, second), reports[0], strict=True):
        report(client.name.lower(), text)


both_limits = pytest.mark.parametrize("credit_limit", [1, 2])
Report = Callable[[str, object], None]


@case(SUITE, "G12", "two_clients: normal and normal")
@both_limits
def test_two_clients_normal_normal(credit_limit: int, record_property: Report) -> None:
    compete(Priority.NORMAL, Priority.NORMAL, credit_limit, record_property)


@case(SUITE, "G13", "two_clients: normal and low")
@both_limits
def test_two_clients_normal_low(credit_limit: int, record_property: Report) -> None:
    compete(Priority.NORMAL, Priority.LOW, credit_limit, record_property)


@case(SUITE, "G14", "two_clients: high and normal")
@both_limits
def test_two_clients_high_normal(credit_limit: int, record_property: Report) -> None:
    compete(Priority.HIGH, Priority.NORMAL, credit_limit, record_property)


@case(SUITE, "G15", "two_clients: high and low")
@both_limits
def test_two_clients_high_low(credit_limit: int, record_property: Report) -> None:
    compete(Priority.HIGH, Priority.LOW, credit_limit, record_property)
