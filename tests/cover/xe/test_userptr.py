"""User memory in a VM that is bound by hand: the whole path, with every oracle attached."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from svm_bench import BASE, PAGE, after_pause, assert_hit, attempt, every, hit, page, run

from svm_actors.engine.errors import EBUSY, EFAULT, ENOMEM, EngineError, KernelError
from svm_actors.gpu.program import Load, Spin, Store
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.userptr import Userptr, VmUserptr
from svm_actors.xe.vm_bind import BindKind, BindOp

GPU = 0x4000_0000
"""Where the GPU has what the process has at BASE."""
FIRST = GPU // PAGE


async def start(world: World, npages: int = 4, mode: Any = "dma_fence") -> tuple[Process, BindVm, ExecQueue]:
    """A process with ``npages`` at BASE, page ``n`` holding ``n + 1``, all bound at GPU."""
    process = world.process()
    await process.mmap(npages * PAGE, addr=BASE, fixed=True)
    for number in range(npages):
        await process.write(page(number), bytes([number + 1]))
    vm = await world.gpu().create_vm(process, mode=mode)
    await vm.bind_userptr(GPU, BASE, npages * PAGE)
    return process, vm, await vm.create_queue()


async def job(vm: BindVm, queue: ExecQueue, *program: Any) -> list[Any]:
    return await (await vm.submit(queue, program)).wait()


def lists(vm: BindVm) -> VmUserptr:
    state = vm.vm.userptr
    assert isinstance(state, VmUserptr)
    return state


# -- alone -----------------------------------------------------------------------------------


def test_gpu_and_process_share_the_pages() -> None:
    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        assert await job(vm, queue, Load(FIRST + 1, 0, 1), Store(FIRST, 0, b"\x09")) == [b"\x02", None]
        assert await process.read(BASE) == b"\x09"
        await process.write(page(3), b"\x0b")
        assert await job(vm, queue, Load(FIRST + 3, 0, 1)) == [b"\x0b"]
        await vm.unbind(GPU, 4 * PAGE)
        await world.settle()
        assert not lists(vm).live
        assert world.gpu().gpu.iommu.statistics()["mappings"] == 0

    run(body)


def test_memory_that_is_not_there() -> None:
    """-EFAULT and the VM is as it was."""

    async def body(world: World) -> None:
        process, vm, _queue = await start(world)
        await process.munmap(page(2), PAGE)
        with pytest.raises(EFAULT):
            await vm.bind_userptr(2 * GPU, page(1), 3 * PAGE)
        await world.settle()
        assert [(vma.addr, vma.end) for vma in vm.vm.vmas()] == [(FIRST, FIRST + 4)]
        assert len(lists(vm).live) == 1

    run(body)


@pytest.mark.parametrize("change", ["dontneed", "remap", "swap", "protect"])
def test_the_next_job_sees_what_the_process_sees(change: str) -> None:
    """The notifier makes it stale, the exec pins it again and rebinds it."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        before = [folio for _addr, folio in next(iter(lists(vm).live)).dma_pages()]
        if change == "dontneed":
            await process.madvise(BASE, PAGE, "dontneed")
        elif change == "swap":
            await process.swap_out(BASE, 4 * PAGE)
        elif change == "protect":
            await process.mprotect(BASE, PAGE, "r")
            await process.mprotect(BASE, PAGE, "rw")
        else:
            await process.mmap(4 * PAGE, addr=BASE, fixed=True)
            await process.write(BASE, b"\x21")
        assert lists(vm).needs_repin()
        expected = await process.read(BASE)
        assert await job(vm, queue, Load(FIRST, 0, 1), Store(FIRST, 0, b"\x37")) == [expected, None]
        assert await process.read(BASE) == b"\x37"
        assert not lists(vm).needs_repin()
        after = [folio for _addr, folio in next(iter(lists(vm).live)).dma_pages()]
        assert change == "protect" or after[0] is not before[0]

    assert run(body).counters["userptr.invalidate"]


