"""Device memory: chunks, the free list, what failed allocations leave behind, RELEASE (sections 6 and 7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror_rig import FIRST, Rig, codes, p, show

from svm_actors.engine.errors import ENOMEM
from svm_actors.mirror.memory import CHUNK_PAGES, backing_of
from svm_actors.mm.content import FILLED


async def device_page(rig, device):
    """Allocate as the driver does, and let the page go when it is put."""
    page = await device.memory.alloc_page()
    page.zone_device_data = rig.core.allocator.alloc_now("backing")
    return page


def give_back(page):
    page.lock.release()
    page.put("dst")


def test_a_page_has_its_memory_in_a_ram_page_that_goes_with_it():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        await rig.write(0, 9)
        await mirror.migrate_to_dev(p(0), 1)
        page = rig.mm.page_table.get(FIRST).folio
        backing = backing_of(page)
        assert (backing.content, backing.zone_device_data, backing.refs) == (FILLED[9], mirror, {"backing": 1})
        await rig.munmap(0, 1)
        assert (page.freed, backing.freed) == (True, True)
        assert rig.devices[0].statistics() == {"chunks": 1, "live": 0, "allocated": 1, "freed": 1, "mirrors": 1}

    Rig().run(body)


@given(st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=60))
def test_the_free_list_hands_out_each_page_once_and_the_last_freed_first(actions):
    """None allocates, a number frees one of the pages in use; checked against a plain stack."""

    async def body(rig):
        device = rig.device()
        live, freed = [], []
        for action in actions:
            if action is None:
                page = await device_page(rig, device)
                assert page.pfn not in {other.pfn for other in live}
                assert not freed or page.pfn == freed.pop()
                live.append(page)
            elif live:
                page = live.pop(action % len(live))
                give_back(page)
                freed.append(page.pfn)
            assert device.memory.free_pages() == CHUNK_PAGES - len(live)
        while live:
            give_back(live.pop())

    Rig().run(body)


def test_a_full_device_grows_by_a_chunk_until_it_may_not():
    async def body(rig):
        device = rig.device(max_chunks=2)
        memory = device.memory
        memory._free[0].low = memory._free[0].high - 1  # all but one page of the first chunk are taken
        pages = [await device_page(rig, device), await device_page(rig, device)]
        assert [memory.chunks.index(memory.chunk_of(page)) for page in pages] == [0, 1]
        memory._free.clear()
        with pytest.raises(ENOMEM):
            await memory.alloc_page()
        for page in pages:
            give_back(page)

    Rig().run(body)


@pytest.mark.parametrize("short_of", ["device memory", "backing pages"])
def test_without_memory_the_pages_stay_and_nothing_leaks(short_of):
    async def body(rig):
        mirror = await rig.mirror(max_chunks=1)
        await rig.map(0, 2)
        await rig.touch(0, 1, 2)
        if short_of == "device memory":
            rig.devices[0].memory._free[0].low = rig.devices[0].memory._free[0].high - 1
        else:
            rig.core.allocator.limit = len(rig.core.allocator.live) + 1
        assert await show(mirror.migrate_to_dev(p(0), 2)) == "-ENOENT"
        assert await codes(mirror, 0, 2) == "22 02"
        assert [await rig.read(1), rig.devices[0].statistics()["live"]] == [2, 1]
        rig.core.allocator.limit = None
        assert not any((await rig.close()).values())

    Rig().run(body)


def test_dropping_a_chunk_cuts_free_pages_of_others_off_the_list():
    """HM-D12."""

    async def body(rig):
        device = rig.device()
        memory = device.memory
        memory._free[0].low = memory._free[0].high - 1
        old, new = await device_page(rig, device), await device_page(rig, device)
        give_back(new)
        give_back(old)
        first, second = memory.chunks
        memory.drop_free_pages(second)
        assert memory.free_pages() == 0
        assert rig.engine.counters["HM-D12"] == 1
        assert memory.chunk_of(old) is first

    Rig().run(body)


def test_release_waits_for_the_last_page_and_the_next_allocation_starts_a_chunk():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 2)
        await rig.touch(0, 1, 2)
        await mirror.migrate_to_dev(p(0), 2)
        memory = rig.devices[0].memory
        (chunk,) = memory.chunks
        pinned = rig.mm.page_table.get(FIRST).folio
        pinned.get("pin")
        pinned.get("pin")  # one is not enough to keep a device page from moving (MM-B48)
        done = []

        async def release():
            await mirror.release(p(0), 1)
            done.append(True)

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(release)
            await rig.engine.sleep(1000)
            assert (done, sorted(chunk.pgmap.live)) == ([], [pinned.pfn])
            assert await codes(mirror, 0, 2) == "22 02"
            pinned.put("pin")
            pinned.put("pin")
            assert await rig.read(0) == 1  # the CPU access brings it home: evicted once, and never again
        assert (done, memory.chunks, memory.free_pages()) == ([True], [], 0)
        assert await show(mirror.migrate_to_dev(p(0), 2)) == "0/2/0"
        assert [one is not chunk for one in memory.chunks] == [True]

    Rig().run(body)


def test_eviction_waits_for_ram_rather_than_fail():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        await rig.write(0, 1)
        await mirror.migrate_to_dev(p(0), 1)
        rig.core.allocator.limit = len(rig.core.allocator.live)

        async def memory_comes_back():
            await rig.engine.sleep(5_000_000)
            rig.core.allocator.limit = None

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(memory_comes_back)
            assert await show(mirror.release(p(0), 1)) == "0/0/0"
        assert rig.engine.now >= 5_000_000
        assert await codes(mirror, 0, 1) == "02"

    Rig().run(body)
