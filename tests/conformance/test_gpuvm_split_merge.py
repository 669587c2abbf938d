"""The split and merge rule: GV1 to GV10 of igt_vm_bind section 6, and the tables of vm_bind section 8.

Every map or unmap case is checked four ways: the op list; the list applied to the tree; the walk of
immediate mode, operation by operation; and all that while a second binder works elsewhere in the same VM,
each of the two under vm.lock, on the default schedule and on random ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from cases import case, on_all_schedules

from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.gpuvm import (
    DrmGemObject,
    DrmGpuva,
    DrmGpuvm,
    GpuvaOps,
    GpuvmFlags,
    GpuvmOps,
    Op,
    OpMap,
    OpPrefetch,
    OpRemap,
    OpUnmap,
)
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL
from svm_actors.engine.locks import RwSem

Mapping = tuple[int, int, str | None, int]
"""First address, length, name of the object (None: no object), offset: how the tables write it."""

FAR = 1000
"""Where the second binder works."""


@attrs.frozen
class Unmap:
    """An unmap as the tables write it."""

    start: int
    """Which vma, by its first address."""
    keep: bool = False


@attrs.frozen
class Remap:
    """A remap as the tables write it."""

    start: int
    """Which vma, by its first address."""
    keep: bool = False
    prev: Mapping | None = None
    next: Mapping | None = None


@attrs.frozen
class Map:
    """A map as the tables write it."""

    mapping: Mapping


Step = Unmap | Remap | Map


class Bench:
    """One VM, its objects by name, and a driver that writes down what it is told."""

    def __init__(self, engine: Engine, existing: tuple[Mapping, ...], *, immediate: bool = False) -> None:
        self.engine = engine
        self.lock = RwSem(engine, "vm.lock", "vm_lock")
        self.objects = {name: DrmGemObject(engine, name, DmaResv(engine, name)) for name in "abcd"}
        resv = DrmGemObject(engine, "vm", DmaResv(engine, "vm"))
        flags = GpuvmFlags.RESV_PROTECTED | (GpuvmFlags.IMMEDIATE_MODE if immediate else GpuvmFlags.NONE)
        steps = GpuvmOps(sm_step_map=self.step, sm_step_remap=self.step, sm_step_unmap=self.step)
        self.vm = DrmGpuvm(engine, "vm", resv, range_=2000, flags=flags, ops=steps)
        for mapping in existing:
            self.vm.va_insert(DrmGpuva(*self.real(mapping)))
        if not immediate:
            self.vm.driver_set_lock(self.lock)
        self.told: list[Step] = []

    def real(self, mapping: Mapping) -> tuple[int, int, DrmGemObject | None, int]:
        start, length, name, offset = mapping
        return start, length, None if name is None else self.objects[name], offset

    def request(self, mapping: Mapping) -> OpMap:
        return OpMap(*self.real(mapping))

    def mappings(self) -> list[Mapping]:
        """The tree as the tables write it, without the second binder's part."""
        return [written(va.addr, va.range, va.obj, va.offset) for va in self.vm.tree if va.addr < FAR]

    async def step(self, op: Op, priv: Any) -> None:
        """Immediate mode: carry it out, then let others run."""
        self.told += steps([op])
        apply(self.vm, op)
        await self.engine.step("local", self.vm)

    async def elsewhere(self) -> None:
        """The second binder."""
        for offset in (0, 5, 11):
            async with self.lock.writing():
                for op in self.vm.sm_map_ops_create(self.request((FAR + offset, 10, "d", offset))):
                    apply(self.vm, op)


def written(addr: int, length: int, obj: Any, offset: int) -> Mapping:
    return addr, length, None if obj is None else obj.name, offset if obj is not None else 0


def apply(vm: DrmGpuvm, op: Op) -> None:
    """What a driver does with an operation."""
    if isinstance(op, OpMap):
        vm.va_map(DrmGpuva(), op)
    elif isinstance(op, OpUnmap):
        vm.va_unmap(op)
    elif isinstance(op, OpRemap):
        vm.va_remap(DrmGpuva(), DrmGpuva(), op)


def steps(ops: GpuvaOps | list[Op]) -> list[Step]:
    """Operations as the tables write them."""
    return [_written_step(op) for op in ops]


