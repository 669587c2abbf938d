"""System suspend: the gate, rebind workers that park, and counted holders of a suspend (VMB-R35, VMB-B37)."""

from __future__ import annotations

from typing import Any

import pytest
from bind_bench import gate
from exec_bench import (
    ADDR,
    PAGE,
    VPN,
    attempt,
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

from svm_actors.engine.errors import EBUSY, EngineError
from svm_actors.gpu.program import AtomicAdd, Spin
from svm_actors.world import World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.queue_reset import GtReset
from svm_actors.xe.rebind_worker import RebindWorker
from svm_actors.xe.suspend import Power
from svm_actors.xe.suspend_gate import SuspendGate

MS = 1_000_000


def power_of(world: World) -> Power:
    return world.gpu().driver.power


def letters(*bos: XeBo) -> str:
    """``v`` device memory, ``r`` RAM."""
    return "".join("v" if bo.in_vram else "r" for bo in bos)


# -- what a suspend does ---------------------------------------------------------------------


def test_everything_leaves_device_memory_and_jobs_go_on_where_they_were() -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        lr_vm, lr_bo = await lr_machine(world)
        job = await submit(queue_of(vm), AtomicAdd(VPN, 0, 1))
        lr_job = await submit(await lr_queue_of(lr_vm), *[AtomicAdd(VPN, 0, 1), Spin(20 * MS)] * 3)
        await world.sleep(30 * MS)
        assert letters(bo, lr_bo) == "vv"
        await world.suspend()
        assert (letters(bo, lr_bo), power_of(world).off) == ("rr", True)
        await world.sleep(10_000)
        assert not lr_job.fence.signaled
        await world.resume()
        assert await job.wait() == [0]
        assert (await lr_job.wait())[::2] == [0, 1, 2]
        assert (await bo.read(0), await lr_bo.read(0)) == (b"\1", b"\3")

    for result in calm(scenario, 15):
        assert result.counters["pm.suspend"] == 1


def test_suspend_in_the_middle_of_everything() -> None:
    async def scenario(world: World) -> None:
        await busy(world)

    runs = list(every(scenario, 40))
    numbers = hit(runs, "VMB-R35", "exec.restarted", "pm.held_by_others")
    assert all(numbers.values()), numbers


async def busy(world: World) -> None:
    """Jobs of both kinds, binds and evictions, and two suspends among them."""
    vm, bo = await machine(world)
    lr_vm, lr_bo = await lr_machine(world)
    queue, lr_queue = queue_of(vm), await lr_queue_of(lr_vm)

    async def jobs(queue: ExecQueue) -> None:
        for _ in range(3):
            await (await submit(queue, AtomicAdd(VPN, 0, 1), Spin(10), AtomicAdd(VPN, 0, 1))).wait()

    async def binds() -> None:
        for index in range(2):
            other = await vm.create_bo(PAGE)
            await vm.bind(ADDR + (index + 1) * PAGE, other)

    async def nights() -> None:
        for _ in range(2):
            await world.suspend()
            await world.sleep(5)
            await world.resume()
            await world.sleep(5)

    async with world.nursery() as nursery:
        nursery.start_soon(jobs, queue)
        nursery.start_soon(jobs, lr_queue)
        nursery.start_soon(binds)
        nursery.start_soon(nights)
    assert (await bo.read(0), await lr_bo.read(0)) == (b"\6", b"\6")


def test_two_devices_sleep_at_once() -> None:
    async def scenario(world: World) -> None:
        parts = []
        for index in range(2):
            vm = await world.gpu(index).create_vm(world.process(), "dma_fence")
            bo = await vm.create_bo(PAGE)
            await vm.bind(ADDR, bo)
            parts.append((vm, bo))
        await world.suspend()
        assert [gpu.driver.power.off for gpu in world.gpus] == [True, True]
        await world.resume()
        for vm, bo in parts:
            await (await submit(queue_of(vm), write(b"x"))).wait()
            assert await bo.read(0) == b"x"

    list(every(scenario, 5, gpus=2))


def test_a_world_that_ends_asleep_is_woken_first() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        await submit(await lr_queue_of(vm), Spin(20 * MS), write(b"x"))
        await world.sleep(10)
        await world.suspend()

    list(every(scenario, 10))


def test_suspending_twice_is_a_mistake() -> None:
    async def scenario(world: World) -> None:
        world.gpu()
        await world.suspend()
        with pytest.raises(EngineError):
            await world.suspend()

    run(scenario)


def test_a_suspend_that_cannot_empty_the_memory_is_given_up() -> None:
    """-EBUSY, and everything goes on."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        await (await submit(queue_of(vm), write(b"1"))).wait()

        async def refuse() -> None:
            raise EBUSY

        bo.evict = refuse  # type: ignore[method-assign]
        with pytest.raises(EBUSY):
            await world.suspend()
        assert not power_of(world).off
        assert await (await submit(queue_of(vm), read())).wait() == [b"1"]
        del bo.evict
        await world.suspend()
        assert power_of(world).off

    assert run(scenario).counters["pm.evict.EBUSY"] == 2


# -- who waits, and how ----------------------------------------------------------------------


def test_an_exec_during_the_night_is_run_in_the_morning() -> None:
    """VMB-R35: it backs out with all its locks, and runs again from the beginning."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        lr_vm, lr_bo = await lr_machine(world)
        queues = [queue_of(vm), await lr_queue_of(lr_vm)]
        await world.suspend()
        tasks = [world.spawn(submit(queue, write(b"x")), "exec") for queue in queues]
        await world.sleep(1000)
        assert [task.done for task in tasks] == [False, False]
        assert not vm.vm.lock.holders()
        assert not lr_vm.vm.lock.holders()
        await world.resume()
        await world.settle()
        assert (await bo.read(0), await lr_bo.read(0)) == (b"x", b"x")

    assert run(scenario).counters["exec.restarted"] == 2


def test_a_bind_during_the_night_waits() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        await world.suspend()
        world.spawn(vm.bind(ADDR + PAGE, None, length=PAGE, flags=4), "bind")
        await world.sleep(1000)
        assert len(vm.vm.vmas()) == 1
        await world.resume()
        await world.settle()
        assert len(vm.vm.vmas()) == 2

    run(scenario)


def test_an_exec_that_sleeps_for_an_in_sync_does_not_keep_the_system_awake() -> None:
    """It is asleep where it can be frozen (VMB-R34 beside VMB-R35)."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        fault_vm = await world.gpu().create_vm(world.process(), "fault", mirror=False)
        fault_job = await submit(await fault_vm.create_queue(), Spin(20 * MS))
        await world.sleep(10 * MS)
        fence, pending = gate(world)
        world.spawn(submit(queue_of(vm), write(b"x"), syncs=(pending.sync_in(),)), "exec")
        await world.sleep(100)
        await world.suspend()
        await world.resume()
        fence.signal()
        await world.settle()
        await fault_job.wait()
        assert await bo.read(0) == b"x"

    assert run(scenario).counters["VMB-R34"] == 1


def test_a_rebind_worker_parks_and_comes_back() -> None:
    """VMB-R35: it holds no lock meanwhile, and nothing is brought back into device memory."""

    async def scenario(world: World) -> None:
        vm, bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin(20 * MS), AtomicAdd(VPN, 0, 1))
        await world.sleep(10 * MS)
        await world.suspend()
        await world.sleep(1000)
        assert [*power_of(world).gate.parked] == [vm.vm.execs.rebind]
        assert (letters(bo), vm.vm.lock.holders(), queue.suspend_count) == ("r", [], 2)
        await world.resume()
        assert await job.wait() == [None, 0]
        assert letters(bo) == "v"

    assert run(scenario).counters["VMB-R35"] == 1


def test_a_vm_that_is_closed_is_not_brought_back() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        await submit(await lr_queue_of(vm), Spin(20 * MS))
        await world.sleep(10 * MS)
        await world.suspend()
        await world.sleep(1000)
        await vm.close()
        assert not power_of(world).gate.parked
        await world.resume()

    run(scenario)


def test_a_queue_with_two_reasons_to_be_off_stays_off_until_both_are_gone() -> None:
    """VMB-B37: the system wakes up, the preemption goes on."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        queue = await lr_queue_of(vm)
        job = await submit(queue, Spin(20 * MS))
        await world.sleep(10 * MS)
        queue.suspend()
        await queue.suspend_wait()
        await world.suspend()
        await world.resume()
        await world.sleep(50 * MS)
        assert (queue.suspend_count, queue.enabled, job.fence.signaled) == (1, False, False)
        queue.resume()
        assert await job.wait() == [None]

    run(scenario)


def test_nothing_is_sent_to_a_device_without_power() -> None:
    """A flush counts as done: there are no translations left."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        await (await submit(queue_of(vm), write(b"x"))).wait()
        inval = world.gpu().driver.tlb_inval
        await world.suspend()
        assert len(world.gpu().gpu.tlb) == 0
        await inval.reset()
        sent = world.gpu().gpu.tlb_inval.seqno
        await inval.wait(await inval.submit(vm.vm.asid, 0, 1))
        assert world.gpu().gpu.tlb_inval.seqno == sent
        await world.resume()
        await inval.wait(await inval.submit(vm.vm.asid, 0, 1))
        assert world.gpu().gpu.tlb_inval.seqno == sent + 1

    run(scenario)


# -- what the guards are good for ------------------------------------------------------------


def found(scenario: Any, seeds: int = 20) -> set[str]:
    """What goes wrong, in schedules without racing timers."""
    failures = [attempt(scenario, "random", seed).failure for seed in range(2, 2 * seeds, 2)]
    return {failure.rule for failure in failures if failure is not None}


async def night(world: World) -> None:
    """A long-running job, an exec, and a night."""
    vm, bo = await machine(world)
    lr_vm, lr_bo = await lr_machine(world)
    lr_queue = await lr_queue_of(lr_vm)

    async def job() -> None:
        await (await submit(queue_of(vm), AtomicAdd(VPN, 0, 1))).wait()

    lr_job = await submit(lr_queue, AtomicAdd(VPN, 0, 1), Spin(20 * MS), AtomicAdd(VPN, 0, 1))
    await world.sleep(10 * MS)
    async with world.nursery() as nursery:
        nursery.start_soon(job)
        await world.suspend()
        nursery.start_soon(job)
        await world.sleep(1000)
        await world.resume()
    assert await lr_job.wait() == [0, None, 1]
    assert (await bo.read(0), await lr_bo.read(0)) == (b"\2", b"\2")


def test_with_all_guards_the_night_is_quiet() -> None:
    assert not found(night, 20)


def test_an_exec_that_goes_on_loses_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R35; or its queue would be switched on."""
    monkeypatch.setattr(SuspendGate, "check_open", lambda self: None)
    assert found(night) & {"VMB-R35", "VMB-B37"}


def test_a_rebind_worker_that_goes_on_loses_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R35."""

    async def goes_on(_self: RebindWorker) -> bool:
        return False

    monkeypatch.setattr(RebindWorker, "parks", goes_on)
    assert "VMB-R35" in found(night)


def test_a_rebind_worker_that_sleeps_instead_of_parking_blocks_the_freezer(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R35: the suspend waits for the worker, and the worker for the end of the suspend."""

    async def sleeps(self: RebindWorker) -> bool:
        await self.execs.submission.device.power.gate.thawed()
        return False

    monkeypatch.setattr(RebindWorker, "parks", sleeps)
    assert "deadlock" in found(night)


def test_without_the_second_look_a_worker_parks_when_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R35: the list was worked off just before."""

    async def scenario(world: World) -> None:
        vm, _bo = await lr_machine(world)
        job = await submit(await lr_queue_of(vm), Spin(20 * MS), AtomicAdd(VPN, 0, 1))
        await world.sleep(10 * MS)
        gate = power_of(world).gate
        gate.close()

        async def night() -> None:
            await world.gpu().evict(PAGE)
            await gate.open()

        async with world.nursery() as nursery:
            nursery.start_soon(night)
        assert await job.wait() == [None, 0]

    assert not found(scenario, 20)
    monkeypatch.setattr(SuspendGate, "still_closed", lambda self: True)
    assert found(scenario, 20) == {"deadlock"}


def test_a_freezer_that_does_not_wait_loses_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R35: who is past the gate already makes memory resident behind its back."""


    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), "dma_fence")
        shared = await vm.create_bo(PAGE, external=True, placement="system")
        await vm.bind(ADDR + PAGE, shared)
        bo = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR, bo)
        await world.settle()

        async def hold() -> None:
            await shared.resv.lock()
            await world.sleep(1000)
            shared.resv.unlock()

        async with world.nursery() as nursery:
            nursery.start_soon(hold)
            await world.sleep(100)
            nursery.start_soon(submit, queue_of(vm), write(b"x"))
            await world.sleep(100)
            await world.suspend()
            await world.sleep(2000)
            await world.resume()
        await world.settle()
        assert await bo.read(0) == b"x"

    async def does_not_wait(_self: SuspendGate) -> None:
        return

    assert not found(scenario, 5)
    monkeypatch.setattr(SuspendGate, "frozen", does_not_wait)
    assert found(scenario, 5) == {"VMB-R35"}


