"""Injected faults: nothing is drawn without them, the canonical draw is none, a run has only so many."""

from __future__ import annotations

from collections import Counter

import pytest

from svm_actors.engine.faults import KINDS, Faults
from svm_actors.explore.run import replay, run
from svm_actors.world import Config, World


class Tape:
    """Draws made in order, answered from a list; 0 when that is used up."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, str]] = []
        self.counted: Counter[str] = Counter()

    def choose(self, count: int, label: str) -> int:
        self.asked.append((count, label))
        return self.answers.pop(0) if self.answers else 0

    def count(self, name: str) -> None:
        self.counted[name] += 1

    def faults(self) -> Faults:
        return Faults(self.choose, self.count)


def test_without_injection_nothing_is_drawn() -> None:
    tape = Tape(1)
    assert not any(tape.faults().strike(kind) for kind in KINDS)
    assert tape.asked == []


def test_the_canonical_draw_is_no_fault_and_one_value_is_one() -> None:
    tape = Tape(0, 1, 2)
    faults = tape.faults()
    faults.allow(("page",), most=3, odds=3)
    assert [faults.strike("page") for _ in range(4)] == [False, True, False, False]
    assert tape.asked == [(3, "fault.page")] * 4
    assert tape.counted == {"inject.page": 1}


def test_other_kinds_are_not_drawn() -> None:
    tape = Tape(1)
    faults = tape.faults()
    faults.allow(("page",), most=1, odds=2)
    assert not faults.strike("vram")
    assert tape.asked == []


def test_when_the_faults_of_a_run_are_spent_nothing_is_drawn_any_more() -> None:
    tape = Tape(1, 1, 1)
    faults = tape.faults()
    faults.allow(("page", "copy"), most=2, odds=2)
    assert [faults.strike(kind) for kind in ("page", "copy", "page")] == [True, True, False]
    assert len(tape.asked) == 2


def test_a_machine_with_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault is called 'meteor'; known: page"):
        Config(faults=("meteor",))


async def struck(world: World) -> None:
    """Ask a hundred times, and fail when asked to."""
    found = [world.engine.faults.strike("page") for _ in range(100)]
    assert sum(found) < 2, f"struck at {[number for number, hit in enumerate(found) if hit]}"


def test_what_strikes_is_replayed_and_about_one_point_in_so_many_strikes() -> None:
    config = Config(faults=("page",), most_faults=100, fault_odds=50)
    runs = [run(struck, seed=seed, strategy="random", config=config) for seed in range(200)]
    strikes = sum(each.counters.get("inject.page", 0) for each in runs)
    assert abs(strikes - 400) < 80  # 20,000 draws at 1 in 50; four standard deviations
    failed = next(each for each in runs if not each.ok)
    again = replay(struck, failed.token, config=config)
    assert again.failure == failed.failure
    assert again.tape == failed.tape
