"""Binds against binds, execs, evictions and closes; what is hit is counted, what must hold is asserted."""

from __future__ import annotations

import pytest
from bind_bench import at, bind_and_wait, gate, load, pages, snapshot, spans, start_bind, store, unbind_and_wait
from svm_bench import PAGE, after_pause, assert_hit, every, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import ENOENT
from svm_actors.gpu.program import GpuFault, Spin
from svm_actors.world import World
from svm_actors.xe.pt_tree import PtTree, PtUpdate
from svm_actors.xe.range_fence import RangeFenceTree
from svm_actors.xe.sync import Sync


def test_unbinding_under_a_running_job_is_the_users_affair() -> None:
    """VMB-R12: without an in-sync the unbind does not wait; with one it does."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(2 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        queue, done = await vm.create_queue(), world.syncobj()
        hold, held = gate(world)
        await vm.submit(queue, [store(0, b"x")], [held], [done])
        await unbind_and_wait(vm, at(1), PAGE)
        assert not done.done
        hold.signal()
        gone = world.syncobj()
        await vm.unbind(at(0), PAGE, syncs=[done.sync_in(), gone.sync_out()])
        await gone.wait()
        assert done.done
        assert await bo.read(0) == b"x"

    assert_hit(list(every(scenario, 20)), "VMB-R12")


@pytest.mark.parametrize("user", [False, True])
def test_an_invalid_mapping_is_unbound_before_the_next_job(user: bool) -> None:
    """Section 4.1: its entries lead to memory that is somebody else's, and nobody will bind it again."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        addr = await process.mmap(PAGE)
        if user:
            await vm.bind_userptr(at(0), addr, PAGE)
        else:
            await bind_and_wait(vm, at(0), await vm.create_bo(PAGE))
        queue = await vm.create_queue()
        await (await vm.submit(queue, [store(0, b"x")])).wait()
        await process.madvise(addr, PAGE, "dontneed")
        await world.gpu().evict(PAGE)
        hold, held = gate(world)
        await vm.unbind(at(0), PAGE, syncs=[held.sync_in()])
        job = await vm.submit(queue, [load(0, 1)])
        await world.sleep(1000)
        assert not job.batch.started
        hold.signal()
        await job.fence.wait()
        assert isinstance(job.batch.results[-1], GpuFault)

    assert_hit(list(every(scenario, 10)), "bind.invalid_unbound")


def test_a_rewrite_waits_for_jobs_and_jobs_for_it() -> None:
    """VMB-R13: a job on a kept piece, before and after, never meets the moment in which it is gone."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(512 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        queues = [await vm.create_queue() for _ in range(2)]

        async def use(number: int) -> None:
            job = await vm.submit(queues[number], [store(number, bytes([number + 1]))])
            await job.wait()

        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, use, 0)
            nursery.start_soon(after_pause, world, unbind_and_wait, vm, at(510), PAGE)
            nursery.start_soon(after_pause, world, use, 1)
        assert [await bo.read(index * PAGE) for index in range(2)] == [b"\1", b"\2"]
        assert pages(vm, 512) == "w" * 510 + "-w"

    assert_hit(list(every(scenario, 60)), "VMB-R13")


def test_binds_of_two_threads_through_two_queues() -> None:
    """VMB-R10, VMB-R29: neighbours in one page-table node, over and over; each finds its own."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        before = snapshot(vm)

        async def client(number: int) -> None:
            bo, queue, jobs = await vm.create_bo(PAGE), vm.bind_queue(), await vm.create_queue()
            for turn in range(3):
                bound, done, gone = world.syncobj(), world.syncobj(), world.syncobj()
                await vm.bind(at(number), bo, queue=queue, syncs=[bound.sync_out()])
                job = await vm.submit(jobs, [store(number, bytes([16 * number + turn]))], [bound], [done])
                await vm.unbind(at(number), PAGE, queue=queue, syncs=[done.sync_in(), gone.sync_out()])
                await job.wait()
                assert await bo.read(0) == bytes([16 * number + turn])
                await gone.wait()

        async with world.nursery() as nursery:
            nursery.start_soon(client, 1)
            nursery.start_soon(client, 2)
        assert snapshot(vm) == before

    assert_hit(list(every(scenario, 60)), "VMB-R10", "VMB-R29")


def test_a_queue_that_is_not_idle_is_not_overtaken_by_the_cpu() -> None:
    """VMB-R11: far away, nothing to wait for, but the queue has a job."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(PAGE, external=True)
        await bo.resv.wait(Usage.BOOKKEEP)
        hold, held = gate(world)
        first, second = world.syncobj(), world.syncobj()
        await vm.bind(at(0), bo, syncs=[held.sync_in(), first.sync_out()])
        await vm.bind(at(5000), bo, syncs=[second.sync_out()])
        await world.sleep(100)
        assert not second.done
        hold.signal()
        await second.wait()
        assert first.done

    assert_hit([run(scenario)], "VMB-R11")


def test_evictions_between_bind_and_exec() -> None:
    """VMB-R04 to VMB-R07: more objects than room; each job finds its object, wherever it was meanwhile."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bos = [await vm.create_bo(4 * PAGE, placement="vram_or_system", external=bool(index % 2)) for index in range(3)]
        for index, bo in enumerate(bos):
            await vm.bind(at(8 * index), bo)

        async def client(index: int) -> None:
            queue = await vm.create_queue()
            for turn in range(2):
                job = await vm.submit(queue, [store(8 * index + turn, bytes([16 * index + turn + 1]))])
                await job.wait()

        async with world.nursery() as nursery:
            for index in range(3):
                nursery.start_soon(after_pause, world, client, index)
            nursery.start_soon(after_pause, world, world.gpu().evict, 8 * PAGE)
        for index, bo in enumerate(bos):
            assert [await bo.read(turn * PAGE) for turn in range(2)] == [bytes([16 * index + t + 1]) for t in range(2)]

    assert_hit(list(every(scenario, 60, vram_pages=10)), "bo.evict")


