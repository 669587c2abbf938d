"""The invalidation callback, step by step: order, spans, who is waited for (gpusvm section 6.2)."""

from __future__ import annotations

from typing import Any

import pytest
from svm_bench import BASE, PAGE, VPN, after_pause, assert_hit, attempt, bound, every, page, ranges, run, start

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.gpusvm import GpusvmCtx
from svm_actors.gpu.events import TlbFlushed
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.world import GpuVm, World
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_range import Link, XeSvmRange


async def raise_event(world: World, vm: GpuVm, event: Event, first: int, last: int) -> None:
    """An event over pages of the memory at BASE; nothing changes on the CPU side."""
    mm = vm.vm.mm
    span = NotifierRange(mm, event, VPN + first, VPN + last)
    await mm.subscriptions.invalidate_range_start(span)
    await mm.subscriptions.invalidate_range_end(span)


def flushes(world: World) -> list[tuple[int, int]]:
    """Collect the spans the hardware flushes from now on, in pages from BASE."""
    seen: list[tuple[int, int]] = []
    world.engine.listeners.append(
        lambda event: seen.append((event.start - VPN, event.end - VPN)) if type(event) is TlbFlushed else None
    )
    return seen


def test_the_order_is_zap_flush_wait_unmap() -> None:
    """RULE-18: this order is the safety property; the whole trace of the callback."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system", chunk_pages=(4, 1), check_pages_threshold=0)
        await vm.store(BASE, b"x")
        world.engine.timeline.clear()
        await process.munmap(BASE, 4 * PAGE)

    trace = run(scenario, record=True).trace
    assert trace is not None
    begin = trace.index("main/Munmap.0: send gpu0.vm1.svm.mailbox Invalidate")
    end = trace.index("main/Munmap.0: reply gpu0.vm1.svm.Invalidate")
    mine = [line.removeprefix("main/Munmap.0/Invalidate.0: ") for line in trace[begin + 1 : end]]
    assert [line for line in mine if not line.startswith(("gpu0.vm1.svm: ", "gpu0.vm1.gc: "))] == [
        "start",
        "lock gpu0.vm1.svm.notifier_lock",
        "pte_write gpu0.vm1.pt",
        "lock gpu0.tlb_client.seqno_lock",
        "send gpu0.tlb_inval.ring InvalidateTlb",
        "gpu0.tlb_inval: start",
        "gpu0.tlb_inval: receive gpu0.tlb_inval.ring",
        "gpu0.tlb_inval: tlb_flush gpu0.tlb",
        "gpu0.tlb_inval: fence_signal gpu0.tlb_inval.fence.1",
        "fence_wait gpu0.tlb_client.fence.1",
        "write gpu0.iommu unmap",
        "lock gpu0.vm1.gc_lock",
    ]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 4, (0, 4)),
        (1, 2, (0, 4)),
        (2, 9, (0, 12)),
        (7, 8, (4, 8)),
        (-4, 1, (-4, 4)),
        (11, 40, (8, 40)),
        (3, 12, (0, 12)),
    ],
)
def test_the_flush_covers_event_and_ranges(first: int, last: int, expected: tuple[int, int]) -> None:
    """I4: with hardware that flushes exactly what it is asked for (RULE-32)."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world, 12, chunk_pages=(4, 1), check_pages_threshold=0)
        for index in (0, 4, 8):
            await vm.store(page(index), b"x")
        seen = flushes(world)
        await raise_event(world, vm, Event.CLEAR, first, last)
        assert seen == [expected]
        dead = {range_.start - VPN for range_ in ranges(vm) if range_.tile_invalidated}
        assert dead == {start for start in (0, 4, 8) if start < last and start + 4 > first}
        assert all(range_.pages.flags.has_dma_mapping != bool(range_.tile_invalidated) for range_ in ranges(vm))

    run(scenario)


def test_nothing_valid_nothing_flushed() -> None:
    """I5: a second event finds the entries zapped already, but still gives DMA mappings back."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        await vm.store(BASE, b"x")
        seen = flushes(world)
        await raise_event(world, vm, Event.CLEAR, 0, 1)
        await raise_event(world, vm, Event.CLEAR, 0, 1)
        await raise_event(world, vm, Event.PROTECTION_VMA, 2, 4)
        assert seen == [(0, 1)]
        assert bound(vm) == "----"

    run(scenario)


def test_pages_mapped_but_not_bound_are_given_back_too() -> None:
    """SVM-B40: I7 is for every overlapped range, zapped or not."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system")
        await vm.store(BASE, b"x")
        (range_,) = ranges(vm)
        await raise_event(world, vm, Event.CLEAR, 0, 1)
        svm = vm.vm.svm
        ctx = GpusvmCtx()
        await svm.gpusvm.get_pages(range_.pages, process.mm, range_.interval, range_.start, range_.end, ctx)
        assert range_.pages.flags.has_dma_mapping
        assert not range_.has_valid_mapping
        await raise_event(world, vm, Event.CLEAR, 0, 1)
        assert not range_.pages.flags.has_dma_mapping

    run(scenario)


