"""A page read from swap stays clean and keeps its slot until it is written (core_mm section 3; INV-16, MM-R18)."""

import pytest
from mm_rig import Rig

from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.run import run
from svm_actors.mm.constants import PAGE_SIZE


async def read_back(rig):
    await rig.write(0, 5)
    assert await rig.swap_out(0, 1) == 1
    slot = rig.pte(0).folio
    assert await rig.read(0) == 5
    return slot, rig.pte(0)


def test_a_read_leaves_the_page_in_the_swap_cache():
    async def body(rig):
        slot, pte = await read_back(rig)
        assert (pte.writable, pte.dirty, pte.folio.dirty, pte.folio.anon_exclusive) == (True, False, False, True)
        assert (slot.folio, slot.count, pte.folio.swapcache) == (pte.folio, 0, 1)

    Rig().run(body)


def test_a_clean_page_is_dropped_without_writing():
    async def body(rig):
        slot, _pte = await read_back(rig)
        before = slot.content
        assert await rig.swap_out(0, 1) == 1
        assert rig.pte(0).folio is slot
        assert slot.content is before
        assert await rig.read(0) == 5

    Rig().run(body)


def test_a_page_written_since_is_written_back():
    async def body(rig):
        slot, _pte = await read_back(rig)
        await rig.write(0, 6)
        assert await rig.swap_out(0, 1) == 1
        assert rig.pte(0).folio is slot
        assert await rig.read(0) == 6

    Rig().run(body)


def test_a_write_fault_takes_the_page_out_of_the_swap_cache():
    async def body(rig):
        await rig.write(0, 5)
        await rig.swap_out(0, 1)
        await rig.write(0, 6)
        assert (rig.pte(0).dirty, rig.pte(0).folio.swapcache, rig.core.statistics()["swap"]) == (True, 0, 0)

    Rig().run(body)


def test_free_advice_takes_it_out_of_the_swap_cache_before_it_calls_it_clean():
    async def body(rig):
        slot, pte = await read_back(rig)
        await rig.write(0, 6)
        await rig.madvise(0, 1, "free")
        assert (slot.folio, pte.folio.swapcache, pte.folio.dirty) == (None, 0, False)
        assert await rig.swap_out(0, 1) == 1
        assert await rig.read(0) == 6

    Rig().run(body)


def test_the_lru_takes_no_page_that_only_its_donor_holds():
    async def body(rig):
        folio = await rig.core.allocator.alloc("donor")
        with pytest.raises(PropertyFailed) as failure:
            rig.core.lru.add(folio)
        assert failure.value.rule == "MM-B11"
        folio.put("donor")

    Rig().run(body)


def test_madv_free_passes_over_a_page_that_reclaim_has_locked():
    """MM-B07's other half: taking the page out of the swap cache under reclaim dropped its reference twice."""

    async def scenario(world):
        process = world.process()
        addr = await process.mmap(2 * PAGE_SIZE)
        await process.write(addr + PAGE_SIZE, b"a")
        async with world.nursery() as nursery:
            nursery.start_soon(process.madvise, addr, 2 * PAGE_SIZE, "free")
            nursery.start_soon(process.swap_out, addr + PAGE_SIZE, PAGE_SIZE)
        assert await process.read(addr + PAGE_SIZE, 1) in (b"a", b"\0")

    met = 0
    for seed in range(150):
        result = run(scenario, seed=seed, strategy="random", backend="direct", digest=False)
        assert result.failure is None, seed
        met += result.counters.get("madvise.free_locked", 0)
    assert met > 10
