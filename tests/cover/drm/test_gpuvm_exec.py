"""Locking a VM, revalidating what was evicted, publishing a fence (vm_bind sections 4.1 to 4.3 and 8.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gpuvm_bench import MODES, PROTECTED, SPIN, new_local, new_object, new_vm, run, run_all, together

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import Usage
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import (
    DrmGemObject,
    DrmGpuva,
    DrmGpuvm,
    DrmGpuvmBo,
    DrmGpuvmExec,
    GpuvmFlags,
    GpuvmOps,
    OpMap,
    gem_evict,
)
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EALREADY, EDEADLK, EINVAL, EIO, ENOMEM, EOPNOTSUPP, PropertyFailed
from svm_actors.engine.locks import RwSem


def new_fence(engine: Engine) -> Fence:
    return Fence(engine, "fence", context=dma_fence_context_alloc(engine), seqno=1)


class Bench:
    """A VM with a local object and externals that it knows; validation is written down."""

    def __init__(self, engine: Engine, flags: GpuvmFlags, externals: int = 2, **options: Any) -> None:
        self.engine = engine
        self.validated: list[str] = []
        self.fails_on: str | None = None
        self.vm: DrmGpuvm = new_vm(engine, flags, ops=GpuvmOps(vm_bo_validate=self.validate), **options)
        self.local = new_local(self.vm, "local")
        self.externals = [new_object(engine, f"ext{number}") for number in range(externals)]
        self.bos: dict[DrmGemObject, DrmGpuvmBo] = {}

    async def connect(self) -> Bench:
        for obj in (self.local, *self.externals):
            await self.add(obj)
        return self

    async def add(self, obj: DrmGemObject) -> DrmGpuvmBo:
        vm = self.vm
        await obj.resv.lock()
        if vm.immediate:
            vm_bo = await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj))
        else:
            vm_bo = await vm.vm_bo_obtain_locked(obj)
        obj.resv.unlock()
        await vm.resv.lock()
        await vm.vm_bo_extobj_add(vm_bo)
        vm.resv.unlock()
        self.bos[obj] = vm_bo
        return vm_bo

    async def evict(self, obj: DrmGemObject) -> None:
        await obj.resv.lock()
        await gem_evict(obj, True)
        obj.resv.unlock()

    async def validate(self, vm_bo: DrmGpuvmBo, exec_: DrmExec) -> None:
        await self.engine.step("local", vm_bo.obj)
        if vm_bo.obj.name == self.fails_on:
            raise EIO
        self.validated.append(vm_bo.obj.name)
        vm_bo.evicted = False


def bench_test(mode: str, body: Callable[[Bench], Awaitable[None]], **options: Any) -> Engine:
    async def program(engine: Engine) -> None:
        await body(await Bench(engine, MODES[mode], **options).connect())

    return run(program)


def locked(*objects: Any) -> list[bool]:
    return [obj.resv.is_locked() for obj in objects]


# -- what is locked ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_exec_lock_takes_the_vm_and_every_external_object(mode: str) -> None:
    async def body(bench: Bench) -> None:
        stranger = new_object(bench.engine, "stranger")
        async with DrmGpuvmExec(bench.vm, num_fences=2) as vm_exec:
            await vm_exec.lock()
            assert locked(bench.vm.r_obj, *bench.externals, stranger) == [True, True, True, False]
            assert [obj.resv.fences.max_fences >= 2 for obj in (bench.local, *bench.externals)] == [True] * 3
        assert locked(bench.vm.r_obj, *bench.externals) == [False] * 3
        assert list(bench.vm.extobj) == [bench.bos[obj] for obj in bench.externals]
        assert [vm_bo.refs for vm_bo in bench.bos.values()] == [1, 1, 1]

    bench_test(mode, body)


@pytest.mark.parametrize("mode", MODES)
def test_without_slots_objects_are_only_locked(mode: str) -> None:
    async def body(bench: Bench) -> None:
        async with DrmGpuvmExec(bench.vm, num_fences=0) as vm_exec:
            await vm_exec.lock()
            assert locked(bench.vm.r_obj, *bench.externals) == [True] * 3
            assert [obj.resv.fences.max_fences for obj in (bench.local, *bench.externals)] == [0] * 3

    bench_test(mode, body)


def test_lock_array_adds_objects_and_keeps_what_the_driver_adds() -> None:
    async def body(bench: Bench) -> None:
        more = [new_object(bench.engine, f"more{number}") for number in range(2)]

        async def extra(vm_exec: DrmGpuvmExec) -> None:
            await vm_exec.exec.prepare_obj(more[1], 1)

        async with DrmGpuvmExec(bench.vm, extra=extra) as vm_exec:
            # The local object shares the VM's reservation: a duplicate, which is tolerated.
            await vm_exec.lock_array([more[0], bench.local])
            assert locked(*more) == [True, True]
            assert vm_exec.extra is extra
        assert locked(*more) == [False, False]

    bench_test("staged-resv", body)


@pytest.mark.parametrize("whole", [False, True])
def test_lock_range_takes_what_is_mapped_there(whole: bool) -> None:
    async def body(bench: Bench) -> None:
        first, second = bench.externals
        for va in (DrmGpuva(0, 10, first), DrmGpuva(10, 10), DrmGpuva(20, 10, second), DrmGpuva(30, 1, bench.local)):
            bench.vm.va_insert(va)
        seen = []

        async def extra(vm_exec: DrmGpuvmExec) -> None:
            seen.append(len(vm_exec.exec.objects))

        async with DrmGpuvmExec(bench.vm, extra=extra) as vm_exec:
            await vm_exec.lock_range(5, 26 if whole else 15)
            assert locked(bench.vm.r_obj, first, second) == [True, True, whole]
        assert seen == [3 if whole else 2]

    bench_test("staged-spin", body)


@pytest.mark.parametrize("mode", MODES)
def test_an_error_in_the_body_unlocks_everything(mode: str) -> None:
    async def body(bench: Bench) -> None:
        async def extra(vm_exec: DrmGpuvmExec) -> None:
            raise EIO

        vm_exec = DrmGpuvmExec(bench.vm, extra=extra)
        with pytest.raises(EIO):
            await vm_exec.lock()
        assert locked(bench.vm.r_obj, *bench.externals) == [False] * 3
        assert [vm_bo.refs for vm_bo in bench.bos.values()] == [1, 1, 1]
        assert list(bench.vm.extobj.entries) == [bench.bos[obj] for obj in bench.externals]

    bench_test(mode, body)


@pytest.mark.parametrize("mode", MODES)
def test_contention_at_any_place_ends_well(mode: str) -> None:
    """-EDEADLK is injected at random; in the end everything is locked exactly once."""

    async def program(engine: Engine) -> None:
        bench = await Bench(engine, MODES[mode], externals=3).connect()
        async with DrmGpuvmExec(bench.vm, inject=True) as vm_exec:
            await vm_exec.lock()
            assert sorted(obj.name for obj in vm_exec.exec.objects) == ["ext0", "ext1", "ext2", "vm.r_obj"]
        assert list(bench.vm.extobj) == [bench.bos[obj] for obj in bench.externals]
        assert [vm_bo.refs for vm_bo in bench.bos.values()] == [1] * 4
        assert [obj.refs for obj in bench.externals] == [2] * 3

    counters = run_all(program)
    assert counters["exec.retry"] > 20


@pytest.mark.parametrize("mode", MODES)
def test_two_vms_lock_the_same_objects_the_other_way_round(mode: str) -> None:
    async def program(engine: Engine) -> None:
        one = await Bench(engine, MODES[mode], name="one").connect()
        other = Bench(engine, MODES[mode], name="other", externals=0)
        for obj in reversed(one.externals):
            await other.add(obj)
        fences = []

        async def submit(bench: Bench) -> None:
            for _ in range(2):
                async with DrmGpuvmExec(bench.vm) as vm_exec:
                    await vm_exec.lock()
                    fence = new_fence(engine)
                    fences.append(fence)
                    await vm_exec.resv_add_fence(fence, Usage.BOOKKEEP, Usage.BOOKKEEP)

        await together(engine, lambda: submit(one), lambda: submit(other))
        for obj in one.externals:
            assert sorted(slot.fence.context for slot in obj.resv.fences.slots) == [f.context for f in fences]
        assert [len(bench.vm.resv.fences.slots) for bench in (one, other)] == [2, 2]

    assert run_all(program)["exec.retry"]


# -- revalidation --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_validate_calls_back_for_each_evicted_object_once(mode: str) -> None:
    async def body(bench: Bench) -> None:
        for obj in (bench.externals[1], bench.local):
            await bench.evict(obj)
            await bench.evict(obj)
        async with DrmGpuvmExec(bench.vm) as vm_exec:
            await vm_exec.lock()
            assert len(bench.vm.evicted) == 2
            await vm_exec.validate()
            assert sorted(bench.validated) == ["ext1", "local"]
            assert not len(bench.vm.evicted)
            await vm_exec.validate()
            assert len(bench.validated) == 2

    bench_test(mode, body)


@pytest.mark.parametrize("mode", MODES)
def test_an_object_that_stays_evicted_stays_listed(mode: str) -> None:
    async def body(bench: Bench) -> None:
        async def undecided(vm_bo: DrmGpuvmBo, exec_: DrmExec) -> None:
            bench.validated.append(vm_bo.obj.name)

        bench.vm.ops = GpuvmOps(vm_bo_validate=undecided)
        await bench.evict(bench.local)
        for _ in range(2):
            async with DrmGpuvmExec(bench.vm) as vm_exec:
                await vm_exec.lock()
                await vm_exec.validate()
        assert bench.validated == ["local", "local"]
        assert list(bench.vm.evicted) == [bench.bos[bench.local]]

    bench_test(mode, body)


@pytest.mark.parametrize("mode", MODES)
def test_an_error_stops_the_walk_and_leaves_the_rest_listed(mode: str) -> None:
    async def body(bench: Bench) -> None:
        for obj in (bench.local, *bench.externals):
            await bench.evict(obj)
        bench.fails_on = "ext0"
        async with DrmGpuvmExec(bench.vm) as vm_exec:
            await vm_exec.lock()
            with pytest.raises(EIO):
                await vm_exec.validate()
            assert bench.validated == ["local"]
            assert [vm_bo.obj.name for vm_bo in bench.vm.evicted] == ["ext0", "ext1"]
            bench.fails_on = None
            await vm_exec.validate()
        assert bench.validated == ["local", "ext0", "ext1"]
        assert [vm_bo.refs for vm_bo in bench.bos.values()] == [1, 1, 1]

    bench_test(mode, body)


@pytest.mark.parametrize("mode", MODES)
def test_validation_that_evicts_another_object_needs_another_round(mode: str) -> None:
    """VMB-R07: page tables for the first one push out one that was done already."""

    async def body(bench: Bench) -> None:
        rounds = 0

        async def greedy(vm_bo: DrmGpuvmBo, exec_: DrmExec) -> None:
            await bench.validate(vm_bo, exec_)
            if len(bench.validated) == 2:
                await bench.vm.vm_bo_evict(bench.bos[bench.local], True)

        bench.vm.ops = GpuvmOps(vm_bo_validate=greedy)
        await bench.evict(bench.local)
        await bench.evict(bench.externals[0])
        async with DrmGpuvmExec(bench.vm) as vm_exec:
            await vm_exec.lock()
            while len(bench.vm.evicted):
                await vm_exec.validate()
                rounds += 1
        # A protected walk leaves newcomers for the next round, a popping one meets them at the end.
        assert bench.validated == ["local", "ext0", "local"]
        assert rounds == (2 if bench.vm.resv_protected else 1)

    bench_test(mode, body)


def test_validate_without_a_callback() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine)
        async with DrmGpuvmExec(vm) as vm_exec:
            await vm_exec.lock()
            with pytest.raises(EOPNOTSUPP):
                await vm_exec.validate()

    run(program)


@pytest.mark.parametrize("mode", ["staged-spin", "immediate-spin"])
def test_validate_notices_an_object_that_the_exec_has_not_locked(mode: str) -> None:
    """VMB-R33: it became external, and was evicted, after the external objects were locked."""

    async def body(bench: Bench) -> None:
        obj = new_object(bench.engine, "late")
        async with DrmGpuvmExec(bench.vm) as vm_exec:
            await vm_exec.lock()
            vm_bo = await bench.vm.vm_bo_create(obj)
            await bench.vm.vm_bo_extobj_add(vm_bo)
            await bench.vm.evicted.add(vm_bo)
            await vm_exec.validate()

    with pytest.raises(PropertyFailed, match="VMB-R33"):
        bench_test(mode, body)


# -- the fence -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_fence_goes_into_every_locked_reservation_with_its_usage(mode: str) -> None:
    async def body(bench: Bench) -> None:
        more = new_object(bench.engine, "more")
        fence = new_fence(bench.engine)
        async with DrmGpuvmExec(bench.vm) as vm_exec:
            await vm_exec.lock_array([more])
            await vm_exec.resv_add_fence(fence, Usage.KERNEL, Usage.WRITE)
        assert [slot[:] for slot in bench.vm.resv.fences.slots] == [(fence, Usage.KERNEL)]
        for obj in (*bench.externals, more):
            assert [slot[:] for slot in obj.resv.fences.slots] == [(fence, Usage.WRITE)]

    bench_test(mode, body)


def test_a_fence_that_misses_an_external_object_is_noticed() -> None:
    """INV-VMB-06, with the driver's lock held, so that nothing else can be the reason."""

    async def body(bench: Bench) -> None:
        lock = RwSem(bench.engine, "vm.lock", "vm_lock")
        bench.vm.driver_set_lock(lock)
        async with lock.reading():
            with DrmExec(bench.engine, "careless") as exec_:

                async def careless(exec_: DrmExec) -> None:
                    await bench.vm.prepare_vm(exec_, 1)
                    await exec_.prepare_obj(bench.externals[0], 1)

                await exec_.until_all_locked(careless)
                await bench.vm.resv_add_fence(exec_, new_fence(bench.engine), Usage.BOOKKEEP, Usage.BOOKKEEP)

    with pytest.raises(PropertyFailed, match=r"INV-VMB-06.*not to ext1"):
        bench_test("staged-resv", body)


