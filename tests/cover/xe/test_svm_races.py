"""The races of the fault path, each first come first served and under fifty random schedules.

Every run has all oracles attached and ends with a teardown that finds nothing left.  What is asserted
besides: the outcomes that are legal, and that the windows were really met.
"""

from __future__ import annotations

from typing import Any

import pytest
from svm_bench import BASE, PAGE, VPN, after_pause, assert_hit, bound, every, page, pause, run, spans, start

from svm_actors.gpu.program import AtomicAdd, GpuFault, Load, Store
from svm_actors.mm.messages import SIGSEGV
from svm_actors.world import World

CHUNKS: dict[str, Any] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}
"""Ranges of four pages wherever they fit."""
BIND: Any = pytest.mark.parametrize("bind_by_gpu", [False, True], ids=["cpu", "gpu"])


# -- first touch ----------------------------------------------------------------------------


@BIND
def test_first_touch_by_everybody(bind_by_gpu: bool) -> None:
    """SVM-R16: two programs and a CPU thread touch one untouched range at once."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, bind_by_gpu=bind_by_gpu, **CHUNKS)
        async with world.nursery() as nursery:
            nursery.start_soon(vm.run, [Store(VPN, 0, b"a"), Store(VPN + 1, 0, b"b")])
            nursery.start_soon(vm.run, [Store(VPN + 1, 1, b"c"), Store(VPN, 1, b"d")])
            nursery.start_soon(after_pause, world, process.write, page(2), b"e")
        assert [await process.read(page(index), 2) for index in range(3)] == [b"ad", b"bc", b"e\0"]
        assert spans(vm) == [(0, 4)]

    runs = list(every(scenario))
    assert_hit(runs, "SVM-R01", "gpu.retry.walk", "gpu.fault.valid")


# -- ping-pong ------------------------------------------------------------------------------


@BIND
@pytest.mark.parametrize("chunks", [(1,), (4, 1)])
def test_ping_pong(chunks: tuple[int, ...], bind_by_gpu: bool) -> None:
    """SVM-R02, SVM-R10, SVM-R13: CPU and GPU write different bytes of one page; none is lost."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, chunk_pages=chunks, check_pages_threshold=0, bind_by_gpu=bind_by_gpu)

        async def cpu() -> None:
            for index in range(4):
                await pause(world)
                await process.write(BASE + 8 + index, bytes([0x10 + index]))

        async def gpu() -> None:
            await vm.run([Store(VPN, 32 + index, bytes([0x20 + index])) for index in range(4)])

        async with world.nursery() as nursery:
            nursery.start_soon(cpu)
            nursery.start_soon(gpu)
        assert await process.read(BASE + 8, 4) == bytes(range(0x10, 0x14))
        assert await vm.load(BASE + 32, 4) == bytes(range(0x20, 0x24))

    runs = list(every(scenario))
    assert_hit(runs, "SVM-R01", "SVM-R51")


def test_atomics_against_the_cpu() -> None:
    """SVM-R10: the timeslice gives the GPU its turn; every addition counts."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)

        async def cpu() -> None:
            for index in range(3):
                await pause(world)
                await process.read(BASE, 4)
                await process.write(page(1) + index, b"c")

        async with world.nursery() as nursery:
            nursery.start_soon(cpu)
            nursery.start_soon(vm.run, [AtomicAdd(VPN, 0, 1)] * 3)
            nursery.start_soon(vm.run, [AtomicAdd(VPN, 0, 16)] * 3)
            nursery.start_soon(after_pause, world, world.gpu().evict, PAGE)
        assert await process.read(BASE, 4) == (51).to_bytes(4, "little")

    runs = list(every(scenario, 100))
    assert_hit(runs, "migrate.timeslice", "SVM-R10")


# -- invalidation against bind ----------------------------------------------------------------


@BIND
def test_invalidation_against_bind(bind_by_gpu: bool) -> None:
    """SVM-R02, SVM-R49, and with jobs SVM-R03: reclaim takes pages while the GPU maps and uses them."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system", bind_by_gpu=bind_by_gpu, **CHUNKS)
        for index in range(4):
            await process.write(page(index), bytes([index + 1]))

        async def reclaim() -> None:
            for index in (0, 3, 1):
                await pause(world)
                await process.swap_out(page(index), PAGE)

        async with world.nursery() as nursery:
            nursery.start_soon(reclaim)
            nursery.start_soon(vm.run, [Store(VPN + index, 1, b"g") for index in range(4)])
        assert [await process.read(page(index), 2) for index in range(4)] == [bytes([n, 0x67]) for n in range(1, 5)]

    runs = list(every(scenario, 100))
    assert_hit(runs, "SVM-R02", "SVM-R49", "SVM-R01")
    if bind_by_gpu:
        assert_hit(runs, "SVM-R03", "gpu.bind_job")


