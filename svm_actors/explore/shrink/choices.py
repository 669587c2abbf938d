"""The passes over the choices of a run (exploration digest, section 1.4), numbered as there.

(1) :func:`shortest_prefix`, (3) :func:`reset_choices`, the workhorse, (4) :func:`lower_draws` and
:func:`lower_choices`; (2) is in :mod:`svm_actors.explore.shrink.operations`, (5) and (6) are in
:mod:`svm_actors.explore.shrink.joining`.  One more: :func:`defer_preemptions` lets a task run on until it blocks.

A pass returns nothing: what it found is ``shrinker.best``.
"""

from __future__ import annotations

from typing import Final

from svm_actors.explore.shrink.shrinker import Shrinker
from svm_actors.explore.strategies.guided import Decision, Guided, Plan, Point

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


def lower_draws(shrinker: Shrinker) -> None:
    """(4) Try smaller values of the data draws that are left."""
    _lower_each(shrinker, [one for one in shrinker.best.deviations if not one.options])


def lower_choices(shrinker: Shrinker) -> None:
    """(4) The same, and try earlier tasks at the switches that are left."""
    _lower_each(shrinker, list(shrinker.best.deviations))


def _lower_each(shrinker: Shrinker, decisions: list[Decision]) -> None:
    for one in decisions:
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
