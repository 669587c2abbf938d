"""Split and merge against a map of pages: whatever is bound in whatever order, each page shows what it should.

INV-VMB-02: mappings never overlap and stay inside the VM; INV-VMB-15: madvise changes no translation.
"""

from __future__ import annotations

from typing import Any

import pytest
from gpuvm_bench import IMMEDIATE, PROTECTED, apply, at_once, idle_engine, new_object, new_vm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from svm_actors.drm.gpuvm import DrmGemObject, DrmGpuva, DrmGpuvm, GpuvmOps, Op, OpMap, OpPrefetch, OpRemap, OpUnmap
from svm_actors.engine.errors import EEXIST, EINVAL, EIO, PropertyFailed

START, PAGES = 3, 24
OWN = (20, 2)
"""The kernel's own node."""

Shown = tuple[DrmGemObject | None, int | None]
"""What a page shows: object and offset in it; a sparse page has neither."""

pages = st.integers(START, START + PAGES - 1)
lengths = st.integers(1, 8) | st.integers(1, PAGES)


def shown_by(va: DrmGpuva | OpMap) -> dict[int, Shown]:
    return {
        page: (va.obj, None if va.obj is None else va.offset + page - va.addr)
        for page in range(va.addr, va.addr + va.range)
    }


class SplitMachine(RuleBasedStateMachine):
    """Requests against a VM, staged and immediate by turns, and against a dict of pages."""

    @initialize()
    def create(self) -> None:
        engine = idle_engine()
        self.objects: list[DrmGemObject | None] = [None, new_object(engine, "a"), new_object(engine, "b")]
        steps = GpuvmOps(sm_step_map=self.step, sm_step_remap=self.step, sm_step_unmap=self.step)
        self.vm: DrmGpuvm = new_vm(engine, PROTECTED | IMMEDIATE, start=START, range_=PAGES, reserve=OWN, ops=steps)
        self.page_map: dict[int, Shown] = {}

    async def step(self, op: Op, priv: Any) -> None:
        priv.append(op)
        apply(self.vm, op)

    def valid(self, start: int, length: int) -> bool:
        end = start + length
        return start >= START and end <= START + PAGES and (end <= OWN[0] or start >= sum(OWN))

    # -- requests --------------------------------------------------------------------

    @rule(
        start=pages,
        length=lengths,
        obj=st.sampled_from([1, 1, 2, 0]),
        offset=st.sampled_from([None, None, 0, 5]),
        staged=st.booleans(),
    )
    def map(self, start: int, length: int, obj: int, offset: int | None, staged: bool) -> None:
        # An offset that is the address makes the same bytes at the same address likely.
        request = OpMap(start, length, self.objects[obj], start if offset is None else offset)
        if not self.valid(start, length):
            with pytest.raises(EINVAL):
                self.vm.sm_map_ops_create(request)
            return
        before = list(self.vm.tree)
        if staged:
            ops = self.vm.sm_map_ops_create(request).ops
            assert list(self.vm.tree) == before
            self.check_map(ops, before, request)
            for op in ops:
                apply(self.vm, op)
        else:
            ops = []
            at_once(self.vm.sm_map(request, ops))
            self.check_map(ops, before, request)
        self.page_map.update(shown_by(request))

    @rule(start=pages, length=lengths, staged=st.booleans())
    def unmap(self, start: int, length: int, staged: bool) -> None:
        if not self.valid(start, length):
            with pytest.raises(EINVAL):
                at_once(self.vm.sm_unmap(start, length, []))
            return
        before = list(self.vm.tree)
        ops: list[Op] = []
        if staged:
            ops = self.vm.sm_unmap_ops_create(start, length).ops
            for op in ops:
                apply(self.vm, op)
        else:
            at_once(self.vm.sm_unmap(start, length, ops))
        self.check_shape(ops, before, start, start + length)
        assert not any(op.keep for op in unmaps(ops))
        for page in range(start, start + length):
            self.page_map.pop(page, None)

    @rule(start=pages, length=lengths)
    def madvise(self, start: int, length: int) -> None:
        if not self.valid(start, length):
            return
        before = list(self.vm.tree)
        ops = self.vm.madvise_ops_create(OpMap(start, length, self.objects[1], 5)).ops
        remaps, maps = ops[::2], ops[1::2]
        assert len(remaps) == len(maps) <= 2
        for remap, inside in zip(remaps, maps, strict=True):
            assert isinstance(remap, OpRemap)
            assert isinstance(inside, OpMap)
            assert remap.unmap.va.obj is None
            assert (inside.addr, inside.end) == remap.unmapped()
        for op in ops:
            apply(self.vm, op)
        end = start + length
        for va in self.vm.tree:
            if va.obj is None:
                assert va.end <= start or va.addr >= end or start <= va.addr <= va.end <= end
        kept = [va for va in before if va.obj is not None or va.end <= start or va.addr >= end]
        assert [va for va in kept if self.vm.va_find(va.addr, va.range) is not va] == []

    @rule(start=st.integers(0, START + PAGES + 3), length=lengths)
    def look(self, start: int, length: int) -> None:
        end = start + length
        overlapping = [va for va in self.vm.tree if va.addr < end and va.end > start]
        assert self.vm.prefetch_ops_create(start, length).ops == [OpPrefetch(va) for va in overlapping]
        assert self.vm.va_find_first(start, length) is (overlapping[0] if overlapping else None)
        assert self.vm.interval_empty(start, length) == (not overlapping)
        assert self.vm.range_valid(start, length) == self.valid(start, length)

    @precondition(lambda self: len(self.vm.tree))
    @rule(which=st.integers(0), length=lengths)
    def insert_over_another(self, which: int, length: int) -> None:
        va = list(self.vm.tree)[which % len(self.vm.tree)]
        if self.valid(va.end - 1, length):
            generation = self.vm.generation
            with pytest.raises(EEXIST):
                self.vm.va_insert(DrmGpuva(va.end - 1, length))
            assert self.vm.generation == generation

    # -- what holds for every list -------------------------------------------------------

    def check_shape(self, ops: list[Op], before: list[DrmGpuva], start: int, end: int) -> None:
        """One operation per vma that is reached, in address order; a remap only at an end of the request."""
        reached = [va for va in before if va.addr < end and va.end > start]
        assert [op.va for op in unmaps(ops)] == reached
        remaps = [op for op in ops if isinstance(op, OpRemap)]
        assert len(remaps) <= 2
        for op in remaps:
            assert op.prev is not None or op.next is not None
            whole = shown_by(op.unmap.va)
            for piece in (op.prev, op.next):
                if piece is not None:
                    assert piece.range > 0
                    shown = shown_by(piece)
                    assert shown == {page: whole[page] for page in shown}
            low, high = op.unmapped()
            assert (low, high) == (max(start, op.unmap.va.addr), min(end, op.unmap.va.end))

    def check_map(self, ops: list[Op], before: list[DrmGpuva], request: OpMap) -> None:
        *rest, last = ops
        assert last == request
        assert not any(isinstance(op, OpMap) for op in rest)
        self.check_shape(rest, before, request.addr, request.end)
        new = shown_by(request)
        for op in unmaps(rest):
            both = [page for page in range(op.va.addr, op.va.end) if page in new]
            same = all(self.page_map[page] == new[page] for page in both)
            assert op.keep == (same and request.obj is not None)

    @invariant()
    def every_page_shows_what_it_should(self) -> None:
        shown: dict[int, Shown] = {}
        for va in self.vm.tree:
            assert self.valid(va.addr, va.range)
            assert va.vm is self.vm
            more = shown_by(va)
            assert not shown.keys() & more.keys()
            shown.update(more)
        assert shown == self.page_map
        assert self.vm.refs == 1 + len(self.vm.tree)


