"""migrate_vma and migrate_device: what moves, what stays, what is left behind (core_mm section 9)."""

import pytest
from mm_rig import FIRST, Rig, ToyDevice

from svm_actors.engine.errors import EINVAL, ENOMEM
from svm_actors.mm import messages as m
from svm_actors.mm.events import MigrationOver
from svm_actors.mm.migrate_types import MigrateVma, Select
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry


def kinds(rig, n=4, mm=None):
    ptes = [rig.pte(page, mm) for page in range(n)]
    return ["-" if pte is None else pte.kind.name[:7] + ("*" if pte.writable else "") for pte in ptes]


def test_pages_and_holes_go_and_come_back_with_their_data():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 7)
        await rig.read(1)
        assert await device.to_device(0, 4) == 4
        assert kinds(rig) == ["DEVICE_*"] * 4
        assert [await rig.read(page) for page in range(4)] == [7, 0, 0, 0]
        assert kinds(rig) == ["PRESENT*"] * 4
        assert len(device.free) == 64

    Rig().run(body)


def test_a_filled_hole_is_one_more_page_of_the_process():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 7)
        assert rig.mm.rss.anon == 1
        await device.to_device(0, 4)
        assert rig.mm.rss.anon == 4
        await rig.read(2)
        assert rig.mm.rss.anon == 4

    Rig().run(body)


def test_a_hole_for_which_there_is_no_memory_stays_one_and_gives_its_page_back(monkeypatch):
    def refuse(mm, vpn):
        raise ENOMEM

    async def body(rig):
        device = ToyDevice(rig)
        with monkeypatch.context() as patched:
            patched.setattr(Mm, "pte_alloc", refuse)
            assert await device.to_device(0, 4) == 0
        assert kinds(rig) == ["-"] * 4
        assert len(device.free) == 64
        assert await device.to_device(0, 4) == 4

    Rig().run(body)


async def lock_for_a_while(rig, folio):
    await folio.lock.acquire()
    await rig.engine.sleep(1)
    folio.lock.release()


@pytest.mark.parametrize("reason", ["locked", "pinned", "isolated"])
def test_a_busy_page_stays_and_is_restored(reason):
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 1)
        await rig.write(1, 2)
        busy = rig.pte(0).folio

        if reason == "locked":
            holder = rig.engine.spawn(lock_for_a_while(rig, busy), "holder")
            while not busy.lock.locked:
                await rig.engine.step("local")
        elif reason == "pinned":
            busy.get("gup")
        else:
            rig.core.lru.drain_now()
            busy.lru = False  # somebody else has isolated it
        assert await device.to_device(0, 2) == 1
        assert kinds(rig, 2) == ["PRESENT*", "DEVICE_*"]
        rig.core.lru.drain_now()
        assert busy.lru is (reason != "isolated")
        if reason == "locked":
            await rig.engine.join(holder)
        elif reason == "pinned":
            busy.put("gup")
        assert [await rig.read(0), await rig.read(1)] == [1, 2]

    Rig("random", 1).run(body)


def test_a_migration_is_over_once_for_every_entry_it_collected_or_filled():
    """Oracles look at a page when it is said to be over."""
    over = []

    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 1)
        await rig.write(1, 2)
        page = rig.pte(0).folio
        rig.engine.listeners.append(lambda event: over.append(event) if type(event) is MigrationOver else None)
        holder = rig.engine.spawn(lock_for_a_while(rig, rig.pte(1).folio), "holder")
        assert await device.to_device(0, 3) == 2
        await rig.engine.join(holder)
        there = [rig.pte(index).folio for index in (0, 2)]
        assert [(event.source, event.target) for event in over] == [(page, there[0]), (None, there[1])]

    Rig().run(body)


def test_shared_memory_is_unmapped_and_restored_but_never_moves():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.mmap(0, 4, shared=True)
        await rig.write(0, 5)
        assert await device.to_device(0, 4) == 0
        assert kinds(rig) == ["PRESENT*", "-", "-", "-"]
        assert await rig.read(0) == 5

    Rig().run(body)


