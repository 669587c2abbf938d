"""mremap in all its forms: what is mapped afterwards, which page is where, what is announced (core_mm section 5)."""

import pytest
from mm_rig import FIRST, PAGE, Rig

from svm_actors.engine.errors import EFAULT, EINVAL, ENOMEM
from svm_actors.mm import messages as m
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.messages import SIGSEGV


async def remap(rig, page, old, new, *, to=None, maymove=True, dontunmap=False, mm=None):
    """mremap in arena pages; answers the new page."""
    target = 0 if to is None else rig.addr(to)
    message = m.Mremap(
        mm or rig.mm, rig.addr(page), old * PAGE, new * PAGE, maymove, to is not None, dontunmap, target
    )
    return ((await rig.core.call(message)) >> 12) - FIRST


async def fill(rig, *pages):
    for page in pages:
        await rig.write(page, page + 1)
    rig.recorder.take()


def test_a_shrink_unmaps_the_tail_where_it_is():
    async def body(rig):
        await fill(rig, 0, 5, 9)
        assert await remap(rig, 0, 16, 6, maymove=False) == 0
        assert (rig.vmas(), rig.recorder.take()) == ([(0, 6)], [("UNMAP", 6, 10)])
        assert (await rig.read(5), rig.pte(9)) == (6, None)

    Rig().run(body)


def test_a_shrink_may_cut_off_other_mappings():
    """Only what stays has to lie in one VMA."""

    async def body(rig):
        await rig.mprotect(4, 4, "r")
        assert await remap(rig, 0, 10, 2) == 0
        assert (rig.vmas(), rig.recorder.take()) == ([(0, 2), (10, 6)], [("UNMAP", 2, 8)])
        with pytest.raises(EFAULT):
            await remap(rig, 0, 16, 16)

    Rig().run(body)


def test_growing_in_place_needs_room_and_no_event():
    async def body(rig):
        await rig.munmap(8, 8)
        await fill(rig, 7)
        assert await remap(rig, 4, 4, 12, maymove=False) == 4
        assert (rig.vmas(), rig.recorder.take()) == ([(0, 16)], [])
        assert (await rig.read(7), await rig.read(15)) == (8, 0)

    Rig().run(body)


@pytest.mark.parametrize("maymove", [False, True])
def test_without_room_it_moves_or_fails(maymove):
    async def body(rig):
        await rig.mmap(8, 4, "r")
        await fill(rig, 4, 7)
        if not maymove:
            with pytest.raises(ENOMEM):
                await remap(rig, 4, 4, 6, maymove=False)
            assert rig.vmas() == [(0, 8), (8, 4), (12, 4)]
            return
        at = await remap(rig, 4, 4, 6)
        assert rig.vmas() == [(0, 4), (8, 4), (12, 4), (at, 6)]
        assert [await rig.read(at + page) for page in (0, 3, 4)] == [5, 8, 0]
        assert rig.recorder.take() == [("UNMAP", 4, 4), ("UNMAP", 4, 4)]

    Rig().run(body)


def test_a_middle_that_grows_moves_away_and_leaves_a_hole():
    async def body(rig):
        await fill(rig, 4, 6)
        at = await remap(rig, 4, 2, 3)
        assert rig.vmas() == [(0, 4), (6, 10), (at, 3)]
        assert (await rig.read(at), await rig.read(6)) == (5, 7)
        with pytest.raises(SIGSEGV):
            await rig.read(4)

    Rig().run(body)


def test_fixed_with_another_length_clears_target_and_tail_first():
    async def body(rig):
        await fill(rig, 0, 3, 8)
        assert await remap(rig, 0, 4, 2, to=8) == 8
        assert rig.recorder.take() == [("UNMAP", 8, 2), ("UNMAP", 2, 2), ("UNMAP", 0, 2), ("UNMAP", 0, 2)]
        assert (rig.vmas(), await rig.read(8)) == ([(4, 4), (8, 2), (10, 6)], 1)
        assert await remap(rig, 12, 2, 4, to=20) == 20
        assert rig.vmas() == [(4, 4), (8, 2), (10, 2), (14, 2), (20, 4)]

    Rig().run(body)


