"""gpu_vm_bos: one per pair, references, linking, and both ways to end (vm_bind section 1, INV-VMB-07)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from gpuvm_bench import IMMEDIATE, MODES, PROTECTED, SPIN, new_local, new_object, new_vm, run, run_all, together

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import DrmGemObject, DrmGpuva, DrmGpuvm, DrmGpuvmBo, GpuvmFlags, GpuvmOps, gem_evict
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM, PropertyFailed
from svm_actors.engine.locks import Mutex, RwSem
from svm_actors.engine.signalling import signalling

STAGED = ["staged-resv", "staged-spin"]
IMMEDIATES = ["immediate-resv", "immediate-spin"]

Program = Callable[[Engine], Coroutine[Any, Any, None]]


def fails(match: str, program: Program) -> None:
    with pytest.raises(PropertyFailed, match=match):
        run(program)


async def lock_both(vm: DrmGpuvm, obj: DrmGemObject) -> DrmExec:
    """vm.resv and the object's, for whoever unlinks the last mapping in staged mode."""

    async def body(exec_: DrmExec) -> None:
        await vm.prepare_vm(exec_, 0)
        await exec_.lock_obj(obj)

    exec_ = DrmExec(vm.engine, "both", ignore_duplicates=True)
    await exec_.until_all_locked(body)
    return exec_


# -- obtaining ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", STAGED)
def test_obtain_finds_the_one_of_the_pair(mode: str) -> None:
    async def program(engine: Engine) -> None:
        vm, other = (new_vm(engine, MODES[mode], name=name) for name in ("vm", "other"))
        obj = new_object(engine, "obj")
        exec_ = await lock_both(vm, obj)
        assert vm.vm_bo_find(obj) is None
        first = await vm.vm_bo_obtain_locked(obj)
        second = await vm.vm_bo_obtain_locked(obj)
        elsewhere = await other.vm_bo_obtain_locked(obj)
        assert first is second
        assert first is not elsewhere
        assert vm.vm_bo_find(obj) is first
        assert (first.refs, elsewhere.refs) == (3, 1)
        assert list(obj.gpuva.bos) == [first, elsewhere]
        # One reference for whoever made it, one for the exec, one per pair.
        assert (vm.refs, other.refs, obj.refs) == (2, 2, 4)
        exec_.fini()

    run(program)


@pytest.mark.parametrize("mode", IMMEDIATES)
def test_a_spare_is_used_or_given_up(mode: str) -> None:
    freed: list[DrmGpuvmBo] = []

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, MODES[mode], ops=GpuvmOps(vm_bo_free=freed.append))
        obj = new_object(engine, "obj")
        spares = [await vm.vm_bo_create(obj) for _ in range(2)]
        assert not obj.gpuva.bos
        got = [await vm.vm_bo_obtain_prealloc(spare) for spare in spares]
        assert got == [spares[0], spares[0]]
        assert freed == [spares[1]]
        assert list(obj.gpuva.bos) == [spares[0]]
        assert (spares[0].refs, vm.refs, obj.refs, vm.live_bos) == (2, 2, 2, 1)

    run(program)


@pytest.mark.parametrize("mode", MODES)
def test_the_way_to_obtain_of_the_other_style_is_refused(mode: str) -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, MODES[mode]), new_object(engine, "obj")
        if vm.immediate:
            async with obj.gpuva.lock:
                await vm.vm_bo_obtain_locked(obj)
        else:
            await obj.resv.lock()
            await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj))

    fails("INV-VMB-05", program)


@pytest.mark.parametrize("mode", MODES)
def test_the_objects_list_needs_the_gpuva_lock(mode: str) -> None:
    """Which is the mutex in immediate mode and the reservation in staged mode, never the other one."""

    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, MODES[mode]), new_object(engine, "obj")
        if vm.immediate:
            await obj.resv.lock()
        else:
            await obj.gpuva.lock.acquire()
        vm.vm_bo_find(obj)

    fails("without the gpuva lock of obj", program)


def test_nothing_is_allocated_under_the_mutex() -> None:
    """It is taken in the signalling section, where reclaim must not be waited for."""

    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, PROTECTED | IMMEDIATE), new_object(engine, "obj")
        async with obj.gpuva.lock:
            await vm.vm_bo_create(obj)

    fails("takes fs_reclaim while holding gpuva_lock", program)


def test_no_reservation_is_taken_under_the_mutex() -> None:
    async def program(engine: Engine) -> None:
        new_vm(engine, PROTECTED | IMMEDIATE)
        obj = new_object(engine, "obj")
        async with obj.gpuva.lock:
            await obj.resv.lock()

    fails("takes dma_resv while holding gpuva_lock", program)


