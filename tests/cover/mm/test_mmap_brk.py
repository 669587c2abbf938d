"""Where mmap and brk put things, what they refuse, and the errors of ranges that do not exist (core_mm section 5)."""

import pytest
from mm_rig import FIRST, PAGE, RW, Rig

from svm_actors.engine.errors import EEXIST, EINVAL, ENOMEM
from svm_actors.mm import messages as m
from svm_actors.mm.constants import MMAP_BASE, TASK_SIZE
from svm_actors.mm.messages import SIGSEGV


def test_without_a_hint_mappings_grow_down_from_the_base_and_join():
    async def body(rig):
        first = await rig.core.call(m.Mmap(rig.mm, 0, 4 * PAGE, RW))
        second = await rig.core.call(m.Mmap(rig.mm, 0, PAGE + 1, RW))
        assert (first, second) == (MMAP_BASE - 4 * PAGE, MMAP_BASE - 6 * PAGE)
        assert rig.vmas() == [(0, 16), ((second >> 12) - FIRST, 6)]

    Rig().run(body)


def test_a_hint_is_taken_when_it_is_free_and_dropped_when_not():
    async def body(rig):
        assert await rig.core.call(m.Mmap(rig.mm, rig.addr(20), PAGE, RW)) == rig.addr(20)
        assert await rig.core.call(m.Mmap(rig.mm, rig.addr(19), 2 * PAGE, RW)) == MMAP_BASE - 2 * PAGE

    Rig().run(body)


def test_a_gap_is_used_from_its_upper_end():
    async def body(rig):
        one, two = [await rig.core.call(m.Mmap(rig.mm, 0, 4 * PAGE, RW)) for _ in range(2)]
        await rig.core.call(m.Munmap(rig.mm, one, 3 * PAGE))
        assert await rig.core.call(m.Mmap(rig.mm, 0, 2 * PAGE, RW)) == one + PAGE
        assert await rig.core.call(m.Mmap(rig.mm, 0, 2 * PAGE, RW)) == two - 2 * PAGE

    Rig().run(body)


@pytest.mark.parametrize(("page", "n", "free"), [(16, 4, True), (15, 2, False), (0, 16, False), (4, 1, False)])
def test_fixed_noreplace_replaces_nothing(page, n, free):
    async def body(rig):
        if not free:
            await rig.write(page, 7)
        rig.recorder.take()
        message = m.Mmap(rig.mm, rig.addr(page), n * PAGE, RW, noreplace=True)
        if free:
            assert await rig.core.call(message) == rig.addr(page)
            assert rig.vmas() == [(0, 20)]
            return
        with pytest.raises(EEXIST):
            await rig.core.call(message)
        assert (rig.vmas(), await rig.read(page), rig.recorder.take()) == ([(0, 16)], 7, [])

    Rig().run(body)


def test_fixed_replaces_exactly_what_it_covers():
    async def body(rig):
        for page in (3, 4, 7, 8):
            await rig.write(page, page)
        rig.recorder.take()
        await rig.mmap(4, 4, "r")
        assert (rig.vmas(), rig.recorder.take()) == ([(0, 4), (4, 4), (8, 8)], [("UNMAP", 4, 4)])
        assert [await rig.read(page) for page in (3, 4, 7, 8)] == [3, 0, 0, 8]

    Rig().run(body)


