"""The two lists of a VM on their own: both ways of protection, walks, and a model of the popping walk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from gpuvm_bench import MODES, PROTECTED, SPIN, new_local, new_object, new_vm, run, run_all, together
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.drm.gpuvm import DrmGpuvm, DrmGpuvmBo, GpuvmFlags
from svm_actors.drm.gpuvm_lists import PopOne, VmBoList
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed


async def connect(vm: DrmGpuvm, count: int) -> list[DrmGpuvmBo]:
    """So many external objects, each connected to the VM and listed nowhere."""
    return [await vm.vm_bo_create(new_object(vm.engine, f"o{number}")) for number in range(count)]


async def never_put(vm_bo: DrmGpuvmBo) -> None:
    vm_bo.drop()


def names(which: VmBoList) -> list[str]:
    return [vm_bo.obj.name for vm_bo in which]


def lists_test(flags: GpuvmFlags, count: int, body: Callable[[DrmGpuvm, list[DrmGpuvmBo]], Awaitable[None]]) -> Engine:
    """Run ``body(vm, vm_bos)``, with vm.resv held if it protects the lists."""

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, flags)
        vm_bos = await connect(vm, count)
        if vm.resv_protected:
            await vm.resv.lock()
        await body(vm, vm_bos)
        if vm.resv_protected:
            vm.resv.unlock()

    return run(program)


@pytest.mark.parametrize("flags", [PROTECTED, SPIN])
def test_adding_and_removing_is_idempotent(flags: GpuvmFlags) -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        first, second = vm_bos
        for vm_bo in (first, second, first):
            await vm.extobj.add(vm_bo)
        assert names(vm.extobj) == ["o0", "o1"]
        assert first in vm.extobj
        for _ in range(2):
            await vm.extobj.remove(first)
        assert first not in vm.extobj
        assert names(vm.extobj) == ["o1"]
        assert names(vm.evicted) == []

    lists_test(flags, 2, body)


@pytest.mark.parametrize("verb", ["add", "remove", "walk"])
def test_a_protected_list_is_only_touched_under_vm_resv(verb: str) -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, PROTECTED)
        (vm_bo,) = await connect(vm, 1)
        # Another object's reservation does not help.
        await vm_bo.obj.resv.lock()
        if verb == "walk":
            list(vm.evicted.protected())
        else:
            await getattr(vm.evicted, verb)(vm_bo)

    with pytest.raises(PropertyFailed, match="VMB-R06"):
        run(program)


def test_a_protected_walk_goes_on_while_it_removes_and_leaves_newcomers_for_the_next() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        a, b, c, late = vm_bos
        for vm_bo in (a, b, c):
            await vm.evicted.add(vm_bo)
        seen = []
        for vm_bo in vm.evicted.protected():
            seen.append(vm_bo)
            if vm_bo is a:
                await vm.evicted.remove(a)
                await vm.evicted.remove(b)
                await vm.evicted.add(late)
        assert seen == [a, c]
        assert list(vm.evicted) == [c, late]

    lists_test(PROTECTED, 4, body)


def test_a_protected_walk_notices_that_the_lock_was_dropped() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        for vm_bo in vm_bos:
            await vm.evicted.add(vm_bo)
        for _ in vm.evicted.protected():
            vm.resv.unlock()

    with pytest.raises(PropertyFailed, match="VMB-R06"):
        lists_test(PROTECTED, 2, body)


# -- the popping walk --------------------------------------------------------------------


def test_the_walk_holds_a_reference_and_gives_it_back() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        for vm_bo in vm_bos:
            await vm.extobj.add(vm_bo)
        walk = PopOne(vm.extobj, never_put)
        held = []
        while await walk.next() is not None:
            held.append([vm_bo.refs for vm_bo in vm_bos])
        assert held == [[2, 1, 1], [1, 2, 1], [1, 1, 2]]
        assert not vm.extobj.entries
        await walk.finish()
        assert list(vm.extobj.entries) == vm_bos

    lists_test(SPIN, 3, body)


def test_a_broken_walk_leaves_the_list_complete() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        for vm_bo in vm_bos:
            await vm.extobj.add(vm_bo)
        walk = PopOne(vm.extobj, never_put)
        await walk.next()
        await walk.next()
        await walk.finish()
        assert list(vm.extobj) == vm_bos
        assert [vm_bo.refs for vm_bo in vm_bos] == [1, 1, 1]

    lists_test(SPIN, 3, body)


def test_the_dead_are_not_visited() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        for vm_bo in vm_bos:
            await vm.extobj.add(vm_bo)
        vm_bos[0].drop()
        walk = PopOne(vm.extobj, never_put)
        assert await walk.next() is vm_bos[1]
        assert await walk.next() is None
        await walk.finish()
        assert list(vm.extobj) == vm_bos[1:]

    engine = lists_test(SPIN, 2, body)
    assert engine.counters["gpuvm.dead_skipped"] == 1


def test_two_walks_of_one_list_are_a_bug() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        await vm.extobj.add(vm_bos[0])
        first, second = PopOne(vm.extobj, never_put), PopOne(vm.extobj, never_put)
        await first.next()
        await second.next()

    with pytest.raises(PropertyFailed, match="two walks"):
        lists_test(SPIN, 1, body)


def test_two_walks_of_different_lists_are_not() -> None:
    async def body(vm: DrmGpuvm, vm_bos: list[DrmGpuvmBo]) -> None:
        await vm.extobj.add(vm_bos[0])
        await vm.evicted.add(vm_bos[0])
        first, second = PopOne(vm.extobj, never_put), PopOne(vm.evicted, never_put)
        assert await first.next() is vm_bos[0]
        assert await second.next() is vm_bos[0]
        assert vm_bos[0].refs == 3
        await first.finish()
        await second.finish()

    lists_test(SPIN, 1, body)


Change = tuple[bool, int]
"""Add (True) or remove one of six."""


@given(
    st.lists(st.integers(0, 5), unique=True),
    st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=3), max_size=8),
    st.booleans(),
)
def test_adds_and_removes_during_a_walk(first: list[int], changes: list[list[Change]], whole: bool) -> None:
    """Against a plain model: behind the walk, ahead of it, newcomers at the end.

    A step of the walk, then some changes; ``whole`` lets it end, else it breaks off.
    """

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, SPIN)
        vm_bos = await connect(vm, 6)
        for number in first:
            await vm.extobj.add(vm_bos[number])
        behind: list[int] = []
        ahead = list(first)
        walk = PopOne(vm.extobj, never_put)
        for some in changes:
            vm_bo = await walk.next()
            assert vm_bo is (vm_bos[ahead[0]] if ahead else None)
            behind += ahead[:1]
            ahead = ahead[1:]
            for add, number in some:
                if not add:
                    await vm.extobj.remove(vm_bos[number])
                    behind = [other for other in behind if other != number]
                    ahead = [other for other in ahead if other != number]
                elif number not in behind + ahead:
                    ahead.append(number)
                if add:
                    await vm.extobj.add(vm_bos[number])
        while whole and await walk.next() is not None:
            pass
        await walk.finish()
        assert list(vm.extobj) == [vm_bos[number] for number in behind + ahead]
        assert [vm_bo.refs for vm_bo in vm_bos] == [1] * 6

    run(program)


def test_a_walk_and_changes_from_other_threads() -> None:
    """What stays listed throughout is visited exactly once, on every schedule."""

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, SPIN)
        vm_bos = await connect(vm, 5)
        stays, goes, comes = vm_bos[:2], vm_bos[2:4], vm_bos[4]
        for vm_bo in (stays[0], *goes, stays[1]):
            await vm.extobj.add(vm_bo)
        seen: list[DrmGpuvmBo] = []

        async def walker() -> None:
            walk = PopOne(vm.extobj, never_put)
            while (vm_bo := await walk.next()) is not None:
                await engine.step("local", vm_bo.obj)
                seen.append(vm_bo)
            await walk.finish()

        async def remover() -> None:
            for vm_bo in goes:
                await vm.extobj.remove(vm_bo)

        async def adder() -> None:
            await vm.extobj.add(comes)
            await vm.extobj.add(stays[0])

        await together(engine, walker, remover, adder)
        assert [vm_bo for vm_bo in seen if vm_bo in stays] == stays
        assert len(seen) == len({vm_bo.name for vm_bo in seen})
        assert sorted(names(vm.extobj)) == ["o0", "o1", "o4"]

    run_all(program)


# -- which list, when --------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_only_objects_with_another_reservation_are_external(mode: str) -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, MODES[mode])
        external, local = new_object(engine, "external"), new_local(vm, "local")
        assert vm.is_extobj(external)
        assert not vm.is_extobj(local)
        assert not vm.is_extobj(vm.r_obj)
        await vm.resv.lock()
        for obj in (external, local, external):
            await vm.vm_bo_extobj_add(await vm.vm_bo_create(obj))
        vm.resv.unlock()
        assert names(vm.extobj) == ["external", "external"]

    run(program)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("external", [False, True])
def test_eviction_reaches_the_list_or_only_the_flag(mode: str, external: bool) -> None:
    """Section 4.3: only an external object of a VM whose resv protects the list is left to the flag."""

    async def program(engine: Engine) -> None:
        vm = new_vm(engine, MODES[mode])
        obj = new_object(engine, "obj") if external else new_local(vm, "obj")
        vm_bo = await vm.vm_bo_create(obj)
        listed = not (external and vm.resv_protected)
        await obj.resv.lock()
        for _ in range(2):
            await vm.vm_bo_evict(vm_bo, True)
            assert vm_bo.evicted
            assert names(vm.evicted) == ["obj"] * listed
        await vm.vm_bo_evict(vm_bo, False)
        assert not vm_bo.evicted
        assert names(vm.evicted) == []
        obj.resv.unlock()
        assert engine.counters["VMB-R06"] == 2 * (not listed)

    run(program)


def test_eviction_needs_the_objects_reservation() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, SPIN)
        vm_bo = await vm.vm_bo_create(new_object(engine, "obj"))
        await vm.resv.lock()
        await vm.vm_bo_evict(vm_bo, True)

    with pytest.raises(PropertyFailed, match="reservation of obj"):
        run(program)


def test_the_flag_is_no_window_when_the_vm_is_locked_as_well() -> None:
    async def program(engine: Engine) -> None:
        vm = new_vm(engine, PROTECTED)
        obj = new_object(engine, "obj")
        vm_bo = await vm.vm_bo_create(obj)
        await obj.resv.lock()
        assert await vm.resv.trylock()
        await vm.vm_bo_evict(vm_bo, True)
        assert names(vm.evicted) == []
        vm.resv.unlock()
        obj.resv.unlock()

    assert run(program).counters["VMB-R06"] == 0
