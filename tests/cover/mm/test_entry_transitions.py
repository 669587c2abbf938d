"""The transition table of core_mm section 3: whole entries, flags of the page, and what is announced."""

from itertools import product

import pytest
from mm_rig import FIRST, Rig
from race_rig import device, together
from test_entry_matrix import show

from svm_actors.mm import messages as m
from svm_actors.mm import rmap
from svm_actors.mm.page_table import Entry, Pte


def held(body, **options):
    return Rig().run(body, **options)


def test_first_touch_fills_without_event():
    async def body(rig):
        await rig.read(0)
        assert show(rig, None) == "PRESENT y 0"
        await rig.write(1, 1)
        assert show(rig, rig.pte(1).folio, page=1) == "PRESENT wdy ="
        assert rig.pte(1).folio.anon_exclusive
        assert rig.recorder.take() == []

    held(body)


def test_the_zero_page_is_replaced_by_a_copy_under_clear():
    async def body(rig):
        await rig.read(0)
        await rig.write(0, 1)
        assert show(rig, rig.core.allocator.zero_folio) == "PRESENT wdy !"
        assert rig.recorder.take() == [("CLEAR", 0, 1)]
        assert rig.core.allocator.zero_folio.refs == {"born": 1}

    held(body)


def test_a_sole_owner_makes_its_entry_writable_without_event():
    async def body(rig):
        await rig.write(0, 1)
        folio = rig.pte(0).folio
        child = await rig.fork()
        assert (show(rig, folio), folio.anon_exclusive) == ("PRESENT dy =", False)
        await child.mmput()
        rig.recorder.take()
        await rig.write(0, 2)
        assert (show(rig, folio), folio.anon_exclusive) == ("PRESENT wdy =", True)
        assert rig.recorder.take() == []

    held(body)


def test_copy_on_write_leaves_the_old_page_to_the_other():
    async def body(rig):
        await rig.write(0, 1)
        old = rig.pte(0).folio
        child = await rig.fork()
        rig.recorder.take()
        await rig.write(0, 2)
        assert (show(rig, old), show(rig, old, child)) == ("PRESENT wdy !", "PRESENT d =")
        assert (old.refs["map"], old.mapcount, rig.pte(0).folio.anon_exclusive) == (1, 1, True)
        assert rig.recorder.take() == [("CLEAR", 0, 1)]
        await child.mmput()

    held(body)


@pytest.mark.parametrize("clean", [False, True])
def test_reclaim_moves_the_dirty_bit_to_the_page(clean):
    async def body(rig):
        await rig.write(0, 1)
        await rig.core.lru.drain()
        if clean:
            await rig.madvise(0, 1, "free")
        folio = rig.pte(0).folio
        folio.get("look")
        rig.recorder.take()
        await rig.swap_out(0, 1)
        assert show(rig, None) == "SWAP x !"
        assert folio.dirty is not clean
        assert rig.recorder.take() == [("CLEAR", 0, 1)]
        folio.put("look")
        assert await rig.read(0) == 1

    held(body)


INSTALL = {
    "writable": (Pte(Entry.PRESENT, None, True, True, True), True, (True, True, True, True)),
    "read-only, exclusive": (Pte(Entry.PRESENT, None, False, True, False), True, (False, True, False, True)),
    "read-only, shared": (Pte(Entry.PRESENT, None, False, False, True), False, (False, False, True, False)),
    "device, writable": (Pte(Entry.DEVICE_PRIVATE, None, True), True, (True, False, False, True)),
    "device, read-only": (Pte(Entry.DEVICE_PRIVATE, None, False), False, (False, False, False, False)),
    "device-exclusive": (Pte(Entry.DEVICE_EXCLUSIVE, None), True, (False, False, False, True)),
}


@pytest.mark.parametrize("kind", INSTALL)
def test_a_migration_entry_keeps_permission_age_and_exclusiveness(kind):
    """WRITE if writable, READ_EXCLUSIVE if exclusive, else READ; reference, mapping and AnonExclusive go."""
    entry, exclusive, expected = INSTALL[kind]

    async def body(rig):
        await rig.write(0, 1)
        await rig.core.lru.drain()
        folio = rig.pte(0).folio
        folio.dirty, folio.anon_exclusive = False, exclusive
        folio.get("collect")
        await folio.lock.acquire()
        entry_here = entry._replace(folio=folio)
        rig.mm.page_table.set(FIRST, entry_here)
        rmap.install_migration_entry(rig.mm.vmas.find(FIRST), FIRST, entry_here)
        writable, dirty, young, now_exclusive = expected
        assert rig.pte(0) == Pte(Entry.MIGRATION, folio, writable, dirty, young, now_exclusive)
        assert (folio.mapcount, folio.refs, folio.anon_exclusive) == (0, {"collect": 1}, False)
        assert folio.dirty is dirty
        await rmap.remove_migration_ptes(rig.core, folio, folio)
        folio.lock.release()
        folio.put("collect")

    held(body)