REFUSED = {
    "mmap of nothing": (lambda mm: m.Mmap(mm, 0, 0, RW), EINVAL),
    "mmap larger than everything": (lambda mm: m.Mmap(mm, 0, 2 * TASK_SIZE, RW), ENOMEM),
    "fixed, unaligned": (lambda mm: m.Mmap(mm, 1, PAGE, RW, fixed=True), EINVAL),
    "fixed, beyond the end": (lambda mm: m.Mmap(mm, TASK_SIZE, PAGE, RW, fixed=True), ENOMEM),
    "fixed, over the end": (lambda mm: m.Mmap(mm, TASK_SIZE - PAGE, 2 * PAGE, RW, fixed=True), ENOMEM),
    "noreplace, over the end": (lambda mm: m.Mmap(mm, TASK_SIZE - PAGE, 2 * PAGE, RW, noreplace=True), ENOMEM),
    "munmap of nothing": (lambda mm: m.Munmap(mm, PAGE, 0), EINVAL),
    "munmap, unaligned": (lambda mm: m.Munmap(mm, 1, PAGE), EINVAL),
    "munmap beyond the end": (lambda mm: m.Munmap(mm, TASK_SIZE, PAGE), EINVAL),
    "mprotect, unaligned": (lambda mm: m.Mprotect(mm, 1, PAGE, RW), EINVAL),
    "mprotect of nothing, unaligned": (lambda mm: m.Mprotect(mm, 1, 0, RW), EINVAL),
    "mprotect where nothing is": (lambda mm: m.Mprotect(mm, PAGE, PAGE, RW), ENOMEM),
    "mprotect beyond the end": (lambda mm: m.Mprotect(mm, TASK_SIZE, PAGE, RW), ENOMEM),
    "madvise, unaligned": (lambda mm: m.Madvise(mm, 1, PAGE, "dontneed"), EINVAL),
    "madvise of nothing, unaligned": (lambda mm: m.Madvise(mm, 1, 0, "dontneed"), EINVAL),
    "madvise beyond the end": (lambda mm: m.Madvise(mm, TASK_SIZE, PAGE, "dontneed"), ENOMEM),
    "unknown advice": (lambda mm: m.Madvise(mm, PAGE, PAGE, "bogus"), EINVAL),
    "unknown advice about nothing": (lambda mm: m.Madvise(mm, PAGE, 0, "bogus"), EINVAL),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case):
    message, error = REFUSED[case]

    async def body(rig):
        with pytest.raises(error):
            await rig.core.call(message(rig.mm))
        assert (rig.vmas(), rig.recorder.take()) == ([(0, 16)], [])

    Rig().run(body)


def test_nothing_asked_for_is_nothing_done():
    async def body(rig):
        for message in (m.Mprotect(rig.mm, PAGE, 0, RW), m.Madvise(rig.mm, PAGE, 0, "dontneed")):
            assert await rig.core.call(message) is None
        assert rig.recorder.take() == []

    Rig().run(body)


def test_mprotect_changes_what_lies_before_a_hole():
    async def body(rig):
        await rig.munmap(4, 1)
        with pytest.raises(ENOMEM):
            await rig.mprotect(2, 6, "r")
        assert rig.vmas() == [(0, 2), (2, 2), (5, 11)]
        with pytest.raises(SIGSEGV):
            await rig.write(3, 1)
        await rig.write(5, 1)

    Rig().run(body)


# -- brk ----------------------------------------------------------------------------------


async def brk(rig, pages, extra=0):
    """Set the end of the heap so many pages above the arena; answers where it is, in the same unit."""
    end = await rig.core.call(m.Brk(rig.mm, rig.addr(16 + pages) + extra))
    return (end - rig.addr(16)) / PAGE


def heap(body):
    async def wrapped(rig):
        rig.mm.brk_start = rig.mm.brk_end = rig.addr(16)
        await rig.mprotect(0, 16, "r")
        rig.recorder.take()
        await body(rig)

    Rig().run(wrapped)


def test_the_heap_grows_shrinks_and_keeps_what_is_left():
    async def body(rig):
        assert (await brk(rig, 4), rig.vmas()) == (4, [(0, 16), (16, 4)])
        await rig.write(16, 1)
        await rig.write(19, 2)
        assert (await brk(rig, 8), rig.vmas()) == (8, [(0, 16), (16, 8)])
        assert rig.recorder.take() == []
        assert (await brk(rig, 2), rig.vmas()) == (2, [(0, 16), (16, 2)])
        assert rig.recorder.take() == [("UNMAP", 18, 6)]
        assert await brk(rig, 4) == 4
        assert (await rig.read(16), await rig.read(19)) == (1, 0)

    heap(body)


def test_inside_a_page_only_the_number_moves():
    async def body(rig):
        assert await brk(rig, 0, 100) * PAGE == 100
        assert await brk(rig, 0, 200) * PAGE == 200
        assert rig.vmas() == [(0, 16), (16, 1)]
        assert await brk(rig, 0) == 0
        assert rig.vmas() == [(0, 16)]

    heap(body)


def test_an_impossible_end_answers_the_present_one():
    async def body(rig):
        await brk(rig, 2)
        assert await rig.core.call(m.Brk(rig.mm, 0)) == rig.addr(18)
        assert await rig.core.call(m.Brk(rig.mm, rig.addr(15))) == rig.addr(18)
        await rig.mmap(24, 2)
        for too_far in (9, 8):
            assert await brk(rig, too_far) == 2, "it would touch the next mapping"
        assert await brk(rig, 7) == 7
        assert rig.vmas() == [(0, 16), (16, 7), (24, 2)]

    heap(body)
