"""The collision-retry protocol of core_mm section 6, consequence by consequence."""

import pytest
from mm_rig import FIRST, Recorder, Rig

from svm_actors.engine.errors import EAGAIN, EINVAL, EOVERFLOW
from svm_actors.mm import messages as m
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.mmu_notifier import Event, IntervalNotifier, NotifierRange


def clear(rig, page, n, *, blockable=True):
    return NotifierRange(rig.mm, Event.CLEAR, FIRST + page, FIRST + page + n, None, blockable)


def test_a_subscription_made_in_peace_never_waits():
    async def body(rig):
        sub = rig.recorder.notifier
        sequence = rig.mm.subscriptions.sequence
        assert (sequence.value, sub.seq) == (2, 1)
        seen = await sub.read_begin()
        assert not sub.read_retry(seen)
        assert not sub.check_retry(seen)

    Rig().run(body)


def test_callbacks_come_in_the_order_of_addresses_and_of_insertion_where_these_are_equal():
    calls = []

    class Named(Recorder):
        async def invalidate(self, notifier, event, seq):
            calls.append(notifier.name)
            return await super().invalidate(notifier, event, seq)

    async def body(rig):
        await rig.core.call(m.IntervalNotifierRemove(rig.recorder.notifier))
        made = [(Named(name), page) for name, page in (("b", 5), ("a", 1), ("d", 9), ("c", 5))]
        for recorder, page in made:
            await rig.core.call(m.IntervalNotifierInsert(recorder.notifier, rig.mm, FIRST + page, 4))
        event = clear(rig, 0, 16)
        await rig.mm.subscriptions.invalidate_range_start(event)
        await rig.mm.subscriptions.invalidate_range_end(event)
        for recorder, _page in made:
            await rig.core.call(m.IntervalNotifierRemove(recorder.notifier))

    Rig().run(body)
    assert calls == ["a", "b", "c", "d"]


def test_all_overlapping_writers_share_one_odd_period():
    async def body(rig):
        subs, sub = rig.mm.subscriptions, rig.recorder.notifier
        first, second = clear(rig, 0, 2), clear(rig, 5, 2)
        await subs.invalidate_range_start(first)
        value = sub.seq
        await subs.invalidate_range_start(second)
        assert sub.seq == value == subs.sequence.value == 3
        await subs.invalidate_range_end(first)
        assert subs.sequence.value == 3
        await subs.invalidate_range_end(second)
        assert subs.sequence.value == 4

    Rig().run(body)


def test_a_reader_hit_by_one_range_sleeps_until_every_active_range_ends():
    log = []

    async def body(rig):
        subs, sub = rig.mm.subscriptions, rig.recorder.notifier
        ranges = [clear(rig, 0, 1), clear(rig, 9, 1)]
        for event in ranges:
            await subs.invalidate_range_start(event)

        async def reader():
            seen = await sub.read_begin()
            log.append(("reader", subs.sequence.value, sub.read_retry(seen)))

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(reader)
            for event in ranges:
                await rig.engine.step("local")
                log.append("end")
                await subs.invalidate_range_end(event)

    rig = Rig("random", 3).run(body)
    assert log == ["end", "end", ("reader", 4, False)]
    assert rig.engine.counters["MM-R04"] == 1


def test_insert_during_an_odd_period_is_deferred_and_its_reader_waits():
    async def body(rig):
        subs = rig.mm.subscriptions
        event = clear(rig, 0, 4)
        await subs.invalidate_range_start(event)
        late = Recorder("late")
        await rig.core.call(m.IntervalNotifierInsert(late.notifier, rig.mm, FIRST, 4))
        assert late.notifier in subs.deferred
        assert late.notifier.seq == subs.sequence.value
        second = clear(rig, 0, 4)
        await subs.invalidate_range_start(second)
        assert late.events == []
        await subs.invalidate_range_end(second)
        await subs.invalidate_range_end(event)
        assert late.notifier in subs.tree
        assert subs.deferred == []
        await rig.core.call(m.IntervalNotifierRemove(late.notifier))

    assert Rig().run(body).engine.counters["MM-R05"] == 1


def test_insert_during_an_unmatched_writer_assumes_an_invalidation():
    async def body(rig):
        subs = rig.mm.subscriptions
        await rig.core.call(m.IntervalNotifierRemove(rig.recorder.notifier))
        event = clear(rig, 0, 4)
        await subs.invalidate_range_start(event)
        assert subs.sequence.value == 2
        late = Recorder("late")
        await rig.core.call(m.IntervalNotifierInsert(late.notifier, rig.mm, FIRST, 4))
        assert (subs.sequence.value, late.notifier.seq, late.notifier in subs.tree) == (3, 3, True)
        await subs.invalidate_range_end(event)
        await rig.core.call(m.IntervalNotifierRemove(late.notifier))

    Rig().run(body)


def test_remove_during_an_odd_period_waits_and_still_receives_callbacks():
    async def body(rig):
        subs = rig.mm.subscriptions
        extra = Recorder("extra")
        await rig.core.call(m.IntervalNotifierInsert(extra.notifier, rig.mm, FIRST, 16))
        event = clear(rig, 0, 1)
        await subs.invalidate_range_start(event)
        async with rig.engine.nursery() as nursery:
            gone = nursery.start_soon(rig.core.call, m.IntervalNotifierRemove(extra.notifier))
            await rig.engine.sleep(1)
            second = clear(rig, 1, 1)
            await subs.invalidate_range_start(second)
            assert extra.events == [("CLEAR", 0, 1), ("CLEAR", 1, 1)]
            assert not gone.done
            await subs.invalidate_range_end(second)
            await subs.invalidate_range_end(event)
        assert extra.notifier not in subs.tree

    assert Rig().run(body).engine.counters["MM-R06"] == 1


