"""What it costs to collect coverage (:mod:`svm_actors.explore.coverage`): at most a tenth of a run's time.

The same runs of some built-in targets with and without, in turns; the ratio of the best times of each, because
what disturbs a measurement only ever makes it longer.
"""

from __future__ import annotations

from benchmarks import Result, seconds
from svm_actors.explore.run import run as make_run
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import resolve

TARGETS = ("random", "random-small", "mirror", "two-vms")
RUNS = 2
"""Subjects of each target."""
REPEATS = 9


def best(subject: Subject, repeats: int) -> tuple[float, float]:
    """Shortest time of one run without and with coverage."""
    times: dict[bool, float] = {}
    for _ in range(repeats):
        for coverage in (False, True):
            taken = seconds(
                lambda coverage=coverage: make_run(  # type: ignore[misc]
                    subject, strategy="random", backend="direct", digest=False, coverage=coverage
                )
            )
            times[coverage] = min(taken, times.get(coverage, taken))
    return times[False], times[True]


def run(runs: int = RUNS, repeats: int = REPEATS) -> list[Result]:
    """One ratio over all of them."""
    without = with_it = 0.0
    for name in TARGETS:
        for target in resolve(name):
            for index in range(runs):
                plain, covered = best(target.subject(index), repeats)
                without, with_it = without + plain, with_it + covered
    return [Result("a run with coverage / without", with_it / without, 1.1, "x")]
