"""hmm_range_fault: the table of core_mm section 8, row by row, and its races."""

import pytest
from mm_rig import FIRST, Rig, ToyDevice

from svm_actors.engine.errors import EBUSY, EFAULT, EINVAL, EPERM
from svm_actors.mm import messages as m
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmRange
from svm_actors.mm.page_table import Entry

READ, WRITE = Hmm.REQ_FAULT, Hmm.REQ_FAULT | Hmm.REQ_WRITE


async def walk(rig, start, n, request=Hmm.NONE, owner=None):
    """Locked walks until one is not busy (a fault of its own may raise CLEAR); flags per page, as text."""
    sub = rig.recorder.notifier
    start, end = FIRST + start, FIRST + start + n
    while True:
        seq = await sub.read_begin()
        range_ = HmmRange(sub, seq, start, end, [HMM_NONE] * n, request, dev_private_owner=owner)
        async with rig.mm.mmap_lock.reading():
            try:
                await rig.core.call(m.HmmRangeFault(range_))
                break
            except EBUSY:
                continue
    return ["E" if p.error else "W" if p.write else "R" if p.valid else "-" for p in range_.pfns]


def test_a_snapshot_describes_and_changes_nothing():
    async def body(rig):
        await rig.write(0, 1)
        await rig.read(1)
        await rig.mprotect(3, 1, "none")
        await rig.munmap(4, 1)
        await rig.write(5, 1)
        assert await rig.swap_out(5, 1) == 1
        before = list(rig.mm.page_table.items())
        assert await walk(rig, 0, 7) == ["W", "R", "-", "E", "E", "-", "-"]
        assert await walk(rig, 0, 3, Hmm.REQ_WRITE & ~Hmm.REQ_FAULT) == ["W", "R", "-"]
        assert list(rig.mm.page_table.items()) == before

    Rig().run(body)


def test_a_read_fault_maps_zero_pages_and_a_write_fault_real_ones():
    async def body(rig):
        assert await walk(rig, 0, 3, READ) == ["R", "R", "R"]
        assert rig.pte(0).folio.is_zero
        assert await walk(rig, 0, 2, WRITE) == ["W", "W"]
        assert not rig.pte(0).folio.is_zero
        await rig.write(8, 7)
        assert await rig.swap_out(8, 1) == 1
        assert await walk(rig, 8, 1, READ) == ["W"]
        assert await rig.read(8) == 7

    Rig().run(body)


def test_errors_name_what_is_wrong():
    async def body(rig):
        await rig.mprotect(2, 1, "r")
        await rig.mprotect(3, 1, "none")
        await rig.munmap(4, 1)
        with pytest.raises(EPERM):
            await walk(rig, 0, 3, WRITE)
        with pytest.raises(EFAULT):
            await walk(rig, 3, 1, READ)
        with pytest.raises(EFAULT):
            await walk(rig, 4, 1, READ)
        with pytest.raises(EINVAL):
            await walk(rig, 0, 0, READ)

    Rig().run(body)


def test_own_device_pages_stay_and_foreign_ones_come_home():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 5)
        await device.to_device(0, 2)
        assert await walk(rig, 0, 2, WRITE, device) == ["W", "W"]
        assert await walk(rig, 0, 2) == ["-", "-"]
        assert rig.pte(0).kind is Entry.DEVICE_PRIVATE
        assert await walk(rig, 0, 2, READ) == ["W", "W"]
        assert rig.pte(0).kind is Entry.PRESENT
        assert await rig.read(0) == 5

    Rig().run(body)


def test_an_own_read_only_device_page_is_never_upgraded():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(0, 5)
        await device.to_device(0, 1)
        child = await rig.fork()
        assert await walk(rig, 0, 1, WRITE, device) == ["R"]
        await child.mmput()

    Rig().run(body)


def test_a_stale_sequence_is_busy():
    async def body(rig):
        sub = rig.recorder.notifier
        seq = await sub.read_begin()
        await rig.write(0, 1)
        await rig.madvise(0, 1, "dontneed")
        range_ = HmmRange(sub, seq, FIRST, FIRST + 1, [HMM_NONE], READ)
        async with rig.mm.mmap_lock.reading():
            with pytest.raises(EBUSY):
                await rig.core.call(m.HmmRangeFault(range_))

    Rig().run(body)


def test_the_unlocked_walk_refreshes_its_sequence():
    async def body(rig):
        sub = rig.recorder.notifier
        await rig.write(0, 1)
        await rig.madvise(0, 1, "dontneed")
        range_ = HmmRange(sub, 0, FIRST, FIRST + 2, [HMM_NONE] * 2, READ)
        await rig.core.call(m.HmmRangeFaultUnlocked(range_, 10**9))
        assert [pfn.valid for pfn in range_.pfns] == [True, True]
        assert not sub.read_retry(range_.notifier_seq)

    Rig().run(body)


def test_the_unlocked_walk_gives_up_on_a_reaped_mm():
    async def body(rig):
        rig.mm.unstable = True
        range_ = HmmRange(rig.recorder.notifier, 0, FIRST, FIRST + 1, [HMM_NONE], READ)
        with pytest.raises(EFAULT):
            await rig.core.call(m.HmmRangeFaultUnlocked(range_))

    Rig().run(body)


def test_requests_per_page_come_from_the_array_through_the_mask():
    """A fault goes on to the end of the walk piece with the request that caused it."""

    async def body(rig):
        sub = rig.recorder.notifier
        seq = await sub.read_begin()
        wanted = [HMM_NONE._replace(flags=flags) for flags in (WRITE, Hmm.NONE, READ)]
        range_ = HmmRange(sub, seq, FIRST, FIRST + 3, wanted, Hmm.NONE, WRITE)
        async with rig.mm.mmap_lock.reading():
            await rig.core.call(m.HmmRangeFault(range_))
        assert [(pfn.valid, pfn.write) for pfn in range_.pfns] == [(True, True)] * 3

    Rig().run(body)


def test_a_validated_walk_matches_the_page_table(any_schedule):
    """INV-41 and MM-R03 under zaps, moves and writes: valid entries name the page that is mapped."""
    checked = []

    async def body(rig):
        sub = rig.recorder.notifier

        async def walker():
            for _ in range(3):
                range_ = HmmRange(sub, 0, FIRST, FIRST + 4, [HMM_NONE] * 4, READ)
                await rig.core.call(m.HmmRangeFaultUnlocked(range_))
                if not sub.read_retry(range_.notifier_seq) and not rig.mm.subscriptions.sequence.active:
                    for page, pfn in enumerate(range_.pfns):
                        assert pfn.valid
                        assert pfn.folio is rig.pte(page).folio
                    checked.append(True)

        async def zapper():
            for page in range(4):
                await rig.madvise(page, 1, "dontneed")
                await rig.write(page, page)

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(walker)
            nursery.start_soon(zapper)

    Rig(*any_schedule).run(body)
    assert len(checked) <= 3
