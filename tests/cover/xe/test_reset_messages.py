"""A GT reset and the suspend and resume messages that were asked for before it (FEN-R27, FEN-R28, INV-FEN-11)."""

from __future__ import annotations

import pytest
from exec_bench import VPN, calm, every, hit, lr_machine, lr_queue_of, run, submit, write

from svm_actors.engine.errors import ECANCELED, PropertyFailed
from svm_actors.gpu.program import AtomicAdd, Spin
from svm_actors.world import World
from svm_actors.xe.exec_queue import ExecQueue

MS = 1_000_000


async def running(world: World) -> ExecQueue:
    """A long-running queue that is on, with a job that takes its time."""
    vm, _bo = await lr_machine(world)
    queue = await lr_queue_of(vm)
    await submit(queue, AtomicAdd(VPN, 0, 1), Spin(20 * MS))
    await world.sleep(MS)
    assert (queue.enabled, queue.context.on) == (True, True)
    return queue


def test_the_message_of_a_suspend_that_a_reset_completes_is_void() -> None:
    async def scenario(world: World) -> None:
        queue = await running(world)
        queue.suspend()
        await world.gpu().driver.submission.reset.stop(queue)
        assert (queue._suspend.busy, queue._resume.busy) == (False, False)
        assert (queue.suspend_pending, queue.suspended, queue.context.on) == (False, True, False)
        await world.gpu().driver.submission.reset.restart(queue)

    run(scenario)


def test_a_reset_under_way_does_not_count_as_being_off() -> None:
    """The message that comes between the begin of a reset and the moment it takes the context off says nothing."""

    async def scenario(world: World) -> None:
        queue = await running(world)
        queue.stopped = True
        queue.suspend()
        await queue._suspend_message()
        assert (queue.suspend_pending, queue.context.on) == (True, True)
        await world.gpu().driver.submission.reset.stop(queue)
        assert (queue.suspend_pending, queue.context.on) == (False, False)
        await world.gpu().driver.submission.reset.restart(queue)

    run(scenario)


def test_what_counts_as_off_is_off() -> None:
    async def scenario(world: World) -> None:
        queue = await running(world)
        queue.suspend()
        with pytest.raises(PropertyFailed, match=r"INV-FEN-11.*its context is on"):
            queue.finish_suspend()
        await queue.suspend_wait()
        queue.resume()

    run(scenario)


def test_an_answer_that_a_reset_has_overtaken_is_dropped() -> None:
    """The hardware is off, its answer on the way; the reset forgets about it, and the next request is another one."""

    async def scenario(world: World) -> None:
        queue = await running(world)
        queue.sched.tdr.timeout = 0
        queue.context.answers_late = True
        queue.pending_disable = True
        queue.off_acked()
        assert (queue.enabled, queue.pending_disable) == (True, True)
        assert world.engine.counters["FEN-R28"] == 1
        queue.context.answers_late = queue.pending_disable = False

    run(scenario)


async def preempted_and_reset(world: World) -> None:
    vm, bo = await lr_machine(world)
    queue = await lr_queue_of(vm)

    async def client() -> None:
        for number in range(2):
            try:
                await (await submit(queue, write(bytes([number + 1])))).wait()
            except ECANCELED:  # a reset bans what it finds begun
                return

    async def others() -> None:
        for _ in range(2):
            world.gpu().driver.submission.reset.queue()
            await world.gpu().evict(bo.npages << 12)

    async with world.nursery() as nursery:
        nursery.start_soon(client)
        nursery.start_soon(others)


def test_nothing_runs_while_its_memory_moves_whatever_the_reset_finds() -> None:
    runs = list(every(preempted_and_reset, 40))
    assert all(hit(runs, "FEN-R27").values())


def test_no_suspend_is_given_up_while_the_hardware_answers() -> None:
    runs = list(calm(preempted_and_reset, 20))
    assert not any(run.counters.get("exec.suspend_timeout") for run in runs)
