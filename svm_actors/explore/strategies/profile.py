"""Profiles: how many ops each task does, learned before the run (exploration digest, section 1.1).

URW and SURW weigh tasks by the ops they still have to do, PCT and delay bounding draw their points
among the contested steps of a run.  Both numbers come from earlier runs of the same program: the
canonical one (always the task created first), and for op counts nine random walks besides, because
one run alone under-counts tasks whose length depends on data.  All numbers are maxima over those runs.

A task is known by its id, which is its creation path: by parent, name and turn of its spawn, never
by its number, which depends on the schedule.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Final, TypeVar

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.op import LOCAL, MODES, READ, WRITE
from svm_actors.engine.task import Task
from svm_actors.explore.strategies.random_walk import RandomWalk

Key = TypeVar("Key")

RANDOM_RUNS: Final = 9
"""Random walks in a full profile, beside the canonical run."""
HORIZON_RUNS: Final = 1
"""Random walks that a horizon takes, beside the canonical run and its reverse.

Those two let one task after the other have its way, and so meet few choices: 35 where a walk through the same random
program meets hundreds.
"""
DEFAULT_HORIZON: Final = 1000
"""Contested steps assumed of a program of which nothing is known."""
LOCKING: Final = frozenset({"lock", "trylock", "read_lock", "unlock"})
"""Kinds that make a resource count as a lock."""


@attrs.frozen
class Profile:
    """What earlier runs say about a program; everything is empty when there were none."""

    ops: Mapping[str, int] = attrs.field(factory=dict)
    """Ops by task id."""
    touches: Mapping[tuple[str, str], int] = attrs.field(factory=dict)
    """Ops by task id and name of the resource."""
    written: frozenset[str] = frozenset()
    """Resources that are not only read."""
    locks: frozenset[str] = frozenset()
    """Resources that are locked or unlocked."""
    horizon: int = 0
    """Contested steps of the run that had most; 0: unknown."""

    def merged(self, other: Profile) -> Profile:
        """The maxima of both."""
        return Profile(
            _maxima(self.ops, other.ops),
            _maxima(self.touches, other.touches),
            self.written | other.written,
            self.locks | other.locks,
            max(self.horizon, other.horizon),
        )


def _maxima(one: Mapping[Key, int], other: Mapping[Key, int]) -> dict[Key, int]:
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in [*one, *other]}


class Canonical:
    """The canonical schedule: always the enabled task that was created first; no data fault."""

    name = "canonical"

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The first."""
        return 0

    def data(self, count: int, label: str) -> int:
        """The first alternative: nothing special happens."""
        return 0


class Reversed(Canonical):
    """The other extreme: always the enabled task that was created last."""

    name = "reversed"

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The last."""
        return len(candidates) - 1


class Counting:
    """Counts what a run does while another chooser makes its choices."""

    def __init__(self, chooser: Chooser) -> None:
        self.name = chooser.name
        self.contested = 0
        self.data = chooser.data
        self._schedule = chooser.schedule
        self._ops: Counter[str] = Counter()
        self._touches: Counter[tuple[str, str]] = Counter()
        self._written: set[str] = set()
        self._locks: set[str] = set()

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """What the other one says."""
        self.contested += 1
        return self._schedule(running, candidates, timer)

    def ran(self, task: Task) -> None:
        """Book one op."""
        kind, resource, _key = task.op
        self._ops[task.id] += 1
        mode = MODES.get(kind, WRITE)
        if resource is None or mode == LOCAL:
            return
        self._touches[task.id, resource.name] += 1
        if mode != READ:
            self._written.add(resource.name)
        if kind in LOCKING:
            self._locks.add(resource.name)

    def profile(self) -> Profile:
        """Of the run so far."""
        return Profile(
            dict(self._ops), dict(self._touches), frozenset(self._written), frozenset(self._locks), self.contested
        )


def learn(run: Callable[[Chooser], object], random_runs: int = RANDOM_RUNS) -> Profile:
    """Make the canonical run and so many random walks; ``run`` makes one and returns when it has ended.

    Where there are few walks the reversed canonical run is made besides: a single run does not show how many choices
    there are, where the task that comes first is the short one.
    """
    choosers: list[Chooser] = [Canonical(), *(RandomWalk(f"profile/{number}") for number in range(random_runs))]
    if random_runs <= HORIZON_RUNS:
        choosers.append(Reversed())
    found = Profile()
    for chooser in choosers:
        counting = Counting(chooser)
        run(counting)
        found = found.merged(counting.profile())
    return found


class Remaining:
    """How many ops each task still has to do; a child's belong to its parent until it is spawned."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._totals: Counter[str] = Counter()
        """By task id, children included."""
        for path, count in counts.items():
            parts = path.split("/")
            for length in range(1, len(parts) + 1):
                self._totals["/".join(parts[:length])] += count
        self._left: dict[int, int] = {}

    def of(self, task: Task) -> int:
        """Ops left; 0 for a task that no profile knows."""
        left = self._left.get(task.number)
        return self._enter(task) if left is None else left

    def newcomers(self, tasks: list[Task]) -> list[Task]:
        """Those that were not asked about yet."""
        left = self._left
        return [task for task in tasks if task.number not in left]

    def weights(self, tasks: list[Task]) -> list[int]:
        """Ops left of each."""
        for task in self.newcomers(tasks):  # first all counts: a child takes its own from its parent
            self._enter(task)
        left = self._left
        return [left[task.number] for task in tasks]

    def done_one(self, task: Task) -> None:
        """One op less."""
        self._left[task.number] = max(0, self.of(task) - 1)

    def _enter(self, task: Task) -> int:
        """The task exists: its count moves from its parent to itself."""
        count = self._totals[task.id]
        if task.parent is not None:
            before = self.of(task.parent)
            self._left[task.parent.number] = max(0, before - count)
        self._left[task.number] = count
        return count


def weighted(weights: list[int], draw: float) -> int:
    """Index drawn in proportion to its weight; ``draw`` is uniform in [0, 1)."""
    sums = list(accumulate(weights))
    return min(bisect_right(sums, draw * sums[-1]), len(weights) - 1)