def test_reclaim_of_pages_that_are_bound_by_two_vms() -> None:
    """Two subscriptions of one address space are both told, and both get their turn before the page goes."""

    async def scenario(world: World) -> None:
        process, first = await start(world, placement="system")
        second = await world.gpu().create_vm(process, placement="system", bind_by_gpu=True)

        async def use(vm: Any, offset: int) -> None:
            await vm.run([Store(VPN, offset, b"x"), Store(VPN, offset + 1, b"y")])

        async with world.nursery() as nursery:
            nursery.start_soon(use, first, 0)
            nursery.start_soon(use, second, 2)
            nursery.start_soon(after_pause, world, process.swap_out, BASE, PAGE)
            nursery.start_soon(after_pause, world, process.madvise, BASE + PAGE, PAGE, "dontneed")
        assert await process.read(BASE, 4) == b"xyxy"

    assert_hit(list(every(scenario)), "gpu.invalidate.zapped")


# -- munmap against fault -----------------------------------------------------------------------


@BIND
@pytest.mark.parametrize("placement", ["vram", "system"])
def test_munmap_against_fault(placement: str, bind_by_gpu: bool) -> None:
    """SVM-R01, SVM-R05, SVM-R17: the access goes through before, or is refused; never anything else."""
    outcomes = set()

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement=placement, bind_by_gpu=bind_by_gpu, **CHUNKS)
        await process.write(BASE, b"c")

        async def use() -> None:
            for index in range(2):
                outcomes.add(await vm.load(page(index)))

        async with world.nursery() as nursery:
            nursery.start_soon(munmap, world, process)
            nursery.start_soon(use)
        assert bound(vm) == "----"
        assert await vm.load(BASE) == GpuFault(2)

    async def munmap(world: World, process: Any) -> None:
        await pause(world, 400)
        await process.munmap(BASE, 4 * PAGE)

    runs = list(every(scenario, 100))
    assert outcomes == {b"c", bytes(1), GpuFault(2)}
    assert_hit(runs, "SVM-R53", "gc.range", "SVM-R01")


def test_munmap_and_mmap_at_the_same_address() -> None:
    """SVM-R04: the new mapping reads zero or what was written to it, through whatever range."""
    outcomes = set()

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        await vm.store(BASE, b"old")

        async def replace() -> None:
            await pause(world, 20)
            await process.mmap(4 * PAGE, addr=BASE, fixed=True)
            await pause(world)
            await process.write(BASE, b"new")

        async with world.nursery() as nursery:
            nursery.start_soon(replace)
            nursery.start_soon(load, world, vm)
            nursery.start_soon(load, world, vm)
        assert await vm.load(BASE, 3) == b"new"

    async def load(world: World, vm: Any) -> None:
        await pause(world, 60)
        outcomes.add(await vm.load(BASE, 3))

    runs = list(every(scenario))
    assert outcomes == {b"old", bytes(3), b"new"}
    assert_hit(runs, "gc.range")


def test_two_unmaps_of_one_range() -> None:
    """SVM-R05, SVM-R42: the range is collected once, its pages are unmapped once."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, 8, placement="system", chunk_pages=(8, 1), check_pages_threshold=0)
        await vm.store(BASE, b"x")
        async with world.nursery() as nursery:
            for index in range(8):
                nursery.start_soon(after_pause, world, process.munmap, page(index), PAGE)
            nursery.start_soon(after_pause, world, vm.run, [Load(VPN + 3)])

    runs = list(every(scenario, 100))
    assert_hit(runs, "SVM-R05", "SVM-R52")


# -- mremap under fire --------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["vram", "system"])
def test_mremap_under_fire(placement: str) -> None:
    """SVM-R19, PGM-R10: the data moves with the mapping, wherever it is; nothing is left at the old place."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement=placement, **CHUNKS)
        for index in range(4):
            await vm.store(page(index), bytes([index + 1]))

        async def fire(first: int) -> None:
            for index in range(4):
                found = await vm.load(page(first + index))
                assert found == bytes([index + 1]) or isinstance(found, GpuFault)

        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, move, process)
            nursery.start_soon(fire, 0)
            nursery.start_soon(fire, 8)
            nursery.start_soon(after_pause, world, world.gpu().evict, 4 * PAGE)
        assert [await vm.load(page(8 + index)) for index in range(4)] == [bytes([n]) for n in range(1, 5)]
        assert [await process.read(page(8 + index)) for index in range(4)] == [bytes([n]) for n in range(1, 5)]
        assert await vm.load(page(1)) == GpuFault(2)

    async def move(process: Any) -> None:
        await process.mremap(BASE, 4 * PAGE, 4 * PAGE, to=page(8))

    runs = list(every(scenario))
    assert_hit(runs, "SVM-R53", "gc.range")
    if placement == "vram":
        assert_hit(runs, "evict")


