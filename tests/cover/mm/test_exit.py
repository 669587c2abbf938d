"""The end of an address space: order of events, what goes, what others keep (core_mm section 5)."""

import pytest
from mm_rig import FIRST, Recorder, Rig
from race_rig import MiniGpu, device, race, together

from svm_actors.engine.errors import EFAULT, EINVAL
from svm_actors.mm import messages as m
from svm_actors.mm.events import MmExited


def test_release_comes_first_then_unmap_then_the_mappings():
    order = []

    class Watcher(Recorder):
        async def invalidate(self, notifier, event, seq):
            mm = event.mm
            order.append((event.event.value, len(mm.vmas), len(mm.page_table), mm.users))
            return await super().invalidate(notifier, event, seq)

    async def body(rig):
        watcher = Watcher("watcher")
        await rig.core.call(m.IntervalNotifierInsert(watcher.notifier, rig.mm, FIRST, 16))
        await rig.write(0, 1)
        rig.engine.listeners.append(lambda event: order.append("exited") if type(event) is MmExited else None)
        await rig.mm.mmput()
        assert (len(rig.mm.vmas), len(rig.mm.page_table), rig.mm.exited) == (0, 0, True)
        await rig.core.call(m.IntervalNotifierRemove(watcher.notifier))

    Rig().run(body)
    assert order == [("RELEASE", 1, 1, 0), ("UNMAP", 1, 1, 0), "exited"]


def test_a_dead_mm_is_not_given_out_again():
    async def body(rig):
        assert await rig.mm.mmget_not_zero()
        await rig.mm.mmput()
        assert (rig.mm.users, rig.mm.exited) == (1, False)
        await rig.mm.mmput()
        assert not await rig.mm.mmget_not_zero()
        late = Recorder("late")
        with pytest.raises(EINVAL):
            await rig.core.call(m.IntervalNotifierInsert(late.notifier, rig.mm, FIRST, 1))

    Rig().run(body)


def test_a_subscription_keeps_the_structure_but_not_the_memory():
    async def body(rig):
        await rig.write(0, 1)
        assert rig.mm.count == 2
        await rig.mm.mmput()
        assert (rig.mm.count, rig.core.statistics()) == (1, {"mms": 0, "ram": 0, "swap": 0})
        await rig.core.call(m.IntervalNotifierRemove(rig.recorder.notifier))
        assert rig.mm.count == 0

    Rig().run(body)


@pytest.mark.parametrize("state", ["present", "swapped", "device", "exclusive"])
def test_nothing_is_left_whatever_state_the_pages_are_in(state):
    async def body(rig):
        toy = device(rig)
        for page in range(3):
            await rig.write(page, 1)
        if state == "swapped":
            assert await rig.swap_out(0, 3) == 3
        elif state == "device":
            assert await toy.to_device(0, 3) == 3
        elif state == "exclusive":
            async with rig.mm.mmap_lock.reading():
                folio = await rig.core.call(m.MakeDeviceExclusive(rig.mm, FIRST, None))
            folio.lock.release()
            folio.put("exclusive")
        await rig.mm.mmput()
        assert rig.core.statistics() == {"mms": 0, "ram": 0, "swap": 0}
        assert (toy.pgmap.live, len(toy.free)) == ({}, 64)

    Rig().run(body)


def test_the_other_side_of_a_fork_keeps_its_pages(any_schedule):
    """Exit of one process, faults, reclaim and migration of the other."""

    async def body(rig):
        toy = device(rig)
        for page in range(3):
            await rig.write(page, page + 1)
        child = await rig.fork()

        async def parent():
            for page in range(3):
                assert await rig.read(page) == page + 1
            await rig.write(0, 9)

        await together(rig, child.mmput, parent, (toy.to_device, 1, 2), (rig.swap_out, 0, 2))
        assert [await rig.read(page) for page in range(3)] == [9, 2, 3]

    Rig(*any_schedule).run(body)


def test_exit_races_migration_and_eviction():
    """MM-R14: the last mapping goes while a migrator has the page."""
    met = set()

    async def body(rig):
        toy = device(rig)
        for page in range(3):
            await rig.write(page, 1)
        await toy.to_device(0, 2)
        moved = []

        async def evict():
            moved.append(await toy.evict())

        await together(rig, rig.mm.mmput, evict)
        assert toy.pgmap.live == {}
        met.add(moved[0])

    for schedule in range(60):
        race(body, schedule)
    assert {0, 2} <= met


def test_a_device_that_faults_into_an_exiting_process_ends_with_an_error_or_a_value():
    async def body(rig):
        gpu = MiniGpu(rig)
        await gpu.open()
        await rig.write(0, 7)
        seen = []

        async def worker():
            if await rig.mm.mmget_not_zero():
                try:
                    seen.append(await gpu.load(0))
                except EFAULT:
                    seen.append("EFAULT")
                await rig.mm.mmput()

        await together(rig, worker, rig.mm.mmput)
        assert seen in ([], [7])
        assert gpu.map == {}
        await gpu.close()

    for schedule in range(40):
        race(body, schedule)
