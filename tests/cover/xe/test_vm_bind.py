"""The bind ioctl: mappings made, used and taken away; arguments; jobs, queues and pipelines."""

from __future__ import annotations

from typing import Any

import pytest
from bind_bench import (
    at,
    bind_and_wait,
    gate,
    idle,
    in_order,
    load,
    pages,
    snapshot,
    spans,
    start_bind,
    store,
    unbind_and_wait,
)
from svm_bench import BASE, PAGE, VPN, assert_hit, attempt, every, run

from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import EINVAL, ENOENT, EOPNOTSUPP
from svm_actors.gpu.program import AtomicAdd, GpuFault
from svm_actors.world import World
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.pt_tree import PtUpdate
from svm_actors.xe.sync import Sync
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp
from svm_actors.xe.vm_mode import XeBindVm

# -- the thin path ------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["vram", "system"])
@pytest.mark.parametrize("external", [False, True])
def test_a_program_reaches_what_is_bound_and_nothing_else(placement: str, external: bool) -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(3 * PAGE, placement=placement, external=external)
        await bo.write(PAGE, b"cpu")
        await bind_and_wait(vm, at(0), bo)
        assert pages(vm, 4) == "www-"
        queue = await vm.create_queue()
        job = await vm.submit(queue, [load(1, 3), store(2, b"gpu"), load(2, 3)])
        assert await job.wait() == [b"cpu", None, b"gpu"]
        assert await bo.read(2 * PAGE, 3) == b"gpu"
        await unbind_and_wait(vm, at(0), 3 * PAGE)
        assert pages(vm, 4) == "----"
        assert isinstance(await vm.load(at(1)), GpuFault)

    for _run in every(scenario, 20):
        pass


def test_the_cpu_writes_when_nothing_is_pending() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(2 * PAGE)
        await bo.resv.wait(Usage.BOOKKEEP)
        await vm.bind(at(0), bo)
        assert pages(vm, 2) == "ww"
        assert idle(vm)

    assert run(scenario).counters["bind.cpu"] == 1


def test_the_tlb_is_flushed_before_the_out_fence() -> None:
    """INV-VMB-01: after the fence of an unbind nothing of it is cached, whoever wrote the entries."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(2 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        await vm.store(at(0), b"x")
        tlb, asid = world.gpu().gpu.tlb, vm.vm.asid
        assert tlb.any_in(asid, VPN, VPN + 2)
        await unbind_and_wait(vm, at(0), 2 * PAGE)
        assert not tlb.any_in(asid, VPN, VPN + 2)

    for _run in every(scenario, 20):
        pass


def test_read_only_and_offset() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(4 * PAGE)
        await bo.write(2 * PAGE, b"two")
        await bind_and_wait(vm, at(0), bo, offset=2 * PAGE, flags=BindFlag.READONLY)
        assert pages(vm, 3) == "rr-"
        assert await vm.load(at(0), 3) == b"two"
        assert isinstance(await vm.store(at(0), b"no"), GpuFault)

    run(scenario)


def test_a_null_mapping_has_no_object() -> None:
    """Reads give 0, writes are dropped, atomics fault; beside it everything is as it was."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(4 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        await bind_and_wait(vm, at(1), None, length=2 * PAGE, flags=BindFlag.NULL)
        assert spans(vm) == [(0, 1, f"{bo.name}+0"), (1, 3, "null"), (3, 4, f"{bo.name}+3")]
        queue = await vm.create_queue()
        program = [store(1, b"gone"), load(1, 4), store(0, b"here"), load(0, 4)]
        assert await (await vm.submit(queue, program)).wait() == [None, bytes(4), None, b"here"]
        assert isinstance((await vm.run([AtomicAdd(VPN + 1, 0, 1)]))[-1], GpuFault)
        assert [await bo.read(index * PAGE, 4) for index in (0, 1)] == [b"here", bytes(4)]
        await unbind_and_wait(vm, at(1), 2 * PAGE)
        assert pages(vm, 4) == "w--w"
        assert isinstance(await vm.load(at(1)), GpuFault)

    for _run in every(scenario, 10):
        pass


