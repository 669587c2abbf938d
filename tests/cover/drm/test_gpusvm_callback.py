"""The notifier callback: what it refuses, what it stores, what the driver sees (gpusvm sections 1.5, 2)."""

from __future__ import annotations

import pytest
from gpusvm_bench import Range, Svm, counted, every, run

from svm_actors.drm.gpusvm import GpusvmNotifier, Invalidate, set_unmapped
from svm_actors.engine.errors import EAGAIN, EngineError
from svm_actors.mm.constants import Prot
from svm_actors.mm.mmu_notifier import Event, NotifierRange

AT = 0x10000


def test_events_reach_the_driver_of_the_notifiers_they_touch() -> None:
    """Once per notifier, with the event as raised; nothing is filtered, not even our own migration."""

    async def body(machine: Svm) -> None:
        await machine.map(48)
        for page in (0, 20, 40):
            await machine.mapped(AT + page)
        await machine.protect(AT + 40, 1, Prot.READ)
        assert await machine.populate(AT, 4) == "ok"
        await machine.unmap(AT + 10, 20)
        await machine.unmap(AT + 20, 1)
        assert machine.events == [
            ("PROTECTION_VMA", AT + 40, AT + 41),
            ("MIGRATE", AT, AT + 4),
            ("UNMAP", AT + 10, AT + 30),
            ("UNMAP", AT + 10, AT + 30),
        ]

    run(body)


def test_a_caller_that_must_not_sleep_is_refused() -> None:
    """SVM-R32: and nothing is touched."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        seq = range_.interval.seq
        event = NotifierRange(machine.mm, Event.CLEAR, AT, AT + 4, blockable=False)
        async with machine.unchanged():
            with pytest.raises(EAGAIN):
                await machine.mm.subscriptions.invalidate_range_start(event)
        assert (machine.events, range_.interval.seq) == ([], seq)
        assert machine.engine.counters["SVM-R32"] == 1

    run(body)


def test_the_sequence_is_stored_before_the_driver_looks() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        seen = []

        async def look(_notifier: object, _event: NotifierRange) -> None:
            seen.append((range_.interval.seq, machine.mm.subscriptions.sequence.value))
            await machine.gpusvm.unmap_pages(range_.pages, in_notifier=True)

        machine.invalidate = look  # type: ignore[method-assign, assignment]
        before = range_.interval.seq
        await machine.unmap(AT, 1)
        ((stored, period),) = seen
        assert stored == period
        assert stored > before

    run(body)


def test_the_callback_keeps_readers_of_the_lock_out() -> None:
    """SVM-R07: an insert waits for the callback, a callback for the insert; the tree is never half changed."""

    async def insert(machine: Svm) -> None:
        for page in (4, 8, 12):
            await machine.find(AT + page)

    async def change(machine: Svm) -> None:
        for page in (1, 2, 3):
            await machine.unmap(AT + page, 1)

    async def body(machine: Svm) -> None:
        await machine.map(16)
        await machine.find(AT)
        usual = machine.invalidate

        async def slow(notifier: GpusvmNotifier, event: NotifierRange) -> None:
            before = machine.spans()
            for _ in range(4):
                await machine.engine.step("local")
            assert machine.spans() == before
            await usual(notifier, event)

        machine.invalidate = slow  # type: ignore[method-assign]
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(insert, machine)
            nursery.start_soon(change, machine)
        assert [low - AT for low, _ in machine.spans()] == [0, 4, 8, 12]

    assert counted(list(every(body)), "SVM-R07")


def test_a_notifier_not_yet_in_the_tree_is_served() -> None:
    """SVM-R06: its sequence moves, so the walk that follows the insert is not older than the event."""

    async def touch(machine: Svm) -> None:
        machine.results["range"] = await machine.find(AT)

    async def body(machine: Svm) -> None:
        await machine.map(8)
        await machine.write(AT, 1, 2, 3, 4, 5, 6, 7, 8)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(touch, machine)
            nursery.start_soon(machine.unmap, AT + 4, 4)
        assert await machine.get(machine.results["range"]) == "ok"

    machines = list(every(body, 100))
    assert counted(machines, "SVM-R06")


@pytest.mark.parametrize(
    ("first", "last", "partial"),
    [(0, 4, False), (-3, 9, False), (0, 3, True), (1, 4, True), (1, 3, True), (-3, 3, True), (1, 9, True)],
)
def test_a_dead_range_knows_whether_all_of_it_died(first: int, last: int, partial: bool) -> None:
    """SVM-R52: partial_unmap only informs; the whole range is dead either way."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        event = NotifierRange(machine.mm, Event.UNMAP, AT + first, AT + last)
        async with machine.gpusvm.notifier_lock.writing():
            set_unmapped(range_, [range_.pages], event)
        flags = range_.flags
        assert (flags.unmapped, flags.partial_unmap, range_.pages.flags.unmapped) == (True, partial, True)
        assert flags._replace(unmapped=False, partial_unmap=False) == (await fresh(machine)).flags

    async def fresh(machine: Svm) -> Range:
        await machine.map(4, at=AT + 16)
        return await machine.find(AT + 16)

    run(body)


def test_a_range_that_died_in_part_stays_so() -> None:
    """SVM-R05: a second UNMAP changes nothing back."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        await machine.unmap(AT, 1)
        await machine.map(4)
        await machine.unmap(AT, 4)
        assert range_.flags == range_.flags._replace(unmapped=True, partial_unmap=True)

    run(body)


def test_only_callbacks_may_declare_a_range_dead() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        event = NotifierRange(machine.mm, Event.UNMAP, AT, AT + 4)
        async with machine.gpusvm.notifier_lock.reading():
            with pytest.raises(EngineError, match="must be held for write"):
                set_unmapped(range_, [range_.pages], event)

    run(body)


def test_two_events_do_not_share_the_lock() -> None:
    """Both are served, one after the other, each on the thread that raised it."""

    async def body(machine: Svm) -> None:
        await machine.map(8)
        first, second = await machine.mapped(AT), await machine.mapped(AT + 4)
        assert first.notifier is second.notifier
        inside = [0, 0]

        async def busy(notifier: object, event: NotifierRange) -> None:
            inside[0] += 1
            inside[1] = max(inside)
            await machine.engine.step("local")
            inside[0] -= 1
            for range_ in (first, second):
                await machine.gpusvm.unmap_pages(range_.pages, in_notifier=True)

        machine.invalidate = busy  # type: ignore[method-assign]
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(raise_clear, machine, AT)
            nursery.start_soon(raise_clear, machine, AT + 4)
        assert inside == [0, 1]

    async def raise_clear(machine: Svm, vpn: int) -> None:
        event = NotifierRange(machine.mm, Event.CLEAR, vpn, vpn + 4)
        await machine.mm.subscriptions.invalidate_range_start(event)
        await machine.mm.subscriptions.invalidate_range_end(event)

    for machine in every(body):
        assert machine.engine.counters["gpu.invalidate"] == 2


def test_the_message_can_be_sent_directly() -> None:
    """The actor's only message."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        assert range_.notifier is not None
        event = NotifierRange(machine.mm, Event.CLEAR, AT, AT + 1)
        seq = range_.interval.seq
        assert await machine.gpusvm.call(Invalidate(range_.notifier, event, seq + 2)) is True
        assert range_.interval.seq == seq + 2
        assert machine.events == [("CLEAR", AT, AT + 1)]
        range_.interval.set_seq(seq)

    run(body)
