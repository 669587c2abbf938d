"""Ranges and notifiers: what find_or_insert builds, refuses and leaves behind (gpusvm section 3)."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from gpusvm_bench import READ_ONLY, READ_WRITE, Svm, every, run

from svm_actors.drm.gpusvm import GpusvmCtx, RangeFlags
from svm_actors.drm.gpusvm_base import check_geometry
from svm_actors.engine.errors import (
    EFAULT,
    EINVAL,
    EIO,
    ENOENT,
    ENOMEM,
    EPERM,
    EngineError,
    KernelError,
    PropertyFailed,
)
from svm_actors.mm.constants import TASK_PAGES, Prot, Vm

BASE = 0x10000


# -- errors ---------------------------------------------------------------------------------


def prepare_nothing(machine: Svm) -> None:
    """The mapping stays as it is."""


def make_special(flag: Vm) -> object:
    def change(machine: Svm) -> None:
        vma = machine.mm.vmas.find(BASE)
        assert vma is not None
        vma.flags |= flag

    return change


def start_dying(machine: Svm) -> None:
    machine.mm.users = 0


@pytest.mark.parametrize(
    ("vpn", "ctx", "change", "error"),
    [
        (TASK_PAGES + 1, READ_WRITE, prepare_nothing, EINVAL),
        (BASE + 100, READ_WRITE, prepare_nothing, ENOENT),
        (BASE, READ_WRITE, make_special(Vm.IO), EIO),
        (BASE, READ_WRITE, make_special(Vm.PFNMAP), EIO),
        (BASE, READ_WRITE, start_dying, EFAULT),
    ],
)
def test_what_cannot_be_mirrored_leaves_nothing_behind(
    vpn: int, ctx: GpusvmCtx, change: object, error: type[KernelError]
) -> None:
    """SVM-R53: the fault ends here, and a notifier made for it is unsubscribed again."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        change(machine)  # type: ignore[operator]
        async with machine.unchanged():
            with pytest.raises(error):
                await machine.find(vpn, ctx)
        machine.mm.users = 1

    run(body)


def test_a_read_only_vma_is_for_read_only_mirrors() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.protect(BASE, 4, Prot.READ)
        async with machine.unchanged():
            with pytest.raises(EPERM):
                await machine.find(BASE)
        assert (await machine.find(BASE, READ_ONLY)).start == BASE

    run(body)


def test_no_memory_for_a_range_leaves_nothing_behind() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)

        def no_memory(_gpusvm: object) -> object:
            raise ENOMEM

        machine.range_alloc = no_memory  # type: ignore[assignment, method-assign]
        async with machine.unchanged():
            with pytest.raises(ENOMEM):
                await machine.find(BASE)

    run(body)


