"""Preempt fences and the rebind worker of long-running VMs (vm_bind section 10)."""

from __future__ import annotations

from typing import Any

import pytest
from exec_bench import (
    ADDR,
    PAGE,
    SECOND,
    VPN,
    attempt,
    bound,
    calm,
    every,
    hit,
    lr_machine,
    lr_queue_of,
    machine,
    queue_of,
    read,
    run,
    submit,
    write,
)

from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import ECANCELED, EINVAL, EOPNOTSUPP, ESRCH, ETIME, PropertyFailed
from svm_actors.gpu.program import AtomicAdd, Spin
from svm_actors.world import World
from svm_actors.xe.preempt_fence import PreemptFence


def test_a_long_running_job_publishes_nothing_but_the_preempt_fence_of_its_queue() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        out = world.syncobj()
        with pytest.raises(EOPNOTSUPP):
            await submit(queue, read(), syncs=(out.sync_out(),))
        job = await submit(queue, Spin(SECOND), write(b"x"))
        slots = [slot for slot in vm.vm.resv_dma.fences.slots if not slot.fence.signaled]
        assert [(slot.fence, slot.usage) for slot in slots] == [(queue.preempt_fence, Usage.BOOKKEEP)]
        assert await job.wait() == [None, None]
        assert await bo.read(0) == b"x"
        assert "exec.preempted" not in world.engine.counters

    run(scenario)


def test_a_queue_of_the_wrong_mode_is_refused() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        with pytest.raises(EINVAL):
            await lr_queue_of(vm)

    run(scenario)


def test_eviction_stops_the_queue_and_the_worker_brings_it_back() -> None:
    """A job that runs for ever does not keep its memory, and finds it again where it went on."""

    async def scenario(world: World) -> None:
        vm, bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, AtomicAdd(VPN, 0, 1), Spin(SECOND), AtomicAdd(VPN, 0, 1), Spin(SECOND), read())
        await world.sleep(SECOND // 2)
        assert await world.gpu().evict(PAGE) == 1
        assert await job.wait() == [0, None, 1, None, b"\2"]
        assert await bo.read(0) == b"\2"

    runs = list(every(scenario))
    for result in runs:
        assert result.counters["exec.preempted"] >= 1
    assert hit(runs, "exec.rebound")["exec.rebound"]


def test_eviction_again_and_again_under_several_queues() -> None:
    """INV-VMB-14: a suspended queue is resumed; nothing is lost or done twice."""

    async def scenario(world: World) -> None:
        vm, local = await lr_machine(world)
        shared = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR + PAGE, shared)
        await bound(vm)
        queues = [await lr_queue_of(vm) for _ in range(2)]
        jobs = [
            await submit(queue, *[AtomicAdd(VPN, 0, 1), AtomicAdd(VPN + 1, 0, 1)] * 3) for queue in queues
        ]
        async with world.nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(world.gpu().evict, PAGE)
        for job in jobs:
            assert len(await job.wait()) == 6
        assert await local.read(0) == await shared.read(0) == b"\6"

    runs = list(every(scenario, 80))
    numbers = hit(runs, "exec.preempted", "exec.rebound", "FEN-R30")
    assert all(numbers.values()), numbers


def test_an_idle_vm_is_left_alone_until_somebody_submits() -> None:
    """VMB-R21: the worker deactivates itself; the next exec wakes it after its push."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        await (await submit(queue, write(b"1"))).wait()
        await world.gpu().evict(PAGE)
        await world.settle()
        assert vm.vm.execs.rebind.deactivated
        assert await (await submit(queue, read())).wait() == [b"1"]
        assert not vm.vm.execs.rebind.deactivated

    for result in every(scenario, 30):
        assert result.counters["VMB-R21"] == 1


def test_exec_against_the_worker_that_is_about_to_deactivate_itself() -> None:
    """Without a minimum run period, which would keep them apart."""

    async def scenario(world: World) -> None:
        world.gpu().driver.submission.limits.min_run_period = 0
        vm, bo = await lr_machine(world)
        queue = await lr_queue_of(vm)

        async def work() -> None:
            for pause in (1, 2, 0):
                await (await submit(queue, AtomicAdd(VPN, 0, 1))).wait()
                await world.sleep(pause)

        async def press() -> None:
            for _ in range(4):
                await world.sleep(1)
                await world.gpu().evict(PAGE)

        async with world.nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(press)
        assert await bo.read(0) == b"\3"

    runs = list(every(scenario, 100))
    assert hit(runs, "VMB-R21")["VMB-R21"]


def test_a_queue_added_while_the_others_stop_stops_too() -> None:
    """VMB-R19: it is started again together with them."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin(SECOND), AtomicAdd(VPN, 0, 1))
        answers: list[Any] = []

        async def add() -> None:
            other = await lr_queue_of(vm)
            answers.append(await (await submit(other, AtomicAdd(VPN, 0, 1))).wait())

        async with world.nursery() as nursery:
            nursery.start_soon(world.gpu().evict, PAGE)
            nursery.start_soon(add)
        assert sorted([(await job.wait())[1], answers[0][0]]) == [0, 1]

    runs = list(every(scenario, 100))
    assert hit(runs, "VMB-R19")["VMB-R19"]


