"""The commands of section 4: windows, counts, errors, life cycle; what the worked examples do not show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror_rig import FIRST, NONE, READ, Rig, codes, fill, p, show

from svm_actors.engine.errors import EINVAL, EngineError, PropertyFailed
from svm_actors.mirror.mended import MendedDevice
from svm_actors.mirror.messages import OpenMirror, Read, RemoveDevice
from svm_actors.mirror.page_table import MirrorPageTable, Tag
from svm_actors.mm.folio import Folio, Kind
from svm_actors.mm.messages import MigrateVmaSetup, ReclaimPages
from svm_actors.mm.page_table import Entry
from svm_actors.mm.shmem import FileObject


def log_windows(rig):
    """Record the window of each migration from now on, relative to p0."""
    windows = []
    verb, handler = rig.core.handlers[MigrateVmaSetup]

    async def logging(message):
        windows.append((message.args.start - FIRST, message.args.end - FIRST))
        return await handler(message)

    rig.core.handlers[MigrateVmaSetup] = (verb, logging)
    return windows


def test_migration_goes_in_steps_of_512_pages_and_vma_ends():
    async def body(rig):
        mirror = await rig.mirror(own_pages="backing")
        await rig.map(0, 1100)
        await rig.protect(600, 500, READ)
        windows = log_windows(rig)
        assert await show(mirror.migrate_to_dev(p(10), 1090)) == "0/1090/0"
        assert windows == [(10, 522), (522, 600), (600, 1100)]
        windows.clear()
        assert await show(mirror.migrate_to_sys(p(100), 600)) == "0/600/0"
        assert windows == [(100, 600), (600, 700)]
        assert rig.engine.counters["mirror.migrate.to_dev"] == 1090
        assert rig.devices[0].statistics()["live"] == 490

    Rig().run(body)


def test_migrating_home_counts_what_moved_and_not_what_was_asked():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 6)
        await rig.touch(0, 1, 2, 3)
        await mirror.migrate_to_dev(p(0), 4)
        await rig.read(2)
        assert await show(mirror.migrate_to_sys(p(0), 6)) == "0/3/0"
        assert [await rig.read(page) for page in range(4)] == [1, 2, 3, 0]

    Rig().run(body)


@pytest.mark.parametrize("command", ["migrate_to_dev", "migrate_to_sys", "exclusive", "read", "read_unlocked"])
def test_errors_give_back_every_lock_and_count(command):
    """Page 1 is missing, so each command fails in the middle."""

    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        expected = "-EINVAL" if command.startswith("migrate") else "-EFAULT"
        assert await show(getattr(mirror, command)(p(0), 2)) == expected
        assert rig.mm.users == 1
        assert not rig.mm.mmap_lock.holders()
        assert not mirror.mutex.holders()
        await rig.munmap(0, 1)
        assert not any((await rig.close()).values())

    Rig().run(body)


@pytest.mark.parametrize("addr", [p(0) + 1, p(0) + 4095])
@pytest.mark.parametrize("npages", [1, 0])
def test_bad_arguments_are_refused_by_every_command(addr, npages):
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        names = ["read", "read_unlocked", "migrate_to_dev", "migrate_to_sys", "snapshot", "exclusive"]
        names += ["check_exclusive", "release", "set_flags"]
        answers = [await show(getattr(mirror, name)(addr, npages)) for name in names]
        answers.append(await show(mirror.write(addr, fill(*range(npages)))))
        answers.append(await show(mirror.read(p(0), 0)))
        answers.append(await show(mirror.read((1 << 64) - 4096, 2)))
        assert answers == ["-EINVAL"] * 12

    Rig().run(body)


def test_exclusive_needs_writable_anonymous_memory_and_keeps_what_it_got():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 3)
        await rig.protect(2, 1, READ)
        await rig.map(4, 1, shared=True)
        assert await show(mirror.exclusive(p(0), 3)) == "-EFAULT"
        assert await codes(mirror, 0, 3) == "00 00 00"
        assert [rig.mm.page_table.get(FIRST + page) is not None for page in range(3)] == [True, True, False]
        assert await show(mirror.check_exclusive(p(0), 1)) == "-EPERM"
        assert await show(mirror.exclusive(p(4), 1)) == "-EOPNOTSUPP"
        assert await show(mirror.exclusive(p(8), 1)) == "-EFAULT"
        assert await rig.read(0) == 0

    Rig().run(body)


def test_check_exclusive_looks_at_its_range_only():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 5)
        await mirror.read(p(0), 5)
        await mirror.exclusive(p(2), 1)
        answers = [await show(mirror.check_exclusive(p(first), count)) for first, count in ((0, 2), (3, 2), (0, 5))]
        assert answers == ["0/0/0", "0/0/0", "-EPERM"]

    Rig().run(body)


def test_exclusive_moves_from_one_device_to_the_other():
    """Section 8: the second device's access restores the entry first, for both."""

    async def body(rig):
        d0, d1 = await rig.mirror(), await rig.mirror()
        await rig.map(0, 1)
        await rig.write(0, 3)
        assert await show(d1.exclusive(p(0), 1)) == "0/1/0"
        result = await d0.exclusive(p(0), 1)
        assert result.data == (3,)
        assert [await show(mirror.check_exclusive(p(0), 1)) for mirror in (d0, d1)] == ["-EPERM", "0/0/0"]

    Rig().run(body)


