"""The passes of a shrinking (exploration digest, section 1.4), numbered as there.

(1) :func:`shortest_prefix`, (2) :func:`drop_operations`, (3) :func:`reset_choices`, the workhorse,
(4) :func:`lower_choices`; (5) and (6) are in :mod:`svm_actors.explore.shrink.joining`.  One more:
:func:`defer_preemptions` lets a task run on until it blocks.

Where neither the deviations nor the order of the best run fail without some operations, a few other schedules are
searched: operations come first in merit, and a smaller program is easily hit by a random schedule.

A pass returns nothing: what it found is ``shrinker.best``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.shrink.shrinker import Shrinker
from svm_actors.explore.strategies.guided import Decision, Fork, Guided, InOrder, Plan, Point
from svm_actors.explore.strategies.pct import Pct
from svm_actors.explore.strategies.random_walk import RandomWalk
from svm_actors.workload.program import PROGRAM

SEARCHES: Final = 12
"""Schedules searched for a smaller program."""
MORE_SEARCHES: Final = 60
"""The same, for a program of no more than PAIRS operations, whose runs are short, but more than FEW."""
FEW: Final = 3
"""Operations that a person takes in at a glance: no long search for a program with less."""
PAIRS: Final = 10
"""Operations of a program of which every two are tried."""
ALTERNATIVES: Final = 8
"""Other candidates tried at one surviving switch."""


def shortest_prefix(shrinker: Shrinker) -> None:
    """(1) Keep the first deviations only, as few as still fail, by halving; the rest of the run is canonical."""
    points = _points(shrinker)
    low, high = 0, len(points)
    while low < high:
        middle = (low + high) // 2
        if shrinker.without(points[middle:]):
            high = middle
        else:
            low = middle + 1


def reset_choices(shrinker: Shrinker) -> None:
    """(3) Reset chunks of deviations to the canonical choice, in halves, quarters ... down to single ones."""
    size = max(1, len(_points(shrinker)) // 2)
    while True:
        found = _reset_chunks(shrinker, size)
        if size > 1:
            size //= 2
        elif not found:
            return


def _reset_chunks(shrinker: Shrinker, size: int) -> bool:
    """One sweep from the end of the run to its start; True when something could go."""
    found = False
    points = _points(shrinker)
    end = len(points)
    while end > 0:
        start = max(0, end - size)
        if shrinker.without(points[start:end]):
            found = True
            points = _points(shrinker)
        end = min(start, len(points))
    return found


def drop_operations(shrinker: Shrinker) -> None:
    """(2) Leave out chunks of operations of the program, from its end to its start, in halves and so on."""
    size = max(1, len(shrinker.best.numbers) // 2)
    while shrinker.best.run.subject.is_program:
        found = _drop_chunks(shrinker, size)
        if size > 1:
            size //= 2
        elif not found:
            return


def _drop_chunks(shrinker: Shrinker, size: int) -> bool:
    found = False
    numbers = shrinker.best.numbers
    end = len(numbers)
    while end > 0:
        start = max(0, end - size)
        kept = frozenset(numbers[:start] + numbers[end:])
        if _recorded(shrinker, kept) or _searched(shrinker, kept):
            found = True
            numbers = shrinker.best.numbers
        end = start
    return found


def drop_pairs(shrinker: Shrinker) -> None:
    """(2) Of a program that is small already, leave out any two operations: some are only there for each other."""
    numbers = shrinker.best.numbers
    if len(numbers) <= PAIRS and shrinker.best.run.subject.is_program:
        for pair in combinations(reversed(numbers), 2):
            kept = frozenset(shrinker.best.numbers).difference(pair)
            if len(kept) == len(shrinker.best.numbers) - 2 and _recorded(shrinker, kept):
                reset_choices(shrinker)


def _recorded(shrinker: Shrinker, kept: frozenset[int]) -> bool:
    """With these operations only: the same deviations, or every step that is left in its place."""
    best = shrinker.best
    return shrinker.attempt(best.plan, kept) or shrinker.offer(kept, InOrder(best.plan, best.order))


def _searched(shrinker: Shrinker, kept: frozenset[int]) -> bool:
    """With these operations only: another schedule that fails."""
    if kept in shrinker.searched:
        return False
    if any(shrinker.offer(kept, chooser) for chooser in _searches(shrinker, len(kept))):
        shortest_prefix(shrinker)
        return True
    shrinker.searched.add(kept)
    return False


def _searches(shrinker: Shrinker, operations: int) -> Iterator[Guided]:
    """Other schedules of the same program: half of them with the data draws of the best run."""
    best = shrinker.best
    horizon = max(1, len(best.decisions))
    for number in range(MORE_SEARCHES if FEW < operations <= PAIRS else SEARCHES):
        seed = f"shrink/{number}"
        walk: Chooser = RandomWalk(seed) if number % 4 == 3 else Pct(seed, 2 + number % 3, horizon)
        yield Other(best.plan if number % 2 else best.given, walk, draw_anew=number % 2 == 0)


class Other(Guided):
    """Another schedule, with a plan for the data draws; ``draw_anew`` for all but those that make the program."""

    def __init__(self, plan: Plan, schedule: Chooser, *, draw_anew: bool) -> None:
        super().__init__(plan)
        self._schedule = schedule
        self._draw_anew = draw_anew

    def pick(self, fork: Fork) -> int:
        """What the other strategy says."""
        return self._schedule.schedule(fork.running, fork.candidates, fork.timer)

    def draw(self, point: Point, count: int, label: str) -> int:
        """The plan, or the other strategy."""
        if self._draw_anew and label != PROGRAM:
            return self._schedule.data(count, label)
        return super().draw(point, count, label)


def lower_choices(shrinker: Shrinker) -> None:
    """(4) Try smaller values of the data draws that are left, and earlier tasks at the switches that are left."""
    for one in list(shrinker.best.deviations):
        for value in _lower(one):
            plan = shrinker.best.plan
            if one.point in plan and shrinker.attempt({**plan, one.point: value}, shrinker.best.kept):
                break


def _lower(one: Decision) -> list[int] | list[str]:
    if one.options:
        return [name for name in one.options[: one.chosen][:ALTERNATIVES] if name != one.options[one.canonical]]
    return sorted({1, one.chosen // 2, one.chosen - 1} & set(range(1, one.chosen)))


def defer_preemptions(shrinker: Shrinker) -> None:
    """Instead of taking the processor away, wait until the task blocks and let the other go first then."""
    for one in [found for found in shrinker.best.deviations if found.preemption]:
        plan = {at: value for at, value in shrinker.best.plan.items() if at != one.point}
        later = _where_it_blocks(shrinker, plan, one)
        if later is not None and one.point in shrinker.best.plan:
            shrinker.attempt({**plan, later.point: one.value}, shrinker.best.kept)


def _where_it_blocks(shrinker: Shrinker, plan: Plan, one: Decision) -> Decision | None:
    """The next choice, without that preemption, at which its task cannot go on and the other task can."""
    run = shrinker.record(shrinker.best.kept, Guided(plan))
    for found in run.decisions:
        blocked = bool(found.options) and found.options[found.canonical] != found.point.task
        if found.step > one.step and found.point.task == one.point.task and blocked and one.value in found.options:
            return found
    return None


def _points(shrinker: Shrinker) -> list[Point]:
    return [one.point for one in shrinker.best.deviations]
