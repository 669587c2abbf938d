"""Cases M1 to M11 of the catalogue igt_system_allocator: attributes of memory, and the rules for their arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
from cases import case
from igt_bench import PAGE, hold
from system_allocator_bench import (
    DATA,
    FILL,
    SMALL,
    SUITE,
    Buffer,
    SystemAllocator,
    atomic_inc,
    store_dword,
    value_of,
)

from svm_actors.engine.errors import EINVAL, ENOENT
from svm_actors.gpu.program import GpuFault
from svm_actors.world import World
from svm_actors.xe import pat
from svm_actors.xe.madvise import Attribute, Madvise
from svm_actors.xe.vm_attr import Atomic, MigrationPolicy

Advise = Callable[[SystemAllocator, Buffer], Awaitable[None]]
VALUE = value_of(1)
EACCES = 13


async def start(world: World, npages: int) -> tuple[SystemAllocator, Buffer, int]:
    """A VM, a filled buffer, and a page for fences."""
    bench = await SystemAllocator.start(world)
    buffer = await bench.memory.mmap(npages * PAGE, npages * PAGE)
    await bench.process.write(buffer.addr, bytes([FILL]) * buffer.length)
    return bench, buffer, await bench.process.mmap(PAGE, shared=True)


async def increment(bench: SystemAllocator, buffer: Buffer, fence: int) -> None:
    """One atomic by the GPU, and what comes of it; the page is in VRAM for that."""
    target = buffer.addr + DATA
    await bench.process.write(target, (VALUE - 1).to_bytes(4, "little"))
    batch = await bench.write_batch(buffer.addr, atomic_inc(target))
    await bench.exec(buffer.addr, batch, fence, 1)
    assert bench.place(buffer.addr) == "vram"
    assert await bench.dword(target) == VALUE


# -- atomics ------------------------------------------------------------------------------------------


async def atomic_device(bench: SystemAllocator, buffer: Buffer) -> None:
    await bench.vm.madvise(buffer.addr, buffer.length, atomic="device")


async def prefer_system(bench: SystemAllocator, buffer: Buffer) -> None:
    await bench.vm.madvise(
        buffer.addr, buffer.length, preferred_location="system", migration_policy="all_pages"
    )


async def prefer_system_then_atomic(bench: SystemAllocator, buffer: Buffer) -> None:
    await prefer_system(bench, buffer)
    await atomic_device(bench, buffer)


async def multi_vma(bench: SystemAllocator, buffer: Buffer) -> None:
    """Also beyond the buffer; the mirror is cut at every end."""
    vm, addr, half = bench.vm, buffer.addr, buffer.length // 2
    await vm.madvise(addr + half, half, atomic="device")
    await vm.madvise(addr + half, half, pat_index=pat.WRITE_BACK)
    await vm.madvise(addr + buffer.length, buffer.length, atomic="device")
    await vm.madvise(addr, buffer.length, pat_index=pat.WRITE_BACK)
    found = await vm.query_attributes(addr, 2 * buffer.length)
    assert [(each.start, each.end, each.atomic, each.pat_index) for each in found] == [
        (addr, addr + half, Atomic.UNDEFINED, pat.WRITE_BACK),
        (addr + half, addr + 2 * half, Atomic.DEVICE, pat.WRITE_BACK),
        (addr + 2 * half, addr + 4 * half, Atomic.DEVICE, pat.DEFAULT),
    ]


async def nothing(_bench: SystemAllocator, _buffer: Buffer) -> None:
    """The default: undefined."""


@case(SUITE, "M1", "madvise-atomic-inc")
@case(SUITE, "M2", "madvise-preffered-loc-sram-migrate-pages")
@case(SUITE, "M3", "madvise-preffered-loc-atomic-vram")
@case(SUITE, "M4", "madvise-multi-vma")
@case(SUITE, "M5", "madvise-atomic-vma")
@pytest.mark.parametrize("advise", [atomic_device, prefer_system, prefer_system_then_atomic, multi_vma, nothing])
def test_madvise_atomic(advise: Advise) -> None:
    async def scenario(world: World) -> None:
        bench, buffer, fence = await start(world, SMALL.middle)
        await advise(bench, buffer)
        await increment(bench, buffer, fence)

    hold(scenario)


# -- caching ------------------------------------------------------------------------------------------


@case(SUITE, "M6", "pat-index-madvise-pat-idx-wb-single-vma")
@case(SUITE, "M7", "pat-index-madvise-pat-idx-wt-single-vma")
@case(SUITE, "M8", "pat-index-madvise-pat-idx-uc-single-vma")
@case(SUITE, "M9", "pat-index-madvise-pat-idx-uc-comp-single-vma")
@case(SUITE, "M10", "pat-index-madvise-max-pat-index-single-vma")
@case(SUITE, "M11", "pat-index-madvise-pat-idx-wb-multi-vma")
@pytest.mark.parametrize(
    ("index", "multi"),
    [
        pytest.param(pat.WRITE_BACK, False, id="wb-single"),
        pytest.param(pat.WRITE_THROUGH, False, id="wt-single"),
        pytest.param(pat.UNCACHED, False, id="uc-single"),
        pytest.param(pat.UNCACHED_COMPRESSED, False, id="uc-comp-single"),
        pytest.param(pat.MAX_INDEX, False, id="max-single"),
        pytest.param(pat.WRITE_BACK, True, id="wb-multi"),
    ],
)
def test_pat_index(index: int, multi: bool) -> None:
    """4M are two large chunks; the GPU has them already when they are advised on, and finds them again after it."""

    async def scenario(world: World) -> None:
        bench, buffer, fence = await start(world, 2 * SMALL.large)
        addr, length = buffer.addr, buffer.length
        assert await bench.vm.load(addr) == bytes([FILL])
        pieces = [(addr, length)]
        if multi:
            pieces = [(addr + length, length // 2), (addr, length), (addr + length // 2, length // 4)]
        for start_, size in pieces:
            await bench.vm.madvise(start_, size, pat_index=index)
        found = await bench.vm.query_attributes(addr, length)
        assert {each.pat_index for each in found} == {index}
        assert found[0].start <= addr
        assert found[-1].end >= addr + length
        batch = await bench.write_batch(addr, store_dword(addr + DATA, VALUE))
        await bench.exec(addr, batch, fence, 1)
        assert await bench.dword(addr + DATA) == VALUE

    hold(scenario)


# -- arguments, and what is no case of the catalogue ------------------------------------------------------

GOOD = Madvise(1 << 30, PAGE, Attribute.ATOMIC, atomic=Atomic.DEVICE)


@pytest.mark.parametrize(
    "args",
    [
        attrs.evolve(GOOD, start=GOOD.start + 8),
        attrs.evolve(GOOD, range=PAGE + 8),
        attrs.evolve(GOOD, range=0),
        attrs.evolve(GOOD, start=-PAGE),
        attrs.evolve(GOOD, type=7),
        attrs.evolve(GOOD, atomic=Atomic.CPU + 1),
        attrs.evolve(GOOD, reserved=(0, 1)),
        attrs.evolve(GOOD, type=Attribute.PAT, pat_index=pat.MAX_INDEX + 1),
        attrs.evolve(GOOD, type=Attribute.PAT, pat_index=pat.RESERVED[0]),
        attrs.evolve(GOOD, type=Attribute.PREFERRED_LOC, devmem_fd=-2),
        attrs.evolve(GOOD, type=Attribute.PREFERRED_LOC, migration_policy=MigrationPolicy.ONLY_SYSTEM_PAGES + 1),
        attrs.evolve(GOOD, type=Attribute.PREFERRED_LOC, region_instance=1),
    ],
)
def test_bad_arguments(args: Madvise) -> None:
    """-EINVAL, and nothing is cut."""

    async def scenario(world: World) -> None:
        bench = await SystemAllocator.start(world)
        with pytest.raises(EINVAL):
            await bench.vm.madvise_ioctl(args)
        assert len(bench.vm.vm.vmas()) == 1

    hold(scenario, 0)


def test_bad_verbs() -> None:
    """One attribute, by a name that exists; a file there is not; a VM that is closed."""

    async def scenario(world: World) -> None:
        bench = await SystemAllocator.start(world)
        vm = bench.vm
        for bad in ({}, {"atomic": "device", "pat_index": 1}, {"atomic": "gpu"}, {"preferred_location": "ram"},
                    {"preferred_location": "vram", "migration_policy": "none"}):  # fmt: skip
            with pytest.raises(EINVAL):
                await vm.madvise(GOOD.start, PAGE, **bad)
        with pytest.raises(EINVAL):
            await vm.query_attributes(GOOD.start, 0)
        with pytest.raises(ENOENT):
            await vm.madvise_ioctl(attrs.evolve(GOOD, type=Attribute.PREFERRED_LOC, devmem_fd=3))
        await vm.close()
        with pytest.raises(ENOENT):
            await vm.madvise_ioctl(GOOD)
        with pytest.raises(ENOENT):
            await vm.query_attributes(GOOD.start, PAGE)

    hold(scenario, 0)


def test_a_cut_through_memory_in_use() -> None:
    """A range may not lie in two vmas: it goes, its pages come home, and each side is found where it should be."""

    async def scenario(world: World) -> None:
        bench, buffer, _fence = await start(world, SMALL.large)
        addr, half = buffer.addr, buffer.length // 2
        assert await bench.vm.load(addr) == bytes([FILL])
        assert bench.ranges(addr, buffer.length) == [(0, SMALL.large)]
        assert bench.place(addr) == "vram"
        await bench.vm.madvise(addr, half, preferred_location="system")
        assert bench.ranges(addr, buffer.length) == []
        for place in (addr, addr + half):
            assert await bench.vm.load(place) == bytes([FILL])
        assert (bench.place(addr), bench.place(addr + half)) == ("system", "vram")

    for run in hold(scenario):
        assert run.counters["SVM-R26"] == 1


def test_attributes_that_change_nothing_cut_only() -> None:
    async def scenario(world: World) -> None:
        bench, buffer, _fence = await start(world, SMALL.large)
        await bench.vm.load(buffer.addr)
        await bench.vm.madvise(buffer.addr, buffer.length, preferred_location="vram")
        assert bench.place(buffer.addr) == "vram"
        assert len(await bench.vm.query_attributes(0, buffer.addr + buffer.length + PAGE)) == 3
        await bench.vm.madvise(buffer.addr, buffer.length, atomic="cpu")
        assert bench.place(buffer.addr) == "none"
        assert await bench.vm.atomic_add(buffer.addr, 1) == GpuFault(EACCES)

    for run in hold(scenario):
        assert run.counters["madvise.zapped"] == 1


def test_madvise_against_everybody() -> None:
    """SVM-R25, SVM-R26: the GPU writes, the CPU reads, memory goes and comes, while attributes change at every cut."""

    async def scenario(world: World) -> None:
        bench, buffer, _fence = await start(world, 2 * SMALL.large)
        process, addr = bench.process, buffer.addr
        last = addr + buffer.length - PAGE

        async def advise() -> None:
            for number in range(4):
                start_ = addr + world.choose(3, "start") * PAGE
                location = "vram" if number % 2 else "system"
                await bench.vm.madvise(start_, (1 + world.choose(4, "pages")) * PAGE, preferred_location=location)

        async def gpu() -> None:
            for number in range(4):
                assert await bench.vm.store(addr + 8 * number, bytes([number + 1])) is None

        async def cpu() -> None:
            for _ in range(3):
                await process.read(addr + PAGE)
            await process.munmap(last, PAGE)
            await process.mmap(PAGE, addr=last, fixed=True)
            assert await process.read(last) == b"\0"

        async with world.nursery() as nursery:
            for body in (advise, gpu, cpu):
                nursery.start_soon(body)
        for number in range(4):
            assert await process.read(addr + 8 * number) == bytes([number + 1])

    hold(scenario)
