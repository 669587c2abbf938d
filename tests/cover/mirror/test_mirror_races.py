"""Races of the driver: each trap is found within a stated number of schedules, and the mended driver
survives the same ones."""

import pytest
from mirror_rig import FIRST, Rig, fill, p, schedules, show

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.mended import MendedDevice
from svm_actors.mm.messages import ReclaimPages

SCHEDULES = 400


class Lost(Exception):
    """A store that returned is not there."""


async def a_write_into_a_migration(rig, mirror):
    """HM-D03: the device writes while its own driver migrates the page, either way."""
    await rig.map(0, 1)
    await rig.write(0, 1)
    await mirror.read(p(0), 1)
    async with rig.engine.nursery() as nursery:
        nursery.start_soon(show, mirror.write(p(0), fill(2)))
        nursery.start_soon(show, mirror.migrate_to_dev(p(0), 1))
    if await rig.read(0) != 2:
        raise Lost


async def a_write_into_the_way_home(rig, mirror):
    await rig.map(0, 1)
    await rig.write(0, 1)
    await mirror.migrate_to_dev(p(0), 1)
    await mirror.write(p(0), fill(1))
    async with rig.engine.nursery() as nursery:
        nursery.start_soon(show, mirror.write(p(0), fill(2)))
        nursery.start_soon(show, mirror.migrate_to_sys(p(0), 1))
    if await rig.read(0) != 2:
        raise Lost


async def a_zap_before_finalize(rig, mirror):
    """MM-R15: the entry published between pages and finalize outlives the page."""
    await rig.map(0, 1)
    await rig.write(0, 1)
    async with rig.engine.nursery() as nursery:
        nursery.start_soon(show, mirror.migrate_to_dev(p(0), 1))
        nursery.start_soon(rig.dontneed, 0, 1)
    await show(mirror.read(p(0), 1))


async def a_zap_before_the_exclusive_store(rig, mirror):
    """MM-R28: a zap needs no folio lock, so the lock does not protect the entry about to be stored."""
    await rig.map(0, 1)
    await rig.write(0, 1)
    async with rig.engine.nursery() as nursery:
        nursery.start_soon(show, mirror.exclusive(p(0), 1))
        nursery.start_soon(rig.dontneed, 0, 1)
    await show(mirror.read(p(0), 1))


async def a_fault_inside_a_filtered_migration(rig, mirror):
    """HM-D03 again: the walk saw the old page, and nothing moved the sequence."""
    await rig.map(0, 1)
    await rig.write(0, 1)
    async with rig.engine.nursery() as nursery:
        nursery.start_soon(show, mirror.read(p(0), 1))
        nursery.start_soon(show, mirror.migrate_to_dev(p(0), 1))
    await show(mirror.read(p(0), 1))


STORIES = [
    a_write_into_a_migration,
    a_write_into_the_way_home,
    a_zap_before_finalize,
    a_zap_before_the_exclusive_store,
    a_fault_inside_a_filtered_migration,
]


def outcome(story, kind, chooser):
    """None when the story held, else what went wrong; a run that held must leave nothing behind."""
    rig = Rig(chooser)

    async def body(rig):
        options = {} if kind is MendedDevice else {"own_pages": "backing"}
        await story(rig, await rig.mirror(kind, **options))
        left = await rig.close()
        assert not any(left.values()), left

    try:
        rig.run(body)
    except (Lost, PropertyFailed) as failure:
        return failure
    return None


@pytest.mark.parametrize("story", STORIES)
def test_the_stock_driver_is_caught(story):
    failures = (outcome(story, MirrorDevice, chooser) for chooser in schedules(SCHEDULES, story.__name__))
    failure = next((found for found in failures if found is not None), None)
    assert failure is not None
    assert isinstance(failure, Lost) or failure.rule == "INV-05"


@pytest.mark.parametrize("story", STORIES)
def test_the_mended_driver_survives(story):
    for chooser in schedules(SCHEDULES, story.__name__):
        assert outcome(story, MendedDevice, chooser) is None


def test_a_mended_device_stays_coherent_with_everything_going_on():
    """One writer counts up; whoever reads, CPU or device, never sees the count go down."""
    seen = set()
    for chooser in schedules(60, "coherence"):

        async def body(rig):
            d0, d1 = await rig.mirror(MendedDevice), await rig.mirror(MendedDevice)
            await rig.map(0, 1)

            async def count():
                for value in range(1, 5):
                    await d0.write(p(0), fill(value))

            async def watch(read):
                last = 0
                for _ in range(4):
                    value = await read()
                    assert value >= last
                    last = value
                seen.add(last)

            async def through_d1():
                return (await d1.read(p(0), 1)).data[0]

            async def move():
                await show(d1.migrate_to_dev(p(0), 1))
                await rig.core.call(ReclaimPages(rig.mm, FIRST, FIRST + 1))
                await show(d0.migrate_to_dev(p(0), 1))
                await show(d0.migrate_to_sys(p(0), 1))

            async with rig.engine.nursery() as nursery:
                nursery.start_soon(count)
                nursery.start_soon(watch, lambda: rig.read(0))
                nursery.start_soon(watch, through_d1)
                nursery.start_soon(move)
            assert await rig.read(0) == 4
            assert not any((await rig.close()).values())

        Rig(chooser).run(body)
    assert len(seen) > 2