def test_a_chunk_that_fits_nowhere_is_refused() -> None:
    """Only a GPU VMA of less than a page could do that; an empty span stands for it."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        async with machine.unchanged():
            with pytest.raises(EINVAL):
                await machine.find(BASE, span=(BASE, BASE))

    run(body)


def test_the_driver_lock_is_needed() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        with pytest.raises(EngineError, match=r"driver\.lock must be held"):
            await machine.gpusvm.range_find_or_insert(BASE, 0, TASK_PAGES, READ_WRITE)
        range_ = await machine.find(BASE)
        async with machine.lock.reading():
            with pytest.raises(EngineError, match=r"driver\.lock must be held"):
                await machine.gpusvm.range_remove(range_)

    run(body)


def test_memory_is_never_allocated_under_the_notifier_lock() -> None:
    """SVM-R31."""

    async def body(machine: Svm) -> None:
        async with machine.gpusvm.notifier_lock.reading():
            with pytest.raises(PropertyFailed, match="pfns is allocated"):
                await machine.gpusvm.might_reclaim("pfns")

    run(body)


@pytest.mark.parametrize(
    ("notifier", "chunks"),
    [(0, (1,)), (3, (1,)), (16, ()), (16, (4, 2)), (16, (32, 1)), (16, (1, 1)), (16, (4, 8, 1)), (16, (6, 1))],
)
def test_impossible_sizes_are_refused(notifier: int, chunks: tuple[int, ...]) -> None:
    with pytest.raises(EINVAL):
        check_geometry(notifier, chunks)


# -- chunk choice ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "npages", "vpn", "threshold", "populated", "expected"),
    [
        (0, 16, 5, 0, (), (0, 16)),
        (0, 16, 5, 4, (), (0, 16)),
        (0, 15, 5, 0, (), (4, 8)),
        (1, 15, 5, 0, (), (4, 8)),
        (1, 15, 1, 0, (), (1, 2)),
        (0, 7, 5, 0, (), (5, 6)),
        (0, 15, 5, 4, (), (5, 6)),
        (0, 15, 5, 4, (4, 5, 6, 7), (4, 8)),
        (0, 15, 5, 4, (4, 5, 6), (5, 6)),
        (0, 16, 5, 16, (4, 5, 6, 7), (4, 8)),
        (0, 16, 5, 16, tuple(range(16)), (0, 16)),
    ],
)
def test_the_largest_chunk_that_fits_is_chosen(
    first: int, npages: int, vpn: int, threshold: int, populated: tuple[int, ...], expected: tuple[int, int]
) -> None:
    """Sizes 16, 4, 1: inside the VMA, and populated when it is not above the threshold (SVM-R54)."""

    async def body(machine: Svm) -> None:
        at = await machine.map(npages, at=BASE + first)
        for page in populated:
            await machine.write(BASE + page, 1)
        range_ = await machine.find(BASE + vpn, GpusvmCtx(check_pages_threshold=threshold))
        assert (range_.start - BASE, range_.end - BASE) == expected
        assert at == BASE + first

    run(body, chunks=(16, 4, 1))


def test_a_chunk_neither_crosses_its_gpu_vma_nor_its_notifier() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(32)
        assert (await machine.find(BASE + 5, span=(BASE + 4, TASK_PAGES))).npages == 4
        assert (await machine.find(BASE + 9, span=(BASE + 9, BASE + 10))).npages == 1
        for range_ in machine.gpusvm.ranges(0, TASK_PAGES):
            assert range_.start // 16 == (range_.end - 1) // 16

    run(body, chunks=(16, 4, 1), notifier_pages=16)


def test_a_chunk_does_not_swallow_its_neighbours() -> None:
    """Built up from small ranges: what is there already limits what comes."""

    async def body(machine: Svm) -> None:
        await machine.map(16)
        await machine.find(BASE + 6, span=(BASE + 6, BASE + 7))
        await machine.find(BASE)
        await machine.find(BASE + 5)
        await machine.find(BASE + 12)
        assert [(low - BASE, high - BASE) for low, high in machine.spans()] == [(0, 4), (5, 6), (6, 7), (12, 16)]

    run(body, chunks=(16, 4, 1))


@pytest.mark.parametrize("owner", ["mine", "none"])
def test_device_pages_count_as_populated_for_their_owner_only(owner: str) -> None:
    async def body(machine: Svm) -> None:
        at = await machine.map(5)
        await machine.write(at, 1, 2, 3, 4)
        assert await machine.populate(at, 4) == "ok"
        cookie = machine.pagemap.owner if owner == "mine" else None
        ctx = GpusvmCtx(check_pages_threshold=4, device_private_page_owner=cookie)
        assert (await machine.find(at, ctx)).npages == (4 if owner == "mine" else 1)

    run(body)


def test_random_ranges_keep_the_rules_of_the_tree() -> None:
    """Whatever is asked for: inside one VMA, aligned to its size, in one notifier, no overlap, asked page covered."""
    random = Random(1)

    async def body(machine: Svm) -> None:
        at = BASE
        spans = []
        for _ in range(6):
            at += random.randrange(3)
            npages = random.randrange(1, 20)
            await machine.map(npages, at=at)
            spans.append((at, at + npages))
            at += npages
        for _ in range(60):
            vpn = random.randrange(BASE, at)
            try:
                range_ = await machine.find(vpn)
            except ENOENT:
                assert not any(low <= vpn < high for low, high in spans)
                continue
            assert range_.start <= vpn < range_.end
            assert range_.start % range_.npages == 0
            vma = machine.mm.vmas.find(vpn)
            assert vma is not None
            assert vma.start <= range_.start < range_.end <= vma.end
        found = machine.spans()
        assert all(low[1] <= high[0] for low, high in pairwise(found))

    for _ in range(5):
        run(body, chunks=(8, 2, 1), notifier_pages=8)


# -- what a range is born with ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("possible", "shared", "migrate"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_only_anonymous_memory_may_live_on_the_device(possible: bool, shared: bool, migrate: bool) -> None:
    async def body(machine: Svm) -> None:
        at = await machine.map(4, shared=shared)
        range_ = await machine.find(at, GpusvmCtx(devmem_possible=possible))
        assert range_.flags == RangeFlags(migrate_devmem=migrate)

    run(body)


def test_a_range_that_is_there_is_returned_as_it_is() -> None:
    """Neither bounds nor the CPU layout are looked at again (SVM-S01), nor is a dead range refused (SVM-R04)."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.find(BASE)
        await machine.protect(BASE + 2, 1, Prot.READ)
        assert await machine.find(BASE + 1) is range_
        await machine.unmap(BASE + 3, 1)
        assert range_.flags.unmapped
        assert await machine.find(BASE) is range_
        assert machine.engine.counters["SVM-R04"] == 1

    run(body)


