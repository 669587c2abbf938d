"""``bugs --check``: the table, the exit code, and what is said of bugs that are not found."""

from __future__ import annotations

import pytest
from cli_bench import call

from svm_actors.cli import bugs as command
from svm_actors.explore.failure import Failure
from svm_actors.explore.hunt import Hunt

EXPECTED = Failure("property", "binds", "INV-VMB-08", "it was put back too short")


def test_what_is_found_is_a_table() -> None:
    answer = call("bugs", "VMB-R05", "--check", "--seed", "1", "--seed", "2", "--executions", "100", "--jobs", "1")
    head, row, _, total = answer.out.splitlines()
    assert answer.code == 0
    assert head.split() == ["id", "seed", "1", "seed", "2", "noticed", "by"]
    assert row.startswith("VMB-R05")
    assert total.startswith("1 bugs, 2 of 2 hunts found theirs, at most ")


@pytest.mark.parametrize(
    ("hunt", "words"),
    [
        (Hunt("VMB-B17", "1", 20), ["> 20", "not found: VMB-B17 (seed 1)"]),
        (
            Hunt("VMB-B17", "1", 3, "bind", Failure("property", "leaks", "INV-01", "text"), "t"),
            ["leaks/INV-01  not among its oracles", "noticed by something else: VMB-B17 (seed 1)"],
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_named(hunt: Hunt, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "hunts", lambda *_: iter([hunt]))
    answer = call("bugs", "VMB-B17", "--check", "--seed", "1")
    assert answer.code == 1
    for word in words:
        assert word in answer.out


def test_hunts_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "hunts", lambda *_: iter([Hunt("VMB-B17", "1", 3, "bind", EXPECTED, "t", 0.5)]))
    (found,) = call("bugs", "VMB-B17", "--check", "--seed", "1", "--json").json["hunts"]
    assert found == {
        "bug": "VMB-B17",
        "seed": "1",
        "runs": 3,
        "target": "bind",
        "token": "t",
        "found": True,
        "expected": True,
        "noticed": "binds/INV-VMB-08",
        "elapsed_s": 0.5,
    }
