"""VMs that do not fit into the VRAM together: each gets its turn, and nobody is told that there is no room."""

from __future__ import annotations

from typing import Any

import pytest
from bind_bench import PAGE, at

from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_world
from svm_actors.gpu.program import AtomicAdd
from svm_actors.world import Config, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.preempt_fence import PreemptFence


def attempt(scenario: Any, seed: int) -> Run:
    """One run with two pages of VRAM."""
    return run_world(
        scenario, seed=seed, strategy="random" if seed else "fifo", config=Config(vram_pages=2), backend="direct",
        digest=False,
    )  # fmt: skip


async def two_long_running(world: World) -> None:
    """Each wants all of the VRAM as long as it has something to run."""
    vms = [await world.gpu().create_vm(world.process(), "lr") for _ in range(2)]
    jobs = []
    for vm in vms:
        bo = await vm.create_bo(2 * PAGE)
        await vm.bind(at(0), bo)
        queue = await vm.create_queue()
        jobs.append(await vm.submit(queue, [AtomicAdd(at(0) // PAGE, 0, 1)] * 8))
    for job in jobs:
        assert await job.wait() == list(range(8))


def test_vms_that_evict_each_other_both_get_on() -> None:
    for seed in range(30):
        result = attempt(two_long_running, seed)
        assert result.failure is None, f"{seed}: {result.failure}"


def test_a_resume_that_heeds_the_next_suspend_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They preempt each other before either was switched on: for ever, in the default schedule."""
    on = ExecQueue._resume_message

    async def only_if_nobody_wants_it_off(self: ExecQueue) -> None:
        if not self.suspend_count:
            await on(self)

    tail, stops = PreemptFence.tail, []

    def counted(self: PreemptFence) -> None:
        stops.append(self.name)
        assert len(stops) < 100, "a hundred preemptions"
        tail(self)

    monkeypatch.setattr(PreemptFence, "tail", counted)
    assert attempt(two_long_running, 0).failure is None
    assert len(stops) < 10
    monkeypatch.setattr(ExecQueue, "_resume_message", only_if_nobody_wants_it_off)
    failure = attempt(two_long_running, 0).failure
    assert failure is not None
    assert "a hundred preemptions" in failure.message


@pytest.mark.parametrize("what", ["bind", "add a queue", "close"])
def test_who_only_locks_waits_for_the_one_that_tries_alone(what: str) -> None:
    """Otherwise that one gives way to an older transaction, and its caller is told -ENOMEM."""

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), "lr")
        bo = await vm.create_bo(PAGE, external=True)
        if what == "close":
            await vm.bind(at(0), bo)
            await world.settle()
        done: list[str] = []

        async def work() -> None:
            if what == "bind":
                await vm.bind(at(0), bo)
            elif what == "close":
                await vm.close()
            else:
                await vm.create_queue()
            done.append(what)

        async with world.nursery() as nursery, world.gpu().driver.region.vram.validation.writing():
            nursery.start_soon(work)
            await world.sleep(1)
            assert not vm.vm.resv_dma.is_locked()
            assert not done
            assert len(bo.gpuva.bos) == (what == "close")
            assert all(queue.preempt_fence is None for queue in vm.vm.exec_queues)
        assert done

    for seed in range(5):
        result = attempt(scenario, seed)
        assert result.failure is None, f"{seed}: {result.failure}"
