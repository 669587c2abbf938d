"""The LRU batch: who drains it, and the page that a drain in progress keeps from migrating (core_mm 4 and 9.2)."""

import pytest
from mm_rig import Rig, ToyDevice

from svm_actors.mm import messages as m
from svm_actors.mm.lru import BATCH_SIZE, REASON
from svm_actors.workload.litmus_run import FewSwitches


def waiting(rig):
    return [folio.pfn for folio in rig.core.lru.waiting]


def test_a_new_page_waits_in_the_batch_with_a_reference():
    async def body(rig):
        await rig.write(0, 1)
        folio = rig.pte(0).folio
        assert (waiting(rig), folio.lru, folio.refs) == ([folio.pfn], False, {"map": 1, REASON: 1})
        await rig.core.lru.drain()
        assert (waiting(rig), folio.lru, folio.refs) == ([], True, {"map": 1})

    Rig().run(body)


def test_a_full_batch_drains_itself():
    async def body(rig):
        await rig.mmap(0, 40)
        for page in range(BATCH_SIZE - 1):
            await rig.write(page, 1)
        assert len(waiting(rig)) == BATCH_SIZE - 1
        await rig.write(BATCH_SIZE - 1, 1)
        assert waiting(rig) == []
        assert all(rig.pte(page).folio.lru for page in range(BATCH_SIZE))

    Rig().run(body)


@pytest.mark.parametrize("how", ["munmap", "dontneed", "replace"])
def test_a_zap_leaves_no_page_behind_in_the_batch(how):
    async def body(rig):
        live = rig.core.statistics()["ram"]
        await rig.write(0, 1)
        await rig.write(1, 1)
        if how == "munmap":
            await rig.munmap(0, 2)
        elif how == "dontneed":
            await rig.madvise(0, 2, "dontneed")
        else:
            await rig.mmap(0, 2)
        assert (waiting(rig), rig.core.statistics()["ram"]) == ([], live)

    Rig().run(body)


def test_a_sole_owner_reuses_its_page_although_the_batch_still_has_it():
    """wp_can_reuse_anon_folio drains before it counts references."""

    async def body(rig):
        await rig.write(0, 1)
        folio = rig.pte(0).folio
        child = await rig.fork()
        await rig.core.call(m.Munmap(child, rig.addr(0), 4096))
        rig.core.lru.add(folio)
        await rig.write(0, 2)
        assert rig.pte(0).folio is folio
        await child.mmput()

    Rig().run(body)


def test_pages_go_through_the_batch_again_when_they_come_home_or_stay():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 1)
        await rig.write(1, 2)
        assert await device.to_device(0, 1) == 1
        assert await rig.read(0) == 1
        assert waiting(rig) == [rig.pte(0).folio.pfn]
        pinned = rig.pte(1).folio
        pinned.get("gup")
        assert await device.to_device(1, 1) == 0
        assert waiting(rig) == [pinned.pfn]
        pinned.put("gup")
        assert await device.to_device(0, 2) == 2

    Rig().run(body)


def test_a_drain_in_progress_keeps_a_page_from_migrating_and_nothing_else():
    """Between "on the list" and "reference dropped" another CPU finds one reference too many."""
    moved = set()
    for seed in range(300):

        async def body(rig):
            device = ToyDevice(rig)
            await rig.write(0, 7)

            async def migrate():
                moved.add(await device.to_device(0, 1))

            async with rig.engine.nursery() as nursery:
                nursery.start_soon(migrate)
                nursery.start_soon(rig.core.lru.drain)
            assert await rig.read(0) == 7
            assert await device.to_device(0, 1) == 1

        rig = Rig()
        rig.engine.chooser = FewSwitches(seed)
        rig.run(body)
    assert moved == {0, 1}