# -- what a bind locks ---------------------------------------------------------------------


async def lock_for(bench: Bench, body: Callable[[DrmExec], Awaitable[None]], **options: Any) -> list[str]:
    """Names of what the body locks."""
    with DrmExec(bench.engine, "bind", **options) as exec_:
        await exec_.until_all_locked(body)
        return [obj.name for obj in exec_.objects]


def filled(bench: Bench) -> Bench:
    """[0,10) ext0, [10,20) sparse, [20,30) ext1, [30,40) ext0."""
    first, second = bench.externals[:2]
    for start, obj in ((0, first), (10, None), (20, second), (30, first)):
        bench.vm.va_insert(DrmGpuva(start, 10, obj, start))
    return bench


@pytest.mark.parametrize(
    ("start", "length", "names"),
    [
        (40, 5, ["new"]),
        (5, 5, ["new", "ext0"]),
        (10, 10, ["new"]),
        (5, 20, ["new", "ext0", "ext1"]),
        (25, 15, ["new", "ext1", "ext0"]),
        (0, 40, ["new", "ext0", "ext1"]),
    ],
)
def test_map_locks_its_object_with_slots_and_what_it_reaches_without(start: int, length: int, names: list[str]) -> None:
    async def body(bench: Bench) -> None:
        filled(bench)
        new = new_object(bench.engine, "new")
        request = OpMap(start, length, new)

        async def bind(exec_: DrmExec) -> None:
            await bench.vm.sm_map_exec_lock(exec_, 3, request)
            assert new.resv.fences.max_fences >= 3
            assert [obj.resv.fences.max_fences for obj in bench.externals] == [0, 0]

        generation = bench.vm.generation
        assert await lock_for(bench, bind, ignore_duplicates=True) == names
        assert bench.vm.generation == generation

    bench_test("staged-resv", body)


