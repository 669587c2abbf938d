"""Buffer objects under jobs: whole worlds with too little VRAM, eviction and submission side by side."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from svm_bench import BASE, PAGE, assert_hit, attempt, every, run

from svm_actors.engine.errors import ENOMEM
from svm_actors.gpu.program import AtomicAdd, Load, Spin, Store
from svm_actors.world import BindVm, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo

GPU = 0x4000_0000
"""Where a VM has its first object; the next ones follow."""
FIRST = GPU // PAGE


async def job(vm: BindVm, queue: ExecQueue, *program: Any) -> list[Any]:
    return await (await vm.submit(queue, program)).wait()


async def start(
    world: World, count: int, npages: int = 4, *, external: bool = False, mode: Any = "dma_fence"
) -> tuple[BindVm, ExecQueue, list[XeBo]]:
    """A VM with objects of ``npages`` VRAM each, bound one behind the other."""
    vm = await world.gpu().create_vm(world.process(), mode=mode)
    bos = []
    for number in range(count):
        bo = await vm.create_bo(npages * PAGE, external=external)
        await vm.bind(GPU + number * npages * PAGE, bo)
        bos.append(bo)
    return vm, await vm.create_queue(), bos


async def count_up(vm: BindVm, queue: ExecQueue, vpn: int, rounds: int, first: int = 0) -> None:
    """Jobs that add one; each finds what the last one left (INV-VMB-13)."""
    for turn in range(rounds):
        assert await job(vm, queue, Spin(100), AtomicAdd(vpn, 0, 1)) == [None, first + turn]


async def pressure(world: World, pages: int = 4, rounds: int = 3) -> None:
    """Somewhere in the middle of the jobs, which take 100 ns each."""
    for _ in range(rounds):
        await world.gpu().evict(pages * PAGE)
        await world.sleep(70)


# -- alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
def test_an_evicted_object_is_back_before_the_next_job(external: bool) -> None:
    """4.1 and 4.2: evicted, revalidated, bound again at its new place."""

    async def body(world: World) -> None:
        vm, queue, (bo,) = await start(world, 1, external=external)
        await job(vm, queue, Store(FIRST, 0, b"\x07"))
        assert await world.gpu().evict(PAGE) == 4
        assert (bo.in_vram, await bo.read(0)) == (False, b"\x07")
        await bo.write(1, b"\x08")
        assert await job(vm, queue, Load(FIRST, 0, 2)) == [b"\x07\x08"]
        assert bo.in_vram

    run(body, vram_pages=16)


def test_a_clear_comes_before_the_first_job() -> None:
    """VMB-B02: the fence of the clear is a KERNEL fence of the object, and exec waits for those."""

    async def body(world: World) -> None:
        vm, queue, _bos = await start(world, 1, external=True)
        assert await job(vm, queue, Load(FIRST + 3, 0, 1)) == [b"\x00"]

    for _ in every(body, 20, vram_pages=16):
        pass


def test_eviction_waits_for_the_job_that_uses_the_object() -> None:
    async def body(world: World) -> None:
        vm, queue, (bo,) = await start(world, 1)
        execution = await vm.submit(queue, (Spin(1000), Store(FIRST, 0, b"\x09")))
        assert await world.gpu().evict(PAGE) == 4
        assert execution.fence.signaled
        assert await bo.read(0) == b"\x09"

    for _ in every(body, 20, vram_pages=16):
        pass


def test_one_object_in_two_vms() -> None:
    """Both have it bound; one brings it back, the other must not use the old address."""

    async def body(world: World) -> None:
        vm, queue, (bo,) = await start(world, 1, external=True)
        other = await world.gpu().create_vm(world.process(), mode="dma_fence")
        await other.bind(2 * GPU, bo)
        second = await other.create_queue()
        await job(vm, queue, Store(FIRST, 0, b"\x07"))
        await world.gpu().evict(PAGE)
        assert await job(vm, queue, Load(FIRST, 0, 1), Store(FIRST, 0, b"\x08")) == [b"\x07", None]
        assert await job(other, second, Load(2 * FIRST, 0, 1)) == [b"\x08"]

    run(body, vram_pages=16)


def test_a_working_set_that_does_not_fit() -> None:
    """-ENOMEM for the exec, nothing hangs; with one of them unbound it fits."""

    async def body(world: World) -> None:
        vm, queue, _bos = await start(world, 2, 8)
        with contextlib.suppress(ENOMEM):
            late = await vm.create_bo(8 * PAGE)
            await vm.bind(GPU + 16 * PAGE, late)
        with pytest.raises(ENOMEM):
            await job(vm, queue, Load(FIRST, 0, 1))
        await vm.unbind(GPU, 8 * PAGE)
        await world.settle()
        assert await job(vm, queue, Load(FIRST + 8, 0, 1)) == [b"\x00"]

    run(body, vram_pages=16)


def test_an_object_that_goes_with_its_job_under_way() -> None:
    """Unbound and put: the memory stays until the job has ended."""

    async def body(world: World) -> None:
        vm, queue, (bo,) = await start(world, 1)
        out = world.syncobj()
        execution = await vm.submit(queue, (Spin(100), Store(FIRST, 0, b"\x09"), Load(FIRST, 0, 1)), outs=[out])
        await vm.unbind(GPU, 4 * PAGE, syncs=[out.sync_in()])
        world.bos.remove(bo)
        await bo.put()
        assert await execution.wait() == [None, None, b"\x09"]

    for _ in every(body, 20, vram_pages=16):
        pass


# -- races -----------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
def test_jobs_against_eviction(external: bool) -> None:
    """VMB-R04, VMB-R05, VMB-R06."""

    async def body(world: World) -> None:
        vm, queue, bos = await start(world, 2, external=external)
        async with world.nursery() as nursery:
            for number in range(2):
                nursery.start_soon(count_up, vm, queue, FIRST + 4 * number, 3)
            nursery.start_soon(pressure, world)
        for bo in bos:
            assert await bo.read(0) == b"\x03"

    runs = list(every(body, vram_pages=16))
    assert_hit(runs, "bo.evict", "VMB-R05" if external else "VMB-R04")


def test_two_vms_evict_each_other() -> None:
    """Both make progress, nobody loses a byte, and no exec is refused: it tries again with the other kept out."""

    async def body(world: World) -> None:
        users = [await start(world, 1, 12) for _ in range(2)]
        async with world.nursery() as nursery:
            for vm, queue, _bos in users:
                nursery.start_soon(count_up, vm, queue, FIRST, 3)
        for _vm, _queue, (bo,) in users:
            assert await bo.read(0) == b"\x03"

    assert_hit(list(every(body, vram_pages=16)), "bo.evict", "evict.ticket", "vram.exclusive", "VMB-R04")


def test_jobs_and_page_faults_share_the_vram() -> None:
    """Objects and mirrored pages of a process throw each other out (PGM-R04 and VMB-R05 in one walk)."""

    async def faults(world: World, vm: Any) -> None:
        for turn in range(3):
            assert await vm.load(BASE) == bytes([turn])
            assert await vm.store(BASE, bytes([turn + 1])) is None

    async def body(world: World) -> None:
        process = world.process()
        await process.mmap(16 * PAGE, addr=BASE, fixed=True)
        for number in range(16):
            await process.write(BASE + number * PAGE, b"\x00")
        mirror = await world.gpu().create_vm(process)
        vm, queue, (bo,) = await start(world, 1, 8)
        async with world.nursery() as nursery:
            nursery.start_soon(faults, world, mirror)
            nursery.start_soon(count_up, vm, queue, FIRST, 3)
            nursery.start_soon(pressure, world, 16, 2)
        assert (await bo.read(0), await process.read(BASE)) == (b"\x03", b"\x03")

    runs = list(every(body, vram_pages=16))
    assert_hit(runs, "bo.evict", "evict")


def test_eviction_against_close_and_put() -> None:
    """VMB-R25: an evictor holds an external object while its VM goes."""

    async def body(world: World) -> None:
        vm, queue, bos = await start(world, 2, external=True)
        await job(vm, queue, Store(FIRST, 0, b"\x07"))
        async with world.nursery() as nursery:
            nursery.start_soon(vm.close)
            nursery.start_soon(pressure, world)
        assert await bos[0].read(0) == b"\x07"

    assert_hit(list(every(body, vram_pages=16)), "VMB-R06", "VMB-R25")


def test_long_running_queues_are_stopped_for_an_eviction() -> None:
    """The move asks the preempt fence, the queue goes off, the rebind worker brings everything back."""

    async def body(world: World) -> None:
        vm, queue, (bo,) = await start(world, 1, mode="lr")
        execution = await vm.submit(queue, [AtomicAdd(FIRST, 0, 1), Spin(10_000), AtomicAdd(FIRST, 0, 1)])
        await pressure(world, rounds=2)
        await execution.wait()
        assert await bo.read(0) == b"\x02"

    # Even seeds: a racing timer would be a queue that does not answer in time, and a reset.
    assert_hit([run(body, "random", seed, vram_pages=16) for seed in range(0, 40, 2)], "bo.evict")


# -- what the guards are for ----------------------------------------------------------------------


async def _nothing(*_: Any) -> None:
    return


GUARDS: dict[str, tuple[str, Any]] = {
    "a move waits for nobody": ("move_waits_for", lambda self: None),
    "no VM is told of a move": ("move_notify", _nothing),
}


@pytest.mark.parametrize("name", list(GUARDS))
def test_without_a_guard_it_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(world: World) -> None:
        vm, queue, _bos = await start(world, 2)
        await world.settle()
        async with world.nursery() as nursery:
            for number in range(2):
                nursery.start_soon(count_up, vm, queue, FIRST + 4 * number, 3)
            nursery.start_soon(pressure, world)

    what, instead = GUARDS[name]
    monkeypatch.setattr(XeBo, what, instead)
    assert any(attempt(body, "random", seed, vram_pages=16).failure for seed in range(40))


async def busy_copy_engine(world: World) -> None:
    """One object comes back from RAM behind the eviction of another, which waits for a long job."""
    vm, queue, _bos = await start(world, 1, external=True)
    other, slow, _others = await start(world, 1, external=True)
    await job(vm, queue, Store(FIRST, 0, b"\x07"))
    await world.gpu().evict(8 * PAGE)
    await job(other, slow, Load(FIRST, 0, 1))
    await other.submit(slow, (Spin(1_000_000),))
    async with world.nursery() as nursery:
        nursery.start_soon(world.gpu().evict, PAGE)
        await world.sleep(1000)
        assert await job(vm, queue, Load(FIRST, 0, 1)) == [b"\x07"]


def test_a_job_waits_for_the_move_that_brings_its_object_back() -> None:
    """VMB-B02, INV-VMB-06: the copy is still queued when the job is submitted."""
    for seed in range(0, 20, 2):
        run(busy_copy_engine, "random", seed, vram_pages=16)


def test_without_the_fence_of_the_move_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XeBo, "publish_move", lambda self, fence: None)
    assert attempt(busy_copy_engine, vram_pages=16).failure is not None
