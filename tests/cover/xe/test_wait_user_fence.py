"""Waiting for a user fence: what wakes a waiter, when it gives up, and what the ring does for an exec."""

from __future__ import annotations

from typing import Any

import pytest
from bind_bench import PAGE, at, start_bind
from svm_bench import attempt, every, run

from svm_actors.engine.errors import ECANCELED, EFAULT, EINVAL, EIO, ENOENT, ETIME, KernelError
from svm_actors.gpu.program import GpuFault, Spin, Store
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.sync import Sync
from svm_actors.xe.wait_user_fence import UfenceQueue, WaitFlag

NEVER = -1


async def bound_page(world: World, mode: str = "lr") -> tuple[Process, BindVm, int, ExecQueue]:
    """A page of the process that the GPU finds at the same address."""
    process, vm = await start_bind(world, mode)
    addr = await process.mmap(PAGE, shared=True)
    bound = await process.mmap(PAGE)
    await vm.bind_userptr(addr, addr, PAGE, syncs=[Sync(user_fence=vm.user_fence(process, bound, 1), signal=True)])
    await vm.wait_user_fence(process, bound, "eq", 1, timeout=NEVER)
    return process, vm, addr, await vm.create_queue()


def fenced(vm: BindVm, process: Process, addr: int, value: int) -> list[Sync]:
    """A user fence as the out-fence of an exec."""
    return [Sync(user_fence=vm.user_fence(process, addr, value), signal=True)]


# -- the call ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "held"),
    [("eq", "00100"), ("neq", "11011"), ("gt", "11000"), ("gte", "11100"), ("lt", "00011"), ("lte", "00111")],
)
def test_each_operation_compares_what_is_found_with_the_value(op: str, held: str) -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr = await process.mmap(PAGE)
        await process.write(addr, b"\x12\xf0")
        for value in (0, 0xF011, 0xF012, 0xF013, 1 << 63):
            try:
                await vm.wait_user_fence(process, addr, op, value, timeout=0)
                answers.append(True)
            except ETIME:
                answers.append(False)
        await vm.wait_user_fence(process, addr, "eq", 0x7012, mask=0x0FFF, timeout=0)

    answers: list[bool] = []
    run(scenario)
    assert answers == [found == "1" for found in held]


def test_arguments_are_checked_before_anything_is_read() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_bind(world, "lr")
        other = await world.gpu().create_vm(process, "lr")
        gone = await vm.create_queue()
        await gone.destroy()
        for error, options in (
            (EINVAL, {"flags": 2}),
            (EINVAL, {"flags": WaitFlag.ABSTIME | 4}),
            (EINVAL, {"op": "between"}),
            (EINVAL, {"addr": 4}),
            (ENOENT, {"queue": gone}),
            (ENOENT, {"queue": await other.create_queue()}),
            (EFAULT, {}),
        ):
            arguments: dict[str, Any] = {"memory": process, "addr": 0, "op": "eq", "value": 0, **options}
            with pytest.raises(error):
                await vm.wait_user_fence(**arguments)

    run(scenario)


def test_deadlines() -> None:
    """Relative ones answer what is left, absolute ones stay as they are; a look is enough when it holds already."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        engine, addr = world.engine, await process.mmap(PAGE)
        await world.sleep(1000)
        for timeout, flags, answer in ((700, 0, 700), (0, 0, 0), (NEVER, 0, NEVER), (5, 1, 5), (2000, 1, 2000)):
            assert await vm.wait_user_fence(process, addr, "eq", 0, timeout=timeout, flags=flags) == answer
        assert engine.now == 1000
        for timeout, flags, until in ((700, 0, 1700), (0, 0, 1700), (2000, 1, 2000), (2000, 1, 2000), (5, 1, 2000)):
            with pytest.raises(ETIME):
                await vm.wait_user_fence(process, addr, "eq", 1, timeout=timeout, flags=flags)
            assert engine.now == until

    run(scenario)


def test_what_is_left_of_the_time() -> None:
    async def scenario(world: World) -> None:
        process, vm, addr, queue = await bound_page(world)
        await vm.submit(queue, [Spin(300)], syncs=fenced(vm, process, addr, 9))
        left.append(await vm.wait_user_fence(process, addr, "eq", 9, timeout=1000))

    left: list[int] = []
    run(scenario)
    assert left == [700]


def test_a_store_of_the_cpu_wakes_nobody() -> None:
    """It is found at the deadline, which is in time."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr = await process.mmap(PAGE)

        async def store() -> None:
            await world.sleep(10)
            await process.write(addr, b"\1")

        async with world.nursery() as nursery:
            nursery.start_soon(store)
            assert await vm.wait_user_fence(process, addr, "eq", 1, timeout=500) == 0
            assert world.engine.now == 500

    run(scenario)