@pytest.mark.parametrize(
    ("start", "length", "names"), [(5, 1, ["ext0"]), (12, 3, []), (0, 40, ["ext0", "ext1"]), (50, 5, [])]
)
def test_unmap_locks_what_it_reaches(start: int, length: int, names: list[str]) -> None:
    async def body(bench: Bench) -> None:
        filled(bench)

        async def unbind(exec_: DrmExec) -> None:
            await bench.vm.sm_unmap_exec_lock(exec_, start, length)

        assert await lock_for(bench, unbind, ignore_duplicates=True) == names

    bench_test("staged-resv", body)


def test_a_map_without_an_object_locks_what_it_covers() -> None:
    async def body(bench: Bench) -> None:
        filled(bench)

        async def bind(exec_: DrmExec) -> None:
            await bench.vm.sm_map_exec_lock(exec_, 1, OpMap(15, 10))

        assert await lock_for(bench, bind) == ["ext1"]

    bench_test("staged-resv", body)


def test_duplicates_have_to_be_tolerated() -> None:
    async def body(bench: Bench) -> None:
        filled(bench)

        async def unbind(exec_: DrmExec) -> None:
            await bench.vm.sm_unmap_exec_lock(exec_, 0, 40)

        with pytest.raises(EALREADY):
            await lock_for(bench, unbind)

    bench_test("staged-resv", body)