# -- partial unmap ------------------------------------------------------------------------------


@pytest.mark.parametrize("hole", [0, 1, 3])
def test_partial_unmap(hole: int) -> None:
    """SVM-R52: the survivors keep their data and get smaller ranges; the hole is refused."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        for index in range(4):
            await vm.store(page(index), bytes([index + 1]))
        survivors = [index for index in range(4) if index != hole]
        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, process.munmap, page(hole), PAGE)
            nursery.start_soon(vm.run, [Load(VPN + survivors[0]), Store(VPN + survivors[1], 1, b"g")])
        for index in survivors:
            assert await vm.load(page(index)) == bytes([index + 1])
        assert await vm.load(page(hole)) == GpuFault(2)
        assert all(high - low == 1 for low, high in spans(vm))
        with pytest.raises(SIGSEGV):
            await process.read(page(hole))

    runs = list(every(scenario))
    assert_hit(runs, "SVM-R52", "gc.range")


@pytest.mark.parametrize("strategy", ["fifo", "random"])
def test_partial_unmap_of_two_megabytes(strategy: str) -> None:
    """The real sizes: one fault maps 512 pages; after the munmap 64 KiB and 4 KiB ranges take over."""
    async def scenario(world: World) -> None:
        base = 0x7E00_0000_0000
        process = world.process()
        vm = await world.gpu().create_vm(process)
        await process.mmap(512 * PAGE, addr=base, fixed=True)
        await vm.store(base, b"first")
        await vm.store(base + 511 * PAGE, b"last!")
        async with world.nursery() as nursery:
            nursery.start_soon(process.munmap, base + 100 * PAGE, PAGE)
            nursery.start_soon(vm.load, base + 99 * PAGE)
        assert await vm.load(base, 5) == b"first"
        assert await vm.load(base + 511 * PAGE, 5) == b"last!"
        assert await vm.load(base + 100 * PAGE) == GpuFault(2)
        sizes = {range_.npages for range_ in vm.vm.svm.gpusvm.ranges(0, 1 << 40)}
        assert sizes <= {16, 1}
        assert 16 in sizes

    result = run(scenario, strategy, 1)
    assert result.counters["SVM-R52"] == 1


# -- several VMs, several devices -----------------------------------------------------------------


def test_two_vms_on_one_mm() -> None:
    """SVM-R09: both want the same pages in device memory at once."""

    async def scenario(world: World) -> None:
        process, first = await start(world, **CHUNKS)
        second = await world.gpu().create_vm(process, chunk_pages=(1,), placement="vram")
        async with world.nursery() as nursery:
            nursery.start_soon(first.run, [Store(VPN + index, 0, b"a") for index in range(4)])
            nursery.start_soon(second.run, [Store(VPN + index, 1, b"b") for index in (3, 2, 1, 0)])
        assert [await process.read(page(index), 2) for index in range(4)] == [b"ab"] * 4

    runs = list(every(scenario))
    assert_hit(runs, "SVM-R09", "SVM-R02")


def test_two_devices_and_one_range() -> None:
    """SVM-R09, PGM-R14, SVM-R11: all or nothing on both sides; the exclusive second attempt settles it."""

    async def scenario(world: World) -> None:
        process, first = await start(world, **CHUNKS)
        second = await world.gpu(1).create_vm(process, **CHUNKS)
        async with world.nursery() as nursery:
            nursery.start_soon(first.run, [Store(VPN + index, 0, b"a") for index in range(2)])
            nursery.start_soon(second.run, [Store(VPN + index, 1, b"b") for index in (1, 0)])
        assert [await process.read(page(index), 2) for index in range(2)] == [b"ab"] * 2

    runs = list(every(scenario, gpus=2))
    assert_hit(runs, "SVM-R09")


def test_atomics_of_two_devices() -> None:
    """Atomics want the page in each one's own memory; it travels, and every addition counts."""

    async def scenario(world: World) -> None:
        process, first = await start(world, **CHUNKS)
        second = await world.gpu(1).create_vm(process, **CHUNKS)
        async with world.nursery() as nursery:
            nursery.start_soon(first.run, [AtomicAdd(VPN, 0, 1)] * 2)
            nursery.start_soon(second.run, [AtomicAdd(VPN, 0, 16)] * 2)
        assert await process.read(BASE, 4) == (34).to_bytes(4, "little")

    assert_hit(list(every(scenario, gpus=2)), "migrate.to_vram")