# -- splitting ------------------------------------------------------------------------------------


def test_a_hole_leaves_both_ends_usable() -> None:
    """8.5: small entries beyond the cut stay as they are; nothing of them is written."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(5 * PAGE)
        for index in range(5):
            await bo.write(index * PAGE, bytes([index + 1]))
        await bind_and_wait(vm, at(0), bo)
        await unbind_and_wait(vm, at(1), 2 * PAGE)
        assert spans(vm) == [(0, 1, f"{bo.name}+0"), (3, 5, f"{bo.name}+3")]
        assert pages(vm, 5) == "w--ww"
        assert [await vm.load(at(index)) for index in (0, 3, 4)] == [b"\1", b"\4", b"\5"]
        assert idle(vm, Usage.KERNEL)
        await unbind_and_wait(vm, at(0), 5 * PAGE)
        assert spans(vm) == []
        assert vm.vm.pt_tree.statistics() == {"nodes": 0, "staged": 0}

    run(scenario)


def test_a_new_object_over_the_middle() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        old, new = await vm.create_bo(4 * PAGE), await vm.create_bo(2 * PAGE, external=True)
        await bind_and_wait(vm, at(0), old)
        await bind_and_wait(vm, at(1), new)
        for index in range(4):
            await vm.store(at(index), bytes([index + 1]))
        assert [await old.read(index * PAGE) for index in range(4)] == [b"\1", b"\0", b"\0", b"\4"]
        assert [await new.read(index * PAGE) for index in range(2)] == [b"\2", b"\3"]

    for _run in every(scenario, 20):
        pass


def test_a_cut_through_a_large_entry_is_memory_management() -> None:
    """VMB-R13: what stays is written again, after every job, and every later job waits for that."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(512 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        queue = await vm.create_queue()
        hold, held = gate(world)
        await vm.submit(queue, [store(0, b"x")], [held])
        out = world.syncobj()
        await vm.unbind(at(511), PAGE, syncs=[out.sync_out()])
        await world.sleep(1000)
        assert pages(vm, 2) == "ww", "a job that may use the rest is still to run"
        assert not out.done
        assert not idle(vm, Usage.KERNEL)
        hold.signal()
        await out.wait()
        assert pages(vm, 512) == "w" * 511 + "-"

    run(scenario)


def test_unmap_all_takes_every_mapping_of_one_object() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo, other = await vm.create_bo(PAGE, external=True), await vm.create_bo(PAGE)
        for index in (0, 2, 4):
            await vm.bind(at(index), bo)
        await vm.bind(at(1), other)
        out = world.syncobj()
        await vm.unbind_all(bo, syncs=[out.sync_out()])
        await out.wait()
        assert spans(vm) == [(1, 2, f"{other.name}+0")]
        assert pages(vm, 5) == "-w---"
        await vm.unbind_all(bo)
        assert list(vm.vm.gpuvm.extobj) == []

    run(scenario)


