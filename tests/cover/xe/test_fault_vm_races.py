"""Races of a VM in fault mode that user space fills, each met and survived; and with its guard removed, noticed.

Every racing scenario is run on the model as it is, where its window must be met, and on a mutant of the model, where
some oracle must speak within as many schedules.
"""

from __future__ import annotations

from typing import Any

import pytest
from bind_bench import at, gate
from fault_bench import MIRROR, OBJECT, USER, entries, start_fault, with_mirror, with_object, with_user_memory
from svm_bench import PAGE, VPN, Scenario, after_pause, assert_hit, attempt, every

from svm_actors.engine.errors import EBUSY, EINVAL, ENOENT
from svm_actors.gpu.fault import PageFault
from svm_actors.gpu.program import GpuFault, Load, Store
from svm_actors.world import World
from svm_actors.xe.fault_bind import FaultBindOps
from svm_actors.xe.fault_service import VmaFault
from svm_actors.xe.fault_userptr import FaultUserptr
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.fault_zap import ObjectZap
from svm_actors.xe.pagefault import Pagefaults
from svm_actors.xe.pt_bind import PtBind
from svm_actors.xe.userptr import Userptr
from svm_actors.xe.vm_bind import BindFlag
from svm_actors.xe.vm_mode import XeBindVm

# -- scenarios -------------------------------------------------------------------------------


async def eviction_under_faults(world: World) -> None:
    """VMB-R23: the GPU writes an object over and over while others want the memory; a job is the last to write."""
    _process, vm, bo = await with_object(world)
    world.gpu().gpu.compute.replay_limit = REPLAYS

    async def use(number: int) -> None:
        for turn in range(3):
            assert await vm.run([Store(VPN + OBJECT + number, 0, bytes([turn + 1])), Load(VPN + OBJECT + number)]) == [
                None, bytes([turn + 1]),
            ]  # fmt: skip

    async def take(_number: int) -> None:
        await world.gpu().evict(2 * PAGE)
        other = await vm.create_bo(2 * PAGE, external=True)
        await other.write(0, b"\xff" * 8)
        await other.write(PAGE, b"\xff" * 8)

    async with world.nursery() as nursery:
        for number in range(2):
            nursery.start_soon(after_pause, world, use, number)
            nursery.start_soon(after_pause, world, take, number)
    assert [await bo.read(index * PAGE) for index in range(2)] == [b"\3", b"\3"]


async def eviction_before_a_queued_bind(world: World) -> None:
    """VMB-R23: entries are still to be written by a job when the object moves."""
    _process, vm = await start_fault(world)
    bo = await vm.create_bo(PAGE)
    hold, held = gate(world)

    async def let_go() -> None:
        hold.signal()

    await vm.bind(at(OBJECT), bo, flags=BindFlag.IMMEDIATE, syncs=[held.sync_in()])
    async with world.nursery() as nursery:
        nursery.start_soon(after_pause, world, world.gpu().evict, PAGE)
        nursery.start_soon(after_pause, world, let_go)
    assert await vm.store(at(OBJECT), b"new") is None
    assert await bo.read(0, 3) == b"new"


async def an_object_of_two_modes(world: World) -> None:
    """VMB-R06, VMB-R23: a VM in fault mode and one without map the object that is evicted."""
    process, vm = await start_fault(world)
    other = await world.gpu().create_vm(process, "dma_fence")
    bo, queue = await vm.create_bo(2 * PAGE, external=True), await other.create_queue()
    await vm.bind(at(OBJECT), bo)
    await other.bind(at(OBJECT), bo)

    async def faults() -> None:
        for turn in range(2):
            assert await vm.store(at(OBJECT), bytes([turn + 1])) is None

    async def jobs() -> None:
        for turn in range(2):
            await (await other.submit(queue, [Store(VPN + OBJECT + 1, 0, bytes([turn + 1]))])).wait()

    async with world.nursery() as nursery:
        nursery.start_soon(after_pause, world, faults)
        nursery.start_soon(after_pause, world, jobs)
        nursery.start_soon(after_pause, world, world.gpu().evict, 2 * PAGE)
    assert [await bo.read(index * PAGE) for index in range(2)] == [b"\2", b"\2"]


