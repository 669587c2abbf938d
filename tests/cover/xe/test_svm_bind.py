"""Binding and unbinding one range, the reservation, and the collector's list (gpusvm sections 6.1, 6.3)."""

from __future__ import annotations

from typing import Any

import pytest
from svm_bench import BASE, PAGE, VPN, bound, every, page, ranges, run, start

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EAGAIN, EIO, ENOENT, EngineError
from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.page_table import GpuPageTable
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.world import GpuVm, World
from svm_actors.xe.pt_update import UpdatePageTable
from svm_actors.xe.svm_range import Link, XeSvmRange

CHUNKS: dict[str, Any] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}


async def bound_range(world: World, **options: Any) -> tuple[Any, GpuVm, XeSvmRange]:
    """One range of four pages, bound."""
    process, vm = await start(world, placement="system", **CHUNKS, **options)
    await vm.store(BASE, b"x")
    (range_,) = ranges(vm)
    return process, vm, range_


async def clear(world: World, vm: GpuVm) -> None:
    """An event over the range."""
    event = NotifierRange(vm.vm.mm, Event.CLEAR, VPN, VPN + 4)
    await vm.vm.mm.subscriptions.invalidate_range_start(event)
    await vm.vm.mm.subscriptions.invalidate_range_end(event)


# -- bind ---------------------------------------------------------------------------------------


def test_entries_are_the_same_whoever_writes_them() -> None:
    """By the CPU or by a job: the page table holds the addresses of get_pages."""

    async def scenario(world: World) -> None:
        _process, vm, range_ = await bound_range(world)
        _process, other, same = await bound_range(world, bind_by_gpu=True)
        for who, its in ((vm, range_), (other, same)):
            entries = [who.vm.page_table.get(VPN + index) for index in range(4)]
            assert [pte.dma for pte in entries if pte is not None] == [item.addr for item in its.pages.entries]
            assert [pte.folio_pfn for pte in entries if pte is not None] == [
                item.folio.pfn for item in its.pages.entries
            ]
            assert (its.tile_present, its.tile_invalidated) == (1, 0)
        assert other.vm.resv.idle

    assert run(scenario).counters["gpu.bind_job"] == 1


def test_pages_given_back_are_not_bound() -> None:
    """SVM-R02: -EAGAIN in the prepare step and at the commit; nothing stays locked."""

    async def scenario(world: World) -> None:
        _process, vm, range_ = await bound_range(world)
        await clear(world, vm)
        async with vm.vm.lock.writing():
            with pytest.raises(EAGAIN):
                await vm.vm.pt.bind_range(range_, False)
            async with vm.vm.svm.gpusvm.notifier_lock.reading():
                with pytest.raises(EAGAIN):
                    vm.vm.pt.precommit_range(range_)
        assert not vm.vm.resv.lock.holders()
        assert not vm.vm.svm.gpusvm.notifier_lock.holders()
        assert bound(vm) == "----"

    assert run(scenario).counters["SVM-R02"] == 2


def test_a_job_waits_for_what_is_pending() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system", **CHUNKS)
        gate = Fence(world.engine, "gate")
        async with vm.vm.resv.lock:
            vm.vm.resv.add(gate)
        async with world.nursery() as nursery:
            nursery.start_soon(vm.store, BASE, b"x")
            await world.engine.sleep(1000)
            assert bound(vm) == "----"
            (range_,) = ranges(vm)
            assert range_.has_valid_mapping, "published before the entries are there: that is what I3 waits for"
            assert len(vm.vm.resv.pending()) == 2
            gate.signal()
        assert bound(vm) == "wwww"
        assert await process.read(BASE) == b"x"

    run(scenario)


# -- unbind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind_by_gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("valid", [True, False])
def test_unbind_flushes_what_no_notifier_has_flushed(valid: bool, bind_by_gpu: bool) -> None:
    """Entries still valid are flushed from the TLB; the fence is published and covers the flush."""

    async def scenario(world: World) -> None:
        _process, vm, range_ = await bound_range(world, bind_by_gpu=bind_by_gpu)
        if not valid:
            await clear(world, vm)
        seen: list[tuple[int, int]] = []
        world.engine.listeners.append(
            lambda event: seen.append((event.start, event.end)) if type(event) is TlbFlushed else None
        )
        async with vm.vm.lock.writing():
            await vm.vm.pt.unbind_range(range_)
            pending = vm.vm.resv.pending()
            await vm.vm.resv.wait_all()
        assert bool(pending) == (valid or bind_by_gpu)
        assert seen == ([(VPN, VPN + 4)] if valid else [])
        assert bound(vm) == "----"
        assert range_.tile_present == 0
        async with vm.vm.lock.writing():
            await vm.vm.pt.unbind_range(range_)
        assert len(seen) == valid

    run(scenario)


