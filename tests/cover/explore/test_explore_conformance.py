"""Conformance: a wrong recording is told from a right one, and said where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore import conformance
from svm_actors.explore.conformance import choosers, conform_kernel, conform_litmus, event_causes, total_failures
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_programs import KernelProgram, NotifierEvent, Operation
from svm_actors.workload.litmus_format import Litmus, Observed, Outcome

CALLS: Sequence[ops.Arguments] = (ops.Mmap(0, 4, "rw", "private"), ops.CpuWrite(1, 9), ops.CpuRead(1))
RESULTS: Sequence[dict[str, Any]] = ({"errno": 0}, {"signal": 0}, {"signal": 0, "value": 9})


def program(number: int = 1, *, value: int = 9, events: tuple[NotifierEvent, ...] = ()) -> KernelProgram:
    """A program whose recording says that the last read answered ``value``."""
    results = [*RESULTS[:2], {"signal": 0, "value": value}]
    operations = tuple(
        Operation(call, {**result, "events": events if index == 1 else ()}, index + 2)
        for index, (call, result) in enumerate(zip(CALLS, results, strict=True))
    )
    return KernelProgram(number, 4, 2, 0, operations, 1)


def litmus(number: int = 1, *outcomes: tuple[int, int]) -> Litmus:
    """Two writers of one byte; ``outcomes`` are the values recorded at the end, with counts."""
    write = (ops.CpuWrite(0, 1),), (ops.CpuWrite(0, 2),)
    observed = tuple(
        Observed(Outcome((("ok",), ("ok",)), (), 0, (value, 0)), count) for value, count in outcomes
    )
    seen = tuple(attrs.evolve(each, outcome=attrs.evolve(each.outcome, snapshot=SNAPSHOT)) for each in observed)
    return Litmus(number, 2, 2, (), write, sum(count for _, count in outcomes), seen, number)


SNAPSHOT = (2, 0)
"""Page 0 written, page 1 never touched."""


def test_a_right_recording_agrees() -> None:
    (result,) = conform_kernel([program()])
    assert result.agrees
    assert result.mismatches == ()


def test_a_wrong_result_is_named() -> None:
    (result,) = conform_kernel([program(7, value=8)])
    (found,) = result.results
    assert not result.agrees
    assert str(found) == "program 7 operation 2 (line 4) cpu_read: value is 9, recorded 8"


def test_wrong_events_are_judged_apart_and_grouped() -> None:
    clear, unmap = NotifierEvent("CLEAR", 0, 1), NotifierEvent("UNMAP", 0, 1)
    recorded = [(clear, clear), (unmap,), (unmap,)]
    results = list(conform_kernel([program(number, events=events) for number, events in enumerate(recorded, 1)]))
    assert all(result.agrees for result in results)
    assert [(cause, count, first.program) for cause, count, first in event_causes(results)] == [
        ("cpu_write: no event, recorded UNMAP", 2, 2),
        ("cpu_write: no event, recorded 2 CLEAR", 1, 1),
    ]


def test_events_that_differ_only_in_place_say_so() -> None:
    base = program()
    moved = Operation(ops.Munmap(1, 1), {"errno": 0, "events": (NotifierEvent("UNMAP", 2, 1),)}, 9)
    results = list(conform_kernel([attrs.evolve(base, operations=(*base.operations, moved))]))
    assert [cause for cause, _, _ in event_causes(results)] == ["munmap: UNMAP, but with other pages or owners"]


def test_a_program_that_breaks_the_model_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(each: KernelProgram) -> list[Any]:
        if each.number == 2:
            raise PropertyFailed("toy", "INV-99", "seen")
        return []

    monkeypatch.setattr(conformance, "run_kernel_program", breaks)
    results = list(conform_kernel([program(number) for number in (1, 2, 3)]))
    assert [result.agrees for result in results] == [True, False, True]
    assert results[1].failure == "PropertyFailed: toy [INV-99]: seen"


def test_processes_change_nothing() -> None:
    programs = [program(number, value=8 + number % 2) for number in range(20)]
    one, two = (list(conform_kernel(programs, jobs)) for jobs in (1, 2))
    assert one == two
    assert [result.agrees for result in one] == [number % 2 == 1 for number in range(20)]


def test_a_litmus_ends_when_everything_was_reached() -> None:
    (reached,) = conform_litmus([litmus(1, (1, 5), (2, 3))], runs=500, seed="0")
    assert reached.missing == ()
    assert reached.runs < 500
    assert not total_failures([reached])


def test_exhausting_makes_every_run() -> None:
    (reached,) = conform_litmus([litmus(1, (1, 5))], runs=40, seed="0", exhaust=True)
    assert reached.runs == 40
    assert [outcome.memory for outcome in reached.unrecorded] == [(2, 0)], "only the model was seen doing this"


def test_an_outcome_that_cannot_be_is_missing() -> None:
    (reached,) = conform_litmus([litmus(1, (1, 5), (3, 1))], runs=30, seed="0")
    assert [missing.outcome.memory for missing in reached.missing] == [(3, 0)]
    assert reached.runs == 30


def test_processes_change_no_search() -> None:
    programs = [litmus(number, (1, 5), (2, 3)) for number in range(1, 5)]
    one, two = (list(conform_litmus(programs, runs=60, seed="s", jobs=jobs)) for jobs in (1, 2))
    assert one == two


def test_searches_mix_two_ways_of_choosing() -> None:
    assert [chooser.name for chooser in choosers("0", 8)] == (["few switches"] * 3 + ["random"]) * 2
