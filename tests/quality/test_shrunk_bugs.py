"""Planted bugs shrink to a handful of operations and to no choice that is not needed.

The goal: at most six scenario operations, and at most three context switches that are not necessary.  What is asked
for here is more, as measured; failing seeds are looked for, not written down, so that a change of the model that
moves them is no failure of this test.  The table of all bugs, found as a campaign finds them, is docs/shrinking.md.
"""

from __future__ import annotations

import attrs
import pytest

from svm_actors.explore.run import Run, replay, run
from svm_actors.explore.shrink import shrink
from svm_actors.explore.shrink.sameness import FailureClass
from svm_actors.explore.targets import subject_named

FOUND = ("property", "deadlock")


@attrs.frozen
class Sample:
    """Where a bug is easily found."""

    bug: str
    target: str
    operations: int
    """Operations that are left at most; as measured."""
    choices: int
    """Schedule choices that its shrunk failure may need at most; measured, and some room."""
    within: int = 150
    """Schedules within which it is found."""


SAMPLES = (
    Sample("SVM-B37", "unmap@0", 4, 4),
    Sample("SVM-B41", "dontneed@0", 3, 2),
    Sample("SVM-B41", "eviction@0", 3, 2),
    Sample("SVM-B50", "random-tight@0", 3, 2),
    Sample("SVM-S08", "wide@0", 4, 20),
    Sample("PGM-B36", "mremap-eviction@0", 5, 4),
    Sample("FEN-B09", "bind@10", 3, 4),
)


def failing(sample: Sample) -> Run:
    subject = subject_named(sample.target)
    for seed in range(sample.within):
        one = run(
            subject, seed=seed, strategy="random", bugs=(sample.bug,), backend="direct", digest=False
        )
        if one.failure is not None and one.failure.kind in FOUND:
            return one
    raise AssertionError(f"{sample.bug} was not found in {sample.within} schedules of {sample.target}")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.bug} {sample.target}")
def test_a_planted_bug_shrinks(sample: Sample) -> None:
    one = failing(sample)
    subject = subject_named(sample.target)
    shrunk = shrink(subject, one.token, seconds=None, runs=1500)
    assert shrunk.complete, shrunk.merit[:5]
    assert one.failure is not None
    assert FailureClass.of(one.failure).holds(shrunk.failure)
    assert shrunk.merit.operations <= sample.operations, shrunk.operations
    assert not shrunk.unnecessary, shrunk.switches
    assert shrunk.merit.deviations <= sample.choices, shrunk.merit[:5]
    again = replay(subject, shrunk.token)
    assert again.failure == shrunk.failure
    assert again.trace_digest == shrunk.run.trace_digest