def _written_step(op: Op) -> Step:
    if isinstance(op, OpUnmap):
        return Unmap(op.va.addr, op.keep)
    if isinstance(op, OpRemap):
        prev, after = (
            None if piece is None else written(piece.addr, piece.range, piece.obj, piece.offset)
            for piece in (op.prev, op.next)
        )
        return Remap(op.unmap.va.addr, op.unmap.keep, prev, after)
    assert isinstance(op, OpMap)
    return Map(written(op.addr, op.range, op.obj, op.offset))


def result(existing: tuple[Mapping, ...], expected: list[Step]) -> list[Mapping]:
    """The tree after these operations, worked out from the table alone."""
    left = {mapping[0]: mapping for mapping in existing}
    for op in expected:
        if isinstance(op, Map):
            left[op.mapping[0]] = op.mapping
            continue
        del left[op.start]
        if isinstance(op, Remap):
            left.update({piece[0]: piece for piece in (op.prev, op.next) if piece is not None})
    return [written(*left[start][:2], None, 0) if left[start][2] is None else left[start] for start in sorted(left)]


def check(
    existing: tuple[Mapping, ...],
    expected: list[Step],
    create: Callable[[Bench], GpuvaOps],
    walk: Callable[[Bench], Any] | None = None,
) -> None:
    """One case, all four ways."""

    async def staged(engine: Engine) -> None:
        bench = Bench(engine, existing)

        async def binder() -> None:
            async with bench.lock.writing():
                ops = create(bench)
                assert steps(ops) == expected
                assert bench.mappings() == result(existing, [])
                for op in ops:
                    apply(bench.vm, op)

        async with engine.nursery() as nursery:
            nursery.start_soon(binder)
            nursery.start_soon(bench.elsewhere)
        assert bench.mappings() == result(existing, expected)

    async def immediate(engine: Engine) -> None:
        bench = Bench(engine, existing, immediate=True)

        async def run_job() -> None:
            assert walk is not None
            async with bench.lock.writing():
                await walk(bench)

        async with engine.nursery() as nursery:
            nursery.start_soon(run_job)
            nursery.start_soon(bench.elsewhere)
        assert bench.told == expected
        assert bench.mappings() == result(existing, expected)

    on_all_schedules(staged)
    if walk is not None:
        on_all_schedules(immediate)


def check_map(existing: tuple[Mapping, ...], request: Mapping, *expected: Step) -> None:
    check(
        existing,
        [*expected, Map(request)],
        lambda bench: bench.vm.sm_map_ops_create(bench.request(request)),
        lambda bench: bench.vm.sm_map(bench.request(request)),
    )


def check_unmap(existing: tuple[Mapping, ...], start: int, length: int, *expected: Step) -> None:
    check(
        existing,
        list(expected),
        lambda bench: bench.vm.sm_unmap_ops_create(start, length),
        lambda bench: bench.vm.sm_unmap(start, length),
    )


def check_madvise(existing: tuple[Mapping, ...], start: int, length: int, *expected: Step) -> None:
    check(existing, list(expected), lambda bench: bench.vm.madvise_ops_create(OpMap(start, length)))


# -- igt_vm_bind section 6 -----------------------------------------------------------------


@case("igt_vm_bind", "GV1", "request identical")
def test_gv1_request_identical() -> None:
    check_map(((0, 2, "a", 7),), (0, 2, "a", 7), Unmap(0, keep=True))


@case("igt_vm_bind", "GV2", "same range and BO, other offset")
def test_gv2_same_range_and_bo_other_offset() -> None:
    check_map(((0, 2, "a", 7),), (0, 2, "a", 8), Unmap(0))


@case("igt_vm_bind", "GV3", "same range, other BO")
def test_gv3_same_range_other_bo() -> None:
    check_map(((0, 2, "a", 7),), (0, 2, "b", 7), Unmap(0))


@case("igt_vm_bind", "GV4", "existing = left part of the request")
def test_gv4_existing_is_left_part() -> None:
    check_map(((0, 2, "a", 7),), (0, 3, "a", 7), Unmap(0, keep=True))
    check_map(((0, 2, "a", 7),), (0, 3, "a", 6), Unmap(0))


