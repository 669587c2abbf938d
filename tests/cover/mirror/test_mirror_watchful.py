"""The watchful driver: the stock one's answers without its use of freed pages."""

import pytest

from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.watchful import Watch, WatchfulDevice
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.litmus_format import Litmus
from svm_actors.workload.litmus_run import FewSwitches, LitmusRun, search_litmus

RACES = {
    "publish against a zap (MM-R15)": ([ops.ToDev(0, 1, 1)], [ops.MadviseDontneed(1, 1)]),
    "exclusive against a zap (MM-R28)": ([ops.Exclusive(0, 0, 1)], [ops.MadviseDontneed(0, 1)]),
    "a fault against the own migration (HM-D03)": ([ops.DevRead(0, 0, 2)], [ops.ToDev(0, 0, 2)]),
    "a write against the way home (HM-D03)": ([ops.DevWrite(0, 0, 1, 60)], [ops.CpuRead(0)]),
}


def program(threads):
    setup = (ops.CpuWrite(0, 10), ops.CpuWrite(1, 20), ops.ToDev(0, 0, 1))
    return Litmus(1, 2, 2, setup, tuple(tuple(thread) for thread in threads), 1, (), 1)


def failures(threads, device, runs=150):
    choosers = (FewSwitches(f"watch/{number}") for number in range(runs))

    def one(litmus, chooser):
        return LitmusRun(litmus, chooser, device_class=device).run()

    return sum(search_litmus(program(threads), choosers, runs=runs, exhaust=True, run=one).failures.values())


@pytest.mark.parametrize("name", RACES)
def test_no_race_reaches_a_freed_page(name):
    assert failures(RACES[name], WatchfulDevice) == 0


def test_the_stock_driver_does_reach_one():
    assert sum(failures(threads, MirrorDevice) for threads in RACES.values()) > 0


class Mm:
    name = "mm"


def noted(*, filtered, event_filtered, same_thread=False, at=(5, 6)):
    mine, other = object(), object()
    watch = Watch(mine, 4, 8, filtered=filtered)
    watch.note(mine if same_thread else other, NotifierRange(Mm(), Event.CLEAR, *at), event_filtered)
    return [page for page in range(10) if watch.covers(page)]


def test_a_watch_notes_events_of_its_kind_by_other_threads():
    assert noted(filtered=False, event_filtered=False) == [5]
    assert noted(filtered=True, event_filtered=True) == [5]
    assert noted(filtered=False, event_filtered=True) == []
    assert noted(filtered=True, event_filtered=False) == []
    assert noted(filtered=False, event_filtered=False, same_thread=True) == []
    assert noted(filtered=False, event_filtered=False, at=(8, 9)) == []
    assert noted(filtered=False, event_filtered=False, at=(0, 5)) == [0, 1, 2, 3, 4]
