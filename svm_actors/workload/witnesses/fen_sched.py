"""Witnesses about the scheduler: pushing, moving, and depending on each other's jobs (fences_and_scheduler 8)."""

from __future__ import annotations

from collections.abc import Sequence

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_types import GpuSchedStat, SchedBackend
from svm_actors.engine.errors import EIO, ENOMEM
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import US, MockDriver, expect, signal, together
from svm_actors.world import World


class NoHardware(SchedBackend):
    """A driver whose jobs are done as soon as they run: the fewest ops a scheduler can have."""

    can_cancel = True

    async def run_job(self, job: SchedJob) -> None:
        """Done."""

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        """Nothing is ever late."""
        return GpuSchedStat.NO_HANG


@witness("FEN-R15 FEN-R16")
async def sched_push_and_idle(world: World) -> None:
    """A thread pushes job after job while the worker goes to sleep after each."""
    async with MockDriver(world) as driver:
        entity = driver.entity(driver.sched(NoHardware()))
        for number in range(8):
            await driver.hand_over(driver.job(entity))
            if number % 2:
                await driver.fences[-1].finished.wait()


@witness("FEN-R14")
async def sched_two_submitters(world: World) -> None:
    """Two threads submit to one queue at the same time."""
    async with MockDriver(world) as driver:
        entity = driver.entity(driver.sched())

        async def thread() -> None:
            for _ in range(2):
                await driver.submit(entity, US)

        await together(world, thread, thread)


@witness("FEN-R17")
async def sched_entity_moves(world: World) -> None:
    """A queue may be served by either of two rings, and moves to the less loaded one between two jobs."""
    async with MockDriver(world) as driver:
        entity = driver.entity(driver.sched(), driver.sched())
        for _ in range(3):
            await driver.submit(entity)
        await driver.advance()


@witness("FEN-R25")
async def sched_list_changes(world: World) -> None:
    """The list of rings of a queue is replaced while a job chooses one of them."""
    async with MockDriver(world) as driver:
        first, second = driver.sched(), driver.sched()
        entity = driver.entity(first, second)

        async def submitter() -> None:
            await driver.submit(entity, US)

        await together(world, lambda: entity.modify_sched([second]), submitter)


@witness("FEN-R19")
async def sched_two_rings(world: World) -> None:
    """Jobs wait for jobs of the same ring and of another one, finished or not."""
    async with MockDriver(world) as driver:
        first = driver.entity(driver.sched())
        second, third = driver.entity(driver.sched()), driver.entity(driver.scheds[0])
        done = await driver.submit(first, US)
        here = await driver.submit(third, US, done.s_fence.finished)
        await driver.submit(second, US, here.s_fence.finished)
        await driver.advance()


@witness("FEN-B18")
async def sched_failed_submission(world: World) -> None:
    """The driver cannot put a job on the hardware; whoever waits for it is told so."""
    async with MockDriver(world) as driver:
        job = driver.job(driver.entity(driver.sched()), US)
        job.failure = EIO()
        await driver.hand_over(job)
        finished = driver.fences[0].finished
        await finished.wait()
        expect(finished.get_status() == -EIO.errno, "FEN-B18", f"{finished.name} of a failed job says {finished!r}")


@witness("FEN-B07")
async def sched_no_memory_for_dependencies(world: World) -> None:
    """A job is to wait for what a buffer holds, and there may be no memory to note it."""
    async with MockDriver(world, inject=True) as driver:
        entity = driver.entity(driver.sched())
        driver.memory.inject = False
        fences, resv = [driver.fence(f"user{number}") for number in range(2)], driver.resv("buffer")
        job = driver.job(entity, US)
        async with LockedForAdding(resv, fences):
            driver.memory.inject = True
            try:
                job.add_implicit_dependencies(resv, write=True)
            except ENOMEM:
                job.cleanup()
            else:
                driver.memory.inject = False
                await driver.hand_over(job)
            driver.memory.inject = False
        for fence in fences:
            await signal(fence)
        resv.fini()
        for fence in fences:
            fence.put()


class LockedForAdding:
    """A reservation, locked, with these fences in it as those of writers."""

    def __init__(self, resv: DmaResv, fences: Sequence[Fence]) -> None:
        self.resv = resv
        self.fences = fences

    async def __aenter__(self) -> None:
        await self.resv.lock()
        self.resv.reserve(len(self.fences))
        for fence in self.fences:
            self.resv.add(fence, Usage.WRITE)

    async def __aexit__(self, *_: object) -> None:
        self.resv.unlock()


@witness("FEN-R16 FEN-R18")
async def sched_queue_ends_before_its_job(world: World) -> None:
    """A queue is closed while its job is on the hardware and another one waits for somebody's fence."""
    async with MockDriver(world) as driver:
        driver.sched()
        busy, waiting = driver.entity(), driver.entity()
        foreign = driver.fence("foreign")
        await driver.submit(busy)
        await driver.submit(waiting, US, foreign)

        async def close_both() -> None:
            await busy.fini()
            await waiting.fini()

        await together(world, close_both, lambda: signal(foreign))
        await driver.advance()
        foreign.put()
