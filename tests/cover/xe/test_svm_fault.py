"""One fault at a time: placement, policies, errors, what is counted (gpusvm sections 5 and 8)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from svm_bench import BASE, MS, PAGE, VPN, bound, page, ranges, run, spans, start, where

from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.engine.errors import BY_NUMBER, EFAULT, EINVAL, ENOENT
from svm_actors.gpu.fault import Access
from svm_actors.gpu.program import AtomicAdd, GpuFault, Load, Store
from svm_actors.mm.constants import Vm
from svm_actors.world import Process, World
from svm_actors.xe.svm_fault import SvmFault


def set_flag(process: Process, flag: Vm) -> None:
    """Turn the memory at BASE into something special."""
    vma = process.mm.vmas.find(VPN)
    assert vma is not None
    vma.flags |= flag


# -- placement ------------------------------------------------------------------------------


@pytest.mark.parametrize(("placement", "home"), [("vram", "v"), ("system", "r")])
def test_first_touch_goes_where_the_vm_prefers(placement: str, home: str) -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world, placement=placement)
        assert await vm.load(BASE, 4) == bytes(4)
        await vm.store(page(1), b"x")
        assert where(process) == home * 2 + "--"
        assert bound(vm) == "ww--"
        assert spans(vm) == [(0, 1), (1, 2)]
        assert await process.read(page(1)) == b"x"

    counters = run(scenario).counters
    assert (counters["gpu.fault"], counters["gpu.bind"]) == (2, 2)
    assert counters.get("migrate.to_vram", 0) == (2 if placement == "vram" else 0)


def test_one_fault_maps_the_whole_chunk() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world, 16, chunk_pages=(8, 4, 1), check_pages_threshold=4)
        await process.write(page(12), b"c")
        await vm.store(page(3), b"g")
        assert where(process, 16) == "v" * 8 + "----r---"
        assert await vm.run([Load(VPN + index) for index in range(8)]) == [bytes(1)] * 3 + [b"g"] + [bytes(1)] * 4

    assert run(scenario).counters["gpu.fault"] == 1


def test_small_chunks_want_populated_memory() -> None:
    """SVM-R54: the 4-page chunk is taken only where the CPU has been before."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, 7, chunk_pages=(8, 4, 1), check_pages_threshold=4)
        await vm.store(page(1), b"g")
        assert spans(vm) == [(1, 2)]
        await process.munmap(page(0), 7 * PAGE)
        await process.mmap(7 * PAGE, addr=BASE, fixed=True)
        for index in range(4):
            await process.write(page(index), b"c")
        await vm.store(page(1), b"g")
        assert spans(vm) == [(0, 4)]

    assert run(scenario).counters["SVM-R54"] == 1


def test_a_range_too_small_for_device_memory_is_served_at_once() -> None:
    """SVM-B12: where device memory comes in 64 KiB, what is smaller stays, and nobody starts again for it."""
    stats: list[dict[str, int]] = []

    async def scenario(world: World) -> None:
        process, vm = await start(world, 4, chunk_pages=(4, 1))
        vm.vm.device.needs_64k = True
        for index in range(4):
            await process.write(page(index), b"c")
        await vm.store(page(1), b"g")
        assert (spans(vm), where(process, 4)) == ([(0, 4)], "rrrr")
        stats.append(vm.vm.device.gt_stats)

    assert "migrate.attempt" not in run(scenario).counters
    assert stats[0]["svm_16K_pagefault_count"] == 1


def test_ranges_are_counted_by_their_size() -> None:
    counted: list[str] = []
    fault: Any = SimpleNamespace(vm=SimpleNamespace(device=SimpleNamespace(count_stat=counted.append)))
    for npages in (1, 16, 256, 512):
        range_: Any = SimpleNamespace(npages=npages)
        SvmFault._count(fault, range_, "bind")
    assert counted == [f"svm_{size}_bind_count" for size in ("4K", "64K", "1M", "2M")]


def test_memory_that_is_not_anonymous_stays_in_ram() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        addr = await process.mmap(PAGE, shared=True)
        await vm.store(addr, b"g")
        assert await process.read(addr) == b"g"
        assert not ranges(vm)[0].flags.migrate_devmem

    assert "migrate.attempt" not in run(scenario).counters


