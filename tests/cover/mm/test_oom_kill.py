"""The OOM reaper: what it takes, what it leaves, and what is seen of it afterwards (core_mm section 5, MM-R22)."""

import pytest
from mm_rig import FIRST, PAGE, Recorder, Rig

from svm_actors.engine.errors import EAGAIN, EFAULT
from svm_actors.mm import messages as m
from svm_actors.mm.constants import RW
from svm_actors.mm.cpu import cpu_write
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmRange
from svm_actors.mm.messages import SIGBUS


def test_private_memory_goes_and_shared_memory_stays():
    async def body(rig):
        await rig.write(0, 1)
        shared = await rig.core.call(m.Mmap(rig.mm, 0, PAGE, RW, shared=True))
        await cpu_write(rig.core, rig.mm, shared, b"s")
        before = len(rig.mm.page_table)
        rig.recorder.take()
        await rig.core.call(m.OomReap(rig.mm))
        assert (before, len(rig.mm.page_table), rig.mm.unstable) == (2, 1, True)
        assert [event for event, _start, _pages in rig.recorder.take()] == ["CLEAR"]

    Rig().run(body)


def test_nobody_is_shown_zeros_where_pages_were_taken():
    async def body(rig):
        await rig.write(0, 1)
        await rig.core.call(m.OomReap(rig.mm))
        with pytest.raises(SIGBUS):
            await rig.read(0)
        with pytest.raises(SIGBUS):
            await rig.write(1, 2)

    Rig().run(body)


def test_a_refusal_leaves_everything_and_is_tried_again():
    async def body(rig):
        await rig.write(0, 1)
        refuser = Recorder("refuser")
        refuser.refuse = True
        await rig.core.call(m.IntervalNotifierInsert(refuser.notifier, rig.mm, FIRST, 16))
        begin = rig.engine.now
        with pytest.raises(EAGAIN):
            await rig.core.call(m.OomReap(rig.mm))
        subs = rig.mm.subscriptions
        assert (len(rig.mm.page_table), subs.sequence.active, subs.sequence.value % 2) == (1, 0, 0)
        assert rig.engine.now - begin == 10 * 100_000_000
        refuser.refuse = False
        await rig.core.call(m.OomReap(rig.mm))
        assert len(rig.mm.page_table) == 0
        await rig.core.call(m.IntervalNotifierRemove(refuser.notifier))

    Rig().run(body)


def test_an_unlocked_walk_is_refused():
    async def body(rig):
        await rig.write(0, 1)
        await rig.core.call(m.OomReap(rig.mm))
        walk = HmmRange(rig.recorder.notifier, 0, FIRST, FIRST + 1, [HMM_NONE], Hmm.REQ_FAULT)
        with pytest.raises(EFAULT):
            await rig.core.call(m.HmmRangeFaultUnlocked(walk))

    Rig().run(body)
