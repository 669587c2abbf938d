"""The window of every race of shared virtual memory and of device memory is hit where the built-in targets look for it.

A window that nobody hits is a guard that nobody tests: either the count stands in dead code, or the situation is never
made.  The table names for each race one target in which it happens.
"""

import pytest

from svm_actors.catalogue import catalogue
from svm_actors.explore.run import run
from svm_actors.explore.targets import resolve

WITHIN = 120
"""Schedules of the portfolio within which all windows of a line must have been hit."""
HIT = {
    "a-small-allocation": "SVM-R54",
    "advice-against-callbacks": "SVM-R25",
    "advice-goes-with-memory": "SVM-R24",
    "advice-splits-a-range": "SVM-R26 SVM-R41",
    "an-atomic-in-a-reaped-process": "SVM-R10 SVM-R32",
    "atomics-of-two-devices": "PGM-R14",
    "close-of-many-notifiers": "SVM-R50",
    "close-under-callbacks": "SVM-R08 SVM-R22 SVM-R23 SVM-R42",
    "device-to-device-and-eviction": "PGM-R05 PGM-R21",
    "eviction-and-exit": "PGM-R20",
    "eviction-met-by-mremap": "SVM-R19 SVM-R20",
    "eviction-that-cannot-map": "PGM-R26",
    "eviction-under-faults": "PGM-R04",
    "eviction-under-many-looks": "PGM-R11",
    "exit-under-fault": "SVM-R21",
    "fault-in-a-shifted-window": (
        "PGM-R01 PGM-R03 PGM-R07 PGM-R08 PGM-R09 PGM-R10 PGM-R13 PGM-R15 PGM-R25 PGM-R27 PGM-R29 PGM-R32 SVM-R14"
    ),
    "fault-in-a-timeslice": "PGM-R24",
    "fault-on-dropped-pages": "SVM-R15",
    "faults-beside-a-callback": "SVM-R07 SVM-R27",
    "fork-of-device-memory": "SVM-R38",
    "half-from-another-device": "PGM-R02 PGM-R23 PGM-R30 SVM-R16",
    "invalidation-against-bind-jobs": "SVM-R01 SVM-R03 SVM-R06 SVM-R31 SVM-R49",
    "memory-changes-at-one-go": "SVM-R04 SVM-R05",
    "mirror-threads": "SVM-R13 SVM-R33",
    "mixed-placement": "SVM-R11 SVM-R43",
    "mixed-user-memory": "SVM-R44",
    "permissions-cut-a-range": "SVM-R37",
    "populate-under-a-late-scanner": "PGM-R06",
    "prefetch-under-changes": "SVM-R17 SVM-R28 SVM-R53 SVM-R55",
    "region-looked-up-and-shrunk": "PGM-R12 SVM-R35",
    "region-shrunk-at-removal": "PGM-R18 PGM-R19",
    "to-a-device-and-wanted-at-once": "PGM-R22 PGM-R34 SVM-R02 SVM-R09 SVM-R12 SVM-R18 SVM-R51",
    "two-events-on-user-memory": "SVM-R40",
    "unbind-and-populate": "PGM-R28 SVM-R34",
    "unbind-under-a-page": "PGM-R33 SVM-R36",
    "unmapped-in-parts": "SVM-R48 SVM-R52",
    "user-memory-dropped-twice": "SVM-R29 SVM-R30 SVM-R47",
}
UNPLANTED = {"PGM-R13", "SVM-R27", "SVM-R33", "SVM-R37"}
"""Nothing can be removed: the look of SVM-R27 only advises, SVM-R37 has no guard, no thread starves another here."""


@pytest.mark.parametrize("name", HIT)
def test_the_windows_of_a_target_are_hit(name: str) -> None:
    (target,) = resolve(name)
    missing = set(HIT[name].split())
    for number in range(WITHIN):
        found = run(
            target.subject(0), seed=f"windows/{number}", strategy="portfolio", backend="direct", digest=False
        )
        assert found.failure is None or found.failure.kind == "budget", (number, str(found.failure))
        missing -= {name for name, times in found.counters.items() if times}
        if not missing:
            return
    pytest.fail(f"{WITHIN} schedules of {name} do not hit {', '.join(sorted(missing))}")


def test_every_race_has_its_line_or_a_reason() -> None:
    """And none has both."""
    named = " ".join(HIT.values()).split()
    races = [entry for entry in catalogue().values() if entry.kind == "race" and entry.id.startswith(("SVM", "PGM"))]
    assert sorted(named) == [entry.id for entry in races if not entry.reason]
    assert all(entry.modelled for entry in races if not entry.reason)
    planted = {entry.id for entry in races if entry.bugs}
    assert {entry.id for entry in races if not entry.reason} - planted == UNPLANTED