def test_mixed_placement_is_repaired() -> None:
    """SVM-R11: device memory is too small for one VM's range and takes pieces of it for the other VM."""

    async def scenario(world: World) -> None:
        process, small = await start(world, chunk_pages=(1,))
        large = await world.gpu().create_vm(process, **CHUNKS)

        async def pieces() -> None:
            for index in (1, 2, 3, 0):
                await small.store(page(index), bytes([index + 1]))

        async with world.nursery() as nursery:
            nursery.start_soon(pieces)
            nursery.start_soon(after_pause, world, large.run, [Load(VPN), Store(VPN + 2, 1, b"x")])
        assert [await large.load(page(index)) for index in range(4)] == [bytes([n]) for n in range(1, 5)]

    runs = list(every(scenario, 100, vram_pages=2))
    assert_hit(runs, "gpu.range_evict", "SVM-R11", "gpu.retry.get_pages.EOPNOTSUPP")


# -- eviction -----------------------------------------------------------------------------------


def test_eviction_against_fault() -> None:
    """SVM-R12, SVM-R20: physical eviction finds every mapping of every VM, also in a forked child."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        other = await world.gpu().create_vm(process, chunk_pages=(1,))
        await vm.store(BASE, b"p")
        child = await process.fork()
        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, world.gpu().evict, 4 * PAGE)
            nursery.start_soon(vm.run, [Load(VPN), Store(VPN + 1, 0, b"q")])
            nursery.start_soon(other.run, [Load(VPN), Load(VPN + 1)])
        assert await child.read(BASE) == await process.read(BASE) == b"p"
        assert await child.read(page(1)) == bytes(1)
        assert await process.read(page(1)) == b"q"

    runs = list(every(scenario))
    assert_hit(runs, "evict", "SVM-R38")


def test_more_data_than_device_memory() -> None:
    """Everybody evicts everybody; nothing is lost."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, 8, chunk_pages=(2, 1), check_pages_threshold=0)
        async with world.nursery() as nursery:
            for first in (0, 1):
                stores = [Store(VPN + index, 0, bytes([index + 1])) for index in range(first, 8, 2)]
                nursery.start_soon(vm.run, stores + stores)
        assert [await process.read(page(index)) for index in range(8)] == [bytes([n]) for n in range(1, 9)]

    assert_hit(list(every(scenario, vram_pages=4)), "evict")


# -- fork ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [True, False])
def test_fork_against_gpu_writes(resident: bool) -> None:
    """SVM-R38: what the GPU writes for the parent after fork, the child never sees (INV-17)."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, **CHUNKS)
        if resident:
            await vm.store(BASE, b"\x01")
        else:
            await process.write(BASE, b"\x01")

        async def fork_and_look() -> None:
            await pause(world)
            child = await process.fork()
            seen = await child.read(BASE, 2)
            await pause(world)
            assert await child.read(BASE, 2) == seen
            await child.write(BASE, b"child")
            await child.exit()

        async def write() -> None:
            for value in (b"\x02", b"\x03"):
                await pause(world)
                await vm.store(BASE + 1, value)

        async with world.nursery() as nursery:
            nursery.start_soon(fork_and_look)
            nursery.start_soon(write)
        assert await vm.load(BASE, 2) == b"\x01\x03"
        assert await process.read(BASE, 2) == b"\x01\x03"

    runs = list(every(scenario))
    if resident:
        assert_hit(runs, "SVM-R38")
