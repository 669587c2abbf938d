"""Pass (2): leave out operations of the program (exploration digest, section 1.4), cheap ways first.

:func:`drop_operations`, :func:`drop_pairs` and :func:`drop_stretches` make a few runs for each smaller program: the
deviations of the best run, and its order.  Where these do not fail, other schedules may: :func:`search_chunks` and
:func:`search_stretches` try a few for each chunk, :func:`search_smaller_programs` many for each one and each two
operations left out, the more of them the more operations there are.  Operations come first in merit, so a new schedule
of a smaller program is an improvement; its own deviations are reset afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Final

from svm_actors.explore.shrink.choices import reset_choices, shortest_prefix
from svm_actors.explore.shrink.late import InLateOrder
from svm_actors.explore.shrink.searching import searched
from svm_actors.explore.shrink.shrinker import Shrinker
from svm_actors.explore.strategies.guided import InOrder

SEARCHES: Final = 30
"""Schedules searched when a chunk is left out."""
HANDFUL: Final = 6
"""Operations that a person keeps in mind: a program with more is searched for as long as is sensible."""
PAIRS: Final = 10
"""Operations of a program of which every two are tried."""
STRETCHED: Final = 16
"""Operations of a program of which every stretch is tried."""
EFFORTS: Final = ((1, 60, 12), (HANDFUL, 240, 60), (HANDFUL, 960, 60))
"""A program of more operations than the first number is searched with so many schedules of each program without one
of them, and so many of each without two."""


def drop_operations(shrinker: Shrinker) -> None:
    """Leave out chunks of operations, from the end of the program to its start, in halves, quarters and so on."""
    _drop_chunks(shrinker, lambda kept: _recorded(shrinker, kept))


def search_large(shrinker: Shrinker) -> None:
    """:func:`search_chunks` for a large program: every later run is cheaper without what this leaves out, and as long
    as nothing is reset the run is rich in pauses and delays to draw on."""
    if len(shrinker.best.numbers) > HANDFUL:
        search_chunks(shrinker)


def search_chunks(shrinker: Shrinker) -> bool:
    """The same, with a few other schedules of what is left; True when something could go."""
    return _drop_chunks(shrinker, lambda kept: _searched(shrinker, kept, SEARCHES))


def _drop_chunks(shrinker: Shrinker, attempt: Callable[[frozenset[int]], bool]) -> bool:
    found = False
    size = max(1, len(shrinker.best.numbers) // 2)
    while shrinker.best.run.subject.is_program:
        again = _sweep(shrinker, size, attempt)
        found = found or again
        if size > 1:
            size //= 2
        elif not again:
            break
    return found


def _sweep(shrinker: Shrinker, size: int, attempt: Callable[[frozenset[int]], bool]) -> bool:
    found = False
    numbers = shrinker.best.numbers
    end = len(numbers)
    while end > 0:
        start = max(0, end - size)
        if attempt(frozenset(numbers[:start] + numbers[end:])):
            found = True
            numbers = shrinker.best.numbers
        end = start
    return found


def drop_pairs(shrinker: Shrinker) -> bool:
    """Of a program that is small already, leave out any two operations: some are only there for each other."""
    found = False
    for kept in _without_two(shrinker):
        if len(kept) == len(shrinker.best.numbers) - 2 and _recorded(shrinker, kept):
            found = True
            reset_choices(shrinker)
    return found


def drop_stretches(shrinker: Shrinker) -> bool:
    """Of a program that is not small yet, leave out any stretch of operations, the longest first; True when one could
    go.

    Operations that follow each other often need each other, as moves of one mapping from place to place do, and where
    halves and quarters begin is chance.
    """
    return any(_recorded(shrinker, kept) for kept in _without_stretches(shrinker))


def search_stretches(shrinker: Shrinker) -> bool:
    """The same, with a few other schedules of what is left."""
    return any(_searched(shrinker, kept, SEARCHES) for kept in _without_stretches(shrinker))


def _without_stretches(shrinker: Shrinker) -> Iterator[frozenset[int]]:
    """What is left of a program without any stretch of more than two operations."""
    numbers = shrinker.best.numbers
    count = len(numbers)
    if shrinker.best.run.subject.is_program and HANDFUL < count <= STRETCHED:
        for size in range(count - 1, 2, -1):
            for start in range(count - size, -1, -1):
                yield frozenset(numbers[:start] + numbers[start + size :])


def search_smaller_programs(shrinker: Shrinker) -> bool:
    """Search every program with one operation less, or two, harder each time; True when one of them fails."""
    for more_than, singles, pairs in EFFORTS:
        numbers = shrinker.best.numbers
        if more_than < len(numbers) and shrinker.best.run.subject.is_program:
            whole = frozenset(numbers)
            if any(_searched(shrinker, whole - {number}, singles) for number in reversed(numbers)):
                return True
            if any(_searched(shrinker, kept, pairs) for kept in _without_two(shrinker)):
                return True
    return False


def _without_two(shrinker: Shrinker) -> Iterator[frozenset[int]]:
    """What is left of a small program without any two of its operations, the last ones first."""
    numbers = shrinker.best.numbers
    if len(numbers) <= PAIRS and shrinker.best.run.subject.is_program:
        for pair in combinations(reversed(numbers), 2):
            yield frozenset(shrinker.best.numbers).difference(pair)


def _recorded(shrinker: Shrinker, kept: frozenset[int]) -> bool:
    """With these operations only: the same deviations, or every step that is left in its place, told in two ways."""
    best = shrinker.best
    if shrinker.attempt(best.plan, kept):
        return True
    if not shrinker.anew("order", kept):
        return False
    return shrinker.offer(kept, InOrder(best.plan, best.order)) or shrinker.offer(
        kept, InLateOrder(best.plan, shrinker.late())
    )


def _searched(shrinker: Shrinker, kept: frozenset[int], schedules: int) -> bool:
    """With these operations only: another schedule that fails, cut short."""
    if not searched(shrinker, kept, schedules):
        return False
    shortest_prefix(shrinker)
    return True