@pytest.mark.parametrize(
    ("event", "dead"), [(Event.UNMAP, True), *((event, False) for event in Event if event is not Event.UNMAP)]
)
def test_only_unmap_kills_a_range(event: Event, dead: bool) -> None:
    """Every event takes the translation away; only UNMAP sends the range to the garbage collector."""

    async def scenario(world: World) -> None:
        process, vm = await start(world, placement="system")
        await vm.store(BASE, b"x")
        (range_,) = ranges(vm)
        async with vm.vm.lock.reading():  # keeps the collector out
            await raise_event(world, vm, event, 0, 1)
            assert bound(vm) == "----"
            assert range_.flags.unmapped is dead
            assert range_.link is (Link.QUEUED if dead else Link.UNLINKED)
        assert await vm.load(BASE) == b"x"
        assert (ranges(vm) == [range_]) is not dead
        assert await process.read(BASE) == b"x"

    run(scenario)


def test_a_vm_without_ranges_there_waits_for_nothing() -> None:
    """I1: not even for the fences of the VM."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world, 8, chunk_pages=(1,), placement="system")
        await vm.store(BASE, b"x")
        never = Fence(world.engine, "never")
        async with vm.vm.resv.lock:
            vm.vm.resv.add(never)
        await raise_event(world, vm, Event.CLEAR, 4, 8)
        never.signal()
        await raise_event(world, vm, Event.CLEAR, 0, 8)

    assert run(scenario).counters["gpu.invalidate"] == 2


def test_pending_updates_are_waited_for_before_the_zap() -> None:
    """SVM-R03, I3: a fence of the VM that nobody signals holds the callback up."""

    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        await vm.store(BASE, b"x")
        pending = Fence(world.engine, "pending")
        async with vm.vm.resv.lock:
            vm.vm.resv.add(pending)
        seen: list[str] = []

        async def event() -> None:
            await raise_event(world, vm, Event.CLEAR, 0, 1)
            seen.append("returned")

        async def signal() -> None:
            await world.engine.sleep(1000)
            seen.append(bound(vm))
            pending.signal()

        async with world.nursery() as nursery:
            nursery.start_soon(event)
            nursery.start_soon(signal)
        assert seen == ["w---", "returned"]

    assert_hit(list(every(scenario, 20)), "SVM-R03")


# -- the guards are needed ------------------------------------------------------------------------


def replaced(**methods: Any) -> Any:
    """A hook that builds VMs with some methods of their SVM side replaced."""

    def hook(parts: Any) -> None:
        parts.replace(XeSvm, lambda original: type("Broken", (original,), methods))

    return hook


async def do_nothing(*_: Any) -> None:
    """Instead of a guard."""


async def only_zapped(self: XeSvm, range_: XeSvmRange, event: NotifierRange, closed: bool) -> None:
    """SVM-B40: DMA mappings of ranges that were not bound stay."""
    if range_.tile_present:
        await XeSvm._give_back(self, range_, event, closed)


def with_hook(scenario: Any, hook: Any) -> Any:
    """The scenario in a world whose driver is built differently."""

    async def hooked(world: World) -> None:
        hook(world.engine.parts)
        await scenario(world)

    return hooked


async def bind_while_pending(world: World) -> None:
    """A bind job waits for a fence; meanwhile the page under it is given up."""
    process, vm = await start(world, placement="system")
    pending = Fence(world.engine, "pending")
    async with vm.vm.resv.lock:
        vm.vm.resv.add(pending)

    async def give_up() -> None:
        await world.engine.sleep(1000)
        await process.madvise(BASE, PAGE, "dontneed")

    async def signal() -> None:
        await world.engine.sleep(2000)
        pending.signal()

    async with world.nursery() as nursery:
        nursery.start_soon(vm.store, BASE, b"x")
        nursery.start_soon(give_up)
        nursery.start_soon(signal)


async def map_without_binding(world: World) -> None:
    """Pages are mapped for DMA, the bind is still to come, the page is given up."""
    process, vm = await start(world, placement="system")
    async with world.nursery() as nursery:
        nursery.start_soon(vm.store, BASE, b"x")
        nursery.start_soon(after_pause, world, process.madvise, BASE, PAGE, "dontneed")
        nursery.start_soon(after_pause, world, process.madvise, BASE, PAGE, "dontneed")


async def close_while_unmapping(world: World) -> None:
    """The VM goes while the memory goes."""
    process, vm = await start(world, placement="system")
    for index in range(4):
        await vm.store(page(index), b"x")
    async with world.nursery() as nursery:
        nursery.start_soon(vm.close)
        for index in range(4):
            nursery.start_soon(after_pause, world, process.munmap, page(index), PAGE)


@pytest.mark.parametrize(
    ("scenario", "guard", "rules"),
    [
        pytest.param(bind_while_pending, {"wait_bookkeeping": do_nothing}, {"RULE-18"}, id="SVM-B39"),
        pytest.param(map_without_binding, {"_give_back": only_zapped}, {"RULE-18"}, id="SVM-B40"),
        pytest.param(close_while_unmapping, {"is_closed": lambda self: False}, {"SVM-R22"}, id="SVM-B47"),
    ],
)
def test_a_guard_that_is_missed(scenario: Any, guard: dict[str, Any], rules: set[str]) -> None:
    """Without it some schedule breaks one of the rules; with it none does."""
    found = set()
    for seed in range(60):
        assert attempt(scenario, "random", seed).failure is None
        failure = attempt(with_hook(scenario, replaced(**guard)), "random", seed).failure
        if failure is not None:
            found.add(failure.rule)
    assert found
    assert found <= rules
