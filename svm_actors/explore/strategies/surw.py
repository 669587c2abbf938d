"""Selectively uniform random walk (SURW): uniform over the order of a few interesting ops.

Zhao, Wolff, Mathur and Roychoudhury, "Selectively Uniform Concurrency Testing", ASPLOS 2025;
exploration digest, section 1.2.  Of all ops those on one shared resource are interesting, drawn anew for
every run.  One task at a time is *intended* to do the next interesting op, drawn in proportion to the
interesting ops that each still has to do; a task that comes to one out of turn is held back until the
intended one has done its own.  Everything else is scheduled by a base rule: random priority, or a
random walk.

With ``even`` the intended task is drawn evenly among those that have interesting ops left: selective and
not uniform, the ablation that the paper calls N-U.

A task that says it only spins gives the intention away: whoever it waits for may be among those held back.

A lock is interesting only where that is asked for (``locks``).  The digest would also take one in a program
that has nothing else, but its figure for such a program, the dining philosophers, is that of random
priority and not what selecting a fork gives.

Deviation: where no shared resource is touched by half of the tasks (programs with hundreds of short
ones) those touched by two are drawn from.  The earliest timer, where it is an alternative, is one more
uninteresting op.  Without a profile nothing is interesting, and the base rule decides alone.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from svm_actors.engine.op import LOCAL, MODES, WRITE
from svm_actors.engine.task import Task
from svm_actors.explore.strategies.pct import yields
from svm_actors.explore.strategies.profile import Profile, Remaining, weighted
from svm_actors.explore.strategies.rp import Scores

Base = Literal["rp", "random"]


class Surw:
    """Uniform over the interleavings of interesting ops."""

    name = "surw"

    def __init__(
        self,
        seed: int | str,
        profile: Profile | None = None,
        *,
        interesting: frozenset[str] | None = None,
        base: Base = "rp",
        even: bool = False,
        locks: bool = False,
    ) -> None:
        """``interesting`` names resources; without it one is drawn from the profile."""
        self.seed = str(seed)
        known = profile or Profile()
        self._random = Random(self.seed)
        self.interesting = draw_interesting(known, self._random, locks) if interesting is None else interesting
        """Names of the resources whose ops are interesting."""
        counts: dict[str, int] = {}
        for (path, name), count in known.touches.items():
            if name in self.interesting:
                counts[path] = counts.get(path, 0) + count
        self._left = Remaining(counts)
        self._base = base
        self._even = even
        self._scores = Scores(self._random)
        self._intended: Task | None = None
        self._blocked: set[int] = set()
        """Numbers of tasks held back; only asked for membership."""

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The base rule's, unless it is out of turn."""
        self._meet(candidates)
        while True:
            blocked = self._blocked
            free = [task for task in candidates if task.number not in blocked] if blocked else candidates
            if not free and not timer:
                self._forget()
                continue
            picked = self._pick(free, timer)
            if picked is None:
                return len(candidates)
            if not self._is_interesting(picked):
                if yields(picked):
                    self._forget()
                return candidates.index(picked)
            if self._intended is None:
                self._intend(picked, free)
            if self._intended is picked:
                return candidates.index(picked)
            self._blocked.add(picked.number)

    def ran(self, task: Task) -> None:
        """An interesting op was done: whoever was held back may go on.

        The base rule had no say in it, so the task goes on with the base score it has.
        """
        self._meet([task])
        if self._is_interesting(task):
            self._scores.keep(task)
            self._left.done_one(task)
            self._forget()
        else:
            self._scores.drop(task)

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return int(self._random.random() * count)

    def _forget(self) -> None:
        self._blocked.clear()
        self._intended = None

    def _pick(self, free: list[Task], timer: bool) -> Task | None:
        """By the base rule; None is the timer."""
        if self._base == "rp":
            index = self._scores.best(free, timer)
        else:
            index = int(self._random.random() * (len(free) + timer))
        return free[index] if index < len(free) else None

    def _is_interesting(self, task: Task) -> bool:
        kind, resource, _key = task.op
        return resource is not None and resource.name in self.interesting and MODES.get(kind, WRITE) != LOCAL

    def _intend(self, picked: Task, free: list[Task]) -> None:
        """Draw whose interesting op is to be next; ``picked`` has one, so it weighs at least 1."""
        weights = [max(left, task is picked) for left, task in zip(self._left.weights(free), free, strict=True)]
        if self._even:
            weights = [min(weight, 1) for weight in weights]
        self._intended = free[weighted(weights, self._random.random())]

    def _meet(self, tasks: list[Task]) -> None:
        """Tasks seen for the first time take their count, and perhaps the intention, from their parent."""
        for task in self._left.newcomers(tasks):
            parent = task.parent
            before = self._left.of(parent) if parent is not None else 0
            share = self._left.of(task)
            if parent is not None and parent is self._intended and self._random.random() * before < share:
                self._intended = task


def draw_interesting(profile: Profile, random: Random, locks: bool = False) -> frozenset[str]:
    """One resource, drawn in proportion to how often it is touched; none when nothing is shared.

    With ``locks`` it is a lock, whoever touches it; without, never.
    """
    counts, tasks = _shared(profile)
    population = {path for path, name in profile.touches if name in profile.written}
    threshold = max(2, len(population) // 2)
    for enough in (1,) if locks else (threshold, 2):
        names = sorted(name for name, count in tasks.items() if count >= enough and (name in profile.locks) is locks)
        if names:
            return frozenset({names[weighted([counts[name] for name in names], random.random())]})
    return frozenset()


def _shared(profile: Profile) -> tuple[dict[str, int], dict[str, int]]:
    """Ops, and tasks that do them, by name of a resource that is not only read."""
    counts: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for (_path, name), count in profile.touches.items():
        if name in profile.written:
            counts[name] = counts.get(name, 0) + count
            tasks[name] = tasks.get(name, 0) + 1
    return counts, tasks