def test_full_device_memory_falls_back_to_ram() -> None:
    """A failed migration is not repeated within one fault; the data stays where it is."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, 8, chunk_pages=(8, 1), check_pages_threshold=0)
        await process.write(page(3), b"c")
        assert await vm.load(page(3)) == b"c"
        assert where(process, 8) == "rrrrrrrr"
        assert bound(vm, 8) == "wwwwwwww"

    counters = run(scenario, vram_pages=4).counters
    assert counters["gpu.retry.alloc_vram.ENOMEM"] == 1
    assert counters["migrate.attempt"] == 1


def test_a_bound_range_is_a_valid_fault() -> None:
    """F5: the entry was there already; the walker had not looked again."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        await vm.store(BASE, b"g")
        assert await world.gpu().gpu.fault_queue.report(vm.vm.asid, VPN, Access.READ) == 0

    counters = run(scenario).counters
    assert counters["gpu.fault.valid"] == 1
    assert counters["gpu.bind"] == 1


# -- atomics --------------------------------------------------------------------------------


def test_atomics_demand_device_memory() -> None:
    """devmem_only, with a timeslice of 5 ms during which no CPU thread gets the page."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system")
        await process.write(BASE, b"\x05")
        assert await vm.load(BASE) == b"\x05"
        assert where(process) == "r---"
        assert await vm.atomic_add(BASE, 3) == 5
        assert where(process) == "v---"
        begin = world.engine.now
        assert await process.read(BASE) == b"\x08"
        assert world.engine.now >= begin + 5 * MS

    assert run(scenario).counters["migrate.timeslice"] > 1


def test_atomics_stay_in_ram_where_that_works_and_was_asked_for() -> None:
    """Section 8: DEVICE says that nobody else does any; of memory without attribute that is not known."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, "fault", mirror=False)
        await process.mmap(4 * PAGE, addr=BASE, fixed=True)
        await vm.bind_mirror(BASE, 4 * PAGE, placement="system")
        await vm.madvise(BASE, PAGE, atomic="device")
        assert await vm.atomic_add(BASE, 3) == 0
        assert where(process) == "r---"
        assert await vm.atomic_add(BASE + PAGE, 3) == 0
        assert where(process) == "rv--"

    run(scenario, atomics_on_system=True)


def test_atomics_that_are_the_cpu_s_are_refused() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, "fault", mirror=False)
        await process.mmap(PAGE, addr=BASE, fixed=True)
        await vm.bind_mirror(BASE, PAGE)
        await vm.madvise(BASE, PAGE, atomic="cpu")
        assert await vm.atomic_add(BASE, 1) == GpuFault(13)
        assert await vm.store(BASE, b"x") is None

    run(scenario)


def test_an_impossible_atomic_is_refused() -> None:
    """F4: the range can never live on the device; acknowledging it would make the hardware loop (SVM-B32)."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        addr = await process.mmap(PAGE, shared=True)
        assert await vm.atomic_add(addr, 1) == GpuFault(13)
        assert vm.vm.faults == [(addr // PAGE, "EACCES")]

    run(scenario)


def test_an_atomic_without_room_is_refused_after_three_tries() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start(world, 8, chunk_pages=(8, 1), check_pages_threshold=0)
        assert await vm.atomic_add(BASE, 1) == GpuFault(12)

    counters = run(scenario, vram_pages=4).counters
    assert counters["migrate.attempt"] == 3
    assert counters["gpu.retry.get_pages.EFAULT"] == 2


def test_pages_that_were_pulled_back_stay_four_times_as_long_the_next_time() -> None:
    """SVM-R10: the stay is doubled by each migration, and once more by each failure to get the pages."""
    stays: list[int] = []

    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        svm = vm.vm.svm
        migrate, get = svm.alloc_vram, svm.get_pages

        async def noted(range_: Any, ctx: GpusvmCtx, target: Any) -> None:
            stays.append(ctx.timeslice_ns)
            await migrate(range_, ctx, target)

        async def twice_too_late(range_: Any, ctx: GpusvmCtx) -> None:
            if len(stays) < 3:
                raise EFAULT
            await get(range_, ctx)

        svm.alloc_vram, svm.get_pages = noted, twice_too_late  # type: ignore[method-assign]
        assert await vm.atomic_add(BASE, 1) == 0

    run(scenario)
    assert stays == [5 * MS, 20 * MS, 80 * MS]


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "errno"),
    [
        ("nothing there", 2),
        ("read-only", 1),
        ("unreadable", 1),
        ("device file", 5),
        ("dying", 14),
    ],
)
def test_refused_faults(spoil: str, errno: int) -> None:
    """SVM-R53: the program ends with the error; the VM goes on."""

    async def scenario(world: World) -> None:
        process, vm = await start(world)
        await spoiled(process)
        assert await vm.store(BASE, b"x") == GpuFault(errno)
        assert vm.vm.faults == [(VPN, BY_NUMBER[errno].__name__)]
        process.mm.users = max(process.mm.users, 1)

    async def spoiled(process: Process) -> None:
        if spoil == "nothing there":
            await process.munmap(BASE, 4 * PAGE)
        elif spoil == "read-only":
            await process.mprotect(BASE, 4 * PAGE, "r")
        elif spoil == "unreadable":
            await process.mprotect(BASE, 4 * PAGE, "none")
        elif spoil == "device file":
            set_flag(process, Vm.IO)
        else:
            process.mm.users = 0

    run(scenario)


def test_a_program_that_was_refused_does_not_disturb_the_next() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world)
        results = await vm.run([Store(VPN, 0, b"a"), Load(VPN + 9), Store(VPN, 0, b"b")])
        assert results == [None, GpuFault(2)]
        assert await vm.load(BASE) == b"a"
        assert await process.read(BASE) == b"a"

    run(scenario)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [(Load(VPN), b"c"), (Store(VPN, 0, b"g"), GpuFault(1)), (AtomicAdd(VPN, 0, 1), GpuFault(1))],
)
def test_a_read_only_mirror(instruction: Any, expected: Any) -> None:
    """Writes are refused; reads map towards the device only, also from read-only memory."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, read_only=True, placement="system")
        await process.write(BASE, b"c")
        await process.mprotect(BASE, 4 * PAGE, "r")
        assert (await vm.run([instruction]))[-1] == expected
        assert bound(vm) == ("r---" if expected == b"c" else "----")

    run(scenario)