@pytest.mark.parametrize("whole", [False, True])
def test_dontunmap_leaves_an_empty_mapping_that_starts_afresh(whole):
    """A VMA that was moved as a whole forgets its anon_vma; a part keeps it with the rest."""

    async def body(rig):
        await fill(rig, 0, 1, 15)
        length = 16 if whole else 2
        folio = rig.pte(0).folio
        assert await remap(rig, 0, length, length, to=40, dontunmap=True) == 40
        assert rig.vmas() == [(0, 16), (40, length)]
        assert rig.recorder.take() == [("UNMAP", 0, length)]
        assert (rig.mm.vmas.find(FIRST).anon_vma is None) is whole
        assert (rig.pte(0), rig.pte(40).folio) == (None, folio)
        assert (await rig.read(0), await rig.read(40), await rig.read(41)) == (0, 1, 2)
        await rig.write(0, 99)
        assert await rig.read(40) == 1

    Rig().run(body)


def test_dontunmap_without_a_place_finds_one():
    async def body(rig):
        await fill(rig, 0)
        at = await remap(rig, 0, 4, 4, dontunmap=True)
        assert at > 16
        assert (rig.vmas(), await rig.read(at), await rig.read(0)) == ([(0, 16), (at, 4)], 1, 0)

    Rig().run(body)


def test_a_move_takes_several_mappings_and_keeps_the_holes():
    async def body(rig):
        await rig.mprotect(2, 2, "r")
        await rig.munmap(5, 1)
        await fill(rig, 0, 4, 6)
        assert await remap(rig, 0, 8, 8, to=32) == 32
        assert rig.vmas() == [(8, 8), (32, 2), (34, 2), (36, 1), (38, 2)]
        assert [await rig.read(page) for page in (32, 36, 38)] == [1, 5, 7]
        assert rig.recorder.take() == [
            ("UNMAP", page, n) for page, n in ((0, 2), (2, 2), (4, 1), (6, 2)) for _ in range(2)
        ]

    Rig().run(body)


def test_a_move_clears_its_target_piece_by_piece():
    """What faces a hole in the source stays."""

    async def body(rig):
        await rig.munmap(2, 1)
        await fill(rig, 0, 10)
        assert await remap(rig, 0, 4, 4, to=8) == 8
        assert (await rig.read(8), await rig.read(10), await rig.read(9)) == (1, 11, 0)

    Rig().run(body)


REFUSED = {
    "unaligned": ({"addr": 1}, EINVAL),
    "no new length": ({"new": 0}, EINVAL),
    "fixed without maymove": ({"to": 32, "maymove": False}, EINVAL),
    "dontunmap without maymove": ({"dontunmap": True, "maymove": False}, EINVAL),
    "dontunmap with another length": ({"dontunmap": True, "new": 5}, EINVAL),
    "overlap": ({"to": 2}, EINVAL),
    "old length zero on private memory": ({"old": 0}, EINVAL),
    "nothing there": ({"page": 64}, EFAULT),
    "starts in a hole": ({"page": 16, "to": 40}, EFAULT),
    "beyond its mapping": ({"page": 14, "old": 4, "new": 8}, EFAULT),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case):
    change, error = REFUSED[case]
    at = {"page": 0, "old": 4, "new": 4, "to": None, "maymove": True, "dontunmap": False, "addr": 0} | change

    async def body(rig):
        await fill(rig, 0)
        fixed = at["to"] is not None
        message = m.Mremap(
            rig.mm, rig.addr(at["page"]) + at["addr"], at["old"] * PAGE, at["new"] * PAGE, at["maymove"], fixed,
            at["dontunmap"], rig.addr(at["to"]) if fixed else 0,
        )  # fmt: skip
        with pytest.raises(error):
            await rig.core.call(message)
        assert (rig.vmas(), await rig.read(0), rig.recorder.take()) == ([(0, 16)], 1, [])

    Rig().run(body)


@pytest.mark.parametrize("page", [0, 2, 6])
def test_old_length_zero_gives_shared_memory_a_second_place(page):
    """Nothing is unmapped, wherever in the mapping the copy begins."""

    async def body(rig):
        await rig.mmap(0, 8, shared=True)
        await rig.write(page, 5)
        at = await remap(rig, page, 0, 2)
        assert rig.vmas() == [(0, 8), (8, 8), (at, 2)]
        assert await rig.read(at) == 5
        await rig.write(at, 6)
        assert await rig.read(page) == 6

    Rig().run(body)


def test_a_page_that_moved_is_still_the_page_its_child_shares():
    async def body(rig):
        await fill(rig, 0)
        child = await rig.fork()
        assert await remap(rig, 0, 1, 1, to=30, mm=child) == 30
        folio = rig.pte(0).folio
        assert (rig.pte(30, child).folio, folio.mapcount) == (folio, 2)
        await cpu_write(rig.core, child, rig.addr(30), b"c")
        assert (await cpu_read(rig.core, rig.mm, rig.addr(0), 1), folio.mapcount) == (b"\x01", 1)
        await child.mmput()

    Rig().run(body)
