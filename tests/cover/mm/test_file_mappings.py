"""Page-cache mappings, shared and private, beside anonymous ones (core_mm sections 1, 3 and 5)."""

import pytest
from mm_rig import FIRST, PAGE, RW, Rig
from race_rig import device, together

from svm_actors.engine.errors import EINVAL, EOPNOTSUPP
from svm_actors.mm import messages as m
from svm_actors.mm.constants import Prot
from svm_actors.mm.page_table import Entry
from svm_actors.mm.shmem import FileObject


async def map_file(rig, file, page, n=4, *, shared=False, prot=RW, offset=0, mm=None):
    message = m.Mmap(mm or rig.mm, rig.addr(page), n * PAGE, prot, shared, True, file=file, offset=offset)
    await rig.core.call(message)


def with_file(body, **options):
    async def wrapped(rig):
        file = FileObject(rig.core, "file:f", keep=True)
        await body(rig, file)
        await rig.munmap(0, 64)
        assert file.vmas == []
        file.drop()

    Rig(**options).run(wrapped)


def test_shared_mappings_of_one_file_are_one_memory():
    async def body(rig, file):
        await map_file(rig, file, 0, shared=True)
        await map_file(rig, file, 8, shared=True, offset=2)
        await rig.write(2, 7)
        assert (await rig.read(8), rig.pte(8).folio) == (7, file.pages[2])
        await rig.write(9, 8)
        assert await rig.read(3) == 8
        assert [folio.anon for folio in file.pages.values()] == [False, False]

    with_file(body)


def test_a_private_write_copies_and_the_file_stays():
    async def body(rig, file):
        await map_file(rig, file, 0, shared=True)
        await map_file(rig, file, 8)
        await rig.write(0, 5)
        assert await rig.read(8) == 5
        cached = rig.pte(8).folio
        assert (cached, rig.pte(8).writable) == (file.pages[0], False)
        rig.recorder.take()
        await rig.write(8, 6)
        assert (await rig.read(0), await rig.read(8)) == (5, 6)
        own = rig.pte(8).folio
        assert (own.anon, own.anon_exclusive, own.mapping) == (True, True, None)
        assert (rig.recorder.take(), cached.refs) == ([("CLEAR", 8, 1)], {"pagecache": 1, "map": 1})
        await rig.write(0, 9)
        assert await rig.read(8) == 6

    with_file(body)


def test_a_first_write_to_a_private_mapping_copies_without_event():
    async def body(rig, file):
        await map_file(rig, file, 0, shared=True)
        await rig.write(1, 4)
        await map_file(rig, file, 8)
        rig.recorder.take()
        await rig.write(9, 5)
        assert (await rig.read(1), await rig.read(9), rig.recorder.take()) == (4, 5, [])

    with_file(body)


def test_dontneed_of_a_private_page_shows_the_file_again():
    async def body(rig, file):
        await map_file(rig, file, 0)
        await rig.write(0, 5)
        await rig.madvise(0, 1, "dontneed")
        assert await rig.read(0) == 0
        with pytest.raises(EINVAL):
            await rig.madvise(0, 1, "free")
        with pytest.raises(EINVAL):
            await rig.madvise(0, 1, "wipeonfork")

    with_file(body)


def test_a_read_fault_maps_what_is_cached_around_it():
    """fault-around: the aligned 64 KiB, inside the mapping, and nothing that is not there yet."""

    async def body(rig, file):
        await map_file(rig, file, 0, 4, shared=True)
        for page in (1, 3):
            await rig.write(page, page)
        await map_file(rig, file, 8, 4, prot=Prot.READ)
        await rig.read(9)
        assert [rig.pte(page) is not None for page in range(8, 12)] == [False, True, False, True]
        assert [rig.pte(page).writable for page in (9, 11)] == [False, False]

    with_file(body)


def test_fork_copies_private_pages_only():
    """Shared memory and untouched private mappings are faulted in again by the child."""

    async def body(rig, file):
        await map_file(rig, file, 0, shared=True)
        await map_file(rig, file, 8)
        await map_file(rig, file, 12)
        await rig.write(0, 1)
        await rig.read(8)
        await rig.write(12, 2)
        child = await rig.fork()
        assert [rig.pte(page, child) is not None for page in (0, 8, 12)] == [False, False, True]
        await rig.write(0, 3, child)
        await rig.write(12, 4, child)
        assert [await rig.read(page) for page in (0, 8, 12)] == [3, 3, 2]
        assert await rig.read(12, child) == 4
        await child.mmput()

    with_file(body)


def test_shared_anonymous_memory_lives_as_long_as_its_last_mapping():
    async def body(rig):
        await rig.mmap(0, 4, shared=True)
        await rig.write(1, 9)
        child = await rig.fork()
        live = rig.core.statistics()["ram"]
        await rig.munmap(0, 4)
        assert (rig.core.statistics()["ram"], await rig.read(1, child)) == (live, 9)
        await child.mmput()
        assert rig.core.statistics()["ram"] == 0

    Rig().run(body)


def test_cached_pages_are_neither_reclaimed_nor_exclusive_nor_moved_to_a_device():
    async def body(rig, file):
        toy = device(rig)
        await map_file(rig, file, 0, shared=True)
        await rig.write(0, 1)
        before = rig.pte(0)
        assert await rig.swap_out(0, 4) == 0
        with pytest.raises(EOPNOTSUPP):
            async with rig.mm.mmap_lock.reading():
                await rig.core.call(m.MakeDeviceExclusive(rig.mm, FIRST, None))
        assert await toy.to_device(0, 4) == 0
        assert rig.pte(0) == before

    with_file(body)


def test_a_written_private_page_does_move_and_the_hole_beside_it_does_not():
    async def body(rig, file):
        toy = device(rig)
        await map_file(rig, file, 0)
        await rig.write(0, 1)
        assert await toy.to_device(0, 2) == 1
        assert (rig.pte(0).kind, rig.pte(1)) == (Entry.DEVICE_PRIVATE, None)
        assert await rig.read(0) == 1

    with_file(body)


def test_two_processes_write_one_shared_page(any_schedule):
    async def body(rig):
        await rig.mmap(0, 2, shared=True)
        child = await rig.fork()

        async def writer(mm, value):
            for page in range(2):
                await rig.write(page, value, mm)

        await together(rig, (writer, rig.mm, 1), (writer, child, 2))
        for page in range(2):
            assert await rig.read(page) == await rig.read(page, child)
            assert rig.pte(page).folio is rig.pte(page, child).folio
        await child.mmput()

    Rig(*any_schedule).run(body)
