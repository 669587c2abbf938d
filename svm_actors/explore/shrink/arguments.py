"""Simpler operations: lower the draws that make a program, where that changes an operation that is kept.

A drawn program is made anew from lower draws, without running it, and tried only if it has the same operations at the
same places and one of those that are kept reads differently: another page, fewer pages, a milder protection, or another
action that takes as many draws.  Draws of the same range and value are lowered together first, since the operations
of a race must name the same page.  What is given as data, a story or a recording, has no draws and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from svm_actors.explore.shrink.recording import Recording
from svm_actors.explore.shrink.shrinker import Shrinker
from svm_actors.explore.strategies.guided import Decision
from svm_actors.workload.program import PROGRAM, ProgramScenario


def lower_arguments(shrinker: Shrinker) -> None:
    """Try lower draws of the program: all with one value and range, then single ones."""
    for group in (*_alike(shrinker.best), *([index] for index in range(len(shrinker.best.draws)))):
        _lower(shrinker, group)


def _alike(best: Recording) -> list[list[int]]:
    """Indexes of draws of the same range that came to the same value."""
    found: dict[tuple[int, int], list[int]] = {}
    for index, one in enumerate(_made(best)):
        if one.chosen:
            found.setdefault((one.arity, one.chosen), []).append(index)
    return [group for _key, group in sorted(found.items()) if len(group) > 1]


def _lower(shrinker: Shrinker, group: Sequence[int]) -> None:
    """Give these draws the smallest value with which it fails no worse."""
    made = _made(shrinker.best)
    value = max(made[index].chosen for index in group)
    for lower in sorted({0, 1, value // 2, value - 1}):
        changed = {index: lower for index in group if made[index].chosen == value}
        if lower < value and _differs(shrinker.best, changed):
            plan = {**shrinker.best.plan, **{made[index].point: lower for index in changed}}
            if shrinker.attempt(plan, shrinker.best.kept):
                return


def _made(best: Recording) -> list[Decision]:
    """The draws the program is made of, in order."""
    return [one for one in best.decisions if one.point.label == PROGRAM]


def _differs(best: Recording, changed: dict[int, int]) -> bool:
    """Whether the program made so has the same operations at the same places, but for the text of one that is kept."""
    draws = [changed.get(index, value) for index, value in enumerate(best.draws)]
    scenario = best.run.subject.scenario
    assert isinstance(scenario, ProgramScenario)
    values = _Values(draws)
    after = tuple(scenario.list_operations(scenario.make(values.draw)))
    before = best.operations
    if not values.fitted or [each.who for each in after] != [each.who for each in before]:
        return False
    return any(before[number] != after[number] for number in best.numbers)


class _Values:
    """Hands out draws, and knows whether they were the right number, each below its range."""

    def __init__(self, values: Sequence[int]) -> None:
        self._values = values
        self._next = 0
        self._below = True

    @property
    def fitted(self) -> bool:
        """Whether every draw was there and could be what it is."""
        return self._below and self._next == len(self._values)

    def draw(self, count: int) -> int:
        """The next one; 0 where there is none."""
        if count < 2:
            return 0
        value = self._values[self._next] if self._next < len(self._values) else 0
        self._next += 1
        self._below = self._below and value < count
        return value if value < count else 0
