"""An ioctl that fails leaves the VM as it was, whatever failed and wherever (INV-VMB-08, VMB-B17)."""

from __future__ import annotations

import pytest
from bind_bench import at, bind_and_wait, gate, pages, snapshot, spans, start_bind, unbind_and_wait
from svm_bench import PAGE, assert_hit, attempt, every, run

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.errors import EBUSY, EFAULT, EINVAL, ENOMEM
from svm_actors.world import BindVm, World
from svm_actors.xe.bind_ops import BindOps
from svm_actors.xe.sync import Sync
from svm_actors.xe.user_fence import UserFence
from svm_actors.xe.vm_bind import BindFlag, BindOp

NULL = BindFlag.NULL


def failing(vm: BindVm) -> None:
    """From here on any allocation of the VM may fail."""
    vm.vm.memory = vm.vm.gpuvm.memory = FenceMemory(vm.world.engine, inject=True)


def healthy(vm: BindVm) -> None:
    """None does."""
    vm.vm.memory = vm.vm.gpuvm.memory = None


async def long_array(vm: BindVm) -> list[BindOp]:
    """Cuts, replacements, null mappings and several objects."""
    local, external = await vm.create_bo(4 * PAGE), await vm.create_bo(4 * PAGE, external=True)
    return [
        vm.map_op(at(2), local, 4 * PAGE),
        vm.unmap_op(at(3), PAGE),
        vm.map_op(at(4), external, 4 * PAGE),
        vm.map_op(at(5), None, PAGE, flags=NULL),
        vm.unmap_op(at(0), 2 * PAGE),
    ]


def test_any_allocation_may_fail() -> None:
    outcomes = set()

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        base = await vm.create_bo(8 * PAGE)
        await bind_and_wait(vm, at(0), base)
        ops = await long_array(vm)
        before = snapshot(vm)
        failing(vm)
        try:
            await vm.bind_array(ops)
        except ENOMEM:
            outcomes.add("failed")
            assert snapshot(vm) == before
        else:
            outcomes.add("done")
        healthy(vm)
        if snapshot(vm) == before:
            await vm.bind_array(ops)
        await unbind_and_wait(vm, at(0), 8 * PAGE)
        assert pages(vm, 8) == "-" * 8

    for _run in every(scenario, 60):
        pass
    assert outcomes == {"failed", "done"}


def test_contention_runs_the_preparation_again() -> None:
    """VMB-B01: passes that came to nothing leave nothing behind."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        vm.vm.inject_contention = True
        await vm.bind_array(await long_array(vm))
        out = world.syncobj()
        await vm.bind_array([], syncs=[out.sync_out()])
        await out.wait()
        assert pages(vm, 8) == "--w-wwww"
        assert vm.vm.pt_tree.statistics() == {"nodes": 1, "staged": 0}

    assert sum(result.counters.get("exec.retry", 0) for result in every(scenario, 30)) > 5


def test_a_bad_operation_late_in_an_array() -> None:
    """The range check of the tree comes after operations that were committed to it."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(4 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        before = snapshot(vm)
        with pytest.raises(EINVAL):
            await vm.bind_array([vm.unmap_op(at(1), PAGE), BindOp(vm.unmap_op(0, PAGE).kind, 1 << 36, 1)])
        assert snapshot(vm) == before

    run(scenario)


