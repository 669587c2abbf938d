"""The page about mutants is what the generator makes of the kept run; every survivor is judged; the goal is met."""

from __future__ import annotations

from benchmarks.mutation import GOAL, PAGE, RUNGS, modules, page, rate, read_judgements, read_measured

MEASURED = read_measured()
JUDGEMENTS = read_judgements()


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(MEASURED, JUDGEMENTS)


def test_the_run_is_of_all_modules() -> None:
    assert list(MEASURED.places) == modules()
    assert {row.module for row in MEASURED.rows} == set(modules())
    assert len(MEASURED.rows) >= 150
    assert {row.rung for row in MEASURED.rows} <= {"", *RUNGS}


def test_every_survivor_is_judged() -> None:
    survivors = {row.key for row in MEASURED.rows if not row.rung}
    assert survivors == set(JUDGEMENTS)


def test_the_goal_is_met() -> None:
    assert rate(MEASURED, JUDGEMENTS) >= GOAL


def test_a_survivor_that_is_not_judged_counts_as_missed() -> None:
    equal = [key for key, judgement in JUDGEMENTS.items() if judgement.equivalent]
    assert equal
    without = {key: judgement for key, judgement in JUDGEMENTS.items() if key != equal[0]}
    assert rate(MEASURED, without) < rate(MEASURED, JUDGEMENTS)
    assert page(MEASURED, without) != page(MEASURED, JUDGEMENTS)
