"""What a walk faults when one page is missing: everything to the end of its piece (core_mm section 8)."""

import pytest
from mm_rig import FIRST, Rig, ToyDevice

from svm_actors.engine.errors import EBUSY
from svm_actors.mm import messages as m
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmRange


async def walk(rig, device, first, end, request=Hmm.REQ_FAULT):
    """hmm_range_fault over pages of the arena."""
    sub = rig.recorder.notifier
    seq = await sub.read_begin()
    pfns = [HMM_NONE] * (end - first)
    range_ = HmmRange(sub, seq, FIRST + first, FIRST + end, pfns, request, dev_private_owner=device)
    async with rig.mm.mmap_lock.reading():
        await rig.core.call(m.HmmRangeFault(range_))
    return range_.pfns


def test_own_device_pages_are_left_alone_when_nothing_is_missing():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.write(1, 5)
        await device.to_device(1, 1)
        (found,) = await walk(rig, device, 1, 2)
        assert found.folio is rig.pte(1).folio
        assert found.folio.is_device_private

    Rig().run(body)


def test_own_device_pages_behind_a_missing_page_come_home():
    """Their MIGRATE moves the sequence, so the walk starts over; the page before the hole stays."""

    async def body(rig):
        device = ToyDevice(rig)
        for page in (0, 2):
            await rig.write(page, 5)
            await device.to_device(page, 1)
        rig.recorder.take()
        with pytest.raises(EBUSY):
            await walk(rig, device, 0, 3)
        assert rig.recorder.take() == [("MIGRATE", 2, 1)]
        assert [rig.pte(page).folio.is_device_private for page in range(3)] == [True, False, False]
        assert [pfn.valid for pfn in await walk(rig, device, 0, 3)] == [True, True, True]

    Rig().run(body)


def test_the_stretch_ends_with_the_vma():
    async def body(rig):
        device = ToyDevice(rig)
        await rig.mprotect(1, 1, "r")
        await rig.write(2, 5)
        await device.to_device(2, 1)
        assert [pfn.valid for pfn in await walk(rig, device, 1, 3)] == [True, True]
        assert rig.pte(2).folio.is_device_private

    Rig().run(body)


def test_a_missing_page_for_write_copies_the_readable_pages_behind_it():
    """One request type for the whole stretch: the zero page after the hole is replaced in the same go."""

    async def body(rig):
        await rig.read(1)
        rig.recorder.take()
        with pytest.raises(EBUSY):
            await walk(rig, None, 0, 2, Hmm.REQ_FAULT | Hmm.REQ_WRITE)
        assert rig.recorder.take() == [("CLEAR", 1, 1)]
        assert [pfn.write for pfn in await walk(rig, None, 0, 2, Hmm.REQ_FAULT | Hmm.REQ_WRITE)] == [True, True]

    Rig().run(body)
