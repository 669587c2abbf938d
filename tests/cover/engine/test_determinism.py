"""Digests of runs, and the first difference between two traces."""

from __future__ import annotations

import pytest
from engine_toys import TOYS, run_on
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.explore.determinism import (
    Difference,
    TraceDigest,
    digest,
    first_difference,
    lines_digest,
    trace_digest,
)
from svm_actors.explore.strategies import make

lines = st.lists(st.sampled_from(["a: start", "b: start", "a: lock m"]), max_size=6)


@pytest.mark.parametrize("name", ["locks", "actors", "timers"])
def test_digest_of_a_whole_run_is_the_same_recorded_or_taken_on_the_way(name: str) -> None:
    recorded = run_on("direct", TOYS[name], make("random", 5)).engine

    backend = DirectBackend()
    engine = Engine(backend, make("random", 5))
    engine.timeline = timeline = TraceDigest(remember=10)
    backend.run(TOYS[name](engine))

    assert trace_digest(engine) == trace_digest(recorded) == lines_digest(recorded.trace())
    assert len(timeline) == len(engine.trace()) == 10
    assert engine.trace() == recorded.trace()[-10:]


def test_other_runs_have_other_digests() -> None:
    digests = [trace_digest(run_on("direct", TOYS["locks"], make("random", seed)).engine) for seed in range(10)]
    assert len(set(digests)) == 10
    assert all(len(text) == 32 and int(text, 16) >= 0 for text in digests)


def test_run_that_was_not_recorded_has_no_digest() -> None:
    backend = DirectBackend()
    engine = Engine(backend, make("fifo", 0))
    backend.run(TOYS["locks"](engine))
    with pytest.raises(ValueError, match="was not recorded"):
        trace_digest(engine)


def test_digest_is_a_fixed_function_of_the_bytes() -> None:
    assert digest(b"scenario") == digest(b"scenario") != digest(b"scenario ")
    assert lines_digest(["a", "b"]) == digest(b"a\nb\n") != lines_digest(["ab"])


@given(one=lines, other=lines)
def test_first_difference(one: list[str], other: list[str]) -> None:
    found = first_difference(one, other)
    if found is None:
        assert one == other
        return
    assert one[: found.index] == other[: found.index]
    assert found.first == (one[found.index] if found.index < len(one) else None)
    assert found.second == (other[found.index] if found.index < len(other) else None)
    assert found.first != found.second


def test_difference_as_text() -> None:
    assert str(Difference(3, "a: lock m", None)) == "runs differ at step 3: 'a: lock m' against the end of the run"
