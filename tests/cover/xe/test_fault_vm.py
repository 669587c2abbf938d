"""A VM in fault mode that user space fills: what is bound when, what a fault does, what a bind may not do."""

from __future__ import annotations

import pytest
from bind_bench import at
from fault_bench import (
    MIRROR,
    OBJECT,
    USER,
    Signals,
    entries,
    spans,
    start_fault,
    with_mirror,
    with_object,
    with_user_memory,
)  # fmt: skip
from svm_bench import PAGE, VPN, every, run, where

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EACCES, EBUSY, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EPERM
from svm_actors.explore.run import BACKENDS
from svm_actors.explore.run import run as run_world
from svm_actors.gpu.program import GpuFault, Load, Store
from svm_actors.world import World
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp

# -- when entries are written ----------------------------------------------------------------


def test_a_map_only_makes_the_vma_unless_it_is_immediate() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_fault(world)
        bo, signals = await vm.create_bo(2 * PAGE), await Signals.start(vm, process)
        await vm.bind(at(OBJECT), bo, syncs=signals.next())
        await signals.wait()
        assert entries(vm, OBJECT, 2) == "--"
        assert await vm.store(at(OBJECT), b"one") is None
        assert entries(vm, OBJECT, 2) == "ww"
        await vm.bind(at(OBJECT + 2), bo, flags=BindFlag.IMMEDIATE, syncs=signals.next())
        await signals.wait()
        assert entries(vm, OBJECT, 4) == "wwww"
        assert await vm.load(at(OBJECT + 2), 3) == b"one"
        assert world.gpu().gpu.fault_queue.statistics()["faults"] == 1

    list(every(scenario, 10))


def test_user_memory_is_bound_by_a_fault_and_again_after_a_change() -> None:
    async def scenario(world: World) -> None:
        process, vm, addr = await with_user_memory(world)
        assert entries(vm, USER, 2) == "--"
        assert await vm.store(at(USER), b"gpu") is None
        assert (await process.read(addr, 3), entries(vm, USER, 2)) == (b"gpu", "ww")
        await process.mmap(2 * PAGE, addr=addr, fixed=True)
        assert entries(vm, USER, 2) == "--"
        assert await vm.load(at(USER), 3) == bytes(3)
        assert entries(vm, USER, 2) == "ww"
        await process.munmap(addr, PAGE)
        assert await vm.load(at(USER + 1)) == GpuFault(EFAULT().errno)

    list(every(scenario, 10))


def test_each_change_of_bound_memory_waits_for_its_flush_in_the_second_pass() -> None:
    """SVM-R40: the first pass has asked for it, and it is still on its way."""

    async def scenario(world: World) -> None:
        process, vm, addr = await with_user_memory(world)
        for _turn in range(3):
            await vm.store(at(USER), b"x")
            await process.madvise(addr, PAGE, "dontneed")

    assert run(scenario).counters["SVM-R40"] == 3


def test_a_page_is_found_through_its_own_address_only() -> None:
    async def scenario(world: World) -> None:
        process, vm = await with_mirror(world, 16)
        for index in range(16):
            await process.write(at(MIRROR + index), b"c")
        await vm.load(at(MIRROR))
        assert entries(vm, MIRROR, 16) == "w" * 16
        first = VPN + MIRROR
        folio = process.mm.page_table.get(first + 2).folio
        assert [vm.vm.process_page(first + other, folio) for other in range(4)] == [None, None, first + 2, None]

    run(scenario)


def test_which_page_of_the_process_is_at_an_address() -> None:
    """As the tree of mappings has it: mirrored memory at its own, user memory where it lies, objects nowhere."""

    async def scenario(world: World) -> None:
        process, vm = await with_mirror(world)
        addr = await process.mmap(2 * PAGE)
        await vm.bind_userptr(at(USER), addr, 2 * PAGE)
        await vm.bind(at(OBJECT), await vm.create_bo(PAGE))
        shown = vm.vm.shown_page
        assert shown(VPN + MIRROR + 1) == VPN + MIRROR + 1
        assert shown(VPN + USER + 1) == addr // PAGE + 1
        assert shown(VPN + OBJECT) is None
        assert shown(VPN + OBJECT + 1) is None

    run(scenario)