def test_an_event_waits_for_the_jobs_that_use_the_pages() -> None:
    """INV-VMB-01: munmap returns after the job has ended, and the device cannot reach the pages then."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        execution = await vm.submit(queue, (Spin(1000), Store(FIRST, 0, b"\x09")))
        await process.munmap(BASE, 4 * PAGE)
        assert execution.fence.signaled
        assert world.gpu().gpu.iommu.statistics() == {"mappings": 0, "reservations": 0}

    for _ in every(body, 20):
        pass


def test_memory_the_process_has_given_up_does_not_stop_the_vm() -> None:
    """-EFAULT while pinning again: off every list, its entries are zapped, and other jobs go on (VMB-B08)."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        bo = await vm.create_bo(PAGE)
        await vm.bind(2 * GPU, bo)
        await process.munmap(BASE, 4 * PAGE)
        assert await job(vm, queue, Store(2 * FIRST, 0, b"\x05")) == [None]
        assert await bo.read(0) == b"\x05"
        assert vm.vm.page_table.get(FIRST) is None
        assert not vm.vm.rebind_list
        assert not lists(vm).needs_repin()

    assert run(body).counters["userptr.efault"] == 1


def test_a_pin_that_fails_leaves_nobody_on_the_repin_list() -> None:
    """VMB-B07: what is left is invalidated again, and the next exec does it."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        await vm.bind_userptr(2 * GPU, BASE, 2 * PAGE)
        await process.madvise(BASE, 4 * PAGE, "dontneed")
        world.allocator.fail_next = 1
        with pytest.raises(ENOMEM):
            await job(vm, queue, Load(FIRST, 0, 1))
        state = lists(vm)
        assert (len(state.invalidated), len(state.repin)) == (2, 0)
        assert await job(vm, queue, Load(FIRST, 0, 1), Load(2 * FIRST + 1, 0, 1)) == [b"\x00", b"\x00"]

    run(body)


def test_what_stays_of_a_cut_vma_watches_its_own_part() -> None:
    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        await vm.unbind(GPU + PAGE, 2 * PAGE)
        await world.settle()
        assert sorted((one.start - BASE // PAGE, one.npages) for one in lists(vm).live) == [(0, 1), (3, 1)]
        await process.madvise(page(1), 2 * PAGE, "dontneed")
        assert not lists(vm).needs_repin()
        await process.madvise(page(3), PAGE, "dontneed")
        assert [one.start - BASE // PAGE for one in lists(vm).invalidated] == [3]
        assert await job(vm, queue, Load(FIRST, 0, 1), Load(FIRST + 3, 0, 1)) == [b"\x01", b"\x00"]

    run(body)


def test_read_only_memory() -> None:
    """Without READONLY the walk asks for write and is refused; with it the GPU may read."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        await process.mmap(PAGE, addr=2 * BASE, prot="r", fixed=True)
        with pytest.raises(KernelError):
            await vm.bind_userptr(2 * GPU, 2 * BASE, PAGE)
        await vm.bind_userptr(2 * GPU, 2 * BASE, PAGE, flags=1)
        assert await job(vm, queue, Load(2 * FIRST, 0, 1)) == [b"\x00"]

    run(body)


def test_pages_of_device_memory_come_home_first() -> None:
    """A VM that mirrors the same process has moved them to VRAM; user memory is RAM."""

    async def body(world: World) -> None:
        process = world.process()
        await process.mmap(4 * PAGE, addr=BASE, fixed=True)
        mirror = await world.gpu().create_vm(process)
        await mirror.store(BASE, b"\x11")
        vm = await world.gpu().create_vm(process, mode="dma_fence")
        await vm.bind_userptr(GPU, BASE, 4 * PAGE)
        queue = await vm.create_queue()
        assert await job(vm, queue, Load(FIRST, 0, 1), Store(FIRST, 0, b"\x12")) == [b"\x11", None]
        assert await mirror.load(BASE) == b"\x12"

    run(body)