async def user_memory_under_changes(world: World) -> None:
    """VMB-R02, VMB-R17, VMB-R18, SVM-R40: two threads change what two programs write."""
    process, vm, addr = await with_user_memory(world, 4)

    async def change(index: int) -> None:
        for _turn in range(2):
            await process.madvise(addr + index * PAGE, PAGE, "dontneed")

    async def use(index: int) -> None:
        for turn in range(3):
            assert await vm.store(at(USER + index), bytes([turn + 1])) is None

    async with world.nursery() as nursery:
        for index in range(2):
            nursery.start_soon(after_pause, world, change, index)
            nursery.start_soon(after_pause, world, use, 2 * index)
    assert await vm.load(at(USER + 2)) == b"\3"


async def changes_of_bound_user_memory(world: World) -> None:
    """SVM-R40: entries go once, and three events rely on that."""
    process, vm, addr = await with_user_memory(world, 4)
    assert await vm.store(at(USER), b"x") is None

    async def change(index: int) -> None:
        await process.madvise(addr + index * PAGE, PAGE, "dontneed")

    async def use() -> None:
        for index in range(4):
            await vm.load(at(USER + index))

    async with world.nursery() as nursery:
        nursery.start_soon(use)
        for index in range(3):
            nursery.start_soon(after_pause, world, change, index)


async def changes_before_a_queued_bind(world: World) -> None:
    """VMB-R18: entries are still to be written by a job, and two events wait for it."""
    process, vm = await start_fault(world)
    addr = await process.mmap(2 * PAGE)
    hold, held = gate(world)

    async def let_go() -> None:
        hold.signal()

    await vm.bind_userptr(at(USER), addr, 2 * PAGE, flags=BindFlag.IMMEDIATE, syncs=[held.sync_in()])
    async with world.nursery() as nursery:
        for index in range(2):
            nursery.start_soon(process.madvise, addr + index * PAGE, PAGE, "dontneed")
        nursery.start_soon(after_pause, world, let_go)
    await process.write(addr, b"cpu")
    assert await vm.load(at(USER), 3) == b"cpu"


async def immediate_binds_under_changes(world: World) -> None:
    """VMB-R17: pages go between the pin and the commit of a bind or a prefetch."""
    process, vm = await start_fault(world)
    addr = await process.mmap(2 * PAGE)

    async def change() -> None:
        for _turn in range(2):
            await process.madvise(addr, PAGE, "dontneed")

    async def bind(index: int) -> None:
        await vm.bind_userptr(at(USER + 2 * index), addr, 2 * PAGE, flags=BindFlag.IMMEDIATE)
        await vm.prefetch(at(USER + 2 * index), PAGE)

    async with world.nursery() as nursery:
        nursery.start_soon(after_pause, world, change)
        for index in range(2):
            nursery.start_soon(after_pause, world, bind, index)
    await process.write(addr, b"cpu")
    assert [await vm.load(at(USER + 2 * index), 3) for index in range(2)] == [b"cpu", b"cpu"]


async def unbind_under_changes(world: World) -> None:
    """VMB-R09: a zap and an unbind of the same entries, the last in their node, and of a piece next to others."""
    process, vm, addr = await with_user_memory(world, 3)
    await vm.bind_userptr(at(2 * USER), addr, 2 * PAGE)
    for place in (USER, 2 * USER):
        assert await vm.store(at(place), b"x") is None

    async def change() -> None:
        for index in (1, 0, 1):
            await process.madvise(addr + index * PAGE, PAGE, "dontneed")

    async with world.nursery() as nursery:
        nursery.start_soon(after_pause, world, change)
        nursery.start_soon(after_pause, world, vm.unbind, at(USER + 1), PAGE)
        nursery.start_soon(after_pause, world, vm.unbind, at(2 * USER), 2 * PAGE)
    assert await vm.load(at(USER + 1)) == GpuFault(EINVAL().errno)
    await world.settle()
    assert entries(vm, USER + 1, 1) == "-"
    await process.write(addr, b"cpu")
    assert await vm.load(at(USER), 3) == b"cpu"


