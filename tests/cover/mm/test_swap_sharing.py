"""Swap: slots shared by fork, the swap cache, who frees what; advice that reclaims (core_mm sections 3, 4 and 12)."""

import pytest
from mm_rig import Rig
from race_rig import together

from svm_actors.mm.page_table import Entry


async def swapped_and_forked(rig, value=5):
    await rig.write(0, value)
    assert await rig.swap_out(0, 1) == 1
    slot = rig.pte(0).folio
    child = await rig.fork()
    assert (slot.count, rig.pte(0).exclusive, rig.pte(0, child).exclusive) == (2, False, False)
    return child, slot


def test_a_slot_shared_by_fork_is_read_once_and_mapped_twice():
    async def body(rig):
        child, slot = await swapped_and_forked(rig)
        assert await rig.read(0) == 5
        folio = rig.pte(0).folio
        assert (slot.folio, slot.count, folio.anon_exclusive, rig.pte(0).writable) == (folio, 1, False, False)
        assert await rig.read(0, child) == 5
        assert rig.pte(0, child).folio is folio
        assert (slot.folio, slot.count, rig.core.statistics()["swap"]) == (folio, 0, 1)
        await child.mmput()
        await rig.write(0, 6)
        assert (slot.folio, rig.pte(0).folio, rig.core.statistics()["swap"]) == (None, folio, 0)

    Rig().run(body)


def test_writes_after_swap_in_go_apart():
    async def body(rig):
        child, _slot = await swapped_and_forked(rig)
        await rig.write(0, 6)
        await rig.write(0, 7, child)
        assert (await rig.read(0), await rig.read(0, child)) == (6, 7)
        assert rig.core.statistics() == {"mms": 2, "ram": 2, "swap": 0}
        await child.mmput()

    Rig().run(body)


@pytest.mark.parametrize("how", ["dontneed", "free", "munmap", "exit"])
def test_a_swapped_page_goes_with_its_entry(how):
    async def body(rig):
        child, slot = await swapped_and_forked(rig)
        if how == "exit":
            await child.mmput()
        elif how == "munmap":
            await rig.munmap(0, 1)
        else:
            await rig.madvise(0, 1, how)
        assert (slot.count, rig.core.statistics()["swap"]) == (1, 1)
        if how == "exit":
            await rig.madvise(0, 1, "dontneed")
            assert await rig.read(0) == 0
        else:
            assert await rig.read(0, child) == 5
            await child.mmput()
        assert rig.core.statistics()["swap"] == 0

    Rig().run(body)


def test_the_sole_owner_of_a_slot_gets_its_page_back_writable():
    async def body(rig):
        await rig.write(0, 5)
        await rig.swap_out(0, 1)
        assert rig.pte(0).exclusive
        assert await rig.read(0) == 5
        assert (rig.pte(0).writable, rig.pte(0).folio.anon_exclusive) == (True, True)

    Rig().run(body)


def test_a_page_of_a_read_only_mapping_comes_back_read_only_and_of_none_closed():
    async def body(rig):
        for page in (0, 1):
            await rig.write(page, 5)
        assert await rig.swap_out(0, 2) == 2
        await rig.mprotect(0, 1, "r")
        assert await rig.read(0) == 5
        assert not rig.pte(0).writable
        await rig.mprotect(1, 1, "none")
        await rig.mprotect(1, 1, "rw")
        assert await rig.read(1) == 5
        assert rig.pte(1).writable

    Rig().run(body)


@pytest.mark.parametrize("reason", ["referenced", "locked", "zero page"])
def test_reclaim_leaves_what_is_busy(reason):
    async def body(rig):
        if reason == "zero page":
            await rig.read(0)
            assert await rig.swap_out(0, 1) == 0
            return
        await rig.write(0, 5)
        folio = rig.pte(0).folio
        if reason == "referenced":
            folio.get("gup")
            assert await rig.swap_out(0, 1) == 0
            assert rig.pte(0).kind is Entry.SWAP
            assert rig.pte(0).folio.folio is folio
            folio.put("gup")
        else:
            async def hold():
                await folio.lock.acquire()
                await rig.engine.sleep(100)
                folio.lock.release()

            async def take():
                await rig.engine.sleep(1)
                assert await rig.swap_out(0, 1) == 0
                assert rig.pte(0).folio is folio

            await together(rig, hold, take)
        assert await rig.read(0) == 5

    Rig().run(body)


def test_pageout_takes_only_its_range_and_is_undone_by_a_touch():
    async def body(rig):
        for page in range(4):
            await rig.write(page, page + 1)
        await rig.madvise(1, 2, "pageout")
        assert [rig.pte(page).kind.name for page in range(4)] == ["PRESENT", "SWAP", "SWAP", "PRESENT"]
        assert [await rig.read(page) for page in range(4)] == [1, 2, 3, 4]

    Rig().run(body)


def test_reclaim_races_faults_of_parent_and_child(any_schedule):
    """Whatever is swapped, read back, copied or dropped meanwhile: each process has its own values."""

    async def body(rig):
        for page in range(3):
            await rig.write(page, page + 1)
        child = await rig.fork()

        async def reclaim():
            for _ in range(2):
                await rig.swap_out(0, 3)

        async def parent():
            for page in range(3):
                assert await rig.read(page) == page + 1
                await rig.write(page, 10 + page)

        async def offspring():
            for page in range(3):
                assert await rig.read(page, child) == page + 1
            await rig.write(1, 99, child)

        await together(rig, reclaim, parent, offspring)
        assert [await rig.read(page) for page in range(3)] == [10, 11, 12]
        assert [await rig.read(page, child) for page in range(3)] == [1, 99, 3]
        await child.mmput()

    Rig(*any_schedule).run(body)


def test_reclaim_races_zaps_and_exit(any_schedule):
    async def body(rig):
        for page in range(3):
            await rig.write(page, page + 1)
        child = await rig.fork()
        await together(rig, (rig.swap_out, 0, 3), (rig.madvise, 0, 2, "dontneed"), child.mmput)
        assert [await rig.read(page) for page in range(3)] == [0, 0, 3]

    Rig(*any_schedule).run(body)
