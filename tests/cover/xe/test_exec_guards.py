"""What the guards of exec, preempt fences and reset are good for: without one, an oracle speaks."""

from __future__ import annotations

from typing import Any

import pytest
from exec_bench import ADDR, PAGE, VPN, attempt, lr_machine, lr_queue_of, machine, queue_of, run, submit, write

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.errors import ECANCELED
from svm_actors.gpu.program import AtomicAdd, Load, Spin
from svm_actors.world import World
from svm_actors.xe.exec import Exec
from svm_actors.xe.exec_job import ExecJob
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.exec_vm import VmExecs
from svm_actors.xe.rebind_worker import RebindWorker


def found(scenario: Any, seeds: int = 120) -> list[str]:
    """What goes wrong, in schedules without racing timers."""
    failures = [attempt(scenario, "random", seed).failure for seed in range(2, 2 * seeds, 2)]
    return [f"{failure.kind} {failure.rule}" for failure in failures if failure is not None]


# -- dependencies and fences of an exec ---------------------------------------------------------


def moving(exec_class: type[Exec]) -> Any:
    """Shared and local objects that are evicted while jobs add to them."""

    async def scenario(world: World) -> None:
        vm, local = await machine(world)
        shared = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR + PAGE, shared)

        async def work() -> None:
            queue = queue_of(vm)
            queue.exec_class = exec_class
            for _ in range(3):
                await (await submit(queue, AtomicAdd(VPN, 0, 1), Spin(10), AtomicAdd(VPN + 1, 0, 1))).wait()

        async def press() -> None:
            for _ in range(4):
                await world.gpu().evict(2 * PAGE)
                await world.sleep(4)

        async with world.nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(press)
        assert await local.read(0) == await shared.read(0) == b"\3"

    return scenario


def test_with_all_guards_nothing_is_found() -> None:
    assert not found(moving(Exec))


def test_without_the_fence_in_every_reservation_memory_is_moved_under_the_job() -> None:
    """INV-VMB-06: what eviction does not see it does not wait for."""

    class OnlyTheVm(Exec):
        async def add_fence(self, exec_: DrmExec, fence: Fence) -> None:
            self.vm.resv_dma.add(fence, Usage.BOOKKEEP)

    assert found(moving(OnlyTheVm))


def test_without_the_kernel_fences_of_shared_objects_a_job_is_too_early() -> None:
    """VMB-B02: the job runs before the object's clear or move is through."""

    class OnlyTheVm(Exec):
        def add_dependencies(self, job: ExecJob, exec_: DrmExec) -> None:
            self._add_in_syncs(job)

    assert found(moving(OnlyTheVm))


def test_without_validation_a_job_uses_memory_that_was_taken() -> None:
    """INV-VMB-13."""

    class NoValidation(Exec):
        async def _prepare(self, exec_: DrmExec) -> None:
            await self.vm.gpuvm.prepare_vm(exec_, 1)
            await self.vm.gpuvm.prepare_objects(exec_, 1)

    assert found(moving(NoValidation))


def test_validation_is_repeated_until_nothing_is_evicted() -> None:
    """VMB-R07: a rebind that evicts what was validated just before."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        execs = vm.vm.execs
        rounds: list[int] = []
        real = execs.must_validate_again

        def again() -> bool:
            rounds.append(len(rounds))
            return len(rounds) < 3 or real()

        execs.must_validate_again = again  # type: ignore[method-assign]
        assert await (await submit(queue_of(vm), write(b"x"))).wait() == [None]
        assert rounds == [0, 1, 2]
        assert world.engine.counters["VMB-R07"] == 2
        assert await bo.read(0) == b"x"

    run(scenario)


# -- long-running queues --------------------------------------------------------------------------


def test_a_queue_that_comes_after_an_eviction_waits_for_validation() -> None:
    """While the VM had no queue nobody was there to be stopped, or to bring anything back."""

    async def scenario(world: World) -> None:
        vm, bo = await lr_machine(world)
        await world.gpu().evict(PAGE)
        queue = await lr_queue_of(vm)
        assert await (await submit(queue, AtomicAdd(VPN, 0, 1))).wait() == [0]
        assert await bo.read(0) == b"\1"

    assert run(scenario).counters["exec.late_validation"] == 1


def test_without_that_it_runs_on_memory_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        await world.gpu().evict(PAGE)
        queue = await lr_queue_of(vm)
        await (await submit(queue, AtomicAdd(VPN, 0, 1))).wait()

    monkeypatch.setattr(VmExecs, "needs_work", lambda self: False)
    assert found(scenario, 10)


def test_a_shared_object_bound_later_stops_the_queue_when_it_is_evicted() -> None:
    async def scenario(world: World) -> None:
        vm, _local = await lr_machine(world)
        queue = await lr_queue_of(vm)
        shared = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR + PAGE, shared)
        assert queue.preempt_fence is not None
        slots = shared.resv.fences.slots
        assert [slot.usage for slot in slots if slot.fence is queue.preempt_fence] == [Usage.BOOKKEEP]
        await world.settle()
        job = await submit(queue, *[AtomicAdd(VPN + 1, 0, 1)] * 4)
        async with world.nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(world.gpu().evict, 2 * PAGE)
        assert (await job.wait())[-1] == 3
        assert await shared.read(0) == b"\4"

    assert not found(scenario, 40)


def test_without_reactivation_an_idle_vm_sleeps_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R21: the queue is never resumed, so its job never ends."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        await (await submit(queue, write(b"1"))).wait()
        await world.gpu().evict(PAGE)
        await world.settle()
        await (await submit(queue, Load(VPN))).wait()

    monkeypatch.setattr(RebindWorker, "reactivate", lambda self: None)
    assert set(found(scenario, 5)) == {"deadlock deadlock"}


def test_without_dropping_the_wait_a_reset_leaves_a_waiter_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """FEN-R27: an answer is awaited that a context that died will never give."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        await submit(queue, Spin())
        await world.sleep(1)
        queue.context.dead = True
        queue.suspend()
        await world.settle()
        queue.kill()
        await queue.suspend_wait()
        assert world.engine.now < 1_000_000_000, "it waited until the timer"

    assert not found(scenario, 3)
    monkeypatch.setattr(ExecQueue, "suspend_is_over", lambda self: not self.suspend_pending)
    assert found(scenario, 3)


def test_an_answer_after_a_reset_is_dropped() -> None:
    """FEN-R28."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        job = await submit(queue, Spin(1000), write(b"x"))
        await world.sleep(500)
        queue.off_acked()
        assert queue.enabled
        assert await job.wait() == [None, None]

    assert run(scenario).counters["FEN-R28"] == 1


def test_a_banned_vm_runs_nothing() -> None:
    """INV-VMB-11."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin())
        vm.vm.ban()
        with pytest.raises(ECANCELED):
            await submit(queue, Load(VPN))
        await job.fence.wait()
        assert job.fence.error is not None

    run(scenario)
