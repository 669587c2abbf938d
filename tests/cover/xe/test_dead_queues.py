"""A queue that is dead to the driver may still be on the hardware: nobody takes its memory before it is off."""

from __future__ import annotations

import pytest
from exec_bench import PAGE, VPN, attempt, lr_machine, lr_queue_of, submit

from svm_actors.engine.errors import ECANCELED, ESRCH
from svm_actors.gpu.program import AtomicAdd
from svm_actors.world import World
from svm_actors.xe.exec_queue import ExecQueue


async def destroyed(world: World) -> None:
    """A long-running queue is destroyed at the same time as its memory is moved."""
    vm, _bo = await lr_machine(world)
    world.gpu().driver.submission.limits.min_run_period = 0
    queue = await lr_queue_of(vm)
    job = await submit(queue, *[AtomicAdd(VPN, 0, 1)] * 60)
    async with world.nursery() as nursery:
        nursery.start_soon(queue.destroy)
        nursery.start_soon(world.gpu().evict, PAGE)
    try:
        await job.wait()
    except (ECANCELED, ESRCH):
        assert queue.destroyed


def failures(schedules: int) -> set[str]:
    found = [attempt(destroyed, "pct", seed).failure for seed in range(2, 2 * schedules, 2)]
    return {failure.rule for failure in found if failure is not None}


def test_the_preempt_fence_of_a_dead_queue_waits_until_it_is_off() -> None:
    """INV-FEN-11: the timeout handler, or a reset, takes it off; only then its fence signals, with -ENOENT."""
    assert not failures(60)


def test_a_fence_that_signals_at_once_has_memory_taken_from_a_running_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: ExecQueue) -> None:
        return

    monkeypatch.setattr(ExecQueue, "taken_off", nothing)
    assert failures(60) == {"INV-05"}
