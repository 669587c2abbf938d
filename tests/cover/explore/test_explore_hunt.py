"""Hunts: a planted bug is looked for until something fails, and what failed is compared with what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from svm_actors.bugs import BUGS
from svm_actors.explore.failure import Failure
from svm_actors.explore.hunt import hunt, hunts, noticed_as_expected
from svm_actors.explore.run import replay
from svm_actors.explore.settings import UnknownName
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import decode


def test_a_hunt_ends_with_the_run_that_notices_the_bug() -> None:
    one = hunt("FEN-B09", "1", 200)
    assert one.found
    assert one.expected
    again = replay(subject_named(decode(one.token).target), one.token)
    assert again.failure is not None
    assert again.failure.signature == one.failure.signature  # type: ignore[union-attr]


def test_a_hunt_that_finds_nothing_says_how_long_it_looked() -> None:
    one = hunt("SVM-B37", "1", 1)
    assert (one.runs, one.found, one.expected, one.token) == (1, False, False, "")


def test_hunts_do_not_depend_on_how_many_share_them() -> None:
    def told(jobs: int) -> list[tuple[Any, ...]]:
        return [(one.bug, one.seed, one.runs, one.token) for one in hunts(["VMB-R05", "FEN-B09"], ["1", "2"], 50, jobs)]

    assert told(1) == told(2)
    assert [one[:2] for one in told(1)] == [("VMB-R05", "1"), ("VMB-R05", "2"), ("FEN-B09", "1"), ("FEN-B09", "2")]


def test_an_unknown_bug_is_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownName, match="SVM-B99"):
        hunts(["SVM-B99"])


def test_a_failure_is_expected_when_the_bug_names_its_oracle_or_its_rule() -> None:
    (oracle, *_) = BUGS["SVM-B50"].oracles
    name, _, rule = oracle.partition("/")
    assert noticed_as_expected("SVM-B50", Failure("property", name, rule or "any", "text"))
    assert not noticed_as_expected("SVM-B50", Failure("property", "nobody", "nothing", "text"))
