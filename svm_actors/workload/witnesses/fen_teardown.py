"""Witnesses about the end: killed queues, flushes, timers and schedulers that go (fences_and_scheduler 8.3, 8.4)."""

from __future__ import annotations

from svm_actors.drm.sched_mock import MockFlags
from svm_actors.drm.sched_user import ProcessGroup
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import MS, US, MockDriver, expect, signal, together
from svm_actors.world import World


@witness("FEN-R19 FEN-R20")
async def sched_killed_dependency(world: World) -> None:
    """A queue waits for a job of another queue of its ring, which is killed before that job runs."""
    async with MockDriver(world) as driver:
        driver.sched()
        doomed, waiter = driver.entity(), driver.entity()
        foreign = driver.fence("foreign")
        victim = await driver.submit(doomed, US, foreign)
        last = await driver.submit(waiter, US, victim.s_fence.finished)
        ended = last.s_fence.finished
        await together(world, doomed.fini, lambda: signal(foreign))
        await ended.wait()
        foreign.put()


@witness("FEN-R20")
async def sched_killed_behind_hardware(world: World) -> None:
    """A killed job waits for the job in front of it, then for hardware fences that share one lock with that one's."""
    async with MockDriver(world) as driver:
        driver.sched(credit_limit=2)
        entity, other = driver.entity(), driver.entity()
        await driver.submit(entity)
        ahead = await driver.submit(other)
        await ahead.s_fence.scheduled.wait()
        assert ahead.hardware is not None
        await driver.submit(entity, US, ahead.hardware)
        await world.settle()
        await entity.kill()
        await driver.advance()


@witness("FEN-R26")
async def sched_forked_child_dies(world: World) -> None:
    """A child that shares its parent's queue is killed, before or after the parent has used it."""
    async with MockDriver(world) as driver:
        driver.sched()
        entity = driver.entity()
        child = ProcessGroup("child")

        async def die() -> None:
            child.sigkill()
            child.exit()
            await entity.flush(child, MS)

        async def work() -> None:
            for _ in range(2):
                await driver.submit(entity, US)
            for pair in driver.fences:
                await pair.finished.wait()
                expect(pair.finished.error is None, "FEN-R26", f"{pair.finished.name} of the parent is {pair.finished}")

        await together(world, die, work)


@witness("FEN-R24")
async def sched_flush_and_fini(world: World) -> None:
    """A process waits for its queue to drain while the scheduler is torn down."""
    async with MockDriver(world) as driver:
        sched = driver.sched(credit_limit=1)
        entity = driver.entity()
        for _ in range(2):
            await driver.submit(entity)

        async def flush() -> None:
            await entity.flush(driver.process, MS)

        await together(world, flush, sched.fini)


@witness("FEN-R23")
async def sched_fini_with_jobs(world: World) -> None:
    """A scheduler is torn down while the timer of the job on its hardware is armed, or just fires."""
    async with MockDriver(world) as driver:
        sched = driver.sched(timeout=MS)
        await driver.submit(driver.entity())
        await world.sleep(MS * world.choose(2))
        await sched.fini()


@witness("FEN-R21")
async def sched_false_alarm(world: World) -> None:
    """A job ends at the very time its timeout fires, and is freed while the driver looks at it."""
    async with MockDriver(world) as driver:
        driver.sched(timeout=MS)
        job = driver.job(driver.entity(), MS)
        job.flags |= MockFlags.DONT_RESET
        await driver.hand_over(job)
        await driver.fences[0].finished.wait()


@witness("FEN-R22")
async def sched_stop_while_finishing(world: World) -> None:
    """The driver stops the scheduler to reset the hardware while a job there is just ending."""
    async with MockDriver(world) as driver:
        sched, entity = driver.sched(), driver.entity()
        for _ in range(2):
            await driver.submit(entity, MS)
        await world.sleep(MS)
        await sched.stop()
        await driver.gpus[0].reset()
        await sched.recovery.resubmit_jobs()
        await sched.start()


@witness("FEN-R05")
async def sched_name_reader(world: World) -> None:
    """Somebody prints the name of a job's timeline while job, queue and scheduler go."""
    async with MockDriver(world) as driver:
        sched, entity = driver.sched(), driver.entity()
        await driver.submit(entity)
        finished = driver.fences[0].finished

        async def tear_down() -> None:
            await driver.advance_one()
            await finished.wait()
            await entity.fini()
            await sched.fini()
            sched.free_rcu(driver.memory.rcu)

        async def look() -> None:
            for _ in range(2):
                await finished.read_timeline_name(driver.memory.rcu)

        await together(world, tear_down, look)
        await driver.memory.drain()
