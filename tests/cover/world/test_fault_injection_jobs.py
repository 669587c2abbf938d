"""Injected faults of jobs, flushes and waits: hangs, late ends, acknowledgements that are lost or late, signals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bind_injection_bench import PAGE, SECOND, Planned, at, every, load, machine, run, store, submitted

from svm_actors.dma_buf.stub import dma_fence_get_stub
from svm_actors.engine.errors import ECANCELED, EINTR, ERESTARTSYS, ETIME
from svm_actors.engine.signals import flush_signals
from svm_actors.gpu.program import Spin
from svm_actors.world import BindVm, UserSyncobj, World
from svm_actors.xe.exec import exec_ioctl
from svm_actors.xe.sync import Sync
from svm_actors.xe.tlb_inval import TIMEOUT_NS
from svm_actors.xe.wait_user_fence import wait_user_fence

# -- jobs ---------------------------------------------------------------------------------------


def test_a_job_that_hangs_is_found_by_the_timer_and_costs_its_queue() -> None:
    """-ETIME for it, -ECANCELED for the one behind it; nothing of it was done, and a new queue works."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        queue = await vm.create_queue()
        Planned(world, hang=0)
        jobs = [await submitted(vm, store(0, data), queue=queue) for data in (b"x", b"y")]
        for job in jobs:
            await job.fence.wait()
        assert [type(job.fence.error) for job in jobs] == [ETIME, ECANCELED]
        assert world.engine.now >= 5 * SECOND
        assert queue.dead
        assert await (await submitted(vm, load(0))).wait() == [b"\0"]

    assert all(result.counters["exec.banned"] == 1 for result in every(scenario))


def test_a_long_running_job_does_not_hang_as_nothing_would_end_it() -> None:
    async def scenario(world: World) -> None:
        vm, _bo = await machine(world, mode="lr")
        faults = Planned(world, hang=0, late=0)
        assert await (await submitted(vm, store(0, b"x"), load(0))).wait() == [None, b"x"]
        assert faults.asked == {"hang": 0, "late": 0}

    run(scenario)


def test_a_job_that_is_late_races_its_timeout() -> None:
    """FEN-R21, FEN-R29: it ends well, or with -ETIME; what it has stored is there either way."""
    ends = set()

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        Planned(world, late=0)
        job = await submitted(vm, store(0, b"x"))
        await job.fence.wait()
        ends.add(type(job.fence.error).__name__)
        assert job.batch.unwell
        assert await bo.read(0) == b"x"

    every(scenario, 40, strategy="pct")
    assert ends == {"NoneType", "ETIME"}


# -- switched off -------------------------------------------------------------------------------


def test_a_context_whose_answer_is_lost_costs_its_vm() -> None:
    """Long-running: -ETIME after 5 s, a GT reset throws it off, and the rebind worker gives the VM up (section 9)."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world, mode="lr")
        queue = await vm.create_queue()
        job = await submitted(vm, store(0, b"x"), Spin(SECOND), queue=queue)
        await world.sleep(SECOND // 2)
        Planned(world, ack_lost=0)
        await world.gpu().evict(2 * PAGE)
        await job.fence.wait()
        await world.settle()
        assert (queue.banned, vm.vm.banned, job.batch.fence.error is not None) == (True, True, True)
        assert await bo.read(0) == b"x"

    results = every(scenario)
    assert all(result.counters["exec.suspend_timeout"] == result.counters["exec.gt_reset"] == 1 for result in results)


def test_an_answer_that_is_late_is_taken_or_past() -> None:
    """FEN-R28, FEN-R27: in time, or after the driver has given the context up; what it has stored is kept."""
    ends = set()

    async def scenario(world: World) -> None:
        vm, bo = await machine(world, mode="lr")
        queue = await vm.create_queue()
        job = await submitted(vm, store(0, b"x"), Spin(SECOND), queue=queue)
        await world.sleep(SECOND // 2)
        Planned(world, ack_late=0)
        await world.gpu().evict(2 * PAGE)
        await job.fence.wait()
        await world.settle()
        ends.add(queue.banned)
        assert vm.vm.banned == queue.banned
        assert await bo.read(0) == b"x"

    every(scenario, 20, strategy="pct")
    assert ends == {False, True}


# -- flushes ------------------------------------------------------------------------------------


async def flushed(world: World, *starts: int) -> list[Any]:
    """Flush some pages, one after the other; the errors of the fences."""
    client = world.gpu().driver.tlb_inval
    fences = [await client.submit(1, start, start + 1) for start in starts]
    for fence in fences:
        await client.wait(fence)
    return [fence.error for fence in fences]


def test_a_lost_acknowledgement_ends_with_the_timeout() -> None:
    """-ETIME after 250 ms (vm_bind 13)."""

    async def scenario(world: World) -> None:
        Planned(world, tlb_lost=0)
        errors = await flushed(world, 0)
        assert isinstance(errors[0], ETIME)
        assert world.engine.now == TIMEOUT_NS
        assert await flushed(world, 1) == [None]

    assert all(result.counters["tlb.timeout"] == 1 for result in every(scenario))


def test_a_lost_acknowledgement_is_made_good_by_the_next_one() -> None:
    """VMB-R27: one number completes all before it."""

    async def scenario(world: World) -> None:
        Planned(world, tlb_lost=0)
        assert await flushed(world, 0, 1) == [None, None]
        assert world.engine.now == 0

    assert all(result.counters["VMB-R27"] == 1 for result in every(scenario))


def test_a_late_acknowledgement_races_the_timer() -> None:
    """VMB-R26: completed once, with an error or without."""
    ends = set()

    async def scenario(world: World) -> None:
        Planned(world, tlb_late=0)
        errors = await flushed(world, 0)
        ends.add(type(errors[0]).__name__)
        await world.settle()
        client = world.gpu().driver.tlb_inval
        assert (client.stats.completed, client.pending, client.seqno_recv) == (1, {}, 1)

    every(scenario, 20)
    assert ends == {"NoneType", "ETIME"}


def test_an_unbind_whose_flush_times_out_is_complete_all_the_same() -> None:
    """The error is advisory: out-fences signal, the memory goes back, and nothing is in reach."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        Planned(world, tlb_lost=0)
        out = world.syncobj()
        await vm.unbind(at(0), 2 * PAGE, syncs=[out.sync_out()])
        await out.wait()
        assert world.engine.now == TIMEOUT_NS
        assert not vm.vm.vmas()

    results = every(scenario, faults=("tlb-lost",), most_faults=0)
    assert all(result.counters["tlb.timeout"] == 1 for result in results)