def test_locks_are_asked_for() -> None:
    async def body(world: World) -> None:
        _process, vm, _queue = await start(world)
        state = lists(vm)
        (userptr,) = state.live
        for call in (userptr.pin_pages, state.pin):
            with pytest.raises(EngineError, match="held"):
                await call()
        with pytest.raises(EngineError, match="held for write"):
            userptr.unlink()
        with pytest.raises(EngineError, match="held"):
            state.check_repin()

    run(body)


# -- races -----------------------------------------------------------------------------------


async def jobs(vm: BindVm, queue: ExecQueue, rounds: int = 3) -> None:
    """-EBUSY is the walk's second of virtual time that a racing timer lets pass; user space tries again."""
    for turn in range(rounds):
        with contextlib.suppress(EBUSY):
            await job(vm, queue, Store(FIRST + turn % 4, 1, bytes([turn + 1])), Load(FIRST + 1, 0, 1))


async def soon(world: World, verb: Any, *args: Any) -> Any:
    """After a short pause."""
    return await after_pause(world, verb, *args, most=40)


async def churn(process: Process, rounds: int = 2) -> None:
    for turn in range(rounds):
        await process.madvise(page(turn), 2 * PAGE, "dontneed")
        await process.write(page(turn), bytes([40 + turn]))


def test_jobs_against_changes_of_the_process() -> None:
    """VMB-R01 to VMB-R03: every job sees the pages of its time, none touches a page that is gone."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        async with world.nursery() as nursery:
            nursery.start_soon(jobs, vm, queue)
            nursery.start_soon(after_pause, world, churn, process)

    runs = list(every(body, 80))
    assert_hit(runs, "VMB-R02", "VMB-R03", "userptr.invalidate")


def test_two_events_on_one_vma() -> None:
    """VMB-R18: the second finds the finish state in use and does all its work in its first pass."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        await vm.submit(queue, (Spin(100), Store(FIRST, 0, b"\x09")))
        async with world.nursery() as nursery:
            for number in (0, 2):
                nursery.start_soon(process.madvise, page(number), 2 * PAGE, "dontneed")
        assert await process.read(BASE) == b"\x00"

    assert_hit(list(every(body)), "VMB-R18")


