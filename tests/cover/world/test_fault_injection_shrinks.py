"""Shrinking and injected faults: those a failure does not need go, the one it needs stays, alone."""

from __future__ import annotations

from svm_actors.explore.run import Run, replay, run
from svm_actors.explore.shrink import Shrunk, shrink
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import subject_named


def injected(result: Run) -> dict[str, int]:
    """Faults of a run by kind."""
    return {name: number for name, number in result.counters.items() if name.startswith("inject.")}


def failing(subject: Subject, bug: str, faults: int) -> Run:
    """The first run that fails and has had so many faults."""
    for seed in range(2000):
        result = run(subject, seed=seed, strategy="random", bugs=(bug,), backend="direct")
        if not result.ok and sum(injected(result).values()) == faults:
            return result
    raise AssertionError(f"no failure of {bug} with {faults} faults")


def shrunk_of(subject: Subject, found: Run) -> tuple[Shrunk, Run]:
    """What is left of it, and how that runs."""
    shrunk = shrink(subject, found.token, seconds=None)
    again = replay(subject, shrunk.token)
    assert again.failure is not None
    assert found.failure is not None
    assert again.failure.signature == found.failure.signature
    return shrunk, again


def test_a_failure_of_an_error_path_keeps_exactly_its_fault() -> None:
    """SVM-B01: after a mapping that failed half way the rest is not unmapped."""
    subject = subject_named("random-faults@1")
    found = failing(subject, "SVM-B01", 2)
    shrunk, again = shrunk_of(subject, found)
    assert injected(again) == {"inject.dma": 1}
    assert shrunk.merit.operations <= 3


def test_a_failure_that_needs_no_fault_loses_them() -> None:
    """SVM-B41: pages are given back before the TLB has forgotten them."""
    subject = subject_named("random-faults@1")
    found = failing(subject, "SVM-B41", 2)
    shrunk, again = shrunk_of(subject, found)
    assert injected(again) == {}
    assert shrunk.merit.operations <= 4
