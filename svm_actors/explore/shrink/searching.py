"""Search: other schedules of a smaller program, and short ones of a program whose failing run is very long.

Where nothing recorded fails without some operations, other schedules of what is left may.  Operations come first in
merit, so any failing schedule of a smaller program is an improvement, however long it is; and a smaller program has
fewer schedules.  Most of those tried delay whole kernel threads (:mod:`svm_actors.explore.shrink.threads`), at the ops
at which some were delayed in the best run.

A run that spins for thousands of steps before it fails cannot be shrunk choice by choice: each of its switches costs a
run as long as that.  Often it fails soon as well, by another schedule.

Schedules have numbers: a program for which some were tried in vain is searched on from there.
"""

from __future__ import annotations

from typing import Final, Literal

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.shrink.shrinker import Shrinker
from svm_actors.explore.shrink.threads import Handovers, ThreadPct, plain
from svm_actors.explore.strategies.guided import Fork, Guided, Plan, Point
from svm_actors.explore.strategies.pct import Pct
from svm_actors.explore.strategies.random_walk import RandomWalk
from svm_actors.workload.program import PROGRAM

FOCUSED_HORIZON: Final = 8
"""Contested steps expected of a program at the ops that matter, before it has run once."""
LATEST: Final = 3
"""Preemptions before the failure that are made again: the latest one, two and so on; earlier ones seldom matter."""
LONG: Final = 3_000
"""Steps beyond which short schedules are looked for before anything else: few programs have more unless they spin."""
SHORTER: Final = 4
"""A short one has at most such a fraction of the steps."""
SHORT_ONES: Final = 60
"""Short schedules tried."""
How = Literal["handovers", "focused", "threads", "tasks", "walk"]
"""The best run's preemptions of threads; delays of threads at the ops of these, or anywhere; delays of tasks; a
random walk."""
Data = Literal["best", "first", "anew"]
"""The data draws of the best run, of the run that is shrunk, or others."""
TURNS: Final[tuple[tuple[How, Data], ...]] = (
    ("handovers", "best"),
    ("focused", "best"),
    ("walk", "first"),
    ("handovers", "anew"),
    ("focused", "anew"),
    ("tasks", "best"),
    ("handovers", "first"),
    ("walk", "anew"),
    ("focused", "first"),
    ("threads", "anew"),
    ("handovers", "best"),
    ("tasks", "first"),
)
"""What schedule number n is made of, by n modulo their count; no single way finds every failure."""


class Search:
    """What makes the schedules of one smaller program, in an order that is always the same."""

    def __init__(self, shrinker: Shrinker, kept: frozenset[int] | None, steps: int | None = None) -> None:
        self._shrinker = shrinker
        self._kept = kept
        self._steps = steps
        """Steps a schedule may have; None is what any candidate may."""
        best = shrinker.best
        made = [(one.handover, one.deviates) for one in best.decisions if one.handover]
        self._handovers = [handover for handover, _ in made]
        """The preemptions of its threads, the latest last."""
        deviating = frozenset(plain(handover.op) for handover, deviates in made if deviates)
        self._ops = deviating or frozenset(plain(handover.op) for handover in self._handovers) or None
        """Ops before which a thread was preempted; those in the canonical schedule only if there are no others."""
        self._decisions = max(1, len(best.decisions))
        self._horizons: dict[How, int] = {"focused": FOCUSED_HORIZON, "threads": self._decisions}

    def attempt(self, number: int) -> bool:
        """Try the schedule of this number; True when it fails and is the best run now."""
        turn, (how, data) = number // len(TURNS), TURNS[number % len(TURNS)]
        schedule = self._schedule(f"shrink/{number}", how, 2 + turn % 3, turn)
        other = Other(self._plan(data), schedule, draw_anew=data == "anew")
        found = self._shrinker.offer(self._kept, other, self._steps)
        if type(schedule) is ThreadPct and schedule.counted:
            self._horizons[how] = schedule.counted
        return found

    def _schedule(self, seed: str, how: How, depth: int, turn: int) -> Chooser:
        if how == "walk":
            return RandomWalk(seed)
        if how == "tasks":
            return Pct(seed, depth, max(1, self._decisions // 4))
        if how == "handovers" and self._handovers:
            return Handovers(seed, self._handovers[-1 - turn % LATEST :], eager=turn % 4 < 3)
        at = self._ops if how == "focused" else None
        return ThreadPct(seed, depth, self._horizons.get(how, self._decisions), at=at, eager=turn % 4 < 3)

    def _plan(self, data: Data) -> Plan:
        """The data draws; those that make the program are always those of the best run."""
        best = self._shrinker.best
        if data == "best":
            return best.plan
        drawn = self._shrinker.first.plan if data == "first" else {}
        return {**{at: value for at, value in drawn.items() if at.label != PROGRAM}, **best.given}


def searched(shrinker: Shrinker, kept: frozenset[int], schedules: int) -> bool:
    """With these operations only: another schedule that fails, among so many; those tried before count."""
    program = (kept, tuple(shrinker.best.draws))
    tried = shrinker.searched.get(program, 0)
    search = Search(shrinker, kept)
    for number in range(tried, schedules):
        if search.attempt(number):
            return True
        shrinker.searched[program] = number + 1
    return False


def search_short(shrinker: Shrinker) -> None:
    """Of a run that is very long: other schedules of the same program that fail within a fraction of its steps.

    None spends the same step budget sooner.
    """
    while shrinker.failure_class.kind != "budget" and shrinker.merit.steps > LONG:
        search = Search(shrinker, shrinker.best.kept, shrinker.merit.steps // SHORTER)
        if not any(search.attempt(number) for number in range(SHORT_ONES)):
            break


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