def test_an_array_is_locked_against_the_tree_as_it_is() -> None:
    """Section 8.4: whatever later requests touch has been seen, since earlier ones only add objects they lock."""

    async def body(bench: Bench) -> None:
        filled(bench)
        new = [new_object(bench.engine, f"new{number}") for number in range(2)]
        array = [OpMap(0, 25, new[0]), OpMap(20, 15, new[1])]

        async def bind(exec_: DrmExec) -> None:
            for request in array:
                await bench.vm.sm_map_exec_lock(exec_, 1, request)

        names = await lock_for(bench, bind, ignore_duplicates=True)
        assert names == ["new0", "ext0", "ext1", "new1"]

    bench_test("staged-resv", body)


@pytest.mark.parametrize("start", [1 << 20, (1 << 20) - 5])
def test_a_bad_range_locks_nothing_for_good(start: int) -> None:
    async def body(bench: Bench) -> None:
        new = new_object(bench.engine, "new")

        async def bind(exec_: DrmExec) -> None:
            await bench.vm.sm_map_exec_lock(exec_, 1, OpMap(start, 10, new))

        async def unbind(exec_: DrmExec) -> None:
            await bench.vm.sm_unmap_exec_lock(exec_, start, 10)

        for request in (bind, unbind):
            with pytest.raises(EINVAL):
                await lock_for(bench, request)
        assert locked(new) == [False]

    bench_test("staged-resv", body)