def test_an_event_during_a_bind() -> None:
    """VMB-R17: the bind writes entries for pages that have gone; the next exec pins them again first."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        async with world.nursery() as nursery:
            nursery.start_soon(vm.bind_userptr, 2 * GPU, BASE, 2 * PAGE)
            nursery.start_soon(soon, world, process.madvise, BASE, PAGE, "dontneed")
        assert await job(vm, queue, Load(2 * FIRST, 0, 1), Load(2 * FIRST + 1, 0, 1)) == [b"\x00", b"\x02"]

    assert_hit(list(every(body, 100)), "VMB-R17")


def test_an_event_on_a_vma_that_is_on_its_way_out() -> None:
    """VMB-R16: unbound, but its unbind has not run; it does not come back to the list."""

    async def body(world: World) -> None:
        process, vm, _queue = await start(world)
        gate = world.syncobj()
        other = await world.gpu().create_vm(process, mode="dma_fence")
        slow = await other.create_queue()
        await other.submit(slow, (Spin(1000),), outs=[gate])
        await vm.unbind(GPU, 4 * PAGE, syncs=[gate.sync_in()])
        assert len(lists(vm).live) == 1
        await process.madvise(BASE, PAGE, "dontneed")
        assert not lists(vm).needs_repin()
        await world.settle()
        assert not lists(vm).live

    assert_hit([run(body)], "VMB-R16")


def test_an_event_during_a_bind_that_is_undone() -> None:
    """The vma was out of the tree for a moment, so the event did not list it; undoing has to look."""

    async def failing(vm: BindVm) -> None:
        missing = BindOp(BindKind.MAP_USERPTR, FIRST * 2, 1, offset=7)
        with pytest.raises(EFAULT):
            await vm.bind_array([vm.unmap_op(GPU, 4 * PAGE), missing])

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        async with world.nursery() as nursery:
            nursery.start_soon(failing, vm)
            nursery.start_soon(soon, world, process.madvise, BASE, PAGE, "dontneed")
        assert await job(vm, queue, Load(FIRST, 0, 1)) == [b"\x00"]

    assert_hit(list(every(body, 100)), "userptr.revived_stale")


def test_closing_against_changes() -> None:
    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        await vm.submit(queue, (Store(FIRST, 0, b"\x09"),))
        async with world.nursery() as nursery:
            nursery.start_soon(vm.close)
            nursery.start_soon(soon, world, churn, process)
            nursery.start_soon(soon, world, process.munmap, page(3), PAGE)

    for _ in every(body):
        pass


def test_a_process_that_exits() -> None:
    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        await vm.submit(queue, (Spin(100), Store(FIRST, 0, b"\x09")))
        await process.exit()
        await vm.close()

    for _ in every(body, 20):
        pass


# -- what the guards are for ----------------------------------------------------------------------


async def _nothing(*_: Any) -> None:
    return


GUARDS: dict[str, tuple[type, str, Any]] = {
    "the notifier does not wait for jobs": (Userptr, "wait_for_jobs", _nothing),
    "the last look before publishing is left out": (VmUserptr, "needs_repin", lambda self: False),
    "an event lists nothing": (Userptr, "mark_invalidated", lambda self: None),
}


@pytest.mark.parametrize("name", list(GUARDS))
def test_without_a_guard_it_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VMB-R01, VMB-R17: a job reaches pages that the process has got back."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world)
        async with world.nursery() as nursery:
            nursery.start_soon(jobs, vm, queue)
            nursery.start_soon(after_pause, world, churn, process)

    where, what, instead = GUARDS[name]
    monkeypatch.setattr(where, what, instead)
    failures = [result.failure for seed in range(40) if (result := attempt(body, "random", seed)).failure]
    assert failures
    assert {failure.kind for failure in failures if failure is not None} == {"property"}


def test_hits_are_counted() -> None:
    """The bench itself: what is never counted is not hit."""

    async def body(world: World) -> None:
        await start(world)

    assert hit([run(body)], "VMB-R18") == {"VMB-R18": 0}


# -- long-running queues ---------------------------------------------------------------------------


def test_a_long_running_queue_is_stopped_for_an_event_and_goes_on() -> None:
    """VMB-R20: the event asks the preempt fence; the rebind worker pins again, and the store lands in the new page."""

    async def body(world: World) -> None:
        process, vm, queue = await start(world, mode="lr")
        execution = await vm.submit(queue, (Store(FIRST, 0, b"\x31"), Spin(20_000_000), Store(FIRST, 1, b"\x32")))
        await world.sleep(1000)
        await process.madvise(BASE, PAGE, "dontneed")
        assert await process.read(BASE, 2) == b"\x00\x00"
        await execution.wait()
        assert await process.read(BASE, 2) == b"\x00\x32"

    for seed in range(0, 40, 2):
        run(body, "random", seed)


def test_long_running_queues_against_changes_of_the_process() -> None:
    async def body(world: World) -> None:
        process, vm, queue = await start(world, mode="lr")
        program = [step for turn in range(4) for step in (Store(FIRST + turn, 1, b"\x05"), Spin(100))]
        execution = await vm.submit(queue, program)
        async with world.nursery() as nursery:
            nursery.start_soon(churn, process)
            nursery.start_soon(churn, process)
            nursery.start_soon(execution.wait)

    assert_hit([run(body, "random", seed) for seed in range(0, 80, 2)], "userptr.invalidate", "VMB-R18")