def test_a_read_only_hole_becomes_a_read_only_device_page():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.mprotect(0, 2, "r")
        assert await device.to_device(0, 2) == 2
        assert kinds(rig, 2) == ["DEVICE_", "DEVICE_"]

    Rig().run(body)


def test_fork_makes_both_entries_read_only_and_one_fault_moves_both():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 3)
        await device.to_device(0, 1)
        child = await rig.fork()
        assert kinds(rig, 1) == kinds(rig, 1, child) == ["DEVICE_"]
        await rig.write(0, 9, child)
        assert kinds(rig, 1) == ["PRESENT"]
        assert kinds(rig, 1, child) == ["PRESENT*"]
        assert (await rig.read(0), await rig.read(0, child)) == (3, 9)
        await child.mmput()

    Rig().run(body)


def test_setup_refuses_what_the_digest_lists():
    async def body(rig):
        mm = rig.mm
        async with mm.mmap_lock.reading():
            vma = mm.find_vma(FIRST)
            bad = [
                MigrateVma(mm, None, FIRST, FIRST + 1, None, Select.SYSTEM),
                MigrateVma(mm, vma, FIRST, FIRST, None, Select.SYSTEM),
                MigrateVma(mm, vma, FIRST - 1, FIRST + 1, None, Select.SYSTEM),
                MigrateVma(mm, vma, FIRST, FIRST + 17, None, Select.SYSTEM),
                MigrateVma(mm, vma, FIRST, FIRST + 1, None, Select.SYSTEM, fault_page=rig.core.allocator.zero_folio),
            ]
            for args in bad:
                with pytest.raises(EINVAL):
                    await rig.core.call(m.MigrateVmaSetup(args))

    Rig().run(body)


def test_clean_and_dirty_travel_with_the_page():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 1)
        assert rig.pte(0).dirty
        await device.to_device(0, 1)
        await rig.read(0)
        assert rig.pte(0).folio.dirty

    Rig().run(body)


def test_racing_faults_eviction_and_unmapping_never_lose_data(any_schedule):
    """MM-R07, MM-R08, MM-R10, MM-R14, MM-R24: every interleaving keeps data, counts and locks."""

    async def body(rig):
        device = ToyDevice(rig)
        for page in range(4):
            await rig.write(page, page + 1)
        await device.to_device(0, 4)

        async def toucher(n):
            for page in range(4):
                assert await rig.read(page) in (page + 1, 100 + page)

        async def zapper():
            await rig.madvise(6, 2, "dontneed")
            await rig.write(3, 103)

        async def evictor():
            await device.evict()
            await device.to_device(0, 8)

        async with rig.engine.nursery() as nursery:
            for n in range(2):
                nursery.start_soon(toucher, n)
            nursery.start_soon(zapper)
            nursery.start_soon(evictor)
        await device.evict()
        assert [await rig.read(page) for page in range(4)] == [1, 2, 3, 103]

    Rig(*any_schedule).run(body)


def test_eviction_races_mremap_and_fork(any_schedule):
    """MM-R12, MM-R13: the page is found wherever it has gone, and the child keeps its copy."""

    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 1)
        await rig.write(1, 2)
        await device.to_device(0, 2)

        async def mover():
            await rig.mremap(0, 2, 20)

        async def forker():
            child = await rig.fork()
            place = 0 if rig.pte(0, child) is not None else 20
            assert [await rig.read(place, child), await rig.read(place + 1, child)] == [1, 2]
            await rig.write(place, 50, child)
            await child.mmput()

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(mover)
            nursery.start_soon(forker)
            nursery.start_soon(device.evict)
        while device.pgmap.live:
            await device.evict()
        assert [await rig.read(20), await rig.read(21)] == [1, 2]
        assert all(rig.pte(page).kind is Entry.PRESENT for page in (20, 21))

    Rig(*any_schedule).run(body)