def test_a_prefetch_brings_back_what_was_evicted() -> None:
    """The next job flushes in its ring, so there is no message (VMB-B13)."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(2 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        queue = await vm.create_queue()
        await (await vm.submit(queue, [store(1, b"x")])).wait()
        await world.gpu().evict(2 * PAGE)
        assert not bo.in_vram
        flushes = world.engine.counters["gpu.tlb_inval"]
        out = world.syncobj()
        await vm.prefetch(at(0), 2 * PAGE, syncs=[out.sync_out()])
        await out.wait()
        assert bo.in_vram
        assert [pte.dma for _vpn, pte in vm.vm.page_table.items()] == [bo.dma_addr(0), bo.dma_addr(1)]
        assert world.engine.counters["gpu.tlb_inval"] == flushes
        assert await (await vm.submit(queue, [load(1, 1)])).wait() == [b"x"]

    for _run in every(scenario, 20):
        pass


def test_entries_without_a_mapping_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-VMB-03, the oracle: an unbind that writes nothing, and a mapping that is written elsewhere."""

    def nothing(_self: PtUpdate, _table: object) -> None:
        return

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        await bind_and_wait(vm, at(0), await vm.create_bo(2 * PAGE))
        if unbind:
            monkeypatch.setattr(PtUpdate, "write", nothing)
            await unbind_and_wait(vm, at(0), PAGE)

    for unbind in (False, True):
        if not unbind:
            monkeypatch.setattr(PtUpdate, "write", nothing)
        failure = attempt(scenario).failure
        assert failure is not None
        assert (failure.oracle, failure.rule) == ("bindings", "INV-VMB-03")
        monkeypatch.undo()


# -- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        BindOp(BindKind.MAP, VPN, 1, flags=16),
        BindOp(BindKind.MAP, VPN, 1),
        BindOp(BindKind.MAP, VPN, 0, flags=BindFlag.NULL),
        BindOp(BindKind.MAP, (1 << 36) - 1, 2, flags=BindFlag.NULL),
        BindOp(BindKind.MAP, -1, 2, flags=BindFlag.NULL),
        BindOp(BindKind.UNMAP, VPN, 1, flags=BindFlag.NULL),
        BindOp(BindKind.UNMAP_ALL),
    ],
)
def test_bad_arguments_are_refused(op: BindOp) -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        with pytest.raises(EINVAL):
            await vm.bind_array([op])

    run(scenario)


def test_objects_are_checked() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        other = await world.gpu().create_vm(process, "dma_fence")
        bo, foreign = await vm.create_bo(2 * PAGE), await other.create_bo(PAGE)
        for op in (
            vm.map_op(at(0), bo, 3 * PAGE),
            vm.map_op(at(0), bo, PAGE, 2 * PAGE),
            vm.map_op(at(0), foreign, PAGE),
            vm.map_op(at(0), bo, PAGE, 0, BindFlag.NULL),
            BindOp(BindKind.UNMAP, VPN, 1, bo),
        ):
            with pytest.raises(EINVAL):
                await vm.bind_array([op])
        with pytest.raises(EINVAL):
            await vm.bind(at(0), bo, length=PAGE + 1)
        with pytest.raises(EINVAL):
            await vm.bind(at(0), bo, queue=other.bind_queue())

    run(scenario)


def test_syncs_are_checked() -> None:
    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        lr = await world.gpu().create_vm(process, "lr")
        bo, addr = await vm.create_bo(PAGE), await process.mmap(PAGE)
        empty, ufence = world.syncobj(), vm.user_fence(process, addr, 1)
        for syncs, error in (
            ([empty.sync_in()], EINVAL),
            ([Sync()], EINVAL),
            ([Sync(user_fence=ufence)], EOPNOTSUPP),
        ):
            with pytest.raises(error):
                await vm.bind(at(0), bo, syncs=syncs)
        with pytest.raises(EOPNOTSUPP):
            await lr.bind(at(0), None, length=PAGE, flags=BindFlag.NULL, syncs=[empty.sync_out()])
        with pytest.raises(EINVAL):
            vm.user_fence(process, addr + 4, 1)
        assert spans(vm) == []

    run(scenario)


def test_modes() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        with pytest.raises(EINVAL):
            await world.gpu().create_vm(process, "immediate")  # type: ignore[call-overload]
        assert (await world.gpu().create_vm(process, "lr")).vm.lr
        assert not (await world.gpu().create_vm(process, "dma_fence")).vm.lr

    run(scenario)


