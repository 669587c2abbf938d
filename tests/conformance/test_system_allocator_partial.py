"""Cases R1 to R10 of the catalogue igt_system_allocator: half of one 2M range is unmapped, or mapped anew."""

from __future__ import annotations

import attrs
import pytest
from cases import case
from igt_bench import PAGE, Scenario, hold
from system_allocator_bench import (
    DATA,
    FILL,
    FULL,
    RECORD,
    SMALL,
    SUITE,
    Scale,
    SystemAllocator,
    atomic_inc,
    store_dword,
    value_of,
)

from svm_actors.gpu.program import GpuFault
from svm_actors.world import World

NAMES = (
    "partial-munmap-cpu-fault", "partial-munmap-no-cpu-fault", "partial-remap-cpu-fault", "partial-remap-no-cpu-fault",
    "partial-middle-munmap-cpu-fault", "partial-middle-munmap-no-cpu-fault", "partial-middle-remap-cpu-fault",
    "partial-middle-remap-no-cpu-fault", "partial-atomic-munmap-cpu-fault", "partial-atomic-munmap-no-cpu-fault",
)  # fmt: skip


@attrs.frozen
class Partial:
    """One case; its name says everything."""

    name: str
    scale: Scale

    def has(self, word: str) -> bool:
        """The word is in the name."""
        return word in self.name.removeprefix("partial-").split("-")

    @property
    def hole(self) -> int:
        """U: where the part that goes begins."""
        return self.scale.large // 4 * PAGE if self.has("middle") else 0

    @property
    def half(self) -> int:
        """1M, the length of what goes."""
        return self.scale.large // 2 * PAGE


class Procedure:
    """P-PART once."""

    def __init__(self, bench: SystemAllocator, case_: Partial) -> None:
        self.bench = bench
        self.case = case_
        self.addr = 0
        self.fence = 0
        self.batches: list[bytes] = []

    async def run(self) -> None:
        bench, case_ = self.bench, self.case
        length = case_.scale.large * PAGE
        self.addr = (await bench.memory.mmap(length, length)).addr
        await bench.process.write(self.addr, bytes([FILL]) * length)
        self.fence = await bench.process.mmap(PAGE, shared=True)
        await self.write_batches()
        await self.exec(0, self.fence)
        assert bench.ranges(self.addr, length) == [(0, case_.scale.large)]
        assert bench.place(self.addr) == "vram"
        if not case_.has("no"):
            await self.check(0)
        await self.take_away()
        await self.exec(1, self.hole if case_.has("remap") else self.fence)
        await self.check(1)
        await self.check_rest(length)

    @property
    def hole(self) -> int:
        """Address of what goes."""
        return self.addr + self.case.hole

    def record(self, index: int) -> int:
        """One at the beginning, one in what survives."""
        return self.hole + self.case.half + RECORD if index else self.addr

    async def write_batches(self) -> None:
        """Step 1."""
        for index in range(2):
            target = self.record(index) + DATA
            if self.case.has("atomic"):
                await self.bench.process.write(target, (value_of(index) - 1).to_bytes(4, "little"))
                command = atomic_inc(target)
            else:
                command = store_dword(target, value_of(index))
            self.batches.append(await self.bench.write_batch(self.record(index), command))

    async def exec(self, index: int, fence: int) -> None:
        """Steps 2 and 4."""
        await self.bench.exec(self.record(index), self.batches[index], fence, value_of(7, index))

    async def check(self, index: int) -> None:
        """The CPU reads what was stored."""
        assert await self.bench.dword(self.record(index) + DATA) == value_of(index)

    async def take_away(self) -> None:
        """Step 3: no entry leads there any more when munmap has returned."""
        bench, process = self.bench, self.bench.process
        await process.munmap(self.hole, self.case.half)
        assert {bench.place(page) for page in range(self.hole, self.hole + self.case.half, PAGE)} == {"none"}
        if self.case.has("remap"):
            await process.mmap(self.case.half, addr=self.hole, fixed=True)
            await process.mlock(self.hole, self.case.half)

    async def check_rest(self, length: int) -> None:
        """The range is gone as a whole, a smaller one has what was used; new memory has nothing old, a hole nothing."""
        bench, process, case_ = self.bench, self.bench.process, self.case
        for first, npages in bench.ranges(self.addr, length):
            assert npages < case_.scale.large
            assert case_.has("remap") or not self._overlaps_hole(first, npages)
        if case_.has("remap"):
            fence = value_of(7, 1).to_bytes(8, "little")
            assert await process.read(self.hole, case_.half) == fence + bytes(case_.half - 8)
        else:
            assert isinstance(await bench.vm.load(self.hole), GpuFault)
        if case_.has("middle"):
            await self.check(0)
        await process.munmap(self.addr, length)

    def _overlaps_hole(self, first: int, npages: int) -> bool:
        start, end = self.case.hole // PAGE, (self.case.hole + self.case.half) // PAGE
        return first < end and start < first + npages


@pytest.mark.parametrize("name", NAMES)
def test_partial(name: str) -> None:
    def partial(scale: Scale) -> Scenario:
        async def scenario(world: World) -> None:
            await Procedure(await SystemAllocator.start(world, scale), Partial(name, scale)).run()

        return scenario

    if name in NAMES[:4]:
        hold(partial(FULL), 0)
    for run in hold(partial(SMALL)):
        assert run.counters["SVM-R52"] >= 1


for _number, _name in enumerate(NAMES, 1):
    case(SUITE, f"R{_number}", _name)(test_partial)
