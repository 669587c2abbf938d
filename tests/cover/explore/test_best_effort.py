"""Best-effort replay: an edit that moves no op changes nothing; one that does is named, and costs little."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from explore_toys import LOST_UPDATE, drawing, endless, held, lost_update, script
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.explore.best_effort import replay_best_effort
from svm_actors.explore.run import BACKENDS, Backend, Run, TokenMismatch, replay, run
from svm_actors.explore.settings import UnknownName
from svm_actors.explore.subject import Scenario
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import Token, TokenError, decode, encode
from svm_actors.world import Config

EDITED = LOST_UPDATE.replace('"an update was lost"', '"an update went missing"  # words, no ops')
ONE_READ_MORE = LOST_UPDATE.replace("range(reads_before)", "range(reads_before + 1)")


def labelled(scenario: Scenario, one: Run) -> str:
    return replay(scenario, one.token, backend="direct", labels=True).token


def failing_script(directory: Path) -> tuple[Run, str]:
    """A failing run of the script, and its token with labels."""
    subject = subject_named(script(directory, LOST_UPDATE))
    one = next(found for seed in range(60) if not (found := run(subject, seed=seed, strategy="random")).ok)
    return one, replay(subject, one.token, labels=True).token


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([held, lost_update, drawing]), st.integers(0, 10**6), st.booleans())
def test_without_an_edit_it_is_the_strict_replay(scenario: Scenario, seed: int, labels: bool) -> None:
    one = run(scenario, seed=seed, strategy="random", backend="direct")
    found = replay_best_effort(scenario, labelled(scenario, one) if labels else one.token, backend="direct")
    assert (found.run.tape, found.run.failure, found.run.trace_digest) == (one.tape, one.failure, one.trace_digest)
    assert (found.drift, found.differences, found.canonical, found.trace_equal) == (None, (), 0, True)
    assert found.matched == len(one.tape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_timers_that_race(backend: Backend) -> None:
    one = run(endless, strategy="random", seed=4, race_timers=True, step_budget=50, backend="direct")
    found = replay_best_effort(endless, labelled(endless, one), backend=backend)
    assert found.drift is None
    assert found.run.trace_digest == one.trace_digest


def test_an_edit_that_moves_no_op_keeps_the_failure(tmp_path: Path) -> None:
    one, token = failing_script(tmp_path)
    subject = subject_named(script(tmp_path, EDITED))
    with pytest.raises(TokenMismatch):
        replay(subject, token)
    for text in (token, one.token):
        found = replay_best_effort(subject, text)
        assert len(found.differences) == 1
        assert "the token was made with scenario toy.py" in found.differences[0]
        assert found.drift is None
        assert found.run.failure is not None
        assert "an update went missing" in found.run.failure.message


def test_an_op_more_is_a_drift_and_the_names_still_fit(tmp_path: Path) -> None:
    one, token = failing_script(tmp_path)
    subject = subject_named(script(tmp_path, ONE_READ_MORE))
    by_name, by_place = replay_best_effort(subject, token), replay_best_effort(subject, one.token)
    for found in (by_name, by_place):
        assert found.drift is not None
        assert str(found.drift).startswith(f"drift at choice {found.drift.choice}, after {found.drift.step} steps: ")
    assert by_name.drift is not None
    assert "between main/thread" in by_name.drift.expected
    assert "between main/thread" in by_name.drift.actual
    assert by_name.matched > 2 * by_name.canonical
    assert by_name.run.failure is not None, "the same two writes meet"
    assert by_place.drift is not None
    assert by_place.matched <= by_place.drift.choice, "by position nothing is known after the drift"


def test_another_machine_and_another_version_are_named() -> None:
    one = run(held, strategy="random", seed=1)
    token = msgspec.structs.replace(decode(one.token), package="0.0.1")
    found = replay_best_effort(held, token, config=Config(vram_pages=8))
    assert found.differences[0].startswith("the token was made with svm-actors 0.0.1, but here it is ")
    assert "machine configuration" in found.differences[1]
    assert found.run.ok


def test_a_record_that_is_too_long_or_too_short() -> None:
    one = run(held, strategy="random", seed=1, backend="direct")
    known = decode(labelled(held, one))
    half = len(known.choices) // 2
    short = msgspec.structs.replace(
        known, choices=known.choices[:half], arities=known.arities[:half], labels=known.labels[:half]
    )
    found = replay_best_effort(held, encode(short), backend="direct")
    assert found.drift is not None
    assert (found.drift.choice, found.drift.expected) == (half, f"the end of the record after {half} choices")
    again = msgspec.structs.replace(
        known,
        choices=(*known.choices, 0),
        arities=(*known.arities, 2),
        labels=(*known.labels, known.labels[0]._replace(options=("x", "y"))),
    )
    longer = replay_best_effort(held, encode(again), backend="direct")
    assert longer.drift is not None
    assert (longer.drift.choice, longer.drift.actual) == (len(known.choices), "the end of the run")
    assert longer.drift.expected.endswith("between x, y")


def test_what_cannot_be_read_or_planted_is_refused_here_too() -> None:
    one: Token = decode(run(held).token)
    with pytest.raises(UnknownName):
        replay_best_effort(held, msgspec.structs.replace(one, bugs=("SVM-B99",)))
    with pytest.raises(TokenError):
        replay_best_effort(held, "svm-actors-token v2 AAAA")