def test_a_banned_or_closed_vm_binds_nothing() -> None:
    """INV-VMB-11."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE, external=True)
        await bind_and_wait(vm, at(0), bo)
        vm.vm.ban()
        with pytest.raises(ENOENT):
            await vm.unbind(at(0), PAGE)
        await vm.close()
        with pytest.raises(ENOENT):
            await vm.bind(at(0), bo)

    run(scenario)


# -- in-fences, queues, pipelines ---------------------------------------------------------------------


def test_an_in_fence_holds_up_the_first_write() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        hold, held = gate(world)
        out = world.syncobj()
        await vm.bind(at(0), bo, syncs=[held.sync_in(), out.sync_out()])
        await world.sleep(1000)
        assert (pages(vm, 1), out.done) == ("-", False)
        assert spans(vm) == [(0, 1, f"{bo.name}+0")], "the tree is ahead of the page table"
        hold.signal()
        await out.wait()
        assert pages(vm, 1) == "w"

    for _run in every(scenario, 20):
        pass


def test_one_queue_completes_in_order() -> None:
    """INV-VMB-09: also where a later bind could have been written by the CPU."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        hold, held = gate(world)
        outs = [world.syncobj() for _ in range(4)]
        await vm.bind(at(0), bo, syncs=[held.sync_in(), outs[0].sync_out()])
        await vm.bind(at(1000), bo, syncs=[outs[1].sync_out()])
        await vm.unbind(at(0), PAGE, syncs=[outs[2].sync_out()])
        await vm.bind(at(2000), bo, syncs=[outs[3].sync_out()])
        await world.sleep(1000)
        assert not any(out.done for out in outs)
        hold.signal()
        for out in outs:
            await out.wait()
            assert in_order(outs)

    for _run in every(scenario, 20):
        pass


def test_queues_do_not_wait_for_each_other() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        hold, held = gate(world)
        first, second = world.syncobj(), world.syncobj()
        await vm.bind(at(0), bo, queue=vm.bind_queue(), syncs=[held.sync_in(), first.sync_out()])
        await vm.bind(at(1000), bo, queue=vm.bind_queue(), syncs=[second.sync_out()])
        await second.wait()
        assert not first.done
        hold.signal()
        await first.wait()

    for _run in every(scenario, 20):
        pass


def test_updates_under_one_node_wait_whatever_the_queue() -> None:
    """VMB-R10: two ranges with nothing in common but the page-table node."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        hold, held = gate(world)
        first, second = world.syncobj(), world.syncobj()
        await vm.bind(at(0), bo, queue=vm.bind_queue(), syncs=[held.sync_in(), first.sync_out()])
        await vm.bind(at(7), bo, queue=vm.bind_queue(), syncs=[second.sync_out()])
        await world.sleep(1000)
        assert not second.done
        hold.signal()
        await second.wait()
        assert first.done

    assert_hit([run(scenario)], "VMB-R10")


def test_scenes_in_a_pipeline() -> None:
    """7.2: everything is submitted before the first bind runs; each scene uses the addresses of the last."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        scenes = [await vm.create_bo(2 * PAGE) for _ in range(3)]
        queue = await vm.create_queue()
        hold, held = gate(world)
        before = held
        jobs = []
        for number, bo in enumerate(scenes):
            bound, done, gone = world.syncobj(), world.syncobj(), world.syncobj()
            await vm.bind(at(0), bo, syncs=[before.sync_in(), bound.sync_out()])
            jobs.append(await vm.submit(queue, [store(0, bytes([number + 1])), load(0, 1)], [bound], [done]))
            await vm.unbind(at(0), 2 * PAGE, syncs=[done.sync_in(), gone.sync_out()])
            before = gone
        assert pages(vm, 2) == "--"
        assert not any(job.fence.signaled for job in jobs)
        hold.signal()
        await before.wait()
        for number, (bo, job) in enumerate(zip(scenes, jobs, strict=True)):
            assert await job.wait() == [None, bytes([number + 1])]
            assert await bo.read(0) == bytes([number + 1])

    for _run in every(scenario, 30):
        pass


