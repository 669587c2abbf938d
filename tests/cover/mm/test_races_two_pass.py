"""Races of two-pass subscribers: readers, refusals, overlapping periods and removal between the passes (core_mm 15)."""

import pytest
from mm_rig import FIRST, Recorder
from race_guards import no_wait_in_read_begin, remove_without_waiting
from race_rig import MiniGpu, Row, first_failure, mutants_of, race, together

from svm_actors.engine.errors import EAGAIN
from svm_actors.mm import messages
from svm_actors.mm.mmu_notifier import Event, MmuNotifierSubscriptions, NotifierRange

SCHEDULES = 51


class TwoPass(MiniGpu):
    """Drops in the first pass, waits for the flush in the second (section 6, two-pass)."""

    busy = False
    gone = False

    async def invalidate(self, notifier, event, seq):
        async with self.lock:
            self.first_pass(seq)
            self.drop(event)
            alone = self.claim()
        if alone:
            return self
        await self.flush()
        return True

    def first_pass(self, seq):
        self.notifier.set_seq(seq)

    def claim(self):
        """The one finish object there is: under the lock, only if nobody uses it."""
        if self.busy:
            return False
        self.busy = True
        return True

    async def flush(self):
        await self.rig.engine.sleep(10)

    async def finish(self):
        assert self.busy, "finished without a first pass"
        assert not self.gone
        await self.flush()
        async with self.lock:
            assert self.busy, "finished twice"
            self.second_pass()
            self.busy = False

    def second_pass(self):
        """Nothing: the sequence was set in the first."""

    async def leave(self):
        await self.close()
        self.gone = True


def seq_in_second_pass(patch):
    """MM-B67."""
    patch.setattr(TwoPass, "first_pass", lambda gpu, seq: None)
    patch.setattr(TwoPass, "second_pass", lambda gpu: gpu.notifier.set_seq(gpu.rig.mm.subscriptions.sequence.value))


def finish_object_shared(patch):
    """MM-B68: the busy flag is not looked at."""

    def claim(gpu):
        gpu.busy = True
        return True

    patch.setattr(TwoPass, "claim", claim)


async def read_between_the_passes(rig):
    """MM-R30."""
    gpu = TwoPass(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def device_reads():
        for _ in range(3):
            await gpu.load(0)

    await together(rig, device_reads, (rig.madvise, 0, 1, "dontneed"))
    await rig.write(0, 2)
    assert await gpu.load(0) == 2
    gpu.check()
    await gpu.close()


async def refusal_after_first_passes(rig):
    """MM-R31: somebody refuses a non-blockable event after another subscriber's first pass."""
    gpu, refuser = TwoPass(rig), Recorder("refuser")
    refuser.refuse = True
    await gpu.open()
    await rig.core.call(messages.IntervalNotifierInsert(refuser.notifier, rig.mm, FIRST, 16))
    subs = rig.mm.subscriptions

    async def reap():
        event = NotifierRange(rig.mm, Event.CLEAR, FIRST, FIRST + 1, None, False)
        with pytest.raises(EAGAIN):
            await subs.invalidate_range_start(event)

    await together(rig, reap, (rig.madvise, 1, 1, "dontneed"))
    assert not gpu.busy, "a first pass without a second"
    assert (subs.sequence.active, subs.sequence.value % 2) == (0, 0)
    await rig.core.call(messages.IntervalNotifierRemove(refuser.notifier))
    await gpu.close()


def no_finish_after_refusal(patch):
    """MM-B66: the finish objects of a refused start are forgotten."""
    original = MmuNotifierSubscriptions.invalidate_range_start

    async def start(subs, event):
        if event.blockable:
            await original(subs, event)
            return
        await subs.engine.step("seq_write", subs, "nonblock")
        current = subs.sequence.begin(True)
        for sub in subs._matching(event):
            if await sub.ops.invalidate(sub, event, current) is False:
                await subs._end()
                raise EAGAIN

    patch.setattr(MmuNotifierSubscriptions, "invalidate_range_start", start)


async def two_periods_one_finish_object(rig):
    """MM-R32."""
    gpu = TwoPass(rig)
    await gpu.open()
    await rig.write(0, 1)
    await together(rig, (rig.madvise, 0, 1, "dontneed"), (rig.madvise, 1, 1, "dontneed"), (gpu.load, 0))
    assert not gpu.busy
    gpu.check()
    await gpu.close()


async def remove_between_the_passes(rig):
    """MM-R33."""
    gpu = TwoPass(rig)
    await gpu.open()
    await together(rig, gpu.leave, (rig.madvise, 0, 1, "dontneed"))


ROWS = {
    "MM-R30": Row(read_between_the_passes, {"MM-B51": no_wait_in_read_begin, "MM-B67": seq_in_second_pass}),
    "MM-R31": Row(refusal_after_first_passes, {"MM-B66": no_finish_after_refusal}),
    "MM-R32": Row(two_periods_one_finish_object, {"MM-B68": finish_object_shared}),
    "MM-R33": Row(remove_between_the_passes, {"MM-B05": remove_without_waiting}),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_guard_holds(row):
    for schedule in range(SCHEDULES):
        race(ROWS[row].body, schedule)


@pytest.mark.parametrize(("row", "bug"), mutants_of(ROWS))
def test_without_the_guard_it_is_noticed(row, bug, monkeypatch):
    ROWS[row].mutants[bug](monkeypatch)
    assert first_failure(ROWS[row].body, 8 * SCHEDULES) is not None
