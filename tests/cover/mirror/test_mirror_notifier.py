"""The interval callback of a mirror: what it retires, what it skips, when it refuses (section 2)."""

import pytest
from mirror_rig import FIRST, Rig, fill, p, show

from svm_actors.mirror.commands import SnapshotNotifier
from svm_actors.mirror.mended import MendedDevice
from svm_actors.mirror.messages import InvalidateMirror, InvalidateSnapshot, OpenMirror
from svm_actors.mm.mmu_notifier import Event, IntervalNotifier, NotifierRange

SEQ = 41


async def mapped(rig, kind=None):
    """A mirror with pages 0 to 5 in its table."""
    mirror = await (rig.mirror(kind) if kind else rig.mirror())
    if not rig.mm.vmas:
        await rig.map(0, 6)
    assert await show(mirror.write(p(0), fill(0, 1, 2, 3, 4, 5))) == "0/6/1"
    return mirror


def present(mirror):
    return [page for page in range(6) if mirror.pt.load(FIRST + page)]


async def announce(rig, mirror, event, start, end, owner=None, blockable=True):
    range_ = NotifierRange(rig.mm, event, FIRST + start, FIRST + end, owner, blockable)
    return await mirror.device.call(InvalidateMirror(mirror, range_, SEQ))


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("who", ["nobody", "me", "another"])
def test_only_my_own_migration_is_skipped_and_the_event_is_looked_at_first(event, who):
    """MM-R21: the owner of any other event is noise."""

    async def body(rig):
        mirror = await mapped(rig)
        owner = {"nobody": None, "me": mirror.device, "another": rig.device()}[who]
        before = mirror.notifier.seq
        assert await announce(rig, mirror, event, 1, 3, owner) is True
        skipped = (event, who) == (Event.MIGRATE, "me")
        assert present(mirror) == ([0, 1, 2, 3, 4, 5] if skipped else [0, 4, 5])
        assert mirror.notifier.seq == (before if skipped else SEQ)

    Rig().run(body)


def test_the_end_of_an_event_is_taken_as_inclusive():
    """HM-D04, and the mended driver next to it."""

    async def body(rig):
        stock, mended = await mapped(rig), await mapped(rig, MendedDevice)
        for mirror in (stock, mended):
            await announce(rig, mirror, Event.CLEAR, 0, 2)
        assert (present(stock), present(mended)) == ([3, 4, 5], [2, 3, 4, 5])

    Rig().run(body)


@pytest.mark.parametrize("kind", ["mirror", "snapshot"])
def test_a_callback_that_may_not_sleep_refuses_while_the_mutex_is_taken(kind):
    async def body(rig):
        mirror = await mapped(rig)
        temporary = IntervalNotifier("temporary", SnapshotNotifier(mirror))
        range_ = NotifierRange(rig.mm, Event.CLEAR, FIRST, FIRST + 6, blockable=False)
        message = InvalidateMirror(mirror, range_, SEQ)
        if kind == "snapshot":
            message = InvalidateSnapshot(mirror, temporary, range_, SEQ)
        answers = []

        async def ask():
            answers.append(await mirror.device.call(message))

        async with mirror.mutex, rig.engine.nursery() as nursery:
            nursery.start_soon(ask)
            await rig.engine.sleep(10)
        assert (len(present(mirror)), temporary.seq) == (6, 0)
        await ask()
        assert answers == [False, True]
        assert (len(present(mirror)), temporary.seq) == ((0, 0) if kind == "mirror" else (6, SEQ))

    Rig().run(body)


def test_a_callback_that_may_sleep_waits_for_the_mutex():
    async def body(rig):
        mirror = await mapped(rig)
        seen = []

        async def invalidate():
            seen.append(await announce(rig, mirror, Event.UNMAP, 0, 6))

        async with rig.engine.nursery() as nursery, mirror.mutex:
            nursery.start_soon(invalidate)
            await rig.engine.sleep(10)
            assert (seen, len(present(mirror))) == ([], 6)
        assert (seen, present(mirror)) == ([True], [])

    Rig().run(body)


def test_a_system_call_empties_the_table_of_every_mirror_of_the_process():
    async def body(rig):
        first, second = await mapped(rig), await mapped(rig)
        await rig.munmap(2, 2)
        assert [present(first), present(second)] == [[0, 1, 5], [0, 1, 5]]
        await rig.munmap(0, 6)
        assert [len(first.pt), len(second.pt)] == [0, 0]

    Rig().run(body)


def test_a_mirror_of_another_process_hears_nothing():
    async def body(rig):
        mirror = await mapped(rig)
        other = await rig.devices[0].call(OpenMirror(rig.core.new_mm("other")))
        seq = other.notifier.seq
        await rig.munmap(0, 6)
        assert (len(mirror.pt), other.notifier.seq) == (0, seq)

    Rig().run(body)
