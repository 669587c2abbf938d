"""The worked examples HM-E01 to HM-E30 of the mirror digest, section 10, one test each.

Not expressible yet: HM-E19 to HM-E22 need 2 MiB pages (PMD entries and huge device folios), HM-E28
needs userfaultfd.  The last test keeps that list honest.
"""

import re
import sys

import pytest
from mirror_rig import FIRST, NONE, READ, Rig, codes, fill, p, show

from svm_actors.engine.errors import EINVAL, PropertyFailed
from svm_actors.mirror.messages import OpenMirror
from svm_actors.mm.shmem import FileObject

NEED_HUGE_PAGES = ("19", "20", "21", "22")
NEED_USERFAULTFD = ("28",)


def example(body):
    """Run the body and check that nothing is left behind."""

    def test():
        async def whole(rig):
            await body(rig)
            left = await rig.close()
            assert not any(left.values()), left

        Rig().run(whole)

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


async def zero_pages_read(rig):
    mirror = await rig.mirror()
    await rig.map(0, 4)
    result = await mirror.read(p(0), 4)
    assert (result.cpages, result.faults, result.data) == (4, 1, (0, 0, 0, 0))
    return mirror


@example
async def test_e01_untouched_memory_reads_zero_through_the_zero_page(rig):
    mirror = await zero_pages_read(rig)
    assert await show(mirror.read(p(0), 4)) == "0/4/0"
    assert await codes(mirror, 0, 4) == "11 11 11 11"


@example
async def test_e02_a_cpu_write_costs_the_page_after_it_too(rig):
    mirror = await zero_pages_read(rig)
    await rig.write(0, 7)
    assert await show(mirror.read(p(2), 2)) == "0/2/0"
    assert await show(mirror.read(p(1), 1)) == "0/1/1"  # HM-D04
    result = await mirror.read(p(0), 4)
    assert (result.faults, result.data) == (1, (7, 0, 0, 0))


@example
async def test_e03_a_read_fault_on_writable_memory_maps_it_writable(rig):
    mirror = await rig.mirror()
    await rig.map(0, 2)
    await rig.touch(0, 1, 2)
    assert await show(mirror.read(p(0), 2)) == "0/2/1"
    assert await show(mirror.write(p(0), fill(3, 4))) == "0/2/0"
    assert [await rig.read(0), await rig.read(1)] == [3, 4]


@example
async def test_e04_one_round_covers_every_piece(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1024)
    assert await show(mirror.write(p(0), fill(5) * 1024)) == "0/1024/1"
    assert (await mirror.snapshot(p(0), 1024)).codes == (0x02,) * 1024


@example
async def test_e05_pages_written_before_a_failure_stay_written(rig):
    mirror = await rig.mirror()
    await rig.map(0, 2)
    await rig.protect(1, 1, READ)
    assert await show(mirror.write(p(0), fill(1))) == "0/1/1"
    assert await show(mirror.write(p(0), fill(8, 9))) == "-EPERM"
    assert [await rig.read(0), await rig.read(1)] == [8, 0]


@example
async def test_e06_pieces_published_before_a_failure_stay_mapped(rig):
    mirror = await rig.mirror()
    await rig.map(0, 40)
    await rig.touch(0, *range(40))
    await rig.munmap(36, 1)
    assert await show(mirror.read(p(0), 40)) == "-EFAULT"
    assert await show(mirror.read(p(0), 32)) == "0/32/0"


@example
async def test_e07_memory_nobody_may_read(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1, NONE)
    assert await show(mirror.read(p(0), 1)) == "-EFAULT"
    assert await codes(mirror, 0, 1) == "ff"
    assert await show(mirror.migrate_to_dev(p(0), 1)) == "-EINVAL"


async def four_on_the_device(rig):
    mirror = await rig.mirror()
    await rig.map(0, 4)
    await rig.touch(0, 10, 11, 12, 13)
    result = await mirror.migrate_to_dev(p(0), 4)
    assert (result.cpages, result.faults, result.data) == (4, 0, (10, 11, 12, 13))
    assert await codes(mirror, 0, 4) == "22 22 22 22"
    return mirror


async def one_came_back(rig):
    mirror = await four_on_the_device(rig)
    assert await rig.read(1) == 11
    assert await codes(mirror, 0, 4) == "22 02 22 22"
    return mirror


@example
async def test_e08_a_cpu_access_brings_one_page_home(rig):
    await one_came_back(rig)


@example
async def test_e09_migrating_again_collects_only_what_came_back(rig):
    mirror = await one_came_back(rig)
    assert await show(mirror.migrate_to_dev(p(0), 4)) == "0/4/0"
    assert await codes(mirror, 0, 4) == "22 22 22 22"