async def close_under_faults(world: World) -> None:
    """VMB-R24, SVM-R22, SVM-R47: whoever comes late is refused, and what is zapped late is not there any more."""
    process, vm, addr = await with_user_memory(world)
    await process.mmap(2 * PAGE, addr=at(MIRROR), fixed=True)
    await vm.bind_mirror(at(MIRROR), 2 * PAGE)
    bo = await vm.create_bo(PAGE, external=True)
    await vm.bind(at(OBJECT), bo)
    places = (MIRROR, OBJECT, USER)
    for place in places:
        assert await vm.store(at(place), b"x") is None

    async def use(place: int) -> None:
        result = await vm.load(at(place))
        assert result in (b"x", bytes(1)) or result in (GpuFault(ENOENT().errno), GpuFault(EINVAL().errno))

    async def look() -> None:
        for _turn in range(100):
            if vm.vm.asid in world.gpu().driver.bind_vms:
                assert await bo.read(0) == b"x"

    async with world.nursery() as nursery:
        nursery.start_soon(look)
        nursery.start_soon(after_pause, world, vm.close)
        nursery.start_soon(after_pause, world, world.gpu().evict, PAGE)
        nursery.start_soon(after_pause, world, process.madvise, addr, PAGE, "dontneed")
        nursery.start_soon(after_pause, world, process.madvise, at(MIRROR), PAGE, "dontneed")
        for place in places:
            nursery.start_soon(after_pause, world, use, place)


async def a_fork_and_user_memory_on_the_device(world: World) -> None:
    """SVM-S02 once more: the page is in device memory, read-only since the fork, and reached as user memory."""
    process, vm = await with_mirror(world, 1)
    await vm.bind_userptr(at(USER), at(MIRROR), PAGE)
    assert await vm.store(at(MIRROR), b"parent") is None
    child = await process.fork()
    assert await vm.store(at(USER), b"device") is None
    assert (await child.read(at(MIRROR), 6), await process.read(at(MIRROR), 6)) == (b"parent", b"device")


async def an_evicted_object_is_cut(world: World) -> None:
    """What stays of it is touched afterwards."""
    _process, vm, _bo = await with_object(world, 2)
    world.gpu().gpu.compute.replay_limit = REPLAYS
    await vm.store(at(OBJECT), b"kept")
    async with world.nursery() as nursery:
        nursery.start_soon(after_pause, world, world.gpu().evict, 2 * PAGE)
        nursery.start_soon(after_pause, world, vm.unbind, at(OBJECT + 1), PAGE)
    assert await vm.load(at(OBJECT), 4) == b"kept"


async def mirrored_memory_is_unmapped_and_unbound(world: World) -> None:
    """SVM-R04: the range is dead, and collected before the bind looks."""
    process, vm = await with_mirror(world, 2)
    await vm.store(at(MIRROR), b"x")
    await process.munmap(at(MIRROR), 2 * PAGE)
    await vm.unbind(at(MIRROR), 2 * PAGE)


async def mirrored_memory_in_use_is_unbound(world: World) -> None:
    """It stays, whoever asks."""
    _process, vm = await with_mirror(world, 2)
    await vm.store(at(MIRROR), b"x")
    with pytest.raises(EBUSY):
        await vm.unbind(at(MIRROR), 2 * PAGE)


async def a_neighbour_goes_while_ranges_come(world: World) -> None:
    """VMB-R10: mirrored memory and an object under one page-table node."""
    process, vm = await with_mirror(world, 2)
    bo = await vm.create_bo(PAGE)

    async def objects() -> None:
        for _turn in range(2):
            await vm.bind(at(8), bo, flags=BindFlag.IMMEDIATE)
            await vm.unbind(at(8), PAGE)

    async def ranges() -> None:
        for turn in range(2):
            assert await vm.store(at(turn), b"x") is None
            await process.read(at(turn))

    async with world.nursery() as nursery:
        nursery.start_soon(after_pause, world, objects)
        nursery.start_soon(after_pause, world, ranges)
    assert await vm.store(at(0), b"last") is None


async def prefetch_of_stale_user_memory(world: World) -> None:
    """VMB-B12: what a notifier took is pinned again before it is bound."""
    process, vm, addr = await with_user_memory(world, 1)
    await process.madvise(addr, PAGE, "dontneed")
    await vm.prefetch(at(USER), PAGE)
    await world.settle()
    assert entries(vm, USER, 1) == "w"


REPLAYS = 50
"""An access that faults so often is given up: a fault is acknowledged and not cured."""