def test_an_array_does_not_evict_what_it_has_mapped() -> None:
    """VMB-B16: two objects that fit one at a time; a single bind may make room, an array answers -ENOMEM."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        first, second = await vm.create_bo(6 * PAGE), await vm.create_bo(6 * PAGE)
        before = snapshot(vm)
        with pytest.raises(ENOMEM):
            await vm.bind_array([vm.map_op(at(0), first, 6 * PAGE), vm.map_op(at(8), second, 6 * PAGE)])
        assert snapshot(vm) == before
        await bind_and_wait(vm, at(0), first)
        await bind_and_wait(vm, at(8), second)
        assert (first.in_vram, second.in_vram) == (False, True)
        assert len(spans(vm)) == 2

    run(scenario, vram_pages=8)


def test_user_memory_that_is_not_there() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr = await process.mmap(PAGE)
        await process.munmap(addr, PAGE)
        before = snapshot(vm)
        with pytest.raises(EFAULT):
            await vm.bind_userptr(at(0), addr, PAGE)
        assert snapshot(vm) == before

    for _run in every(scenario, 10):
        pass


def test_a_restored_range_that_is_too_small_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-B17: by the snapshot, and by the oracle."""

    def shrunk(self: BindOps, vma: object) -> None:
        vma.destroyed = False  # type: ignore[attr-defined]
        vma.range -= 1  # type: ignore[attr-defined]
        self.vm.gpuvm.va_insert(vma)  # type: ignore[arg-type]

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        first, second = await vm.create_bo(6 * PAGE), await vm.create_bo(6 * PAGE)
        await bind_and_wait(vm, at(0), first)
        before = snapshot(vm)
        with pytest.raises(ENOMEM):
            await vm.bind_array([vm.unmap_op(at(1), PAGE), vm.map_op(at(8), second, 6 * PAGE)])
        same.append(snapshot(vm) == before)

    same: list[bool] = []
    run(scenario, vram_pages=8)
    monkeypatch.setattr(BindOps, "restore", shrunk)
    failure = attempt(scenario, vram_pages=8).failure
    assert failure is not None
    assert failure.rule == "INV-VMB-03"
    assert same == [True, False]


# -- user fences ----------------------------------------------------------------------------------


def signal(fence: UserFence) -> Sync:
    """As an out-fence."""
    return Sync(user_fence=fence, signal=True)


@pytest.mark.parametrize("mode", ["dma_fence", "lr"])
def test_a_value_tells_that_the_bind_is_done(mode: str) -> None:
    """Values of one queue come in order, and what the value promises is there."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world, mode)
        addr, bo = await process.mmap(PAGE), await vm.create_bo(PAGE)
        for value in range(1, 4):
            await vm.bind(at(value), bo, syncs=[signal(vm.user_fence(process, addr, value))])
        await vm.wait_user_fence(process, addr, "eq", 3, timeout=-1)
        assert pages(vm, 4) == "-www"

    for _run in every(scenario, 20):
        pass


def test_what_waits_for_its_user_fence_cannot_go() -> None:
    """-EBUSY until the value is written; whoever has seen the value may unbind at once (VMB-R28)."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr, bo = await process.mmap(PAGE), await vm.create_bo(3 * PAGE)
        hold, held = gate(world)
        await vm.bind(at(0), bo, syncs=[held.sync_in(), signal(vm.user_fence(process, addr, 5))])
        before = snapshot(vm)
        for start, npages in ((0, 3), (1, 1)):
            with pytest.raises(EBUSY):
                await vm.unbind(at(start), npages * PAGE)
        assert snapshot(vm) == before
        hold.signal()
        while await process.read(addr) != b"\5":
            await world.sleep(1)
        await unbind_and_wait(vm, at(0), 3 * PAGE)

    assert_hit(list(every(scenario, 60)), "VMB-R28", "bind.ufence_busy")


def test_a_value_written_before_the_mark_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-B25: the guard matters."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr, bo = await process.mmap(PAGE), await vm.create_bo(PAGE)
        await vm.bind(at(0), bo, syncs=[signal(vm.user_fence(process, addr, 5))])
        while await process.read(addr) != b"\5":
            await world.sleep(10)
        try:
            await vm.unbind(at(0), PAGE)
        except EBUSY:
            busy.append(world)

    busy: list[World] = []
    monkeypatch.setattr(UserFence, "mark_signalled", lambda self: None)
    run(scenario)
    assert busy


def test_a_user_fence_whose_memory_is_gone_hurts_nobody() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr, bo = await process.mmap(PAGE), await vm.create_bo(PAGE)
        fence = vm.user_fence(process, addr, 5)
        await process.munmap(addr, PAGE)
        await vm.bind(at(0), bo, syncs=[signal(fence)])
        await fence.written.wait()
        await unbind_and_wait(vm, at(0), PAGE)

    assert run(scenario).counters["ufence.unmapped"] == 1