# -- the reservation -------------------------------------------------------------------------


def test_the_vm_is_busy_while_a_fence_is_pending_and_then_idle() -> None:
    """VMB-R09: nobody writes entries by hand while a job may be writing them."""

    async def scenario(world: World) -> None:
        _process, vm = await start_fault(world)
        fence, resv = Fence(world.engine, "job"), vm.vm.resv
        assert resv.idle
        async with resv.lock:
            resv.add(fence)
        assert not resv.idle
        fence.signal()
        assert resv.idle

    run(scenario)


def test_a_lock_without_a_slot_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_fault(world)
        with monkeypatch.context() as patch:
            patch.setattr(vm.vm.resv_dma, "reserve", no_memory)
            with pytest.raises(ENOMEM):
                await vm.vm.resv.lock.__aenter__()
        async with vm.vm.resv.lock:
            pass

    run(scenario)


def no_memory(_count: int) -> None:
    raise ENOMEM


# -- user memory -----------------------------------------------------------------------------


def test_where_memory_of_the_process_is_shown() -> None:
    """Bound user memory and no other, whatever part of it is asked for."""

    async def scenario(world: World) -> None:
        _process, vm, addr = await with_user_memory(world, 3)
        first, shown = addr // PAGE, VPN + USER
        assert vm.vm.gpu_spans(first, first + 3) == []
        await vm.load(at(USER))
        assert vm.vm.gpu_spans(first, first + 3) == [(shown, shown + 3)]
        assert vm.vm.gpu_spans(first + 1, first + 9) == [(shown + 1, shown + 3)]
        assert vm.vm.gpu_spans(first + 3, first + 9) == []
        assert vm.vm.gpu_spans(first - 2, first) == []

    list(every(scenario, 3))


def test_a_null_mapping_is_bound_by_a_fault() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_fault(world)
        await vm.bind(at(0), None, length=2 * PAGE, flags=BindFlag.NULL)
        assert entries(vm, 0, 2) == "--"
        assert (await vm.store(at(0), b"x"), await vm.load(at(1), 2)) == (None, bytes(2))
        assert await vm.atomic_add(at(0), 1) == GpuFault(EACCES().errno)
        assert entries(vm, 0, 2) == "ww"

    list(every(scenario, 3))


def test_an_evicted_object_loses_its_entries_and_comes_back_by_a_fault() -> None:
    async def scenario(world: World) -> None:
        _process, vm, bo = await with_object(world)
        await vm.store(at(OBJECT), b"here")
        await world.gpu().evict(2 * PAGE)
        assert (bo.in_vram, entries(vm, OBJECT, 2)) == (False, "--")
        assert await vm.load(at(OBJECT), 4) == b"here"
        assert (bo.in_vram, entries(vm, OBJECT, 2)) == (True, "ww")

    # Nobody unbinds it meanwhile (VMB-R09), and no job is still to write its entries (VMB-R23).
    assert all({"VMB-R09", "fault.zap_waits"}.isdisjoint(result.counters) for result in every(scenario, 10))