def test_failing_allocation_leaves_nothing() -> None:
    async def program(engine: Engine) -> None:
        memory = FenceMemory(engine, inject=True)
        vm, obj = new_vm(engine, PROTECTED, memory=memory), new_object(engine, "obj")
        exec_ = await lock_both(vm, obj)
        try:
            vm_bo = await vm.vm_bo_obtain_locked(obj)
        except ENOMEM:
            assert (vm.refs, obj.refs, vm.live_bos, list(obj.gpuva.bos)) == (1, 2, 0, [])
        else:
            await vm.vm_bo_put(vm_bo)
        exec_.fini()
        assert (vm.refs, obj.refs) == (1, 1)

    assert 0 < run_all(program)["inject.enomem"] < 51


def test_the_drivers_own_class_is_used() -> None:
    class OwnBo(DrmGpuvmBo):
        pass

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, ops=GpuvmOps(vm_bo_alloc=OwnBo))
        assert isinstance(await vm.vm_bo_create(new_object(engine, "obj")), OwnBo)

    run(program)


# -- linking and the end, staged -----------------------------------------------------------


@pytest.mark.parametrize("mode", STAGED)
def test_mappings_hold_the_pair_and_the_last_one_ends_it(mode: str) -> None:
    freed: list[DrmGpuvmBo] = []

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, MODES[mode], ops=GpuvmOps(vm_bo_free=freed.append))
        obj = new_object(engine, "obj")
        exec_ = await lock_both(vm, obj)
        vm_bo = await vm.vm_bo_obtain_locked(obj)
        await vm.vm_bo_extobj_add(vm_bo)
        vas = [DrmGpuva(start, 1, obj, start) for start in (5, 1, 3)]
        for va in vas:
            vm.va_insert(va)
            vm.va_link(va, vm_bo)
        await vm.vm_bo_put(vm_bo)
        assert (vm_bo.refs, list(vm_bo.vas)) == (3, vas)
        assert [op.va for op in vm.bo_unmap_ops_create(vm_bo)] == vas  # type: ignore[union-attr]
        if not vm.resv_protected:
            await vm.vm_bo_evict(vm_bo, True)
        for va in vas:
            assert not freed
            vm.va_remove(va)
            await vm.va_unlink(va)
            assert va.vm_bo is None
        assert freed == [vm_bo]
        assert vm.statistics() == dict.fromkeys(vm.statistics(), 0)
        assert not obj.gpuva.bos
        assert (vm.refs, obj.refs) == (1, 2)
        exec_.fini()

    run(program)


def test_a_mapping_without_an_object_is_linked_to_nothing() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine), new_object(engine, "obj")
        vm_bo = await vm.vm_bo_create(obj)
        sparse = DrmGpuva(0, 1)
        vm.va_link(sparse, vm_bo)
        assert (sparse.vm_bo, vm_bo.refs) == (None, 1)
        await vm.va_unlink(sparse)
        await vm.va_unlink_defer(sparse)

    run(program)


def test_a_mapping_of_another_object_cannot_be_linked() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine), new_object(engine, "obj")
        vm_bo = await vm.vm_bo_create(obj)
        await obj.resv.lock()
        vm.va_link(DrmGpuva(0, 1, new_object(engine, "other")), vm_bo)

    fails("is linked to", program)


def test_the_last_put_of_a_protected_vm_needs_vm_resv_too() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, PROTECTED), new_object(engine, "obj")
        await obj.resv.lock()
        await vm.vm_bo_put(await vm.vm_bo_obtain_locked(obj))

    fails("VMB-R06", program)


def test_unlinking_in_the_wrong_style_is_refused() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, SPIN), new_object(engine, "obj")
        await obj.resv.lock()
        vm_bo = await vm.vm_bo_obtain_locked(obj)
        va = DrmGpuva(0, 1, obj)
        vm.va_link(va, vm_bo)
        await vm.va_unlink_defer(va)

    fails("by run_job in staged mode", program)


def test_the_count_does_not_go_below_zero() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, SPIN), new_object(engine, "obj")
        await obj.resv.lock()
        vm_bo = await vm.vm_bo_obtain_locked(obj)
        await vm.vm_bo_put(vm_bo)
        await vm.vm_bo_put(vm_bo)

    fails("put more often than it was taken", program)


# -- the end, immediate --------------------------------------------------------------------


async def mapped(vm: DrmGpuvm, obj: DrmGemObject, *starts: int) -> tuple[DrmGpuvmBo, list[DrmGpuva]]:
    """Immediate mode: the pair, external and evicted, and mappings that hold its only references."""
    vm_bo = await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj))
    exec_ = await lock_both(vm, obj)
    await vm.vm_bo_extobj_add(vm_bo)
    await vm.evicted.add(vm_bo)
    vm_bo.evicted = True
    exec_.fini()
    vas = [DrmGpuva(start, 1, obj) for start in starts]
    async with obj.gpuva.lock:
        for va in vas:
            vm.va_insert(va)
            vm.va_link(va, vm_bo)
    await vm.vm_bo_put_deferred(vm_bo)
    return vm_bo, vas