def test_e09_reading_instead_meets_own_pages_without_memory():
    async def body(rig):
        mirror = await one_came_back(rig)
        await mirror.read(p(0), 4)

    with pytest.raises(PropertyFailed) as failure:
        Rig().run(body)
    assert failure.value.rule == "HM-D01"


@example
async def test_e10_holes_of_shared_memory_stay(rig):
    mirror = await rig.mirror()
    await rig.map(0, 2, shared=True)
    assert await show(mirror.migrate_to_dev(p(0), 2)) == "-ENOENT"


@example
async def test_e10_written_pages_of_a_private_file_mapping_go(rig):
    mirror = await rig.mirror()
    file = FileObject(rig.core, "file", keep=True)
    await rig.map(0, 3, file=file)
    await rig.touch(0, 1, 2, 3)
    assert await show(mirror.migrate_to_dev(p(0), 3)) == "0/3/0"
    assert await codes(mirror, 0, 3) == "22 22 22"
    file.drop()


@example
async def test_e11_steps_end_at_vma_ends(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 1)
    assert await show(mirror.migrate_to_dev(p(0), 2)) == "-EINVAL"
    assert await codes(mirror, 0, 2) == "22 ff"


@example
async def test_e12_a_failed_allocation_leaves_the_page_in_ram(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 1)
    await mirror.set_flags(p(0), 1)
    assert await show(mirror.migrate_to_dev(p(0), 1)) == "-ENOENT"
    assert await codes(mirror, 0, 1) == "02"
    assert await show(mirror.migrate_to_dev(p(0), 1)) == "0/1/0"


@example
async def test_e12_after_a_read_the_failure_goes_unseen(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 1)
    await mirror.read(p(0), 1)
    await mirror.set_flags(p(0), 1)
    assert await show(mirror.migrate_to_dev(p(0), 1)) == "0/1/0"  # HM-D05
    assert await codes(mirror, 0, 1) == "02"


@example
async def test_e13_out_of_memory_on_the_way_home_moves_nothing(rig):
    mirror = await four_on_the_device(rig)
    await mirror.set_flags(p(0), 1)
    assert await show(mirror.migrate_to_sys(p(0), 4)) == "-ENOMEM"
    assert await codes(mirror, 0, 4) == "22 22 22 22"
    assert await show(mirror.migrate_to_sys(p(0), 4)) == "0/4/0"
    assert await codes(mirror, 0, 4) == "02 02 02 02"
    assert await show(mirror.migrate_to_sys(p(0), 4)) == "0/0/0"


@example
async def test_e14_fork_shares_device_pages_read_only(rig):
    mirror = await rig.mirror()
    await rig.map(0, 2)
    await rig.touch(0, 1, 2)
    await mirror.migrate_to_dev(p(0), 2)
    child = await rig.fork()
    of_child = await rig.devices[0].call(OpenMirror(child))
    assert [await codes(mirror, 0, 2), await codes(of_child, 0, 2)] == ["21 21", "21 21"]
    assert await show(mirror.write(p(0), fill(9))) == "-EFAULT"
    await rig.write(0, 5)
    assert await codes(mirror, 0, 2) == "02 21"
    assert [await rig.read(0), await rig.read(0, child)] == [5, 1]
    await child.mmput()


@example
async def test_e15_revoking_one_exclusive_page_costs_the_next_entry_too(rig):
    mirror = await rig.mirror()
    await rig.map(0, 2)
    await rig.touch(0, 1, 2)
    assert await show(mirror.exclusive(p(0), 2)) == "0/2/0"
    assert await show(mirror.check_exclusive(p(0), 2)) == "-EPERM"
    assert await codes(mirror, 0, 2) == "00 00"
    assert await rig.read(0) == 1
    assert await show(mirror.check_exclusive(p(0), 2)) == "0/0/0"  # HM-D04
    assert await codes(mirror, 0, 2) == "02 00"


@example
async def test_e16_a_device_write_ends_exclusive_access(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 1)
    assert await show(mirror.exclusive(p(0), 1)) == "0/1/0"
    assert await show(mirror.read(p(0), 1)) == "0/1/0"
    assert await show(mirror.write(p(0), fill(2))) == "0/1/1"
    assert await show(mirror.check_exclusive(p(0), 1)) == "0/0/0"


@example
async def test_e17_mprotect_ends_exclusive_access(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 1)
    assert await show(mirror.exclusive(p(0), 1)) == "0/1/0"
    await rig.protect(0, 1, READ)
    assert await show(mirror.check_exclusive(p(0), 1)) == "0/0/0"
    assert await show(mirror.write(p(0), fill(2))) == "-EPERM"


