"""madvise: parts of mappings, several mappings, holes, and what a fork makes of the advice (core_mm sections 5, 12)."""

import pytest
from mm_rig import Rig
from race_rig import device

from svm_actors.engine.errors import ENOMEM
from svm_actors.mm.messages import SIGSEGV


def layout(mm):
    return [(vma.npages, sorted(flag.name for flag in vma.flags if flag.name in ("DONTCOPY", "WIPEONFORK")))
            for vma in mm.vmas]  # fmt: skip


@pytest.mark.parametrize(("advice", "flag"), [("dontfork", "DONTCOPY"), ("wipeonfork", "WIPEONFORK")])
def test_fork_advice_splits_and_its_opposite_merges(advice, flag):
    opposite = {"dontfork": "dofork", "wipeonfork": "keeponfork"}[advice]

    async def body(rig):
        await rig.madvise(4, 4, advice)
        assert layout(rig.mm) == [(4, []), (4, [flag]), (8, [])]
        await rig.madvise(2, 4, advice)
        assert layout(rig.mm) == [(2, []), (6, [flag]), (8, [])]
        await rig.madvise(0, 16, opposite)
        assert layout(rig.mm) == [(16, [])]
        assert rig.recorder.take() == []

    Rig().run(body)


def test_a_hole_is_reported_after_the_rest_is_done():
    async def body(rig):
        for page in range(16):
            await rig.write(page, page + 1)
        await rig.munmap(6, 2)
        rig.recorder.take()
        for advice in ("dontneed", "dontfork", "free"):
            with pytest.raises(ENOMEM):
                await rig.madvise(4, 6, advice)
        assert [page for page in range(16) if rig.pte(page) is None] == [4, 5, 6, 7, 8, 9]
        assert layout(rig.mm) == [(4, []), (2, ["DONTCOPY"]), (2, ["DONTCOPY"]), (6, [])]
        assert rig.recorder.take() == [("CLEAR", 4, 2), ("CLEAR", 8, 2)] * 2

    Rig().run(body)


def test_advice_about_unmapped_memory_alone_is_refused():
    async def body(rig):
        for advice in ("dontneed", "free", "dontfork"):
            with pytest.raises(ENOMEM):
                await rig.madvise(20, 2, advice)
        assert rig.recorder.take() == []

    Rig().run(body)


def test_what_a_child_gets_of_advised_memory():
    """Nothing of DONTFORK, zeros of WIPEONFORK, all of the rest."""

    async def body(rig):
        for page in (0, 4, 8):
            await rig.write(page, page + 1)
        await rig.madvise(4, 1, "dontfork")
        await rig.madvise(8, 1, "wipeonfork")
        child = await rig.fork()
        assert rig.vmas(child) == [(0, 4), (5, 3), (8, 1), (9, 7)]
        assert (await rig.read(0, child), await rig.read(8, child)) == (1, 0)
        with pytest.raises(SIGSEGV):
            await rig.read(4, child)
        assert [await rig.read(page) for page in (0, 4, 8)] == [1, 5, 9]
        await rig.write(8, 77, child)
        assert await rig.read(8) == 9
        await child.mmput()

    Rig().run(body)


def test_free_keeps_contents_until_they_are_reclaimed_and_device_data_for_good():
    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        await rig.write(1, 2)
        await rig.write(2, 3)
        assert await toy.to_device(1, 1) == 1
        assert await rig.swap_out(2, 1) == 1
        rig.recorder.take()
        await rig.madvise(0, 3, "free")
        assert rig.recorder.take() == [("CLEAR", 0, 3)]
        pte = rig.pte(0)
        assert (pte.dirty, pte.young, pte.folio.dirty) == (False, False, False)
        assert [await rig.read(page) for page in range(3)] == [1, 2, 0]

    Rig().run(body)


def test_a_shared_page_stays_dirty_when_one_of_two_frees_it():
    async def body(rig):
        await rig.write(0, 1)
        folio = rig.pte(0).folio
        folio.dirty = True
        child = await rig.fork()
        await rig.madvise(0, 1, "free")
        assert folio.dirty
        await child.mmput()
        await rig.madvise(0, 1, "free")
        assert not folio.dirty

    Rig().run(body)


@pytest.mark.parametrize("advice", ["normal", "random", "willneed", "cold", "hugepage", "nohugepage", "mergeable"])
def test_advice_without_effect_has_none(advice):
    async def body(rig):
        await rig.write(0, 1)
        before = list(rig.mm.page_table.items()), rig.vmas()
        await rig.madvise(0, 16, advice)
        assert (list(rig.mm.page_table.items()), rig.vmas()) == before
        assert rig.recorder.take() == []

    Rig().run(body)