@case("igt_vm_bind", "GV5", "request = left part of existing, other BO")
def test_gv5_request_is_left_part_other_bo() -> None:
    check_map(((0, 3, "a", 7),), (0, 2, "b", 7), Remap(0, next=(2, 1, "a", 9)))


@case("igt_vm_bind", "GV6", "same as GV5, same BO contiguous")
def test_gv6_request_is_left_part_same_bytes() -> None:
    check_map(((0, 3, "a", 7),), (0, 2, "a", 7), Remap(0, keep=True, next=(2, 1, "a", 9)))


@case("igt_vm_bind", "GV7", "request = right part of existing, other BO")
def test_gv7_request_is_right_part_other_bo() -> None:
    check_map(((0, 3, "a", 7),), (1, 2, "b", 7), Remap(0, prev=(0, 1, "a", 7)))


@case("igt_vm_bind", "GV8", "request overlaps the end of existing and goes beyond, other BO")
def test_gv8_request_overlaps_the_end() -> None:
    check_map(((0, 2, "a", 7),), (1, 2, "b", 7), Remap(0, prev=(0, 1, "a", 7)))


@case("igt_vm_bind", "GV9", "request in the middle of existing, other BO")
def test_gv9_request_in_the_middle() -> None:
    check_map(((0, 3, "a", 7),), (1, 1, "b", 7), Remap(0, prev=(0, 1, "a", 7), next=(2, 1, "a", 9)))


@case("igt_vm_bind", "GV10", "existing in the middle of the request")
def test_gv10_existing_in_the_middle() -> None:
    check_map(((1, 1, "a", 7),), (0, 3, "b", 7), Unmap(1))
    check_map(((1, 1, "a", 7),), (0, 3, "a", 6), Unmap(1, keep=True))


def test_rules_below_the_table() -> None:
    """At most two remaps, any number of unmaps, one map at the end; an unmap request without the map."""
    existing: tuple[Mapping, ...] = (
        (0, 4, "a", 0),
        (4, 1, "b", 0),
        (5, 1, "c", 0),
        (7, 2, None, 0),
        (9, 4, "d", 3),
    )
    between = (
        Remap(0, prev=(0, 2, "a", 0)),
        Unmap(4),
        Unmap(5),
        Unmap(7),
        Remap(9, next=(11, 2, "d", 5)),
    )
    check_map(existing, (2, 9, "c", 40), *between)
    check_unmap(existing, 2, 9, *between)


# -- vm_bind section 8.2 -------------------------------------------------------------------

A = (10, 10, "a", 100)
LONG = (10, 15, "a", 100)

MAP_CASES: tuple[tuple[int, tuple[Mapping, ...], Mapping, tuple[Step, ...]], ...] = (
    (1, (A,), A, (Unmap(10, keep=True),)),
    (2, (A,), (10, 10, "a", 104), (Unmap(10),)),
    (3, (A,), (10, 10, "b", 100), (Unmap(10),)),
    (4, ((10, 5, "a", 100),), A, (Unmap(10, keep=True),)),
    (5, (A,), (10, 5, "b", 7), (Remap(10, next=(15, 5, "a", 105)),)),
    (6, (A,), (10, 5, "a", 100), (Remap(10, keep=True, next=(15, 5, "a", 105)),)),
    (7, (A,), (15, 5, "b", 7), (Remap(10, prev=(10, 5, "a", 100)),)),
    (8, (A,), (15, 5, "a", 105), (Remap(10, keep=True, prev=(10, 5, "a", 100)),)),
    (9, (A,), (15, 10, "b", 7), (Remap(10, prev=(10, 5, "a", 100)),)),
    (10, (A,), (15, 10, "a", 105), (Remap(10, keep=True, prev=(10, 5, "a", 100)),)),
    (11, (LONG,), (15, 5, "b", 7), (Remap(10, prev=(10, 5, "a", 100), next=(20, 5, "a", 110)),)),
    (12, (LONG,), (15, 5, "a", 105), (Remap(10, keep=True, prev=(10, 5, "a", 100), next=(20, 5, "a", 110)),)),
    (13, ((15, 5, "a", 105),), A, (Unmap(15, keep=True),)),
    (14, ((15, 5, "a", 105),), LONG, (Unmap(15, keep=True),)),
    (15, ((15, 10, "a", 100),), (10, 10, "b", 7), (Remap(15, next=(20, 5, "a", 105)),)),
    (
        16,
        (A, (22, 4, "c", 0), (30, 10, "d", 50)),
        (15, 20, "b", 7),
        (Remap(10, prev=(10, 5, "a", 100)), Unmap(22), Remap(30, next=(35, 5, "d", 55))),
    ),
)