def test_closing_against_binds() -> None:
    """Section 12: whoever comes after the closed mark gets -ENOENT, whoever came before is torn down."""
    refused = []

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        bo = await vm.create_bo(2 * PAGE, external=True)

        async def binder() -> None:
            try:
                for turn in range(4):
                    await vm.bind(at(turn), bo, length=PAGE)
                await vm.unbind(at(1), 2 * PAGE)
            except ENOENT:
                refused.append(world)

        async with world.nursery() as nursery:
            nursery.start_soon(binder)
            nursery.start_soon(after_pause, world, vm.close)

    for _run in every(scenario, 60):
        pass
    assert refused


def test_closing_against_an_eviction_of_a_shared_object() -> None:
    """VMB-R25: the eviction holds the object's lock and walks its mappings while the VM goes."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world)
        other = await world.gpu().create_vm(process, "dma_fence")
        bo = await vm.create_bo(2 * PAGE, external=True)
        await bind_and_wait(vm, at(0), bo)
        await bind_and_wait(other, at(4), bo)
        async with world.nursery() as nursery:
            nursery.start_soon(after_pause, world, vm.close)
            nursery.start_soon(after_pause, world, world.gpu().evict, 2 * PAGE)
        queue = await other.create_queue()
        await (await other.submit(queue, [store(4, b"x")])).wait()
        assert await bo.read(0) == b"x"

    assert_hit(list(every(scenario, 120)), "VMB-R25", "bo.evict")


def test_an_unmap_of_nothing_keeps_the_order_of_its_syncs() -> None:
    """Nothing is written, but the out-fence still comes after the in-fence."""

    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        hold, held = gate(world)
        out = world.syncobj()
        await vm.unbind(at(0), PAGE, syncs=[held.sync_in(), out.sync_out()])
        await world.sleep(100)
        assert not out.done
        assert vm.vm.pt_tree.statistics() == {"nodes": 0, "staged": 0}
        hold.signal()
        await out.wait()
        assert spans(vm) == []

    run(scenario)


# -- the parts --------------------------------------------------------------------------------------


def test_range_fences_know_nodes_not_pages() -> None:
    """VMB-R10, VMB-B24: signaled ones are neither answered nor kept."""

    async def scenario(world: World) -> None:
        engine = world.engine
        tree = RangeFenceTree(engine, "t")
        fences = [Fence(engine, f"f{index}", counted=True) for index in range(3)]
        tree.insert(0, 1, fences[0])
        tree.insert(600, 1100, fences[1])
        assert tree.overlapping(511, 512) == [fences[0]]
        assert tree.overlapping(512, 513) == [fences[1]]
        assert tree.overlapping(0, 2000) == fences[:2]
        assert tree.overlapping(1536, 2000) == []
        fences[0].signal()
        assert tree.overlapping(0, 2000) == [fences[1]]
        fences[2].signal()
        tree.insert(0, 1, fences[2])
        assert [fence.refs for fence in fences] == [1, 2, 1]
        tree.fini()
        assert [fence.refs for fence in fences] == [1, 1, 1]

    run(scenario)


def test_staged_nodes_are_invisible_until_the_commit() -> None:
    """VMB-R08."""

    async def scenario(world: World) -> None:
        tree = PtTree(world.engine, "t")
        tree.stage(500, 1030)
        assert (sorted(tree.live), tree.statistics()) == ([], {"nodes": 0, "staged": 3})
        tree.abort()
        assert (sorted(tree.staging), tree.statistics()) == ([], {"nodes": 0, "staged": 0})
        tree.stage(500, 520)
        assert tree.commit([PtUpdate(500, 520)]) == 2, "nodes without an entry do not stay"
        tree.free()

    run(scenario)


# -- long-running mode --------------------------------------------------------------------------------


def test_binding_into_a_vm_whose_queue_runs() -> None:
    """A new external object gets the preempt fences; its eviction stops the queue and the worker resumes it."""

    async def scenario(world: World) -> None:
        process, vm = await start_bind(world, "lr")
        addr, queue = await process.mmap(PAGE), await vm.create_queue()
        bo = await vm.create_bo(2 * PAGE, external=True)
        ufence = vm.user_fence(process, addr, 1)
        await vm.bind(at(0), bo, syncs=[Sync(user_fence=ufence, signal=True)])
        await ufence.written.wait()
        assert queue.preempt_fence in bo.resv.unsignaled(Usage.BOOKKEEP)
        job = await vm.submit(queue, [Spin(20_000), store(0, b"x")])
        await world.gpu().evict(2 * PAGE)
        await job.wait()
        assert await bo.read(0) == b"x"

    # Timers that fire early would mean a firmware that does not answer.
    assert_hit([run(scenario, "random", seed) for seed in range(0, 80, 2)], "exec.preempted", "bo.evict")