@pytest.mark.parametrize(("npages", "written"), [(1, f" 0x{VPN + OBJECT:x}"), (2, "")])
def test_an_eviction_zaps_then_flushes_then_waits(npages: int, written: str) -> None:
    """The whole trace of it; entries of one page are named, as others may be written at the same time."""

    async def scenario(world: World) -> None:
        _process, vm, _bo = await with_object(world, npages)
        await vm.load(at(OBJECT))
        await world.gpu().evict(npages * PAGE)

    trace = run(scenario, record=True).trace
    assert trace is not None
    begin = trace.index("main: trylock gpu0.vm1.resv")
    end = trace.index("main: send gpu0.copy.ring SubmitCopy", begin)
    assert list(trace[begin + 1 : end]) == [
        "main: alloc ram bo",
        "main: write gpu0.iommu map",
        "main: read gpu0.vm1",
        f"main: pte_write gpu0.vm1.pt{written}",
        "main: lock gpu0.tlb_client.seqno_lock",
        "main: send gpu0.tlb_inval.ring InvalidateTlb",
        "gpu0.tlb_inval: start",
        "gpu0.tlb_inval: receive gpu0.tlb_inval.ring",
        "gpu0.tlb_inval: tlb_flush gpu0.tlb",
        "gpu0.tlb_inval: fence_signal gpu0.tlb_inval.fence.1",
        "main: fence_wait gpu0.tlb_client.fence.1",
    ]


@pytest.mark.parametrize("evicted", [False, True])
def test_the_rest_of_a_cut_mapping_keeps_the_state_of_its_entries(evicted: bool) -> None:
    """Also that they were zapped; otherwise its faults would be taken for served."""

    async def scenario(world: World) -> None:
        _process, vm, _bo = await with_object(world, 3)
        await vm.store(at(OBJECT), b"kept")
        if evicted:
            await world.gpu().evict(3 * PAGE)
        await vm.unbind(at(OBJECT + 1), PAGE)
        await world.settle()
        assert entries(vm, OBJECT, 3) == ("---" if evicted else "w-w")
        assert await vm.load(at(OBJECT), 4) == b"kept"
        assert await vm.load(at(OBJECT + 1)) == GpuFault(EINVAL().errno)

    list(every(scenario, 10))


@pytest.mark.parametrize("evicted", [False, True])
def test_the_rest_of_what_was_cut_twice_at_once_keeps_the_state_of_its_entries(evicted: bool) -> None:
    """The second cut is of a piece that the first one has left, and nobody has written its entries in between."""

    async def scenario(world: World) -> None:
        _process, vm, bo = await with_object(world, 3)
        await vm.store(at(OBJECT + 2), b"kept")
        if evicted:
            await world.gpu().evict(3 * PAGE)
        await vm.bind_array([vm.unmap_op(at(OBJECT + page), PAGE) for page in range(2)])
        await world.settle()
        assert entries(vm, OBJECT, 3) == ("---" if evicted else "--w")
        assert await vm.load(at(OBJECT + 2), 4) == b"kept"
        assert (bo.in_vram, entries(vm, OBJECT, 3)) == (True, "--w")
        await world.gpu().evict(3 * PAGE)
        assert (bo.in_vram, entries(vm, OBJECT, 3)) == (False, "---")

    list(every(scenario, 10))


@pytest.mark.parametrize("prefetched_first", [True, False])
def test_the_rest_of_what_was_cut_and_prefetched_at_once_is_zapped_by_the_next_eviction(prefetched_first: bool) -> None:
    """Its entries are those that the prefetch has written, whatever had become of the ones before."""

    async def scenario(world: World) -> None:
        _process, vm, bo = await with_object(world, 2)
        await vm.store(at(OBJECT), b"kept")
        await world.gpu().evict(2 * PAGE)
        prefetch = BindOp(BindKind.PREFETCH, VPN + OBJECT, 2 if prefetched_first else 1)
        cut = vm.unmap_op(at(OBJECT + 1), PAGE)
        await vm.bind_array([prefetch, cut] if prefetched_first else [cut, prefetch])
        await world.settle()
        assert (bo.in_vram, entries(vm, OBJECT, 2)) == (True, "w-")
        await world.gpu().evict(2 * PAGE)
        assert (bo.in_vram, entries(vm, OBJECT, 2)) == (False, "--")
        assert await vm.load(at(OBJECT), 4) == b"kept"

    list(every(scenario, 10))