def unmaps(ops: list[Op]) -> list[OpUnmap]:
    """The unmap of each operation that has one."""
    return [op.unmap if isinstance(op, OpRemap) else op for op in ops if isinstance(op, OpRemap | OpUnmap)]


SplitMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestSplitMachine = SplitMachine.TestCase


# -- walks and lists ---------------------------------------------------------------------


def filled(**options: Any) -> DrmGpuvm:
    """Three mappings of ten pages each, from 0 on."""
    vm = new_vm(idle_engine(), **options)
    for start in (0, 10, 20):
        vm.va_insert(DrmGpuva(start, 10))
    return vm


def test_a_callback_that_fails_ends_the_walk_where_it_is() -> None:
    told: list[Op] = []

    async def step(op: Op, priv: Any) -> None:
        told.append(op)
        if len(told) == 2:
            raise EIO
        apply(vm, op)

    vm = filled(flags=PROTECTED | IMMEDIATE, ops=GpuvmOps(sm_step_map=step, sm_step_remap=step, sm_step_unmap=step))
    with pytest.raises(EIO):
        at_once(vm.sm_unmap(5, 20))
    assert [(va.addr, va.end) for va in vm.tree] == [(0, 5), (10, 20), (20, 30)]


@pytest.mark.parametrize("missing", ["sm_step_map", "sm_step_remap", "sm_step_unmap"])
def test_a_walk_needs_every_callback(missing: str) -> None:
    async def step(op: Op, priv: Any) -> None:
        raise AssertionError

    given_ = {name: step for name in ("sm_step_map", "sm_step_remap", "sm_step_unmap") if name != missing}
    vm = filled(ops=GpuvmOps(**given_))
    with pytest.raises(EINVAL):
        at_once(vm.sm_map(OpMap(0, 30)))
    with pytest.raises(EINVAL):
        at_once(vm.sm_unmap(0, 30))