@pytest.mark.parametrize(
    ("number", "existing", "request_", "expected"), MAP_CASES, ids=[str(row[0]) for row in MAP_CASES]
)
def test_map_case(number: int, existing: tuple[Mapping, ...], request_: Mapping, expected: tuple[Step, ...]) -> None:
    check_map(existing, request_, *expected)


for _number, _existing, _request, _ in MAP_CASES:
    case("vm_bind_8", f"M{_number}", f"{_existing}, map {_request}")(test_map_case)


@pytest.mark.parametrize(
    ("number", "existing", "request_", "expected"), MAP_CASES, ids=[str(row[0]) for row in MAP_CASES]
)
def test_map_case_over_a_sparse_mapping(
    number: int, existing: tuple[Mapping, ...], request_: Mapping, expected: tuple[Step, ...]
) -> None:
    """Same shapes, but nothing is kept: a sparse mapping has no bytes to be the same as."""

    def sparse(mapping: Mapping | None) -> Mapping | None:
        return None if mapping is None else (mapping[0], mapping[1], None, 0)

    shapes = [
        Unmap(op.start) if isinstance(op, Unmap) else Remap(op.start, prev=sparse(op.prev), next=sparse(op.next))
        for op in expected
        if not isinstance(op, Map)
    ]
    over = tuple((start, length, None, 0) for start, length, _name, _offset in existing)
    check_map(over, request_, *shapes)
    check_map(over, (*request_[:2], None, 0), *shapes)


# -- sections 8.3 and 8.4 --------------------------------------------------------------------


@case("vm_bind_8", "U1", "unmap across two mappings and a hole")
def test_unmap_across_a_hole() -> None:
    check_unmap(
        ((0, 32, "a", 0), (48, 32, "b", 5)),
        16,
        48,
        Remap(0, prev=(0, 16, "a", 0)),
        Remap(48, next=(64, 16, "b", 21)),
    )


@case("vm_bind_8", "U2", "unmap a hole")
def test_unmap_a_hole() -> None:
    check_unmap(((0, 32, "a", 0), (48, 32, "b", 5)), 32, 16)


def test_unmap_never_keeps() -> None:
    check_unmap((A, (20, 10, "a", 110)), 10, 15, Unmap(10), Remap(20, next=(25, 5, "a", 115)))


@case("vm_bind_8", "U3", "addresses vacated by a remap")
@pytest.mark.parametrize(
    ("start", "length", "vacated"), [(15, 5, (15, 20)), (10, 3, (10, 13)), (20, 30, (20, 25)), (12, 13, (12, 25))]
)
def test_addresses_vacated_by_a_remap(start: int, length: int, vacated: tuple[int, int]) -> None:
    async def program(engine: Engine) -> None:
        (op,) = Bench(engine, (LONG,)).vm.sm_unmap_ops_create(start, length)
        assert isinstance(op, OpRemap)
        assert op.unmapped() == vacated

    on_all_schedules(program)


@case("vm_bind_8", "P1", "prefetch")
def test_prefetch_is_never_split_or_clipped() -> None:
    async def program(engine: Engine) -> None:
        vm = Bench(engine, (A, (22, 4, None, 0), (30, 10, "d", 50))).vm
        first, second, third = vm.tree
        assert vm.prefetch_ops_create(15, 16).ops == [OpPrefetch(first), OpPrefetch(second), OpPrefetch(third)]
        assert vm.prefetch_ops_create(20, 2).ops == []
        assert len(vm.tree) == 3

    on_all_schedules(program)