def test_without_such_faults_no_timer_is_armed() -> None:
    async def scenario(world: World) -> None:
        assert world.gpu().driver.tlb_inval.timeout is None

    run(scenario, faults=("memory",))


# -- signals ------------------------------------------------------------------------------------

Wait = Callable[[World, BindVm, Any, UserSyncobj], Awaitable[Any]]


async def wait_for_syncobj(_world: World, _vm: BindVm, _bo: Any, late: UserSyncobj) -> None:
    await late.wait()


async def wait_for_memory(world: World, vm: BindVm, _bo: Any, _late: UserSyncobj) -> None:
    process = world.processes[0]
    addr = await process.mmap(PAGE)
    fence = vm.user_fence(process, addr, 1)
    busy = world.spawn(write_later(world, vm, fence), "writer")
    await vm.wait_user_fence(process, addr, "eq", 1, timeout=SECOND)
    await world.engine.join(busy)


async def write_later(world: World, vm: BindVm, fence: Any) -> None:
    await world.sleep(20)
    await vm.prefetch(at(0), PAGE, syncs=[Sync(user_fence=fence, signal=True)])


async def read_object(_world: World, _vm: BindVm, bo: Any, _late: UserSyncobj) -> None:
    assert await bo.read(0) == b"\0"


async def submit(_world: World, vm: BindVm, _bo: Any, _late: UserSyncobj) -> None:
    await (await submitted(vm, load(0))).wait()


@pytest.mark.parametrize("wait", [wait_for_syncobj, wait_for_memory, read_object, submit])
def test_a_wait_that_a_signal_ends_is_made_again(wait: Wait) -> None:
    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        late = world.syncobj()
        Planned(world, signal=0)
        busy = world.spawn(hold_up(world, bo, late), "holder")
        await world.sleep(1)
        await wait(world, vm, bo, late)
        await world.engine.join(busy)

    assert all(result.counters["syscall.interrupted"] == 1 for result in every(scenario))


async def hold_up(world: World, bo: Any, late: UserSyncobj) -> None:
    """For a moment the reservation is taken, and the syncobj without a fence."""
    await bo.resv.lock()
    await world.sleep(10)
    bo.resv.unlock()
    late.replace_fence(dma_fence_get_stub(world.engine))


def test_what_the_calls_themselves_answer() -> None:
    """-ERESTARTSYS from a wait for memory, -EINTR from an exec that sleeps for a reservation; nothing was done."""

    async def scenario(world: World) -> None:
        vm, bo = await machine(world)
        queue = await vm.create_queue()
        process = world.processes[0]
        addr = await process.mmap(PAGE)
        Planned(world, signal=(0, 1))
        with pytest.raises(ERESTARTSYS):
            await wait_user_fence(vm.vm, process, addr, "eq", 1, timeout=-1)
        flush_signals(world.engine)
        busy = world.spawn(hold_up(world, bo, world.syncobj()), "holder")
        await world.sleep(1)
        with pytest.raises(EINTR):
            await exec_ioctl(queue, (load(0),))
        flush_signals(world.engine)
        await world.engine.join(busy)
        assert (queue.in_flight, queue.last_fence) == (0, None)

    run(scenario)


def test_the_time_left_is_counted_from_the_first_call() -> None:
    """A relative timeout is not begun anew by a signal."""

    async def scenario(world: World) -> None:
        vm, _bo = await machine(world)
        process = world.processes[0]
        addr = await process.mmap(PAGE)
        Planned(world, signal=1)
        begin = world.engine.now
        nudge = world.spawn(wake(world, vm), "nudge")
        with pytest.raises(ETIME):
            await vm.wait_user_fence(process, addr, "eq", 1, timeout=100)
        assert world.engine.now == begin + 100
        await world.engine.join(nudge)

    assert run(scenario).counters["syscall.interrupted"] == 1


async def wake(world: World, vm: BindVm) -> None:
    """Somebody wakes the waiter, for nothing, so that it goes to sleep a second time."""
    await world.sleep(60)
    vm.vm.ufence_wq.wake_up()
