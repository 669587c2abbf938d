"""Sections 1, 2 and 5 of the catalogue igt_vm_bind: single binds, sizes, arguments and limits."""

from __future__ import annotations

import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, Bench, hold, value_of

from svm_actors.engine.errors import EFAULT, EINVAL, ENOMEM, ENOSPC
from svm_actors.gpu.program import Spin, Store
from svm_actors.world import UserSyncobj, World
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.vm_bind import BindFlag

# -- 1: single cases ----------------------------------------------------------------------------


@case(SUITE, "V1", "bind-once")
def test_bind_once() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(PAGE)
        bound = await bench.bind(BASE, bo)
        done = await bench.job(BASE, value_of(BASE), bound)
        await done.wait()
        assert await bo.read(0, 4) == value_of(BASE)
        await (await bench.unbind(BASE, PAGE)).wait()
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    hold(scenario)


@case(SUITE, "V4", "partial-unbinds")
def test_partial_unbinds() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(3 * PAGE)
        await (await bench.bind(BASE, bo)).wait()
        counts = [bench.mappings()]
        for index in (1, 0, 2):
            await (await bench.unbind(BASE + index * PAGE, PAGE)).wait()
            counts.append(bench.mappings())
        assert counts == [1, 2, 1, 0]

    hold(scenario)


@case(SUITE, "V5", "unbind-all-2-vmas")
@case(SUITE, "V6", "unbind-all-8-vmas")
@pytest.mark.parametrize("vmas", [2, 8])
def test_unbind_all(vmas: int) -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(PAGE)
        for index in range(vmas):
            await bench.bind(BASE + index * PAGE, bo)
        out = world.syncobj()
        await bench.vm.unbind_all(bo, syncs=[out.sync_out()])
        await out.wait()
        assert bench.mappings() == 0
        world.bos.remove(bo)
        await bo.put()
        await world.settle()
        assert bo.refs == 0

    hold(scenario)


@case(SUITE, "V7", "userptr-invalid")
def test_userptr_invalid() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        addr = await bench.process.mmap(PAGE)
        await bench.process.munmap(addr, PAGE)
        with pytest.raises(EFAULT):
            await bench.vm.bind_userptr(BASE, addr, PAGE)
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    hold(scenario)


@case(SUITE, "V8", "bind-flag-invalid")
def test_bind_flag_invalid() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bo = await bench.vm.create_bo(PAGE)
        for flags in (0, BindFlag.READONLY, BindFlag.IMMEDIATE, BindFlag.DUMPABLE):
            await (await bench.bind(BASE, bo, flags=flags)).wait()
        await bench.vm.bind(BASE, None, length=PAGE, flags=BindFlag.NULL)
        with pytest.raises(EINVAL):
            await bench.vm.bind(BASE, bo, flags=1 << 5)
        await (await bench.bind(BASE, bo)).wait()
        assert bench.mappings() == 1

    hold(scenario)


@case(SUITE, "V9", "shared-pte-page")
@case(SUITE, "V10", "shared-pde-page")
@pytest.mark.parametrize("spacing", [1, 512])
def test_shared_page_tables(spacing: int) -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        bos = [await bench.vm.create_bo(PAGE) for _ in range(4)]
        queues = [await bench.vm.create_queue() for _ in bos]
        addrs = [BASE + index * spacing * PAGE for index in range(4)]

        async def store(index: int, value: int, *ins: UserSyncobj) -> UserSyncobj:
            return await bench.job(addrs[index], bytes([value + index]), *ins, queue=queues[index])

        bound = [await bench.bind(addr, bo) for addr, bo in zip(addrs, bos, strict=True)]
        done = [await store(index, 1, bound[index]) for index in range(4)]
        for index in (0, 2):
            await bench.vm.unbind(addrs[index], PAGE, syncs=[done[index].sync_in()])
        for index in (1, 3):
            done[index] = await store(index, 11, done[index])
        for index in (1, 3):
            await bench.vm.unbind(addrs[index], PAGE, syncs=[done[index].sync_in()])
        await world.settle()
        assert [await bo.read(0) for bo in bos] == [b"\1", b"\14", b"\3", b"\16"]
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    hold(scenario)


@case(SUITE, "V11", "bind-execqueues-independent")
def test_bind_execqueues_independent() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        vm = bench.vm
        bos = [await vm.create_bo(PAGE) for _ in range(2)]
        queues = [await vm.create_queue() for _ in range(2)]
        bind_queues: list[BindQueue] = [vm.bind_queue() for _ in range(2)]
        spinning = world.syncobj()
        await vm.submit(queues[0], [Spin(100_000)], [], [spinning])
        addrs = [BASE, BASE + (1 << 21)]
        bound, done = [world.syncobj() for _ in range(2)], []
        for index in range(2):
            waits = [spinning.sync_in()] if index == 0 else []
            syncs = [*waits, bound[index].sync_out()]
            await vm.bind(addrs[index], bos[index], queue=bind_queues[index], syncs=syncs)
            done.append(await bench.job(addrs[index], bytes([index + 1]), bound[index], queue=queues[index]))
        await done[1].wait()
        assert (bound[1].done, spinning.done, bound[0].done, done[0].done) == (True, False, False, False)
        await done[0].wait()
        assert [await bo.read(0) for bo in bos] == [b"\1", b"\2"]

    hold(scenario)