@pytest.mark.parametrize("flags", [PROTECTED, SPIN])
def test_memory_runs_out_while_locking(flags: GpuvmFlags) -> None:
    """-ENOMEM comes through; nothing stays locked, referenced or on a private list."""

    async def program(engine: Engine) -> None:
        bench = await Bench(engine, flags).connect()
        memory = FenceMemory(engine, inject=True)
        vm_exec = DrmGpuvmExec(bench.vm, memory=memory)
        try:
            await vm_exec.lock()
        except ENOMEM:
            engine.count("test.failed")
        else:
            vm_exec.unlock()
        assert locked(bench.vm.r_obj, *bench.externals) == [False] * 3
        assert list(bench.vm.extobj.entries) == [bench.bos[obj] for obj in bench.externals]
        assert [obj.refs for obj in bench.externals] == [2, 2]

    assert run_all(program)["test.failed"]


def test_edeadlk_that_is_not_ours_passes_through() -> None:
    async def body(bench: Bench) -> None:
        async def extra(vm_exec: DrmGpuvmExec) -> None:
            raise EDEADLK

        vm_exec = DrmGpuvmExec(bench.vm, extra=extra)
        with pytest.raises(EDEADLK):
            await vm_exec.lock()
        assert locked(bench.vm.r_obj, *bench.externals) == [False] * 3

    bench_test("staged-resv", body)