@example
async def test_e18_exclusive_pages_do_not_migrate_although_it_says_so(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 1)
    assert await show(mirror.exclusive(p(0), 1)) == "0/1/0"
    assert await show(mirror.migrate_to_dev(p(0), 1)) == "0/1/0"
    assert await show(mirror.check_exclusive(p(0), 1)) == "-EPERM"
    assert await codes(mirror, 0, 1) == "00"


@example
async def test_e23_a_page_of_another_device_comes_home_first(rig):
    d0, d1 = await rig.mirror(), await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 6)
    assert await show(d1.migrate_to_dev(p(0), 1)) == "0/1/0"
    assert await codes(d0, 0, 1) == "00"
    assert await show(d0.migrate_to_dev(p(0), 1)) == "-ENOENT"
    assert d1.pt.load(FIRST) is None  # a foreign MIGRATE for d1
    assert await show(d0.read(p(0), 1)) == "0/1/1"
    assert await codes(d1, 0, 1) == "02"
    assert await show(d1.read(p(0), 1)) == "0/1/1"


@example
async def test_e24_a_foreign_migration_is_not_filtered(rig):
    d0, d1 = await rig.mirror(), await rig.mirror()
    await rig.map(0, 6)
    await rig.touch(0, *range(6))
    await rig.protect(0, 6, READ)
    assert [await show(mirror.read(p(0), 6)) for mirror in (d0, d1)] == ["0/6/1", "0/6/1"]
    assert await show(d1.migrate_to_dev(p(0), 6)) == "0/6/0"
    assert await show(d0.read(p(0), 6)) == "0/6/1"
    assert await codes(d0, 0, 6) == "01 01 01 01 01 01"


@example
async def test_e25_the_other_device_runs_out_of_memory(rig):
    d0, d1 = await rig.mirror(), await rig.mirror()
    await rig.map(0, 1)
    await rig.touch(0, 6)
    await d0.migrate_to_dev(p(0), 1)
    await d0.set_flags(p(0), 1)
    assert await show(d1.read(p(0), 1)) == "-ENOMEM"
    assert await show(d1.read(p(0), 1)) == "0/1/1"


@example
async def test_e26_release_evicts_everything(rig):
    mirror = await four_on_the_device(rig)
    assert await show(mirror.release(p(0), 1)) == "0/0/0"
    assert await codes(mirror, 0, 4) == "02 02 02 02"
    result = await mirror.read(p(0), 4)
    assert (result.faults, result.data) == (1, (10, 11, 12, 13))
    assert await show(mirror.migrate_to_dev(p(0), 4)) == "0/4/0"  # in a new chunk


def test_e27_a_second_mirror_keeps_pointing_to_the_freed_page():
    """The kernel's answer would be 0/1/0 from freed memory; the model reports the access."""

    async def body(rig):
        device = rig.device()
        first, second = await device.call(OpenMirror(rig.mm)), await device.call(OpenMirror(rig.mm))
        await rig.map(0, 1)
        await rig.touch(0, 6)
        assert await show(second.read(p(0), 1)) == "0/1/1"
        assert await show(first.migrate_to_dev(p(0), 1)) == "0/1/0"
        await second.read(p(0), 1)

    with pytest.raises(PropertyFailed) as failure:
        Rig().run(body)
    assert failure.value.rule == "INV-05"


@example
async def test_e29_arguments_are_checked_first(rig):
    mirror = await rig.mirror()
    await rig.map(0, 1)
    assert await show(mirror.set_flags(p(0), 0)) == "-EINVAL"
    assert await show(mirror.read(p(0), 0)) == "-EINVAL"
    assert await show(mirror.read(p(0) + 1, 1)) == "-EINVAL"


def test_e30_commands_on_an_exited_process():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        await rig.touch(0, 1)
        await mirror.migrate_to_dev(p(0), 1)
        await rig.mm.mmput()
        assert (len(mirror.pt), rig.devices[0].statistics()["live"]) == (0, 0)
        assert await show(mirror.read(p(0), 1)) == "-EFAULT"
        assert await show(mirror.snapshot(p(0), 1)) == "-EINVAL"
        assert await show(mirror.check_exclusive(p(0), 1)) == "0/0/0"
        with pytest.raises(EINVAL):
            await rig.devices[0].call(OpenMirror(rig.mm))
        await mirror.close()

    Rig().run(body)


def test_every_example_is_here_or_named_as_missing():
    tested = {match[1] for name in dir(sys.modules[__name__]) if (match := re.match(r"test_e(\d\d)_", name))}
    assert sorted(tested | {*NEED_HUGE_PAGES, *NEED_USERFAULTFD}) == [f"{number:02}" for number in range(1, 31)]
    assert tested.isdisjoint(NEED_HUGE_PAGES + NEED_USERFAULTFD)
