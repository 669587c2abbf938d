"""Witnesses about what comes too late: an error, a fence, a lock, a push (fences_and_scheduler 1, 3, 4 and 7)."""

from __future__ import annotations

from svm_actors.dma_buf.resv import Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.sched_work import Completion
from svm_actors.engine.errors import ECANCELED, EDEADLK
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import FencePlace, MockDriver, expect, signal, together
from svm_actors.workload.witnesses.fen_resv import Buffer, Locked
from svm_actors.workload.witnesses.fen_sched import NoHardware
from svm_actors.world import World


@witness("FEN-R04")
async def fence_done_and_cancelled(world: World) -> None:
    """Hardware completes a job while whoever gave it up cancels it; one of them decides, for good."""
    async with FencePlace(world) as place:
        fence = place.fence("job")
        seen: list[int] = []
        fence.add_callback(lambda done: seen.append(done.get_status()))
        await together(world, lambda: signal(fence), lambda: signal(fence, ECANCELED()))
        expect(seen == [fence.get_status()], "FEN-R04", f"{fence.name} ended with {seen}, and is {fence!r} now")
        fence.put()


@witness("FEN-R11")
async def resv_used_again_while_awaited(world: World) -> None:
    """Somebody waits without the lock for a buffer that is used again as soon as the first job is through."""
    async with FencePlace(world) as place:
        resv = place.resv("buffer")
        first, second = place.fence("first"), place.fence("second")

        async def add(number: int) -> None:
            async with Locked(resv):
                resv.reserve(1)
                await world.engine.step("alloc", resv, "job")  # what may fail is done before the fence is out
                resv.add((first, second)[number], Usage.WRITE)

        async def waiter() -> None:
            await resv.wait(Usage.WRITE)
            expect(first.signaled, "FEN-R11", f"{first.name} was there before the wait, and is not signaled")
            async with Locked(resv):
                await resv.wait(Usage.WRITE)
                expect(resv.test_signaled(Usage.WRITE), "FEN-R11", "a wait under the lock leaves a fence behind")

        async def client() -> None:
            await add(1)
            await world.sleep(10)
            await signal(second)

        await add(0)
        await together(world, waiter, client, lambda: signal(first))
        first.put()
        second.put()
        resv.fini()


@witness("FEN-R13")
async def exec_between_two_older_ones(world: World) -> None:
    """A transaction backs off for an older one, and then for another; the third pass is its last."""
    async with FencePlace(world) as place:
        own, one, two = (Buffer(place, name) for name in ("own", "one", "two"))
        kind = world.engine.parts.of(DrmExec)
        locked, died = ([Completion(world.engine, f"{what}{number}") for number in range(2)] for what in ("has", "let"))

        async def older(number: int) -> None:
            with kind(world.engine) as exec_:
                await exec_.until_all_locked(lambda ex: ex.prepare_obj((one, two)[number], 1))
                locked[number].complete_all()
                await died[number].wait()

        async def young() -> None:
            async def body(ex: DrmExec) -> None:
                await ex.prepare_obj(own, 1)
                for number, buffer in enumerate((one, two)):
                    try:
                        await ex.prepare_obj(buffer, 1)
                    except EDEADLK:
                        died[number].complete_all()
                        raise

            for each in locked:
                await each.wait()
            with kind(world.engine) as exec_:
                await exec_.until_all_locked(body)
                expect(exec_.passes == 3, "FEN-R13", f"two older transactions in the way, {exec_.passes} passes")

        await together(world, lambda: older(0), lambda: older(1), young)


@witness("FEN-R16")
async def sched_push_behind_push(world: World) -> None:
    """A thread pushes jobs that are done at once, one after the other and without waiting for any."""
    async with MockDriver(world) as driver:
        entity = driver.entity(driver.sched(NoHardware()))
        for _ in range(6):
            await driver.hand_over(driver.job(entity))