def test_cutting_user_memory_binds_what_was_bound() -> None:
    async def scenario(world: World) -> None:
        process, vm, addr = await with_user_memory(world, 3)
        await vm.unbind(at(USER), PAGE)
        assert entries(vm, USER, 3) == "---"
        await vm.store(at(USER + 2), b"two")
        await vm.unbind(at(USER + 1), PAGE)
        await world.settle()
        assert entries(vm, USER, 3) == "--w"
        assert await process.read(addr + 2 * PAGE, 3) == b"two"

    list(every(scenario, 10))


# -- refused faults --------------------------------------------------------------------------


def test_a_fault_that_cannot_be_served_is_refused() -> None:
    async def scenario(world: World) -> None:
        _process, vm, _addr = await with_user_memory(world)
        bo, home = await vm.create_bo(PAGE), await vm.create_bo(PAGE, placement="system")
        await vm.bind(at(0), bo, flags=BindFlag.READONLY)
        await vm.bind(at(1), home)
        assert await vm.load(at(0)) == bytes(1)
        assert await vm.store(at(0), b"x") == GpuFault(EPERM().errno)
        assert await vm.load(at(2)) == GpuFault(EINVAL().errno)
        assert await vm.atomic_add(at(USER), 1) == GpuFault(EACCES().errno)
        assert await vm.atomic_add(at(1), 1) == GpuFault(EINVAL().errno)
        assert [(vpn - VPN, code) for vpn, code in vm.vm.faults] == [
            (0, "EPERM"), (2, "EINVAL"), (USER, "EACCES"), (1, "EINVAL"),
        ]  # fmt: skip
        await vm.close()
        assert await vm.load(at(0)) == GpuFault(EINVAL().errno)

    list(every(scenario, 5))


def test_a_refused_fault_kills_the_queue_and_no_other() -> None:
    async def scenario(world: World) -> None:
        process, vm, bo = await with_object(world)
        dead, alive = await vm.create_queue(), await vm.create_queue()
        fences = await process.mmap(PAGE)
        await vm.submit(dead, [Store(VPN, 0, b"x")])
        with pytest.raises(EIO):
            await vm.wait_user_fence(process, fences, "eq", 1, timeout=-1, queue=dead)
        await (await vm.submit(alive, [Store(VPN + OBJECT, 0, b"y")])).wait()
        assert (dead.dead, alive.dead, await bo.read(0)) == (True, False, b"y")

    list(every(scenario, 20))


def test_atomics_bring_objects_into_device_memory() -> None:
    async def scenario(world: World) -> None:
        _process, vm, bo = await with_object(world, placement="vram_or_system")
        await vm.prefetch(at(OBJECT), PAGE, region="system")
        await world.settle()
        assert (bo.in_vram, entries(vm, OBJECT, 2)) == (False, "ww")
        assert await vm.atomic_add(at(OBJECT), 5) == 0
        assert (bo.in_vram, await bo.read(0)) == (True, b"\5")

    list(every(scenario, 10))


# -- prefetch ----------------------------------------------------------------------------------


def test_prefetch_of_every_kind_at_once() -> None:
    async def scenario(world: World) -> None:
        process, vm = await with_mirror(world, 4)
        bo, addr = await vm.create_bo(PAGE, placement="vram_or_system"), await process.mmap(PAGE)
        await vm.bind(at(4), bo)
        await vm.bind_userptr(at(5), addr, PAGE)
        await process.mmap(PAGE, addr=addr, fixed=True)  # what was pinned is stale
        await vm.prefetch(at(0), 6 * PAGE, region="system")
        await world.settle()
        assert (entries(vm, 0, 6), where(process), bo.in_vram) == ("wwwwww", "rrrr", False)
        await vm.prefetch(at(0), 6 * PAGE, region="vram")
        await world.settle()
        assert (entries(vm, 0, 6), where(process), bo.in_vram) == ("wwwwww", "vvvv", True)
        before = world.gpu().gpu.fault_queue.statistics()["faults"]
        assert [await vm.store(at(index), b"z") for index in range(6)] == [None] * 6
        assert world.gpu().gpu.fault_queue.statistics()["faults"] == before

    list(every(scenario, 10))


