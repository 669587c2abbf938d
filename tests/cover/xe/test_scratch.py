"""Scratch pages: what is not bound reads 0, swallows writes and does not fault (vm_bind section 13)."""

from __future__ import annotations

from typing import Any

import pytest
from bind_bench import at, bind_and_wait, load, pages, start_bind, store, unbind_and_wait
from exec_bench import PAGE, attempt, calm, every, queue_of, run, submit

from svm_actors.engine.errors import EINVAL
from svm_actors.gpu.program import GpuFault, Load, Spin, Store
from svm_actors.world import BindVm, World
from svm_actors.xe import exec_job, pt_bind
from svm_actors.xe.pt_bind import PtBind
from svm_actors.xe.scratch import has_scratch

MS = 1_000_000


async def scratch_vm(world: World, mode: Any = "dma_fence") -> BindVm:
    return await world.gpu().create_vm(world.process(), mode, scratch=True)


@pytest.mark.parametrize("mode", ["dma_fence", "lr"])
def test_what_is_not_bound_reads_zero_and_swallows_writes(mode: str) -> None:
    async def scenario(world: World) -> None:
        vm = await scratch_vm(world, mode)
        queue = await vm.create_queue()
        far = (1 << 36) - 1
        program = [store(0, b"xyz"), load(0, 3), Store(far, 0, b"x"), Load(far, 0, 1)]
        assert await (await submit(queue, *program)).wait() == [None, b"\0\0\0", None, b"\0"]
        assert "gpu.fault" not in world.engine.counters
        assert vm.vm.pt_tree.statistics() == {"nodes": 0, "staged": 0}

    list(every(scenario, 10))


def test_without_scratch_pages_it_faults() -> None:
    async def scenario(world: World) -> None:
        _process, vm = await start_bind(world)
        assert isinstance(await vm.load(at(0)), GpuFault)

    run(scenario)


def test_what_is_unbound_is_scratch_again() -> None:
    async def scenario(world: World) -> None:
        vm = await scratch_vm(world)
        bo = await vm.create_bo(3 * PAGE)
        await bind_and_wait(vm, at(0), bo)
        queue = queue_of(vm)
        await (await submit(queue, *(store(index, b"x") for index in range(3)))).wait()
        await unbind_and_wait(vm, at(1), PAGE)
        assert pages(vm, 3) == "w-w"
        job = await submit(queue, store(1, b"y"), *(load(index, 1) for index in range(3)))
        assert await job.wait() == [None, b"x", b"\0", b"x"]
        assert [await bo.read(index * PAGE) for index in range(3)] == [b"x"] * 3

    list(every(scenario, 10))


def test_after_close_nothing_is_reachable() -> None:
    async def scenario(world: World) -> None:
        vm = await scratch_vm(world)
        assert await vm.load(at(0)) == b"\0"
        await vm.close()
        assert not has_scratch(vm.vm.page_table)
        assert isinstance(await vm.load(at(0)), GpuFault)

    run(scenario)


def test_scratch_and_faults_contradict_each_other() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(EINVAL):
            await world.gpu().create_vm(world.process(), "fault", scratch=True)

    run(scenario)


# -- who flushes ---------------------------------------------------------------------------------


async def job_after_job(world: World) -> None:
    """The context stays on, and the TLB knows the scratch page from the first job."""
    vm = await scratch_vm(world)
    bo = await vm.create_bo(PAGE)
    await bo.write(0, b"x")
    queue = queue_of(vm)
    assert await (await submit(queue, load(0, 1))).wait() == [b"\0"]
    out = world.syncobj()
    await vm.bind(at(0), bo, syncs=[out.sync_out()])
    assert await (await submit(queue, load(0, 1), syncs=(out.sync_in(),))).wait() == [b"x"]


async def job_that_runs_on(world: World) -> None:
    """A long-running job reads scratch, and later what was bound meanwhile."""
    vm = await scratch_vm(world, "lr")
    bo = await vm.create_bo(PAGE, placement="system")
    await bo.write(0, b"x")
    queue = await vm.create_queue()
    job = await submit(queue, load(0, 1), Spin(20 * MS), load(0, 1))
    await world.sleep(10 * MS)
    await vm.bind(at(0), bo)
    assert await job.wait() == [b"\0", None, b"x"]


def test_a_job_sees_what_was_bound_over_scratch_before_it() -> None:
    list(every(job_after_job, 20))


def test_a_running_job_sees_what_was_bound_over_scratch_meanwhile() -> None:
    list(calm(job_that_runs_on, 20))


def test_nobody_flushes_for_a_first_bind_without_scratch() -> None:
    """An entry that was not there is in no TLB."""

    async def scenario(world: World) -> None:
        for mode in ("dma_fence", "lr"):
            _process, vm = await start_bind(world, mode)
            bo = await vm.create_bo(PAGE)
            await bind_and_wait_lr(world, vm, bo)
            job = await submit(await vm.create_queue(), load(0, 1))
            assert not job.batch.flush_tlb
        assert "gpu.tlb_inval" not in world.engine.counters

    run(scenario)


async def bind_and_wait_lr(world: World, vm: BindVm, bo: Any) -> None:
    await vm.bind(at(0), bo)
    await world.settle()


def found(scenario: Any) -> bool:
    return any(attempt(scenario, "random", seed).failure is not None for seed in range(2, 12, 2))


def test_a_job_that_does_not_flush_reads_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_job, "job_must_flush", lambda vm: False)
    assert found(job_after_job)


def test_a_bind_that_does_not_flush_leaves_a_running_job_with_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt_bind, "bind_must_flush", lambda vm: False)
    assert found(job_that_runs_on)


def test_an_unbind_that_does_not_flush_leaves_the_old_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        vm = await scratch_vm(world, "lr")
        bo = await vm.create_bo(PAGE)
        await vm.bind(at(0), bo)
        await world.settle()
        job = await submit(await vm.create_queue(), store(0, b"x"), Spin(20 * MS), store(0, b"y"))
        await world.sleep(10 * MS)
        await vm.unbind(at(0), PAGE)
        await job.wait()
        assert await bo.read(0) == b"x"

    assert not found(scenario)
    monkeypatch.setattr(PtBind, "_make_flush", lambda self: None)
    assert found(scenario)