@pytest.mark.parametrize("case", list(product([False, True], repeat=4)))
def test_restore_follows_the_entry(case):
    """Writable iff WRITE, exclusive iff not READ, dirty iff entry and page are; no event."""
    writable, entry_dirty, folio_dirty, to_device = case

    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        assert await toy.to_device(0, 1) == 1
        source = rig.pte(0).folio
        src = await rig.core.call(m.MigrateDevicePfns(toy.pgmap, [source.pfn]))
        rig.mm.page_table.set(FIRST, rig.pte(0)._replace(writable=writable, dirty=entry_dirty, exclusive=writable))
        source.dirty = folio_dirty
        rig.recorder.take()
        dst = [None]
        if not to_device:
            await toy._copy_home(src, dst)
        await rig.core.call(m.MigrateDevicePages(src, dst))
        await rig.core.call(m.MigrateDeviceFinalize(src, dst))
        folio = rig.pte(0).folio
        expected = Pte(Entry.PRESENT, folio, writable, entry_dirty and folio_dirty)
        if to_device:
            expected = Pte(Entry.DEVICE_PRIVATE, source, writable)
        assert rig.pte(0) == expected
        assert (folio.mapcount, folio.anon_exclusive) == (1, writable)
        assert rig.recorder.take() == []

    held(body)


@pytest.mark.parametrize(("prot", "touched"), list(product(["rw", "r"], ["hole", "zero"])))
def test_a_hole_or_a_zero_page_becomes_a_device_page(prot, touched):
    """WRITE iff the VMA is writable; exclusive at once; under MIGRATE, twice."""

    async def body(rig):
        toy = device(rig)
        if touched == "zero":
            await rig.read(0)
        rig.recorder.take()
        assert await toy.to_device(0, 1) == 1
        folio = rig.pte(0).folio
        assert rig.pte(0) == Pte(Entry.DEVICE_PRIVATE, folio, prot == "rw")
        assert (folio.refs, folio.anon_exclusive, folio.anon) == ({"map": 1}, True, True)
        assert rig.recorder.take() == [("MIGRATE", 0, 1)] * 2

    held(body, arena=prot)


def test_a_file_hole_is_no_hole():
    async def body(rig):
        toy = device(rig)
        await rig.mmap(0, 2, shared=True)
        assert await toy.to_device(0, 2) == 0
        assert show(rig, None) == "NONE"

    held(body)


def test_an_exclusive_entry_comes_back_writable_only_where_the_vma_is():
    async def body(rig):
        for page in (0, 1):
            await rig.write(page, 1)
            async with rig.mm.mmap_lock.reading():
                folio = await rig.core.call(m.MakeDeviceExclusive(rig.mm, FIRST + page, None))
            folio.lock.release()
            folio.put("exclusive")
        await rig.mprotect(1, 1, "r")
        rig.recorder.take()
        assert (await rig.read(0), await rig.read(1)) == (1, 1)
        assert show(rig, rig.pte(0).folio) == "PRESENT wdy ="
        assert show(rig, rig.pte(1).folio, page=1) == "PRESENT y ="
        assert rig.recorder.take() == [("CLEAR", 0, 1), ("CLEAR", 1, 1)]

    held(body)


def test_a_device_page_is_never_made_writable_in_place():
    """8.3: after mprotect and back the entry stays READ; only a fault, through RAM, mends it."""

    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        await toy.to_device(0, 1)
        await rig.mprotect(0, 1, "r")
        await rig.mprotect(0, 1, "rw")
        assert show(rig, rig.pte(0).folio) == "DEVICE_PRIVATE - ="
        await rig.write(0, 2)
        assert show(rig, rig.pte(0).folio) == "PRESENT wdy ="

    held(body)


def test_a_zapped_device_page_is_free_before_the_zap_returns():
    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        await toy.to_device(0, 1)
        folio = rig.pte(0).folio
        await rig.madvise(0, 1, "dontneed")
        assert (folio.freed, folio.refs, folio.pfn in toy.free) == (True, {}, True)

    held(body)


def test_a_zapped_migration_entry_is_forgotten_and_both_pages_are_freed():
    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        await toy.to_device(0, 1)
        source = rig.pte(0).folio
        src = await rig.core.call(m.MigrateDevicePfns(toy.pgmap, [source.pfn]))
        await together(rig, (rig.madvise, 0, 1, "dontneed"))
        assert (rig.pte(0), source.refs, source.lock.locked) == (None, {"collect": 1}, True)
        dst = [None]
        await toy._copy_home(src, dst)
        target = dst[0]
        await rig.core.call(m.MigrateDevicePages(src, dst))
        await rig.core.call(m.MigrateDeviceFinalize(src, dst))
        assert (source.freed, target.freed, rig.pte(0)) == (True, True, None)

    held(body)