def test_no_operations_collect_the_fences_of_the_queue() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        hold, held = gate(world)
        out, nothing = world.syncobj(), world.syncobj()
        await vm.bind_array([], syncs=[nothing.sync_out()])
        assert nothing.done
        await vm.bind(at(0), bo, syncs=[held.sync_in()])
        await vm.bind_array([], syncs=[out.sync_out()])
        assert not out.done
        with pytest.raises(EINVAL):
            await vm.bind_array([], syncs=[held.sync_in()])
        hold.signal()
        await out.wait()
        assert pages(vm, 1) == "w"

    run(scenario)


# -- lifetimes ----------------------------------------------------------------------------------------


def test_a_vma_and_its_object_outlive_the_unbind() -> None:
    """VMB-R14, INV-VMB-10: the handle is gone, the unbind waits; the memory stays until it is through."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        await bind_and_wait(vm, at(0), bo)
        (vma,) = vm.vm.vmas()
        hold, held = gate(world)
        out = world.syncobj()
        await vm.unbind(at(0), PAGE, syncs=[held.sync_in(), out.sync_out()])
        world.bos.remove(bo)
        await bo.put()
        await world.sleep(1000)
        assert (vma.destroyed, vma.freed, bo.refs) == (True, False, 1)
        hold.signal()
        await out.wait()
        await world.settle()
        assert (vma.freed, bo.refs, vm.vm.live_vmas) == (True, 0, 0)

    for result in every(scenario, 20):
        assert_hit([result], "VMB-R14")


def test_a_vma_freed_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: XeBindVm, vma: XeBindVma, fence: Any) -> None:
        self.engine.spawn(vma.destroy_late(fence), "early")

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE)
        await bind_and_wait(vm, at(0), bo)
        _hold, held = gate(world)
        await vm.unbind(at(0), PAGE, syncs=[held.sync_in()])
        await world.sleep(1000)

    monkeypatch.setattr(XeBindVm, "destroy_on", at_once)
    with pytest.raises(AssertionError, match="VMB-R14"):
        run(scenario)


def test_closing_with_everything_bound_leaves_nothing() -> None:
    """Section 12: local and external objects, jobs just submitted, a queue of its own."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        local, external = await vm.create_bo(2 * PAGE), await vm.create_bo(2 * PAGE, external=True)
        await vm.bind(at(0), local)
        await vm.bind(at(4), external, queue=vm.bind_queue())
        queue = await vm.create_queue()
        await vm.submit(queue, [store(0, b"x"), store(4, b"y")])
        await vm.close()
        assert len(world.gpu().gpu.tlb) == 0

    for _run in every(scenario, 30):
        pass


def test_page_tables_are_not_freed_under_a_vma(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R25 has an order, and the order is checked."""

    async def nothing(_vm: XeBindVm) -> list[Any]:
        return []

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        await bind_and_wait(vm, at(0), await vm.create_bo(PAGE))

    monkeypatch.setattr(XeBindVm, "remove_vmas", nothing)
    failure = attempt(scenario).failure
    assert failure is not None
    assert failure.rule == "VMB-R25"


def test_op_lists_are_made_and_applied_one_by_one() -> None:
    """VMB-R29: within an array each request sees what the one before it did."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(8 * PAGE)
        before = snapshot(vm)
        ops = [vm.map_op(at(0), bo, 8 * PAGE), vm.unmap_op(at(2), 2 * PAGE), vm.map_op(at(3), bo, PAGE, 7 * PAGE)]
        out = world.syncobj()
        await vm.bind_array(ops, syncs=[out.sync_out()])
        await out.wait()
        assert spans(vm) == [(0, 2, f"{bo.name}+0"), (3, 4, f"{bo.name}+7"), (4, 8, f"{bo.name}+4")]
        assert pages(vm, 8) == "ww-wwwww"
        await unbind_and_wait(vm, BASE, 8 * PAGE)
        assert snapshot(vm) == before

    run(scenario)
