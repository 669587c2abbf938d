"""Cases E1 to E5 of the catalogue igt_system_allocator: more memory than VRAM, and many faults in one allocation.

Scaled down: large chunks have four pages.  8M are two of them, for several processes one, and the VRAM, or the share
of each process, is four times that, so five allocations are more than it holds.  64M are four large chunks under the
default schedule and two under random ones; eight threads or children are four.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cases import case
from igt_bench import PAGE, Scenario, hold
from system_allocator_bench import (
    DATA,
    ENGINES,
    SMALL,
    SUITE,
    Buffer,
    Gate,
    Memory,
    SystemAllocator,
    store_dword,
    value_of,
)

from svm_actors.world import Process, World

LARGE = SMALL.large * PAGE
VERIFIERS = 4
Verify = Callable[[World, Process, list[int]], Coroutine[Any, Any, None]]


class Many:
    """P-MANY: allocations that one thread touches and verifies."""

    def __init__(self, bench: SystemAllocator, length: int, stride: int) -> None:
        self.bench = bench
        self.length = length
        self.stride = stride
        self.buffers: list[Buffer] = []
        self.fence = 0

    async def touch(self, count: int) -> None:
        """Allocate and have the GPU store, all of it in order on one queue; wait for the last of each allocation."""
        process = self.bench.process
        self.fence = await process.mmap(PAGE, shared=True)
        for number in range(count):
            buffer = await self.bench.memory.malloc(self.length, LARGE)
            self.buffers.append(buffer)
            places = range(buffer.addr, buffer.addr + self.length, self.stride)
            for addr in places:
                batch = await self.bench.write_batch(addr, store_dword(addr + DATA, self.value(addr)))
                last = addr == places[-1]
                await self.bench.submit(addr, batch, self.fence if last else None, number + 1)
            await self.bench.done(self.fence, number + 1)

    @staticmethod
    def value(addr: int) -> int:
        """A value for each place."""
        return value_of(addr // PAGE % 1_000_003)

    def places(self) -> list[int]:
        """Everything that was stored to."""
        return [
            addr for buffer in self.buffers for addr in range(buffer.addr, buffer.addr + self.length, self.stride)
        ]

    async def free(self) -> None:
        """All of it."""
        for buffer in self.buffers:
            await self.bench.memory.free(buffer)
        await self.bench.process.munmap(self.fence, PAGE)


async def verify(_world: World, process: Process, places: list[int]) -> None:
    """The CPU reads every value."""
    for addr in places:
        assert await process.read(addr + DATA, 4) == Many.value(addr).to_bytes(4, "little")


@case(SUITE, "E1", "evict-malloc")
def test_evict_malloc() -> None:
    length = 2 * LARGE
    vram = 4 * length

    async def scenario(world: World) -> None:
        bench = await SystemAllocator.start(world)
        many = Many(bench, length, length // 4)
        await many.touch(-(-9 * vram // (8 * length)))
        resident = [addr for addr in many.places() if bench.place(addr) == "vram"]
        assert 0 < len(resident) < len(many.places())
        await verify(world, bench.process, many.places())
        await many.free()

    for run in hold(scenario, vram_pages=vram // PAGE):
        assert run.counters["evict"] >= 1


@case(SUITE, "E2", "processes-evict-malloc")
def test_processes_evict_malloc() -> None:
    length = LARGE
    share = 4 * length

    async def scenario(world: World) -> None:
        parent = world.process()
        touched = Gate(world, len(ENGINES), "touched")

        async def child() -> None:
            process = await parent.fork()
            bench = await SystemAllocator.start(world, process=process, memory=Memory(world, process))
            many = Many(bench, length, length // 2)
            await many.touch(-(-9 * share // (8 * length)))
            await touched.wait()
            await verify(world, process, many.places())
            await many.free()
            await bench.vm.close()
            await process.exit()

        async with world.nursery() as nursery:
            for name in ENGINES:
                nursery.start_soon(child, name=name)

    for run in hold(scenario, vram_pages=len(ENGINES) * share // PAGE):
        assert run.counters["evict"] >= 1


# -- one allocation, faulted everywhere ------------------------------------------------------------------


async def by_one(world: World, process: Process, places: list[int]) -> None:
    await verify(world, process, places)


async def by_threads(world: World, process: Process, places: list[int]) -> None:
    """Thread k: pages k, k + 4, ..."""
    async with world.nursery() as nursery:
        for number in range(VERIFIERS):
            nursery.start_soon(verify, world, process, places[number::VERIFIERS])


async def by_children(world: World, process: Process, places: list[int]) -> None:
    """The same in forked children."""

    async def child(number: int) -> None:
        forked = await process.fork()
        await verify(world, forked, places[number::VERIFIERS])
        await forked.exit()

    async with world.nursery() as nursery:
        for number in range(VERIFIERS):
            nursery.start_soon(child, number)


@case(SUITE, "E3", "fault-benchmark")
@case(SUITE, "E4", "fault-threads-benchmark")
@case(SUITE, "E5", "fault-process-benchmark")
@pytest.mark.parametrize("verified", [by_one, by_threads, by_children])
def test_fault_benchmark(verified: Verify) -> None:
    def benchmark(length: int, *, undisturbed: bool = False) -> Scenario:
        async def scenario(world: World) -> None:
            bench = await SystemAllocator.start(world)
            many = Many(bench, length, PAGE)
            await many.touch(1)
            # The CPU is writing the next batch meanwhile, and whoever loses that race too often stays in RAM.
            assert not undisturbed or {bench.place(addr) for addr in many.places()} == {"vram"}
            await verified(world, bench.process, many.places())
            await many.free()

        return scenario

    hold(benchmark(4 * LARGE, undisturbed=True), 0)
    hold(benchmark(2 * LARGE))