def test_a_queue_that_does_not_let_go_costs_the_vm() -> None:
    """-ETIME of a preempt fence: the queue is banned, and the worker bans the VM."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin(None, preemptible=False))
        await world.sleep(1)
        await world.gpu().evict(PAGE)
        await job.fence.wait()
        assert isinstance(job.fence.error, ETIME | ECANCELED)
        await world.settle()
        assert queue.dead

    for result in calm(scenario, 15):
        assert result.counters["exec.suspend_timeout"] == 1


def test_a_queue_runs_its_minimum_period_between_two_suspends() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await lr_machine(world)
        world.gpu().driver.submission.limits.min_run_period = SECOND
        queue = await lr_queue_of(vm)
        job = await submit(queue, *[Spin(SECOND // 2), AtomicAdd(VPN, 0, 1)] * 4)
        for _ in range(8):
            await world.gpu().evict(PAGE)
            await world.sleep(SECOND // 4)
        assert (await job.wait())[-1] == 3
        assert await bo.read(0) == b"\4"
        assert world.engine.now <= 5 * SECOND

    assert hit(list(calm(scenario, 15)), "exec.min_run_period")["exec.min_run_period"]


def test_destroying_a_queue_in_the_middle_of_a_preemption() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue, other = await lr_queue_of(vm), await lr_queue_of(vm)
        job = await submit(queue, Spin())
        kept = await submit(other, AtomicAdd(VPN, 0, 1))
        async with world.nursery() as nursery:
            nursery.start_soon(world.gpu().evict, PAGE)
            nursery.start_soon(queue.destroy)
        with pytest.raises((ECANCELED, ESRCH)):
            await job.wait()
        assert await kept.wait() == [0]

    list(every(scenario))


def test_closing_a_vm_with_a_job_that_runs_for_ever() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin())
        await vm.close()
        assert job.fence.error is not None
        assert queue.destroyed

    list(every(scenario, 30))


def test_a_gt_reset_while_somebody_waits_for_the_suspend() -> None:
    """FEN-R27: the answer never comes, and the waiter goes on all the same."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin(None, preemptible=False))
        await world.sleep(1)
        async with world.nursery() as nursery:

            async def reset() -> None:
                await world.sleep(SECOND)
                world.gpu().driver.submission.reset.queue()

            nursery.start_soon(world.gpu().evict, PAGE)
            nursery.start_soon(reset)
        await job.fence.wait()
        assert queue.banned

    for result in calm(scenario, 15):
        assert result.counters["exec.gt_reset"] == 1
        assert "exec.suspend_timeout" not in result.counters


# -- what the guards are good for ------------------------------------------------------------


def test_a_worker_whose_tail_takes_vm_lock_is_reported() -> None:
    """VMB-R22, VMB-B20: whoever holds vm.lock may wait for preempt fences."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)

        class Blocking(PreemptFence):
            async def _wait_off(self) -> Any:
                async with vm.vm.lock.writing():
                    return await super()._wait_off()

        fence = Blocking(queue)
        queue.preempt_fence = fence
        world.engine.lockdep.declare("vm_lock", "dma_resv")
        fence.enable_sw_signaling()
        await fence.wait()

    failure = attempt(scenario).failure
    assert failure is not None
    assert failure.rule == "INV-FEN-03"


def test_resuming_what_was_not_suspended_is_reported() -> None:
    """VMB-B21."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        queue.suspend()
        with pytest.raises(PropertyFailed, match="VMB-B21"):
            queue.resume()
        await queue.suspend_wait()
        queue.resume()

    run(scenario)


def test_a_dma_fence_queue_can_be_suspended_and_goes_on_where_it_was() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        job = await submit(queue, AtomicAdd(VPN, 0, 1), Spin(SECOND), AtomicAdd(VPN, 0, 1))
        await world.sleep(SECOND // 2)
        for _ in range(2):
            queue.suspend()
        await queue.suspend_wait()
        await world.sleep(SECOND)
        queue.resume()
        assert not job.fence.signaled
        queue.resume()
        assert await job.wait() == [0, None, 1]

    list(calm(scenario))
