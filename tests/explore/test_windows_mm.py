"""The windows of the core MM, of VM_BIND and of fences are hit: by which witness or story each is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from svm_actors.catalogue import catalogue
from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import resolve

SCHEDULES: Final = 80
"""So many of the portfolio are tried at most; one in ten is what most windows need."""
ROOT: Final = Path(__file__).parents[1]

CORE_MM: Final = {
    "a-bind-of-memory-that-goes": "MM-R01",
    "address-used-again": "MM-R02",
    "copies-of-one-page": "MM-R19",
    "device-faults-as-the-process-exits": "MM-R23",
    "device-is-emptied": "MM-R26",
    "device-outlives-the-reaper": "MM-R15",
    "device-page-is-freed-under-waiters": "MM-R24",
    "device-reads-unlocked": "MM-R38",
    "device-reads-what-is-dropped": "MM-R03 MM-R04",
    "device-wants-pages-alone": "MM-R28",
    "device-writes-met-by-mprotect": "MM-R17",
    "eviction-beside-a-scanner": "MM-R11",
    "eviction-met-by-fork": "MM-R14",
    "eviction-met-by-mprotect": "MM-R16",
    "eviction-under-many-looks": "MM-R08",
    "gpu-at-the-place-left-behind": "MM-R27",
    "pages-change-protection-under-eviction": "MM-R12",
    "pages-come-back-under-eviction": "MM-R13",
    "readers-of-a-device-page": "MM-R07",
    "readers-of-one-allocation": "MM-R09",
    "reaper-met-by-plain-notifiers": "MM-R22",
    "reclaim-met-by-a-writing-device": "MM-R18 MM-R25",
    "slow-devices-outlive-the-reaper": "MM-R30 MM-R31",
    "subscribe-during-invalidations": "MM-R05 MM-R06",
    "swapped-page-that-moves": "MM-R41",
    "to-device-met-by-cpu": "MM-R10 MM-R21",
    "user-memory-dropped-twice": "MM-R32 MM-R33",
}
VM_BIND: Final = {
    "a-bind-beside-a-zap": "VMB-R08",
    "a-bind-of-memory-that-goes": "VMB-R03",
    "a-close-under-programs": "VMB-R25",
    "a-job-with-an-in-sync-beside-faulting-work": "VMB-R34",
    "a-night": "VMB-R35",
    "a-pin-that-fails": "VMB-R15",
    "a-prefetch-of-stale-memory": "VMB-R02 VMB-R29",
    "a-queue-comes-while-others-stop": "VMB-R04 VMB-R19",
    "a-shared-object-joins-under-submissions": "VMB-R05 VMB-R06 VMB-R33",
    "a-zap-against-an-unbind": "VMB-R09",
    "a-zombie-and-its-cleanup": "VMB-R31",
    "an-eviction-before-a-queued-bind": "VMB-R23",
    "an-obtain-against-a-put": "VMB-R30",
    "bind-lr-userptr": "VMB-R17 VMB-R20",
    "bind-queues": "VMB-R10",
    "bind-user-fence": "VMB-R28",
    "bind-userptr": "VMB-R01",
    "faults-in-a-vm-that-goes": "VMB-R24",
    "flushes-answered-out-of-order": "VMB-R27",
    "flushes-at-a-reset": "VMB-R26",
    "lr-preempted-and-reset": "VMB-R21",
    "rewrite-of-a-shared-object": "VMB-R13",
    "two-changes-before-a-queued-bind": "VMB-R18",
    "two-queues-stop-at-once": "VMB-R22",
    "unbinds-behind-a-job": "VMB-R11 VMB-R12 VMB-R14",
    "user-memory-changes-and-is-unbound": "VMB-R16",
}
FENCES: Final = {
    "exec-between-two-older-ones": "FEN-R13",
    "exec-opposite-orders": "FEN-R12",
    "fence-chain-two-walkers": "FEN-R08",
    "fence-done-and-cancelled": "FEN-R04",
    "fence-looked-up-and-gone": "FEN-R05",
    "fence-merged-and-done": "FEN-R02",
    "fence-merged-and-dropped": "FEN-R33",
    "fence-signaled-while-awaited": "FEN-R01 FEN-R06",
    "kernel-queue-suspended-and-reset": "FEN-R28",
    "lr-preempted-and-reset": "FEN-R27 FEN-R31",
    "queue-destroyed-with-jobs": "FEN-R29",
    "resv-reader-and-writer": "FEN-R10",
    "resv-used-again-while-awaited": "FEN-R11",
    "sched-entity-moves": "FEN-R17",
    "sched-false-alarm": "FEN-R21",
    "sched-fini-with-jobs": "FEN-R23",
    "sched-flush-and-fini": "FEN-R24",
    "sched-forked-child-dies": "FEN-R26",
    "sched-killed-behind-hardware": "FEN-R20",
    "sched-killed-dependency": "FEN-R19",
    "sched-list-changes": "FEN-R25",
    "sched-push-and-idle": "FEN-R15",
    "sched-queue-ends-before-its-job": "FEN-R18",
    "sched-stop-while-finishing": "FEN-R22",
    "sched-two-submitters": "FEN-R14",
    "syncobj-closed-under-waiter": "FEN-R32",
    "two-queues-stop-at-once": "FEN-R30",
}

WITH_A_TEST_OF_ITS_OWN: Final = {
    "FEN-R16": "cover/drm/test_sched_races.py",
    "VMB-R07": "cover/xe/test_exec_guards.py",
}
"""Seen once in a thousand schedules; when a rebind has to push objects out, which none does by itself."""


def once(story: str, number: int) -> Run:
    """One schedule of the portfolio."""
    (target,) = resolve(story)
    return run(
        target.subject(0),
        seed=f"windows/{number}",
        strategy="portfolio",
        backend="direct",
        step_budget=50_000,
        digest=False,
    )


def must_hit(story: str, races: str) -> None:
    """Run the story until each of them has been counted; it holds meanwhile."""
    missing = set(races.split())
    for number in range(SCHEDULES):
        one = once(story, number)
        assert one.failure is None or one.failure.kind == "budget", (number, str(one.failure))
        missing -= one.counters.keys()
        if not missing:
            return
    pytest.fail(f"{sorted(missing)} not hit in {SCHEDULES} schedules of {story}")


@pytest.mark.parametrize(("story", "races"), CORE_MM.items())
def test_windows_of_the_core_mm_are_hit(story: str, races: str) -> None:
    must_hit(story, races)


@pytest.mark.parametrize(("story", "races"), VM_BIND.items())
def test_windows_of_vm_bind_are_hit(story: str, races: str) -> None:
    must_hit(story, races)


@pytest.mark.parametrize(("story", "races"), FENCES.items())
def test_windows_of_fences_are_hit(story: str, races: str) -> None:
    must_hit(story, races)


@pytest.mark.parametrize("family", ["MM", "VMB", "FEN"])
def test_every_race_is_seen_somewhere_or_has_its_reason(family: str) -> None:
    rows = [each for each in catalogue().values() if each.kind == "race" and each.id.startswith(f"{family}-R")]
    seen = {race for table in (CORE_MM, VM_BIND, FENCES) for races in table.values() for race in races.split()}
    assert len(rows) > 30
    assert [each.id for each in rows if bool(each.reason) == bool(each.guards and each.windows)] == []
    assert [each.id for each in rows if not each.reason and each.id not in seen | WITH_A_TEST_OF_ITS_OWN.keys()] == []


@pytest.mark.parametrize(("race", "file"), WITH_A_TEST_OF_ITS_OWN.items())
def test_the_test_of_its_own_counts_it(race: str, file: str) -> None:
    assert f'counters["{race}"]' in (ROOT / file).read_text("utf-8")
