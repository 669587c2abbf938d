"""Cases P1, T1 to T3 and F1 of the catalogue igt_system_allocator: prefetch, one buffer for all, bad address.

Scaled down: three execs for each thread, records of a quarter of a page, and a stride of two whole pages where
upstream's is ten: at every step all threads hit the same page.
"""

from __future__ import annotations

import pytest
from cases import case
from igt_bench import PAGE, Scenario, hold
from system_allocator_bench import (
    DATA,
    ENGINES,
    FILL,
    FULL,
    SMALL,
    SUITE,
    Gate,
    Memory,
    Scale,
    SystemAllocator,
    store_dword,
    value_of,
)

from svm_actors.engine.errors import EIO, ETIME
from svm_actors.gpu.program import GpuFault
from svm_actors.world import World

EXECS = 3
RECORD = PAGE // 4
STRIDE = 2 * PAGE


@case(SUITE, "P1", "prefetch-benchmark")
def test_prefetch_benchmark() -> None:
    """64M are four large chunks."""

    def benchmark(scale: Scale, rounds: int) -> Scenario:
        async def scenario(world: World) -> None:
            bench = await SystemAllocator.start(world, scale)
            length = 4 * scale.large * PAGE
            buffer = await bench.memory.malloc(length, scale.large * PAGE)
            fence = await bench.process.mmap(PAGE, shared=True)
            await bench.prefetch(fence, PAGE, "system")
            pages = range(buffer.addr, buffer.addr + length, PAGE)
            for number in range(rounds):
                await bench.process.write(buffer.addr, bytes([FILL]) * length)
                assert {bench.place(page) for page in pages} == {"none"}
                value, addr = value_of(number), buffer.addr + number * RECORD
                batch = await bench.write_batch(addr, store_dword(addr + DATA, value))
                await bench.prefetch(buffer.addr, length)
                assert {bench.place(page) for page in pages} == {"vram"}
                faults = bench.faults()
                await bench.exec(addr, batch, fence, number + 1)
                assert bench.faults() == faults
                assert await bench.dword(addr + DATA) == value
            assert world.engine.counters["migrate.to_vram"] == 4 * rounds

        return scenario

    hold(benchmark(FULL, 1), 0)
    hold(benchmark(SMALL, 2))


# -- one buffer ------------------------------------------------------------------------------------


async def share(world: World, *, one_vm: bool, in_step: bool = False) -> None:
    """All threads on one buffer, with one VM or one each."""
    process = world.process()
    memory = Memory(world, process)
    length = STRIDE * EXECS
    buffer = await memory.malloc(length, SMALL.large * PAGE)
    await process.write(buffer.addr, bytes([FILL]) * length)
    shared = await SystemAllocator.start(world, process=process, memory=memory, queues=0) if one_vm else None
    go, barrier = Gate(world, len(ENGINES), "go"), Gate(world, len(ENGINES), "step")

    async def thread(number: int) -> None:
        if shared is not None:
            bench = shared.thread()
            await bench.create_queues(1)
        else:
            bench = await SystemAllocator.start(world, process=process, memory=memory)
        fence = await process.mmap(PAGE, shared=True)
        await go.wait()
        for index in range(EXECS):
            addr, value = buffer.addr + index * STRIDE + number * RECORD, value_of(number, index)
            batch = await bench.write_batch(addr, store_dword(addr + DATA, value))
            if in_step:
                await barrier.wait()
            execution = await bench.submit(addr, batch, fence, index + 1)
            if in_step:
                await barrier.wait()
            await bench.done(fence, index + 1)
            assert execution.batch.results[-1] is None
            assert await bench.dword(addr + DATA) == value
        if not one_vm:
            await bench.vm.close()

    async with world.nursery() as nursery:
        for number in range(len(ENGINES)):
            nursery.start_soon(thread, number)
    for index in range(EXECS):
        for number in range(len(ENGINES)):
            addr = buffer.addr + index * STRIDE + number * RECORD + DATA
            assert await process.read(addr, 4) == value_of(number, index).to_bytes(4, "little")
    if shared is not None:
        check_ranges(shared, buffer.addr, length)


def check_ranges(bench: SystemAllocator, addr: int, length: int) -> None:
    """However many faulted on a page, it has one range."""
    pages = [first + page for first, npages in bench.ranges(addr, length) for page in range(npages)]
    assert len(pages) == len(set(pages))
    assert {index * STRIDE // PAGE for index in range(EXECS)} <= set(pages)


@case(SUITE, "T1", "threads-shared-vm-shared-alloc-many-stride-malloc")
def test_threads_shared_vm_shared_alloc() -> None:
    async def scenario(world: World) -> None:
        await share(world, one_vm=True)

    assert any("gpu.fault.valid" in run.counters for run in hold(scenario)), "two faults on one page never met"


@case(SUITE, "T2", "threads-shared-alloc-many-stride-malloc")
def test_threads_shared_alloc() -> None:
    async def scenario(world: World) -> None:
        await share(world, one_vm=False)

    hold(scenario)


@case(SUITE, "T3", "threads-shared-alloc-many-stride-malloc-sync")
def test_threads_shared_alloc_sync() -> None:
    async def scenario(world: World) -> None:
        await share(world, one_vm=False, in_step=True)

    hold(scenario)


# -- nothing there -----------------------------------------------------------------------------------


@case(SUITE, "F1", "fault")
@pytest.mark.parametrize("named", [True, False], ids=["queue", "no-queue"])
def test_fault(named: bool) -> None:
    """A waiter that names the queue learns that it is dead, one that does not waits in vain."""

    async def scenario(world: World) -> None:
        bench = await SystemAllocator.start(world, queues=4)
        length = SMALL.large * PAGE
        buffer = await bench.memory.mmap(length, length)
        await bench.process.write(buffer.addr, bytes([FILL]) * length)
        fence = await bench.process.mmap(PAGE, shared=True)
        batch = await bench.write_batch(buffer.addr, store_dword(buffer.addr + DATA, value_of(0)))
        execution = await bench.submit(2 * buffer.addr, batch, fence, 1)
        queue = bench.queues[0]
        options = {"queue": queue} if named else {}
        with pytest.raises(EIO if named else ETIME):
            await bench.vm.wait_user_fence(bench.process, fence, "eq", 1, timeout=250_000_000, **options)
        assert queue.dead
        assert not any(other.dead for other in bench.queues[1:])
        assert isinstance(execution.batch.results[-1], GpuFault)
        assert await bench.process.read(fence, 8) == bytes(8)
        rest = bytes([FILL]) * (length - len(batch))
        assert await bench.process.read(buffer.addr, length) == batch + rest

    hold(scenario)