def test_prefetch_goes_where_things_belong_and_skips_holes() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_fault(world)
        await vm.bind_mirror(at(0), 8 * PAGE, placement="system")
        await process.mmap(PAGE, addr=at(1), fixed=True)
        await process.mmap(PAGE, addr=at(6), fixed=True)
        await vm.prefetch(at(0), 8 * PAGE)
        await world.settle()
        assert (entries(vm, 0, 8), where(process, 8)) == ("-w----w-", "-r----r-")
        bo = await vm.create_bo(PAGE)
        await vm.bind(at(OBJECT), bo)
        with pytest.raises(EINVAL):
            await vm.prefetch(at(OBJECT), PAGE, region="system")
        with pytest.raises(EINVAL):
            await vm.prefetch(at(OBJECT), PAGE, region="disk")

    list(every(scenario, 5))


# -- mirrored memory beside the rest -----------------------------------------------------------


def test_mirrored_memory_in_use_cannot_be_cut_until_the_process_unmaps_it() -> None:
    async def scenario(world: World) -> None:
        process, vm = await with_mirror(world, 4)
        bo = await vm.create_bo(2 * PAGE)
        await vm.store(at(2), b"x")
        before = spans(vm)
        with pytest.raises(EBUSY):
            await vm.unbind(at(0), 4 * PAGE)
        with pytest.raises(EBUSY):
            await vm.bind(at(2), bo)
        with pytest.raises(EBUSY):
            await vm.bind_array([vm.unmap_op(at(0), PAGE), vm.unmap_op(at(2), PAGE)])
        assert spans(vm) == before
        await vm.unbind(at(0), 2 * PAGE)
        assert spans(vm) == [(2, 4, "mirror")]
        assert await process.read(at(2)) == b"x"
        await process.munmap(at(2), 2 * PAGE)
        await vm.bind(at(2), bo)
        assert await vm.load(at(2)) == bytes(1)
        assert spans(vm) == [(2, 4, bo.name)]

    list(every(scenario, 30))


def test_mirror_vmas_that_are_alike_become_one_and_keep_their_ranges() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_fault(world)
        await process.mmap(8 * PAGE, addr=at(0), fixed=True)
        await vm.bind_mirror(at(0), 2 * PAGE)
        await vm.store(at(1), b"kept")
        await vm.bind_mirror(at(4), 2 * PAGE)
        await vm.bind_mirror(at(6), 2 * PAGE, placement="system")
        await vm.bind_mirror(at(2), 2 * PAGE)
        assert spans(vm) == [(0, 6, "mirror"), (6, 8, "mirror")]
        assert entries(vm, 0, 2) == "-w"
        await vm.bind_mirror(at(1), 3 * PAGE)
        assert (spans(vm)[0], entries(vm, 0, 2)) == ((0, 6, "mirror"), "-w")
        with pytest.raises(EBUSY):  # what is bound there is writable
            await vm.bind_mirror(at(0), 8 * PAGE, flags=BindFlag.READONLY)
        with pytest.raises(EBUSY):  # a piece of it would stay
            await vm.bind_mirror(at(1), PAGE, placement="system")
        await vm.bind_mirror(at(0), 8 * PAGE, placement="system")
        assert (spans(vm), entries(vm, 0, 2)) == ([(0, 8, "mirror")], "-w")
        await vm.bind_mirror(at(16), 2 * PAGE, flags=BindFlag.READONLY)
        assert await vm.store(at(17), b"x") == GpuFault(EPERM().errno)

    list(every(scenario, 5))


def test_a_mirror_swallows_no_neighbour_of_another_kind_and_none_with_wishes_of_its_own() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_fault(world)
        await process.mmap(8 * PAGE, addr=at(0), fixed=True)
        bo = await vm.create_bo(PAGE)
        await vm.bind(at(0), bo)
        await vm.bind_mirror(at(4), PAGE)
        await vm.madvise(at(4), PAGE, atomic="cpu")
        await vm.bind_mirror(at(1), 3 * PAGE)
        assert spans(vm) == [(0, 1, bo.name), (1, 4, "mirror"), (4, 5, "mirror")]

    list(every(scenario, 5))


