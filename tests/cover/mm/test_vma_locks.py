"""Per-VMA locks and the fairness of mmap_lock (core_mm section 2)."""

import pytest
from mm_rig import FIRST, Rig
from race_rig import device, race, together

from svm_actors.engine.errors import Deadlock
from svm_actors.mm.page_table import Entry


def vma_at(rig, page=0):
    vma = rig.mm.vmas.find(FIRST + page)
    assert vma is not None
    return vma


def test_faults_and_dontneed_go_on_while_mmap_lock_is_held_for_write():
    """Only the VMA read lock is taken, as long as nobody has marked this VMA."""

    async def body(rig):
        await rig.write(0, 1)
        done = []

        async def writer():
            await rig.mm.mmap_write_lock()
            while len(done) < 2:
                await rig.engine.sleep(1)
            rig.mm.mmap_write_unlock()

        async def user():
            await rig.engine.sleep(1)
            await rig.write(1, 5)
            done.append("fault")
            await rig.madvise(0, 1, "dontneed")
            done.append("dontneed")

        await together(rig, writer, user)
        assert (rig.pte(0), await rig.read(1)) == (None, 5)

    Rig().run(body)


@pytest.mark.parametrize("how", ["unlock", "downgrade"])
def test_a_write_mark_keeps_faults_out_until_unlock_or_downgrade(how):
    async def body(rig):
        order = []

        async def writer():
            await rig.mm.mmap_write_lock()
            await vma_at(rig).start_write()
            order.append("marked")
            await rig.engine.sleep(5)
            order.append("unmarking")
            if how == "unlock":
                rig.mm.mmap_write_unlock()
            else:
                rig.mm.mmap_write_downgrade()
                await rig.engine.sleep(5)
                order.append("still reading")
                rig.mm.mmap_lock.release()

        async def user():
            await rig.engine.sleep(1)
            await rig.write(0, 1)
            order.append("fault")

        await together(rig, writer, user)
        late = ["still reading"] if how == "downgrade" else []
        assert order == ["marked", "unmarking", "fault", *late]

    Rig().run(body)


def test_start_write_waits_for_readers_and_lets_no_new_one_in():
    async def body(rig):
        vma = vma_at(rig)
        assert vma.try_start_read()
        assert vma.try_start_read()
        order = []

        async def writer():
            await rig.mm.mmap_write_lock()
            await vma.start_write()
            order.append("written")
            rig.mm.mmap_write_unlock()

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(writer)
            await rig.engine.sleep(1)
            assert not vma.try_start_read()
            vma.end_read()
            await rig.engine.sleep(1)
            order.append("one left")
            vma.end_read()
        assert order == ["one left", "written"]
        assert vma.try_start_read()
        vma.end_read()

    Rig().run(body)


def test_a_detached_vma_cannot_be_read_locked():
    async def body(rig):
        vma = vma_at(rig)
        await rig.munmap(0, 16)
        assert (vma.attached, vma.writer, vma.try_start_read()) == (False, False, False)

    Rig().run(body)


def test_marks_are_idempotent_and_forgotten_together():
    async def body(rig):
        await rig.mprotect(4, 4, "r")
        await rig.mm.mmap_write_lock()
        for page in (0, 4, 0):
            await vma_at(rig, page).start_write()
        assert rig.mm.write_marked == [vma_at(rig, 0), vma_at(rig, 4)]
        rig.mm.mmap_write_unlock()
        assert rig.mm.write_marked == []
        assert [vma_at(rig, page).writer for page in (0, 4)] == [False, False]

    Rig().run(body)


def test_a_device_page_is_not_handled_under_the_vma_lock():
    """It is redone under mmap_lock, so it waits for a writer that an ordinary fault would pass."""

    async def body(rig):
        toy = device(rig)
        await rig.write(0, 7)
        assert await toy.to_device(0, 1) == 1
        order = []

        async def writer():
            await rig.mm.mmap_write_lock()
            await rig.engine.sleep(10)
            order.append("writer")
            rig.mm.mmap_write_unlock()

        async def user(page):
            await rig.engine.sleep(1)
            await rig.write(page, 7)
            order.append(page)

        await together(rig, writer, (user, 0), (user, 1))
        assert order == [1, "writer", 0]

    Rig().run(body)


def test_a_queued_writer_keeps_new_readers_out():
    async def body(rig):
        lock, order = rig.mm.mmap_lock, []

        async def first_reader():
            await lock.read()
            await rig.engine.sleep(10)
            order.append("reader out")
            lock.release()

        async def writer():
            await rig.engine.sleep(1)
            await lock.write()
            order.append("writer")
            lock.release()

        async def second_reader():
            await rig.engine.sleep(2)
            await lock.read()
            order.append("late reader")
            lock.release()

        await together(rig, first_reader, writer, second_reader)
        assert order == ["reader out", "writer", "late reader"]

    Rig().run(body)


def test_reading_twice_in_two_tasks_around_a_writer_is_a_deadlock():
    """A reader that waits for another reader, with a writer queued between the two."""

    async def body(rig):
        lock = rig.mm.mmap_lock

        async def inner():
            await rig.engine.sleep(2)
            await lock.read()
            lock.release()

        async def outer():
            await lock.read()
            await rig.engine.join(rig.engine.spawn(inner(), "inner"))
            lock.release()

        async def writer():
            await rig.engine.sleep(1)
            await lock.write()
            lock.release()

        await together(rig, outer, writer)

    with pytest.raises(Deadlock):
        Rig().run(body)


def test_munmap_lets_faults_in_as_soon_as_it_has_downgraded():
    """Readers run beside the zap; a mapping needs mmap_lock for write and comes after it."""
    seen = set()

    async def body(rig):
        toy = device(rig)
        await rig.write(8, 7)
        assert await toy.to_device(8, 1) == 1
        await rig.write(0, 1)

        async def unmap():
            await rig.munmap(0, 1)
            order.append("munmap")

        async def fault():
            assert await rig.read(8) == 7
            order.append("fault")

        order = []
        await together(rig, unmap, fault)
        seen.add(tuple(order))
        assert rig.pte(8).kind is Entry.PRESENT

    for schedule in range(40):
        race(body, schedule)
    assert seen == {("munmap", "fault"), ("fault", "munmap")}


def test_split_and_merge_race_faults_of_the_same_mapping(any_schedule):
    """Faults under the VMA lock see the VMA before or after, never in between."""

    async def body(rig):
        async def protect():
            for _ in range(2):
                await rig.mprotect(4, 4, "r")
                await rig.mprotect(4, 4, "rw")

        async def touch(first):
            for page in range(first, 16, 2):
                if not 4 <= page < 8:
                    await rig.write(page, page + 1)

        await together(rig, protect, (touch, 0), (touch, 1))
        assert [await rig.read(page) for page in (0, 3, 8, 15)] == [1, 4, 9, 16]
        assert rig.vmas() == [(0, 16)]

    Rig(*any_schedule).run(body)