def test_remove_of_a_deferred_insert_just_forgets_it():
    async def body(rig):
        subs = rig.mm.subscriptions
        event = clear(rig, 0, 1)
        await subs.invalidate_range_start(event)
        late = Recorder("late")
        await rig.core.call(m.IntervalNotifierInsert(late.notifier, rig.mm, FIRST, 4))
        await rig.core.call(m.IntervalNotifierRemove(late.notifier))
        assert subs.deferred == []
        await subs.invalidate_range_end(event)

    Rig().run(body)


def test_a_refused_non_blockable_start_is_ended_for_everyone():
    async def body(rig):
        subs = rig.mm.subscriptions
        rig.recorder.refuse = True
        with pytest.raises(EAGAIN):
            await subs.invalidate_range_start(clear(rig, 0, 1, blockable=False))
        assert (subs.sequence.active, subs.sequence.value) == (0, 4)

    Rig().run(body)


class Refuser(Recorder):
    """Says no to everything, also where nobody may."""

    async def invalidate(self, notifier, event, seq):
        notifier.set_seq(seq)
        return False


def test_nobody_can_refuse_a_start_that_is_blockable():
    """The others are told all the same, and the change goes on."""

    async def body(rig):
        subs = rig.mm.subscriptions
        refuser = Refuser("refuser")
        await rig.core.call(m.IntervalNotifierRemove(rig.recorder.notifier))
        for sub in (refuser, rig.recorder):
            await rig.core.call(m.IntervalNotifierInsert(sub.notifier, rig.mm, FIRST, 4))
        rig.recorder.take()
        event = clear(rig, 0, 1)
        await subs.invalidate_range_start(event)
        assert rig.recorder.take() == [("CLEAR", 0, 1)]
        await subs.invalidate_range_end(event)
        await rig.core.call(m.IntervalNotifierRemove(refuser.notifier))

    Rig().run(body)


class TwoPass(Recorder):
    """First pass sets the sequence, the finish object does the rest."""

    def __init__(self, log, name):
        super().__init__(name)
        self.log = log

    async def invalidate(self, notifier, event, seq):
        notifier.set_seq(seq)
        self.log.append(f"start {notifier.name}")
        return self

    async def finish(self):
        self.log.append(f"finish {self.notifier.name}")


def test_finish_passes_run_after_all_first_passes_also_when_someone_refuses():
    log: list[str] = []

    async def body(rig):
        subs = rig.mm.subscriptions
        await rig.core.call(m.IntervalNotifierRemove(rig.recorder.notifier))
        two = [TwoPass(log, "a"), TwoPass(log, "b")]
        refuser = Recorder("refuser")
        refuser.refuse = True
        for sub in (*two, refuser):
            await rig.core.call(m.IntervalNotifierInsert(sub.notifier, rig.mm, FIRST, 4))
        with pytest.raises(EAGAIN):
            await subs.invalidate_range_start(clear(rig, 0, 1, blockable=False))
        for sub in (*two, refuser):
            await rig.core.call(m.IntervalNotifierRemove(sub.notifier))

    Rig().run(body)
    assert log == ["start a", "start b", "finish a", "finish b"]


def test_insert_refuses_an_empty_range_and_a_dead_mm():
    async def body(rig):
        sub = IntervalNotifier("bad", rig.recorder)
        with pytest.raises(EOVERFLOW):
            await rig.core.call(m.IntervalNotifierInsert(sub, rig.mm, FIRST, 0))
        dead = rig.core.new_mm("dead")
        await dead.mmput()
        with pytest.raises(EINVAL):
            await rig.core.call(m.IntervalNotifierInsert(sub, dead, FIRST, 1))

    Rig().run(body)


def test_insert_takes_what_no_process_has_and_refuses_what_wraps():
    """The kernel asks only whether the sum overflows, not whether anybody can map there."""

    async def body(rig):
        sub = IntervalNotifier("far", rig.recorder)
        await rig.core.call(m.IntervalNotifierInsert(sub, rig.mm, TASK_PAGES, 1))
        await rig.core.call(m.IntervalNotifierRemove(sub))
        with pytest.raises(EOVERFLOW):
            await rig.core.call(m.IntervalNotifierInsert(sub, rig.mm, 2 * TASK_PAGES, 1))

    Rig().run(body)


def test_readers_validated_under_the_lock_never_miss_a_change(any_schedule):
    """MM-R03: whatever the schedule, a walk that passed read_retry saw the entry that is there."""
    seen = []

    async def body(rig):
        sub = rig.recorder.notifier
        await rig.write(0, 1)

        async def reader():
            for _ in range(3):
                seq = await sub.read_begin()
                await rig.engine.step("pte_read", rig.mm.page_table, FIRST)
                pte = rig.pte(0)
                await rig.engine.step("local")
                if not sub.read_retry(seq) and not rig.mm.subscriptions.sequence.active:
                    seen.append(pte == rig.pte(0) or pte is None or rig.pte(0) is None)

        async def changer():
            for _ in range(3):
                await rig.madvise(0, 1, "dontneed")
                await rig.write(0, 1)

        async with rig.engine.nursery() as nursery:
            nursery.start_soon(reader)
            nursery.start_soon(changer)

    Rig(*any_schedule).run(body)
    assert all(seen)