# -- the CPU side in between ------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["vram", "system"])
@pytest.mark.parametrize("advice", ["dontneed", "free", "swap"])
def test_data_lives_on_or_dies_with_the_advice(placement: str, advice: str) -> None:
    """MADV_DONTNEED zeroes, whatever holds the data; reclaim takes only RAM, and brings it back."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement=placement)
        await vm.store(BASE, b"g")
        if advice == "swap":
            await process.swap_out(BASE, 4 * PAGE)
        else:
            await process.madvise(BASE, PAGE, advice)
        found = await vm.load(BASE)
        assert found == (bytes(1) if advice == "dontneed" else b"g")

    run(scenario)


def test_protection_changes_survive_in_the_range() -> None:
    """mprotect raises no UNMAP: ranges live on, entries go."""

    async def scenario(world: World) -> None:
        process, vm = await start(world)
        await vm.store(BASE, b"g")
        before = ranges(vm)
        await process.mprotect(BASE, 4 * PAGE, "r")
        assert bound(vm) == "----"
        assert await vm.store(BASE, b"h") == GpuFault(1)
        await process.mprotect(BASE, 4 * PAGE, "rw")
        assert await vm.load(BASE) == b"g"
        await vm.store(BASE, b"h")
        assert ranges(vm) == before
        assert await process.read(BASE) == b"h"

    run(scenario)


# -- VMs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"placement": "tape"},
        {"write_bit": "maybe"},
        {"chunk_pages": (4, 2)},
        {"notifier_pages": 3},
        {"chunk_pages": (512, 1), "notifier_pages": 16},
    ],
)
def test_impossible_vms_are_refused(options: dict[str, Any]) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        with pytest.raises(EINVAL):
            await world.gpu().create_vm(process, **options)
        assert world.gpu().driver.statistics()["vms"] == 0
        assert process.mm.count == 1

    run(scenario)


def test_a_closed_vm_runs_nothing() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world)
        await vm.store(BASE, b"g")
        await vm.close()
        with pytest.raises(ENOENT):
            await vm.load(BASE)
        assert await process.read(BASE) == b"g"
        assert not any(world.gpu().gpu.iommu.statistics().values())

    run(scenario)


def test_two_vms_share_device_pages_in_place() -> None:
    """One owner group per device: the second VM maps what the first one brought in."""

    async def scenario(world: World) -> None:
        process, first = await start(world)
        second = await world.gpu().create_vm(process)
        await first.store(BASE, b"together")
        assert await second.load(BASE, 8) == b"together"
        assert where(process) == "v---"
        assert bound(first) == bound(second) == "w---"

    assert run(scenario).counters["migrate.to_vram"] == 1
