"""The pages about mutants are what the generator makes of the kept runs; every survivor is judged; the goal is met."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutation import (
    GOAL,
    MEASURED,
    PAGE,
    RUNGS,
    SECOND,
    Measured,
    modules,
    page,
    rate,
    read_judgements,
    read_measured,
)

FIRST = read_measured(MEASURED)
OTHER = read_measured(SECOND["measured"])
JUDGEMENTS = read_judgements()


@pytest.mark.parametrize(("path", "measured"), [(PAGE, FIRST), (SECOND["page"], OTHER)], ids=["first", "second"])
def test_the_page_is_up_to_date(path: Path, measured: Measured) -> None:
    assert path.read_text(encoding="utf-8") == page(measured, JUDGEMENTS)


@pytest.mark.parametrize(("measured", "least"), [(FIRST, 150), (OTHER, 100)], ids=["first", "second"])
def test_the_run_is_of_all_modules(measured: Measured, least: int) -> None:
    assert list(measured.places) == modules()
    assert {row.module for row in measured.rows} == set(modules())
    assert len(measured.rows) >= least
    assert {row.rung for row in measured.rows} <= {"", *RUNGS}


def test_every_survivor_is_judged() -> None:
    assert {row.key for row in (*FIRST.rows, *OTHER.rows) if not row.rung} == set(JUDGEMENTS)


@pytest.mark.parametrize("measured", [FIRST, OTHER], ids=["first", "second"])
def test_the_goal_is_met(measured: Measured) -> None:
    assert rate(measured, JUDGEMENTS) >= GOAL


def test_a_survivor_that_is_not_judged_counts_as_missed() -> None:
    equal = [row.key for row in FIRST.rows if not row.rung and JUDGEMENTS[row.key].equivalent]
    assert equal
    without = {key: judgement for key, judgement in JUDGEMENTS.items() if key != equal[0]}
    assert rate(FIRST, without) < rate(FIRST, JUDGEMENTS)
    assert page(FIRST, without) != page(FIRST, JUDGEMENTS)