@pytest.mark.parametrize("mode", IMMEDIATES)
@pytest.mark.parametrize("last", ["unlink", "put"])
def test_the_last_reference_leaves_a_zombie(mode: str, last: str) -> None:
    freed: list[DrmGpuvmBo] = []

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, MODES[mode], ops=GpuvmOps(vm_bo_free=freed.append))
        obj = new_object(engine, "obj")
        vm_bo, vas = await mapped(vm, obj, 0, 1)
        if last == "put":
            vm_bo.get()
        with signalling(engine):
            for va in vas:
                assert not vm_bo.zombie
                vm.va_remove(va)
                await vm.va_unlink_defer(va)
            if last == "put":
                assert not vm_bo.zombie
                await vm.vm_bo_put_deferred(vm_bo)
        # Nobody can find it, but a list that needs vm.resv still has it; memory and references remain.
        assert vm_bo.zombie
        assert not obj.gpuva.lock.holders()
        assert not obj.gpuva.bos
        assert (vm_bo in vm.extobj, vm_bo in vm.evicted) == (vm.resv_protected, vm.resv_protected)
        assert vm.bo_defer == [vm_bo]
        assert not freed
        assert (vm.refs, obj.refs) == (2, 2)
        async with obj.gpuva.lock:
            assert vm.vm_bo_find(obj) is None

        await vm.bo_deferred_cleanup()
        assert freed == [vm_bo]
        assert vm.statistics() == dict.fromkeys(vm.statistics(), 0)
        assert (vm.refs, obj.refs) == (1, 1)

    run(program)


@pytest.mark.parametrize("mode", IMMEDIATES)
def test_a_pair_may_be_new_while_its_zombie_waits(mode: str) -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, MODES[mode]), new_object(engine, "obj")
        old, vas = await mapped(vm, obj, 0)
        vm.va_remove(vas[0])
        await vm.va_unlink_defer(vas[0])
        new, more = await mapped(vm, obj, 0)
        assert new is not old
        assert list(obj.gpuva.bos) == [new]
        await vm.bo_deferred_cleanup()
        assert list(vm.extobj) == [new]
        assert not new.zombie
        vm.va_remove(more[0])
        await vm.va_unlink_defer(more[0])
        await vm.bo_deferred_cleanup()
        assert (vm.refs, obj.refs) == (1, 1)

    run(program)


def test_the_zombie_keeps_vm_and_object_until_the_cleanup() -> None:
    freed: list[str] = []

    class Noted(DrmGemObject):
        def free(self) -> None:
            freed.append(self.name)

    async def program(engine: Engine) -> None:
        ops = GpuvmOps(vm_free=lambda vm: freed.append(vm.name))
        vm = new_vm(engine, PROTECTED | IMMEDIATE, ops=ops)
        obj = Noted(engine, "obj", new_object(engine, "resv").resv)
        _, vas = await mapped(vm, obj, 0)
        vm.va_remove(vas[0])
        await vm.va_unlink_defer(vas[0])
        await obj.put()
        await vm.put()
        assert not freed
        await vm.bo_deferred_cleanup()
        assert freed == ["obj", "vm"]

    run(program)


def test_cleanup_without_zombies_takes_no_lock() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, PROTECTED | IMMEDIATE)
        await vm.resv.lock()
        await vm.bo_deferred_cleanup()
        vm.resv.unlock()

    run(program)


def test_two_cleanups_share_the_work() -> None:
    freed: list[str] = []

    async def program(engine: Engine) -> None:
        freed.clear()
        vm = new_vm(engine, PROTECTED | IMMEDIATE, ops=GpuvmOps(vm_bo_free=lambda vm_bo: freed.append(vm_bo.obj.name)))
        objects = [new_object(engine, f"o{number}") for number in range(3)]

        async def job(obj: DrmGemObject, start: int) -> None:
            _, (va,) = await mapped(vm, obj, start)
            vm.va_remove(va)
            await vm.va_unlink_defer(va)
            await vm.bo_deferred_cleanup()

        await together(engine, *(lambda n=n: job(objects[n], n) for n in range(3)))
        await vm.bo_deferred_cleanup()
        assert sorted(freed) == ["o0", "o1", "o2"]
        assert [obj.refs for obj in objects] == [1, 1, 1]
        assert vm.refs == 1

    run_all(program)