def test_a_rebind_worker_that_is_not_waited_for_loses_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R35: it has passed the gate, and sleeps for a reservation while memory is moved out."""

    async def scenario(world: World) -> None:
        vm = await world.gpu().create_vm(world.process(), "lr")
        shared = await vm.create_bo(PAGE, external=True, placement="system")
        await vm.bind(ADDR + PAGE, shared)
        bo = await vm.create_bo(PAGE, external=True)
        await vm.bind(ADDR, bo)
        await world.settle()
        job = await submit(await vm.create_queue(), AtomicAdd(VPN, 0, 1), Spin(40 * MS), AtomicAdd(VPN, 0, 1))
        await world.sleep(10 * MS)

        async def hold() -> None:
            await shared.resv.lock()
            await world.sleep(20 * MS)
            shared.resv.unlock()

        async with world.nursery() as nursery:
            nursery.start_soon(hold)
            await world.sleep(100)
            await world.gpu().evict(PAGE)
            await world.sleep(MS)
            await world.suspend()
            await world.sleep(20 * MS)
            await world.resume()
        assert await job.wait() == [0, None, 1]

    async def users_only(self: Power) -> None:
        await self.gate.frozen()

    assert not found(scenario, 5)
    monkeypatch.setattr(Power, "freeze", users_only)
    assert found(scenario, 5) == {"VMB-R35"}


def test_a_switch_off_is_not_lost_on_a_context_that_is_just_going_on() -> None:
    """Whoever asked would wait for an answer for ever."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = queue_of(vm)
        job = await submit(queue, Spin(20 * MS))
        await world.sleep(MS)
        context, said = queue.context, list[str]()
        context.on_off_ack = lambda: said.append("is off")

        async def on() -> None:
            said.append("on")
            await context.switch_on()

        async def off() -> None:
            await context.request_off()
            said.append("off")

        async with world.nursery() as nursery:
            nursery.start_soon(on)
            nursery.start_soon(off)
        await world.sleep(MS)
        assert said == ["on", "off", "is off"] or said[0] == "off"
        orders.add(said[0])
        context.on_off_ack = queue.off_acked
        await context.switch_on()
        await job.wait()

    orders: set[str] = set()
    list(calm(scenario, 20))
    assert orders == {"on", "off"}


def test_a_sleep_that_counts_as_a_reset_bans_long_running_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-B37, one half: started and incomplete."""
    monkeypatch.setattr(GtReset, "is_excused", lambda self: False)
    assert found(night, 5)


def test_holders_that_are_not_counted_resume_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-B37, the other half: whoever lets go first switches it on, on memory that was moved."""
    real = ExecQueue.resume

    def resume(self: ExecQueue) -> None:
        self.suspend_count = min(self.suspend_count, 1)
        real(self)

    async def scenario(world: World) -> None:
        vm, bo = await lr_machine(world)
        job = await submit(await lr_queue_of(vm), *[AtomicAdd(VPN, 0, 1)] * 12)
        await world.suspend()
        await world.resume()
        assert await job.wait() == [*range(12)]
        assert await bo.read(0) == b"\14"

    assert not found(scenario, 20)
    monkeypatch.setattr(ExecQueue, "resume", resume)
    assert found(scenario, 20)