@case("vm_bind_8", "B1", "object unmap-all")
def test_unmap_all_of_an_object() -> None:
    async def program(engine: Engine) -> None:
        bench = Bench(engine, (A, (22, 4, "b", 0), (30, 10, "a", 50)))
        vm, obj = bench.vm, bench.objects["a"]
        async with bench.lock.writing():
            await obj.resv.lock()
            vm_bo = await vm.vm_bo_obtain_locked(obj)
            mapped = [va for va in vm.tree if va.obj is obj]
            for va in mapped:
                vm.va_link(va, vm_bo)
            ops = vm.bo_unmap_ops_create(vm_bo)
            assert ops.ops == [OpUnmap(va) for va in mapped]
            for op in ops:
                apply(vm, op)
            obj.resv.unlock()
        assert bench.mappings() == [(22, 4, "b", 0)]

    on_all_schedules(program)


MIRROR: tuple[Mapping, ...] = ((0, 40, None, 0), (40, 40, None, 0), (80, 40, None, 0))


def whole(start: int, length: int) -> Mapping:
    return start, length, None, 0


@case("vm_bind_8", "A1", "madvise inside one mirror vma")
def test_madvise_inside_one() -> None:
    check_madvise((whole(0, 100),), 20, 30, Remap(0, prev=whole(0, 20), next=whole(50, 50)), Map(whole(20, 30)))


@case("vm_bind_8", "A2", "madvise across three mirror vmas")
def test_madvise_across_three() -> None:
    check_madvise(
        MIRROR,
        10,
        90,
        Remap(0, prev=whole(0, 10)),
        Map(whole(10, 30)),
        Remap(80, next=whole(100, 20)),
        Map(whole(80, 20)),
    )


@case("vm_bind_8", "A3", "madvise on exact boundaries")
def test_madvise_on_exact_boundaries() -> None:
    check_madvise(MIRROR, 0, 80)


@case("vm_bind_8", "A4", "madvise up to a boundary")
def test_madvise_up_to_a_boundary() -> None:
    check_madvise(MIRROR, 10, 70, Remap(0, prev=whole(0, 10)), Map(whole(10, 30)))


@case("vm_bind_8", "A5", "madvise leaves gaps and objects alone")
def test_madvise_leaves_gaps_and_objects_alone() -> None:
    existing: tuple[Mapping, ...] = ((0, 10, "a", 0), whole(20, 10), (40, 10, "b", 0))
    check_madvise(existing, 5, 40)
    check_madvise(existing, 5, 20, Remap(20, next=whole(25, 5)), Map(whole(20, 5)))
    check_madvise(existing, 12, 6)


# -- what is refused ---------------------------------------------------------------------------


@case("vm_bind_8", "R1", "range check")
@pytest.mark.parametrize(
    ("start", "length"),
    [
        (2**64 - 8, 16),  # beyond 64 bits
        (96, 8),  # ends behind the VM
        (0, 17),  # begins before it
        (60, 5),  # reaches into the kernel's node from the left
        (70, 1),  # inside it
        (79, 4),  # reaches into it from the right
        (20, 0),  # nothing
    ],
)
def test_range_check(start: int, length: int) -> None:
    async def program(engine: Engine) -> None:
        resv = DrmGemObject(engine, "vm", DmaResv(engine, "vm"))
        step = Bench(engine, ()).step
        steps = GpuvmOps(sm_step_map=step, sm_step_remap=step, sm_step_unmap=step)
        vm = DrmGpuvm(engine, "vm", resv, start=16, range_=84, reserve=(64, 16), ops=steps)
        for edge in ((16, 48), (80, 20)):
            assert vm.sm_map_ops_create(OpMap(*edge)).ops == [OpMap(*edge)]
        for create in (vm.sm_map_ops_create, vm.madvise_ops_create):
            with pytest.raises(EINVAL):
                create(OpMap(start, length))
        with pytest.raises(EINVAL):
            vm.sm_unmap_ops_create(start, length)
        with pytest.raises(EINVAL):
            await vm.sm_map(OpMap(start, length))
        with pytest.raises(EINVAL):
            await vm.sm_unmap(start, length)
        with pytest.raises(EINVAL):
            vm.va_insert(DrmGpuva(start, length))

    on_all_schedules(program)