def test_priv_reaches_every_callback() -> None:
    seen: list[tuple[str, Any]] = []

    async def step(op: Op, priv: Any) -> None:
        seen.append((type(op).__name__, priv))

    vm = filled(ops=GpuvmOps(sm_step_map=step, sm_step_remap=step, sm_step_unmap=step))
    at_once(vm.sm_map(OpMap(5, 20), "mine"))
    assert seen == [("OpRemap", "mine"), ("OpUnmap", "mine"), ("OpRemap", "mine"), ("OpMap", "mine")]


def test_a_list_is_stale_once_the_tree_has_changed() -> None:
    """VMB-R29."""
    vm = filled()
    first = vm.sm_unmap_ops_create(0, 10)
    second = vm.sm_unmap_ops_create(20, 10)
    assert first.current
    assert second.current
    apply(vm, first.ops[0])
    assert not second.current
    with pytest.raises(PropertyFailed, match="VMB-R29"):
        apply(vm, second.ops[0])
    assert [va.addr for va in vm.tree] == [10, 20]


def test_applying_a_list_does_not_make_its_own_rest_stale() -> None:
    vm = filled()
    ops = vm.sm_map_ops_create(OpMap(5, 20))
    for op in ops:
        assert ops.current
        apply(vm, op)
    assert [(va.addr, va.end) for va in vm.tree] == [(0, 5), (5, 25), (25, 30)]


def test_a_list_dies_when_the_driver_takes_a_step_back_on_its_own() -> None:
    """Unwinding works on the tree directly; what is left of the list is worth nothing after that."""
    vm = filled()
    ops = vm.sm_unmap_ops_create(0, 30)
    old = [op.va for op in unmaps(ops.ops)]
    apply(vm, ops.ops[0])
    vm.va_insert(old[0])
    with pytest.raises(PropertyFailed, match="VMB-R29"):
        apply(vm, ops.ops[1])


def test_a_second_list_over_what_the_first_one_changed_is_counted() -> None:
    vm = filled()
    for op in vm.sm_map_ops_create(OpMap(0, 10)):
        apply(vm, op)
    vm.sm_unmap_ops_create(10, 10)
    assert vm.engine.counters["VMB-R29"] == 0
    vm.sm_unmap_ops_create(5, 10)
    assert vm.engine.counters["VMB-R29"] == 1


def test_the_guard_is_what_keeps_a_stale_list_out() -> None:
    """Without it two mappings of one address are removed, the second of which is not there any more."""

    class Trusting(DrmGpuvm):
        def ops_are_current(self, op: Op) -> None:
            pass

    vm = filled(cls=Trusting)
    first = vm.sm_unmap_ops_create(0, 10)
    second = vm.sm_unmap_ops_create(0, 30)
    apply(vm, first.ops[0])
    with pytest.raises(PropertyFailed, match="INV-VMB-02"):
        apply(vm, second.ops[0])


def test_a_cut_in_the_middle_needs_two_mappings() -> None:
    """VMB-B30."""
    vm = filled()
    (op,) = vm.sm_unmap_ops_create(12, 2)
    assert isinstance(op, OpRemap)
    with pytest.raises(PropertyFailed, match="VMB-B30"):
        vm.va_remap(DrmGpuva(), None, op)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=12), st.integers(0, 40), lengths)
def test_neighbours(wanted: list[tuple[int, int]], at: int, length: int) -> None:
    vm = new_vm(idle_engine(), range_=40)
    for start, size in wanted:
        if vm.interval_empty(start, size):
            vm.va_insert(DrmGpuva(start, size))
    vas = list(vm.tree)
    assert vm.va_find_prev(at) is next((va for va in vas if va.addr < at <= va.end), None)
    assert vm.va_find_next(at) is next((va for va in vas if va.addr <= at < va.end), None)
    assert vm.va_find(at, length) is next((va for va in vas if (va.addr, va.range) == (at, length)), None)