# -- eviction of an object -------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_vm_that_maps_an_object_is_told(mode: str) -> None:
    async def program(engine: Engine) -> None:
        vms = [new_vm(engine, MODES[mode], name=f"vm{number}") for number in range(3)]
        obj = new_object(engine, "obj")
        bos = []
        for vm in vms[:2]:
            if vm.immediate:
                bos.append(await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj)))
            else:
                await obj.resv.lock()
                bos.append(await vm.vm_bo_obtain_locked(obj))
                obj.resv.unlock()
        await obj.resv.lock()
        await gem_evict(obj, True)
        assert [vm_bo.evicted for vm_bo in bos] == [True, True]
        assert [len(vm.evicted) for vm in vms] == ([0, 0, 0] if vms[0].resv_protected else [1, 1, 0])
        await gem_evict(obj, False)
        assert [vm_bo.evicted for vm_bo in bos] == [False, False]
        assert [len(vm.evicted) for vm in vms] == [0, 0, 0]
        obj.resv.unlock()

    run(program)


def test_an_object_is_evicted_under_its_reservation() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, SPIN)
        local = new_local(vm, "local")
        await vm.resv.lock()
        await vm.vm_bo_obtain_locked(local)
        vm.resv.unlock()
        await gem_evict(local, True)

    fails("without the gpuva lock of local", program)


# -- objects and VMs ---------------------------------------------------------------------------


def test_an_object_counts_its_references() -> None:
    async def program(engine: Engine) -> None:
        obj = new_object(engine, "obj")
        assert obj.get() is obj
        await obj.put()
        await obj.put()
        assert obj.refs == 0
        with pytest.raises(PropertyFailed, match="which is freed"):
            obj.get()
        with pytest.raises(PropertyFailed, match="more often"):
            await obj.put()

    run(program)


def test_an_object_is_not_freed_while_it_is_mapped() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine, SPIN), new_object(engine, "obj")
        await obj.resv.lock()
        await vm.vm_bo_obtain_locked(obj)
        obj.put_now()
        obj.put_now()

    fails("freed but mapped in 1 VMs", program)


def test_an_object_is_not_freed_while_its_mutex_is_held() -> None:
    async def program(engine: Engine) -> None:
        obj = new_object(engine, "obj")
        async with obj.gpuva.lock:
            await obj.put()

    fails("VMB-R31", program)


@pytest.mark.parametrize("left", ["mapping", "external object"])
def test_a_vm_is_not_freed_with_something_in_it(left: str) -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, SPIN)
        if left == "mapping":
            vm.va_insert(DrmGpuva(0, 1))
        else:
            await vm.vm_bo_extobj_add(await vm.vm_bo_create(new_object(engine, "obj")))
        for _ in range(vm.refs):
            await vm.put()

    fails("INV-VMB-07.*freed with 1", program)


def test_a_freed_vm_is_not_used_again() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine)
        r_obj = vm.r_obj
        await vm.put()
        assert r_obj.refs == 0  # type: ignore[attr-defined]
        vm.get()

    fails("reference is taken on a VM that is freed", program)


def test_a_vm_is_put_once() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine)
        await vm.put()
        await vm.put()

    fails("the VM is put more often", program)


@pytest.mark.parametrize("flags", [PROTECTED, PROTECTED | IMMEDIATE])
@pytest.mark.parametrize("kind", ["rwsem", "mutex"])
def test_the_tree_is_changed_under_the_drivers_lock(flags: GpuvmFlags, kind: str) -> None:
    """In immediate mode run_job has a lock of its own for that, which gpuvm does not know."""

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, flags)
        lock = RwSem(engine, "vm.lock", "vm_lock") if kind == "rwsem" else Mutex(engine, "vm.lock", "vm_lock")
        vm.driver_set_lock(lock)
        if isinstance(lock, RwSem):
            async with lock.writing():
                vm.va_insert(DrmGpuva(0, 1))
            async with lock.reading():
                vm.va_insert(DrmGpuva(1, 1))
        else:
            async with lock:
                vm.va_insert(DrmGpuva(0, 1))
            vm.va_insert(DrmGpuva(1, 1))

    if flags & IMMEDIATE:
        run(program)
    else:
        fails("INV-VMB-05", program)


def test_names_show_what_is_what() -> None:
    async def program(engine: Engine) -> None:
        vm, obj = new_vm(engine), new_object(engine, "obj")
        vm_bo = await vm.vm_bo_create(obj)
        vm_bo.evicted = True
        assert repr(vm_bo) == "<vm.bo(obj) refs=1 evicted>"
        assert repr(obj) == "<obj refs=2>"
        assert repr(DrmGpuva(16, 2, obj, 3)) == "<va [0x10,0x12) obj+0x3>"
        assert repr(DrmGpuva(0, 1)) == "<va [0x0,0x1) sparse>"

    run(program)