# -- who wakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dma_fence", "lr"])
def test_the_ring_stores_behind_the_program(mode: str) -> None:
    """Whoever sees the value sees what the program stored."""

    async def scenario(world: World) -> None:
        process, vm, addr, queue = await bound_page(world, mode)
        for value in (1, 2):
            program = [Store(addr // PAGE, 64, bytes([value]))]
            execution = await vm.submit(queue, program, syncs=fenced(vm, process, addr, value))
            await vm.wait_user_fence(process, addr, "gte", value, timeout=NEVER, queue=queue)
            assert await process.read(addr + 64) == bytes([value])
            assert await execution.wait() == [None]

    for _run in every(scenario, 30):
        pass


def test_a_value_that_comes_between_the_look_and_the_sleep_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up while nobody sleeps yet; without the mark the waiter sleeps for ever."""

    class Late:
        """Gets its value, and the waiter its wake-up, right after it was read for the first time."""

        def __init__(self, queue: UfenceQueue) -> None:
            self.queue = queue
            self.value = bytes(8)

        async def read(self, addr: int, length: int = 1) -> bytes:
            found, self.value = self.value, (1).to_bytes(8, "little")
            self.queue.wake_up()
            return found

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        await vm.wait_user_fence(Late(vm.vm.ufence_wq), 0, "eq", 1, timeout=NEVER)

    run(scenario)
    mark = UfenceQueue.wake_up
    monkeypatch.setattr(UfenceQueue, "wake_up", lambda self: mark(self) if self.parked else None)
    failure = attempt(scenario).failure
    assert failure is not None
    assert failure.kind == "deadlock"


def test_the_death_of_the_queue_ends_the_wait() -> None:
    """A store to where nothing is mapped is refused, so the queue dies; -EIO for who named it."""

    async def scenario(world: World) -> None:
        process, vm, addr, queue = await bound_page(world)
        await vm.submit(queue, [Store(0x1FF, 0, b"\1")], syncs=fenced(vm, process, addr, 1))
        with pytest.raises(EIO):
            await vm.wait_user_fence(process, addr, "eq", 1, timeout=NEVER, queue=queue)
        await vm.wait_user_fence(process, addr, "eq", 0, queue=queue)
        assert queue.dead

    for _run in every(scenario, 30):
        pass


@pytest.mark.parametrize("how", ["kill", "mark_banned"])
def test_a_queue_that_is_ended_from_outside_wakes_its_waiters(how: str) -> None:
    async def scenario(world: World) -> None:
        process, vm, addr, queue = await bound_page(world)

        async def end() -> None:
            await world.sleep(50)
            getattr(queue, how)()

        async with world.nursery() as nursery:
            nursery.start_soon(end)
            with pytest.raises(EIO):
                await vm.wait_user_fence(process, addr, "eq", 1, timeout=NEVER, queue=queue)

    for _run in every(scenario, 10):
        pass


# -- the fence of an exec -----------------------------------------------------------------------------


def test_a_fence_of_an_exec_is_at_an_address_of_the_gpu() -> None:
    """The process has nothing there, and need not."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        await vm.bind(at(0), bo)
        queue = await vm.create_queue()
        execution = await vm.submit(queue, [Store(at(0) // PAGE, 64, b"\1")], syncs=fenced(vm, process, at(0) + 8, 77))
        await vm.wait_user_fence(bo, 8, "eq", 77, timeout=NEVER)
        await execution.fence.wait()
        assert await bo.read(8, 8) == (77).to_bytes(8, "little")

    for _run in every(scenario, 20):
        pass


def test_a_fence_where_nothing_is_mapped_is_a_fault() -> None:
    async def scenario(world: World) -> None:
        process, vm, addr, queue = await bound_page(world)
        program = [Store(addr // PAGE, 64, b"\1")]
        execution = await vm.submit(queue, program, syncs=fenced(vm, process, 0x1FF000, 1))
        with pytest.raises(KernelError):
            await execution.wait()
        assert isinstance(execution.batch.results[-1], GpuFault)
        assert queue.dead
        with pytest.raises(ECANCELED):
            await vm.submit(queue, program)

    run(scenario)


def test_one_user_fence_for_each_call_and_none_without_a_program() -> None:
    async def scenario(world: World) -> None:
        process, vm, addr, queue = await bound_page(world)
        two = [*fenced(vm, process, addr, 1), *fenced(vm, process, addr + 8, 1)]
        with pytest.raises(EINVAL):
            await vm.submit(queue, [Store(addr // PAGE, 64, b"\1")], syncs=two)
        with pytest.raises(EINVAL):
            await vm.unbind(addr, PAGE, syncs=two)
        with pytest.raises(EINVAL):
            await vm.submit(queue, [], syncs=two[:1])

    run(scenario)