def test_snapshot_tells_every_state_of_an_entry():
    async def body(rig):
        d0, d1 = await rig.mirror(), await rig.mirror()
        await rig.map(0, 9)
        await rig.read(1)
        await rig.write(2, 1)
        await rig.write(3, 1)
        await rig.protect(3, 1, READ)
        await d0.migrate_to_dev(p(4), 1)
        await d1.migrate_to_dev(p(5), 1)
        await rig.write(6, 1)
        await rig.core.call(ReclaimPages(rig.mm, FIRST + 6, FIRST + 7))
        await d1.exclusive(p(7), 1)
        await rig.protect(8, 1, NONE)
        assert await codes(d0, 0, 10) == "00 11 02 01 22 00 00 00 ff ff"
        assert await codes(d1, 0, 10) == "00 11 02 01 00 22 00 00 ff ff"
        assert len(rig.mm.subscriptions.tree) == 2  # the temporary ones are gone

    Rig().run(body)


def test_a_private_file_page_is_read_through_and_copied_on_write():
    async def body(rig):
        mirror = await rig.mirror()
        file = FileObject(rig.core, "file", keep=True)
        await rig.map(0, 1, file=file)
        await rig.map(1, 1, file=file, shared=True)
        assert await show(mirror.write(p(1), fill(4))) == "0/1/1"
        assert (await mirror.read(p(0), 1)).data == (4,)
        assert await show(mirror.write(p(0), fill(5))) == "0/1/1"
        assert [await rig.read(0), await rig.read(1), file.pages[0].content.byte(0)] == [5, 4, 4]
        file.drop()

    Rig().run(body)


def test_two_devices_share_one_ram_page():
    async def body(rig):
        d0, d1 = await rig.mirror(), await rig.mirror()
        await rig.map(0, 1)
        assert [await show(d0.write(p(0), fill(1))), await show(d1.write(p(0), fill(2)))] == ["0/1/1"] * 2
        assert (await d0.read(p(0), 1)).data == (2,)
        assert d0.pt.load(FIRST).folio is d1.pt.load(FIRST).folio

    Rig().run(body)


def test_commands_through_an_inherited_file_act_on_the_parent():
    """Section 7: the child uses the parent's mirror; only a mirror of its own shows its own memory."""

    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        await rig.write(0, 1)
        child = await rig.fork()
        await rig.write(0, 5, child)
        assert (await mirror.read(p(0), 1)).data == (1,)
        own = await rig.devices[0].call(OpenMirror(child))
        assert (await own.read(p(0), 1)).data == (5,)
        assert await show(own.write(p(0), fill(6))) == "0/1/0"
        assert [await rig.read(0), await rig.read(0, child)] == [1, 6]
        await child.mmput()

    Rig().run(body)