def test_a_cut_is_counted_only_where_the_vma_ends_inside_the_range() -> None:
    """SVM-R37."""

    async def body(machine: Svm) -> None:
        await machine.map(16)
        cuts = []
        await machine.find(BASE + 4)
        for page in (15, 3, 7, 4):
            await machine.protect(BASE + page, 1, Prot.READ)
            await machine.find(BASE + 5)
            cuts.append(machine.engine.counters["SVM-R37"])
        assert cuts == [0, 0, 1, 2]

    run(body)


# -- notifiers ------------------------------------------------------------------------------


def test_a_notifier_lives_as_long_as_it_has_ranges() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(32)
        first, second, other = [await machine.find(BASE + page) for page in (0, 4, 20)]
        assert machine.gpusvm.statistics() == {"notifiers": 2, "ranges": 3}
        assert [(sub.start, sub.last) for sub in machine.mm.subscriptions.tree] == [
            (BASE, BASE + 15),
            (BASE + 16, BASE + 31),
        ]
        await machine.drop(first)
        await machine.drop(other)
        assert [sub.start for sub in machine.mm.subscriptions.tree] == [BASE]
        await machine.drop(second)
        assert not machine.mm.subscriptions.tree
        assert machine.freed == [(first.start, first.end), (other.start, other.end), (second.start, second.end)]

    run(body)


def test_a_held_range_outlives_its_removal() -> None:
    """SVM-R48: the holder's put frees it, not under notifier_lock."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.find(BASE)
        range_.get()
        await machine.drop(range_)
        assert machine.freed == []
        await machine.gpusvm.range_put(range_)
        assert machine.freed == [(BASE, BASE + 4)]
        with pytest.raises(EngineError, match="more often"):
            await machine.gpusvm.range_put(range_)

    run(body)


def test_fini_silences_notifiers_before_it_takes_ranges_away() -> None:
    """SVM-R50: a munmap in full swing meets either all of a notifier's ranges or no subscription."""

    async def body(machine: Svm) -> None:
        await machine.map(16)
        for page in (0, 4, 8, 12):
            await machine.mapped(BASE + page)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(machine.unmap, BASE, 16)
            nursery.start_soon(close, machine)

    async def close(machine: Svm) -> None:
        async with machine.lock.writing():
            for range_ in machine.gpusvm.ranges(0, TASK_PAGES):
                await machine.gpusvm.unmap_pages(range_.pages)  # type: ignore[attr-defined]
            await machine.gpusvm.fini()
            machine.mm.grab()  # for the fini of the bench

    told = {tuple(machine.events) for machine in every(body)}
    assert told == {(), (("UNMAP", BASE, BASE + 16),)}


@pytest.mark.parametrize(("start", "end", "expected"), [(0, TASK_PAGES, 4), (6, 9, 6), (20, 30, None), (8, 10, None)])
def test_find_vma_start(start: int, end: int, expected: int | None) -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4, at=BASE + 4)
        low = 0 if start == 0 else BASE + start
        high = end if end == TASK_PAGES else BASE + end
        found = await machine.gpusvm.find_vma_start(low, high)
        assert found == (TASK_PAGES << 1 if expected is None else BASE + expected)

    run(body)


def test_has_mapping() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(16)
        await machine.find(BASE + 4)
        has = machine.gpusvm.has_mapping
        assert [has(BASE + low, BASE + high) for low, high in [(0, 4), (3, 5), (4, 8), (7, 9), (8, 16), (4, 4)]] == [
            False,
            True,
            True,
            True,
            False,
            False,
        ]

    run(body)