# -- the reservation ------------------------------------------------------------------------------


def test_a_reservation_forgets_what_is_signaled() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        resv = vm.vm.resv
        fences = [Fence(world.engine, f"f{n}") for n in range(3)]
        with pytest.raises(EngineError, match="must be held"):
            resv.add(fences[0])
        async with resv.lock:
            for fence in fences:
                resv.add(fence)
            assert resv.pending() == fences
            fences[1].signal(EIO())
            assert resv.pending() == [fences[0], fences[2]]
            done = Fence(world.engine, "done")
            done.signal()
            resv.add(done)
        assert not resv.idle
        async with world.nursery() as nursery:
            nursery.start_soon(resv.wait_all)
            fences[2].signal()
            fences[0].signal()
        assert resv.idle

    run(scenario)


def test_bind_jobs_run_in_order() -> None:
    """One queue: a job that waits holds up those behind it."""

    async def scenario(world: World) -> None:
        queue = world.gpu().driver.bind_queue
        gate = Fence(world.engine, "gate")
        table = GpuPageTable("table")
        first = await queue.call(UpdatePageTable(table, 0, 4, (), (gate,)))
        second = await queue.call(UpdatePageTable(table, 0, 4, (), ()))
        await world.engine.sleep(1000)
        assert (first.signaled, second.signaled) == (False, False)
        gate.signal()
        await second.wait()
        assert first.signaled

    run(scenario)


# -- the collector's list ---------------------------------------------------------------------------


def test_a_range_is_listed_once() -> None:
    """SVM-R05, RULE-25: neither while it is on the list nor after it was taken off."""

    async def scenario(world: World) -> None:
        _process, vm, range_ = await bound_range(world)
        gc = vm.vm.gc
        async with vm.vm.lock.writing():
            await gc.add(range_)
            await gc.add(range_)
            assert (gc.ranges, range_.link) == ([range_], Link.QUEUED)
            assert await gc._pop() is range_
            await gc.add(range_)
            assert (gc.ranges, range_.link) == ([], Link.POPPED)

    assert run(scenario).counters["SVM-R05"] == 1


def test_the_collector_needs_the_lock_and_an_open_vm() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        with pytest.raises(EngineError, match=r"vm1\.lock must be held for write"):
            await vm.vm.gc.run()
        vm.vm.killed = True
        async with vm.vm.lock.writing():
            with pytest.raises(ENOENT):
                await vm.vm.gc.run()
        vm.vm.killed = False

    run(scenario)


def test_a_failing_unbind_kills_the_vm() -> None:
    async def scenario(world: World) -> None:
        process, vm, _range = await bound_range(world)
        original = vm.vm.pt.unbind_range

        async def fails(_range: XeSvmRange) -> None:
            raise EIO

        vm.vm.pt.unbind_range = fails  # type: ignore[method-assign]
        await process.munmap(BASE, PAGE)
        await world.settle()
        assert vm.vm.killed
        vm.vm.pt.unbind_range = original  # type: ignore[method-assign]
        with pytest.raises(ENOENT):
            await vm.load(BASE)

    counters = run(scenario).counters
    assert (counters["vm.killed"], counters["gc.error.EIO"]) == (1, 1)


def test_one_thread_collects_whatever_dies() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start(world, 8, chunk_pages=(4, 1), check_pages_threshold=0)
        for index in (0, 4):
            await vm.load(BASE + index * PAGE)
        for index in (0, 4):
            await process.munmap(BASE + index * PAGE, 4 * PAGE)
            await world.settle()
        assert [task.id for task in world.engine.tasks.values() if ".gc" in task.id] == ["gpu0.vm1.gc"]

    assert run(scenario).counters["gc.range"] == 2


def test_dead_ranges_are_collected_without_any_fault() -> None:
    """The work item does it, on a thread of its own."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, 8, placement="system", **CHUNKS)
        await vm.store(page(0), b"x")
        await vm.store(page(4), b"x")
        await process.munmap(page(0), PAGE)
        await process.munmap(page(5), PAGE)
        await world.settle()
        assert not ranges(vm)
        assert not vm.vm.mm.subscriptions.tree
        assert vm.vm.refs == 1

    for result in every(scenario, 20):
        assert result.counters["gc.range"] == 2
        assert result.counters["SVM-R52"] == 2