def test_close_evicts_the_device_whoever_uses_it():
    async def body(rig):
        mirror = await rig.mirror()
        other = await rig.devices[0].call(OpenMirror(rig.mm))
        await rig.map(0, 2)
        await rig.touch(0, 1, 2)
        await mirror.migrate_to_dev(p(0), 2)
        await other.close()
        assert await codes(mirror, 0, 2) == "02 02"
        assert rig.devices[0].mirrors == [mirror]
        assert rig.mm.subscriptions.tree == [mirror.notifier]
        await mirror.close()
        assert rig.mm.count == 1

    Rig().run(body)


def test_a_page_that_outlives_the_mirror_that_brought_it_in_is_reported():
    """HM-D09: eviction at close is best effort."""

    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        await rig.write(0, 1)
        await mirror.migrate_to_dev(p(0), 1)
        folio = rig.mm.page_table.get(FIRST).folio
        folio.get("pin")
        folio.get("pin")
        await mirror.close()
        folio.put("pin")
        folio.put("pin")
        await rig.read(0)

    with pytest.raises(PropertyFailed) as failure:
        Rig().run(body)
    assert failure.value.rule == "HM-D09"


@pytest.mark.parametrize("mended", [False, True])
def test_running_out_of_memory_halfway_leaks_migration_entries_unless_mended(mended):
    """HM-D06: finalize without pages takes the destinations that are set for the truth (MM-B47)."""

    async def body(rig):
        mirror = await (rig.mirror(MendedDevice) if mended else rig.mirror())
        await rig.map(0, 2)
        await rig.touch(0, 1, 2)
        await mirror.migrate_to_dev(p(0), 2)
        rig.core.allocator.limit = len(rig.core.allocator.live) + 1
        assert await show(mirror.migrate_to_sys(p(0), 2)) == "-ENOMEM"
        kinds = [rig.mm.page_table.get(FIRST + page).kind for page in range(2)]
        assert kinds == [Entry.DEVICE_PRIVATE if mended else Entry.MIGRATION, Entry.DEVICE_PRIVATE]
        rig.core.allocator.limit = None
        if mended:
            assert [await rig.read(0), await rig.read(1)] == [1, 2]

    Rig().run(body)


def test_an_unknown_message_and_a_dead_process_are_refused():
    async def body(rig):
        device = rig.device()
        with pytest.raises(EngineError, match="no handler"):
            await device.call(MigrateVmaSetup(None))
        dead = rig.core.new_mm("dead")
        await dead.mmput()
        with pytest.raises(EINVAL):
            await device.call(OpenMirror(dead))
        assert device.mirrors == []

    Rig().run(body)


def test_removing_the_device_frees_its_memory():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 3)
        await rig.touch(0, 1, 2, 3)
        await mirror.migrate_to_dev(p(0), 3)
        await rig.devices[0].call(RemoveDevice())
        assert rig.devices[0].statistics()["chunks"] == 0
        assert [await rig.read(page) for page in range(3)] == [1, 2, 3]

    Rig().run(body)


def test_each_verb_is_the_message_of_its_name():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 2)
        by_message = await mirror.device.call(Read(mirror, p(0), 2))
        assert (await mirror.read(p(0), 2)).pages == by_message.pages

    Rig().run(body)


pages = st.integers(0, 40)


@given(st.lists(st.tuples(pages, pages, st.sampled_from([None, *Tag]))))
def test_the_page_table_is_a_dict_with_ranges(actions):
    """A tag stores it at the first page; None erases the range, both ends included."""
    table, expected = MirrorPageTable("pt"), {}
    folio = Folio(None, 1, 0, Kind.RAM)
    for first, last, tag in actions:
        if tag is None:
            doomed = [page for page in expected if first <= page <= last]
            assert table.erase(first, last) == len(doomed)
            for page in doomed:
                del expected[page]
        else:
            table.store(first, folio, tag)
            expected[first] = tag
    assert {page: table.load(page).tag for page in range(41) if table.load(page)} == expected
    assert len(table) == len(expected)
    following = [table.next_from(page, 30) for page in range(31)]
    assert [found and found[0] for found in following] == [
        min((other for other in expected if page <= other < 30), default=None) for page in range(31)
    ]
