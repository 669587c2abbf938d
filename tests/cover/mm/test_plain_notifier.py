"""Plain notifiers: who is called, in which order, and what a refusal leaves behind (core_mm section 5.1)."""

import pytest
from mm_rig import FIRST, Rig

from svm_actors.engine.errors import EAGAIN, PropertyFailed
from svm_actors.mm import messages as m
from svm_actors.mm.mmu_notifier import Event, NotifierRange, NotifierRemoved
from svm_actors.mm.plain_notifier import MmuNotifier


class Plain:
    """Writes down what it is told; refuses what must not sleep if told so."""

    def __init__(self, log, name, *, refuses=False):
        self.log, self.name, self.refuses = log, name, refuses
        self.notifier = MmuNotifier(name, self, has_end=not refuses)

    async def invalidate_range_start(self, event):
        self.log.append(f"{self.name} start")
        return event.blockable or not self.refuses

    async def invalidate_range_end(self, event):
        self.log.append(f"{self.name} end")


async def register(rig, log, *names, refuses=()):
    for name in (*names, *refuses):
        notifier = Plain(log, name, refuses=name in refuses).notifier
        await rig.core.call(m.NotifierRegister(notifier, rig.mm))
    return rig.mm.subscriptions.plain.members


def clear(rig, *, blockable=True):
    return NotifierRange(rig.mm, Event.CLEAR, FIRST, FIRST + 1, None, blockable)


def test_all_hear_of_start_and_end_of_everything():
    log = []

    async def body(rig):
        members = await register(rig, log, "first", "second")
        await rig.write(0, 1)
        await rig.madvise(0, 1, "dontneed")
        assert log == ["first start", "second start", "first end", "second end"]
        assert [member.begun for member in members] == [0, 0]

    Rig().run(body)


def test_a_refusal_is_undone_for_the_others_and_in_the_tree():
    log = []

    async def body(rig):
        members = await register(rig, log, "first", refuses=("sleeper",))
        subs = rig.mm.subscriptions
        with pytest.raises(EAGAIN):
            await subs.invalidate_range_start(clear(rig, blockable=False))
        assert log == ["first start", "sleeper start", "first end"]
        assert [member.begun for member in members] == [0, 0]
        assert (subs.sequence.active, subs.sequence.value) == (0, 4)

    Rig().run(body)


def test_who_may_refuse_hears_no_end():
    log = []

    async def body(rig):
        await register(rig, log, refuses=("sleeper",))
        subs, event = rig.mm.subscriptions, clear(rig)
        await subs.invalidate_range_start(event)
        await subs.invalidate_range_end(event)
        assert log == ["sleeper start"]

    Rig().run(body)


# -- the oracle ------------------------------------------------------------------------------


def oracle_of(rig):
    return next(listener for listener in rig.engine.listeners if listener.name == "invalidation")


@pytest.mark.parametrize("left", ["a region", "a plain notifier"])
def test_a_start_without_its_end_is_noticed_at_rest(left):
    async def body(rig):
        (member,) = await register(rig, [], "first")
        oracle = oracle_of(rig)
        oracle.at_rest()
        event = clear(rig)
        if left == "a region":
            await rig.mm.subscriptions.invalidate_range_start(event)
        else:
            member.begun = 1
        with pytest.raises(PropertyFailed) as failure:
            oracle.at_rest()
        assert failure.value.rule == "INV-19"
        if left == "a region":
            await rig.mm.subscriptions.invalidate_range_end(event)

    Rig().run(body)


@pytest.mark.parametrize("where", ["tree", "deferred", "calling"])
def test_a_subscription_that_is_still_somewhere_has_not_been_removed(where):
    async def body(rig):
        oracle, subs, sub = oracle_of(rig), rig.mm.subscriptions, rig.recorder.notifier
        await rig.core.call(m.IntervalNotifierRemove(sub))
        oracle(NotifierRemoved(sub))
        getattr(subs, where).append(sub)
        with pytest.raises(PropertyFailed) as failure:
            oracle(NotifierRemoved(sub))
        assert failure.value.rule == "INV-22"
        getattr(subs, where).clear()

    Rig().run(body)