@case(SUITE, "V12", "bind-array-twice")
@case(SUITE, "V13", "bind-array-many")
@case(SUITE, "V14", "bind-array-exec_queue-twice")
@pytest.mark.parametrize(("maps", "own_queue"), [(2, False), (16, False), (2, True)])
def test_bind_array(maps: int, own_queue: bool) -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        vm = bench.vm
        bo = await vm.create_bo(PAGE)
        queue = vm.bind_queue() if own_queue else None
        bound, gone = world.syncobj(), world.syncobj()
        addrs = [BASE + index * PAGE for index in range(maps)]
        await vm.bind_array([vm.map_op(addr, bo, PAGE) for addr in addrs], queue=queue, syncs=[bound.sync_out()])
        for index, addr in enumerate(addrs):
            last = await bench.job(addr + index, bytes([index + 1]), bound)
        syncs = [last.sync_in(), gone.sync_out()]
        await vm.bind_array([vm.unmap_op(addr, PAGE) for addr in addrs], queue=queue, syncs=syncs)
        await gone.wait()
        assert last.done
        assert await bo.read(0, maps) == bytes(range(1, maps + 1))
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    hold(scenario)


@case(SUITE, "V15", "bind-array-conflict")
def test_bind_array_conflict() -> None:
    async def scenario(world: World) -> None:
        bench = await Bench.start(world)
        vm = bench.vm
        bo = await vm.create_bo(8 * PAGE)
        ops = [vm.map_op(BASE + first * PAGE, bo, (last - first) * PAGE, first * PAGE) for first, last in ((0, 1), (1, 3), (3, 6))]  # fmt: skip  # noqa: E501
        bound = world.syncobj()
        await vm.bind_array([*ops, vm.unmap_op(BASE + PAGE, 4 * PAGE)], syncs=[bound.sync_out()])
        spans = [(va.addr - BASE // PAGE, va.end - BASE // PAGE) for va in vm.vm.vmas()]
        assert spans == [(0, 1), (5, 6)]
        places = (0, PAGE // 2, PAGE // 4, 5 * PAGE)
        for number, place in enumerate(places):
            last = await bench.job(BASE + place, bytes([number + 1]), bound)
        await last.wait()
        assert [await bo.read(place) for place in places] == [b"\1", b"\2", b"\3", b"\4"]

    hold(scenario)


# -- 2: sizes -------------------------------------------------------------------------------------


async def large(world: World, npages: int, variant: str) -> None:
    """Bind a big object one way or another, store all over it, unbind the same pieces."""
    bench = await Bench.start(world)
    vm, base = bench.vm, BASE - (PAGE if variant == "misaligned" else 0)
    size = npages * PAGE
    bo = None if variant == "userptr" else await vm.create_bo(size)
    half = npages // 2 * PAGE
    pieces = [(0, half), (half, size - half)] if variant == "split" else [(0, size)]
    for start, length in pieces:
        if bo is None:
            await bench.process.mmap(size, addr=base, fixed=True, shared=True)
            bound = await bench.bind_user(base, size)
        else:
            bound = await bench.bind(base + start, bo, offset=start, length=length)
    queues = [await vm.create_queue() for _ in range(4)]
    places = [*(index * size // 16 // PAGE * PAGE for index in range(15)), size - PAGE]
    jobs = []
    for number, place in enumerate(places):
        done = world.syncobj()
        program = [Store((base + place) // PAGE, number, bytes([number + 1]))]
        await vm.submit(queues[number % 4], program, [bound], [done])
        jobs.append(done)
    for done in jobs:
        await done.wait()
    for start, length in pieces:
        await (await bench.unbind(base + start, length)).wait()
    for number, place in enumerate(places):
        found = await (bench.process.read(base + place + number) if bo is None else bo.read(place + number))
        assert found == bytes([number + 1])
    assert (bench.mappings(), bench.nodes()) == (0, 0)


@case(SUITE, "L1", "large-binds")
@case(SUITE, "L2", "large-split-binds")
@case(SUITE, "L3", "large-misaligned-binds")
@case(SUITE, "L5", "mixed-binds-3145728")
@pytest.mark.parametrize(
    ("npages", "variant"),
    [(512, "plain"), (1024, "plain"), (512, "split"), (1024, "split"), (512, "misaligned"), (1024, "misaligned"),
     (768, "plain")],
)  # fmt: skip
def test_large_binds(npages: int, variant: str) -> None:
    async def scenario(world: World) -> None:
        await large(world, npages, variant)

    hold(scenario)


@case(SUITE, "L4", "large-userptr-binds")
@pytest.mark.parametrize("npages", [32, 512])
def test_large_userptr_binds(npages: int) -> None:
    async def scenario(world: World) -> None:
        await large(world, npages, "userptr")

    hold(scenario)


# -- 5: limits --------------------------------------------------------------------------------------


@case(SUITE, "A9", "out-of-memory")
def test_out_of_memory() -> None:
    """VRAM of 32 pages, objects of 8: the fifth local object finds no victim that may go."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, "lr")

        async def bind(index: int) -> None:
            bo = XeBo(vm.vm.device, f"deferred{index}", 8, vm=vm.vm)
            world.bos.append(bo)
            addr = BASE + index * 8 * PAGE
            await vm.bind_array([vm.map_op(addr, bo, 4 * PAGE), vm.map_op(addr + 4 * PAGE, bo, 4 * PAGE, 4 * PAGE)])

        for index in range(4):
            await bind(index)
        with pytest.raises((ENOMEM, ENOSPC)):
            await bind(4)
        for index in range(4):
            await vm.unbind(BASE + index * 8 * PAGE, 8 * PAGE)
        await world.settle()
        assert len(vm.vm.vmas()) == 0

    hold(scenario, vram_pages=32)