# -- the model as it is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "windows"),
    [
        (eviction_under_faults, ("VMB-R23", "fault.zapped")),
        (eviction_before_a_queued_bind, ("fault.zap_waits",)),
        (an_object_of_two_modes, ("VMB-R06", "fault.zapped")),
        (user_memory_under_changes, ("VMB-R02", "VMB-R17", "gpu.retry.userptr", "fault.zapped")),
        (changes_of_bound_user_memory, ("SVM-R40",)),
        (changes_before_a_queued_bind, ("VMB-R18",)),
        (immediate_binds_under_changes, ("VMB-R17", "bind.again")),
        (unbind_under_changes, ("VMB-R09",)),
        (close_under_faults, ("VMB-R25", "SVM-R22", "SVM-R47")),
        (a_fork_and_user_memory_on_the_device, ("SVM-R38",)),
        (a_neighbour_goes_while_ranges_come, ()),
        (prefetch_of_stale_user_memory, ("VMB-R02", "userptr.pin")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_race_is_met_and_survived(scenario: Scenario, windows: tuple[str, ...]) -> None:
    assert_hit(list(every(scenario, 40)), *windows)


# -- mutants ---------------------------------------------------------------------------------


def nothing(*_args: Any, **_options: Any) -> None:
    """The guard is gone."""


def never(*_args: Any) -> bool:
    """The guard does not apply."""
    return False


async def nothing_done(*_args: Any, **_options: Any) -> None:
    """The same for one that may sleep."""


async def own_flush_only(self: FaultUserptr, fence: Any) -> None:
    """SVM-S04."""
    if fence is not None:
        await self.owner.tlb_inval.wait(fence)


def always_served(self: VmaFault) -> bool:
    """That the entries were zapped since does not matter."""
    return self.vma.present


async def referenced_late(self: Pagefaults, fault: PageFault) -> None:
    """VMB-B19: the VM is found, waited for, and only then held."""
    vm = self.device.faulting_vm(fault.asid)
    if vm is None:
        raise EINVAL
    async with vm.lock.writing():
        vm.get()
        try:
            await self._serve(vm, fault)
        finally:
            vm.put()


@pytest.mark.parametrize(
    ("scenario", "owner", "guard", "mutant"),
    [
        (eviction_under_faults, ObjectZap, "run", nothing_done),
        (eviction_under_faults, ObjectZap, "wait_for_flush", nothing_done),
        (eviction_before_a_queued_bind, ObjectZap, "wait_for_binds", nothing_done),
        (eviction_under_faults, VmaFault, "is_served", always_served),
        (user_memory_under_changes, FaultUserptr, "zap", nothing_done),
        (user_memory_under_changes, Userptr, "store_sequence", nothing),
        (changes_of_bound_user_memory, FaultUserptr, "wait_for_flush", nothing_done),
        (changes_of_bound_user_memory, FaultUserptr, "wait_for_flush", own_flush_only),
        (changes_before_a_queued_bind, FaultUserptr, "wait_for_jobs", nothing_done),
        (user_memory_under_changes, PtBind, "look_at_user_memory", nothing),
        (immediate_binds_under_changes, PtBind, "look_at_user_memory", nothing),
        (unbind_under_changes, PtBind, "is_zapped_by_notifiers", never),
        (close_under_faults, XeFaultVm, "nuke", XeBindVm.nuke),
        (close_under_faults, Pagefaults, "service", referenced_late),
        (a_fork_and_user_memory_on_the_device, FaultUserptr, "pin_pages", Userptr.pin_pages),
        (an_evicted_object_is_cut, PtBind, "_inherited", lambda _bind: {}),
        (mirrored_memory_is_unmapped_and_unbound, XeFaultVm, "before_bind", nothing_done),
        (mirrored_memory_in_use_is_unbound, FaultBindOps, "check_unmap", nothing),
        (a_neighbour_goes_while_ranges_come, XeFaultVm, "entries_change", nothing),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_removed_guard_is_noticed(
    scenario: Scenario, owner: type, guard: str, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(seed: int) -> bool:
        return attempt(scenario, "random" if seed else "fifo", seed, step_budget=5_000).failure is not None

    monkeypatch.setattr(owner, guard, mutant)
    assert any(fails(seed) for seed in range(200))
    monkeypatch.undo()
    assert not any(fails(seed) for seed in range(3))