def test_the_permission_to_keep_ranges_is_that_of_one_operation() -> None:
    """SVM-S09: in 7.3.4 the second operation would take the vma away and leave the range."""

    async def scenario(world: World) -> None:
        _process, vm = await with_mirror(world, 4)
        await vm.store(at(0), b"x")
        with pytest.raises(EBUSY):
            await vm.bind_array([vm.mirror_op(at(8), PAGE), vm.unmap_op(at(0), 4 * PAGE)])
        assert spans(vm) == [(0, 4, "mirror")]

    list(every(scenario, 3))


def test_an_array_that_fails_takes_its_prefetched_ranges_with_it() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_fault(world)
        await process.mmap(8 * PAGE, addr=at(0), fixed=True)
        await vm.bind_mirror(at(0), 2 * PAGE)
        await vm.store(at(0), b"kept")
        prefetch = BindOp(BindKind.PREFETCH, VPN, 4)
        with pytest.raises(EBUSY):
            await vm.bind_array([vm.mirror_op(at(0), 4 * PAGE), prefetch, vm.unmap_op(at(3), PAGE)])
        await world.settle()
        assert (spans(vm), entries(vm, 0, 4)) == ([(0, 2, "mirror")], "w---")
        await vm.bind_array([vm.mirror_op(at(0), 4 * PAGE), prefetch])
        assert (spans(vm), entries(vm, 0, 4)) == ([(0, 4, "mirror")], "wwww")

    list(every(scenario, 10))


def test_what_mirroring_refuses() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_fault(world)
        lr = await world.gpu().create_vm(process, "lr")
        for op in (
            vm.mirror_op(1 << 47, PAGE), vm.mirror_op(at(0), PAGE, BindFlag.IMMEDIATE),
            vm.mirror_op(at(0), PAGE, placement="disk"),
        ):  # fmt: skip
            with pytest.raises(EINVAL):
                await vm.bind_array([op])
        with pytest.raises(EINVAL):
            await lr.bind_array([vm.mirror_op(at(0), PAGE)])
        assert await vm.load(at(0)) == GpuFault(EINVAL().errno)
        await vm.bind_mirror(at(0), PAGE)
        assert await vm.load(at(0)) == GpuFault(ENOENT().errno)

    list(every(scenario, 3))


def test_one_vm_with_everything_closes_clean() -> None:
    """Mirror, local and external object, user memory and null, all bound, a queue with a job; the oracles count."""

    async def scenario(world: World) -> None:
        process, vm = await with_mirror(world, 4)
        addr, queue = await process.mmap(PAGE), await vm.create_queue()
        await vm.bind(at(OBJECT), await vm.create_bo(PAGE))
        await vm.bind(at(OBJECT + 1), await vm.create_bo(PAGE, external=True))
        await vm.bind_userptr(at(USER), addr, PAGE)
        await vm.bind(at(USER + 1), None, length=PAGE, flags=BindFlag.NULL)
        places = (MIRROR, OBJECT, OBJECT + 1, USER, USER + 1)
        for place in places:
            assert await vm.store(at(place), b"x") is None
        assert [kind for _start, _end, kind in spans(vm)].count("mirror") == 1
        await vm.submit(queue, [Load(VPN + place) for place in places])
        await vm.close()
        assert world.gpu().driver.statistics()["vmas"] == 0
        with pytest.raises(ENOENT):
            vm.bind_queue()
        with pytest.raises(ENOENT):
            await vm.create_queue()

    list(every(scenario, 30))
    runs = [run_world(scenario, seed=7, strategy="random", backend=backend, record=True) for backend in BACKENDS]
    assert runs[0].trace is not None
    assert runs[0].trace == runs[1].trace
