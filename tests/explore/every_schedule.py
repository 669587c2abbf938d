"""Every schedule of a small race with at most so many preemptions, by depth-first search over the tape.

A task goes on until it blocks; a preemption is a switch away from one that could go on.  Bounding only
those (Musuvathi and Qadeer, PLDI 2007) keeps the search small and complete within the bound, however
long the race is.  Actor loops go first: they only hand requests on, so their order decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from mm_rig import Rig

from svm_actors.engine.task import Task, Thread


class Bounded:
    """Follows a tape, then goes on without preemption; remembers what else could have been done."""

    name = "bounded"

    def __init__(self, tape: list[int], bound: int) -> None:
        self.tape = tape
        self.left = bound
        self.taken: list[int] = []
        self.arity: list[int] = []
        self._thread: Thread | None = None

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        for index, task in enumerate(candidates):
            if task.daemon:
                return index
        order = self._order(candidates)
        going_on = candidates[order[0]].thread is self._thread
        alternatives = len(order) if not going_on or self.left else 1
        position = len(self.taken)
        choice = self.tape[position] if position < len(self.tape) else 0
        self.taken.append(choice)
        self.arity.append(alternatives)
        if going_on and choice:
            self.left -= 1
        chosen = candidates[order[choice]]
        self._thread = chosen.thread
        return order[choice]

    def _order(self, candidates: list[Task]) -> list[int]:
        """The thread at work first, the others by creation."""
        return sorted(range(len(candidates)), key=lambda index: candidates[index].thread is not self._thread)

    def data(self, count: int, label: str) -> int:
        return 0

    def following(self) -> list[int] | None:
        """The next tape in depth-first order, None after the last."""
        tape, arity = self.taken[:], self.arity[:]
        while tape and tape[-1] + 1 >= arity[-1]:
            tape.pop()
            arity.pop()
        if not tape:
            return None
        tape[-1] += 1
        return tape


Start = Callable[[Rig], Coroutine[Any, Any, Any]]
Race = Callable[[Rig, Any], Coroutine[Any, Any, Any]]


def every_schedule(start: Start, race: Race, bound: int = 2, limit: int = 20_000) -> Iterator[tuple[list[int], Any]]:
    """Run ``race`` under each schedule within the bound; its tape and its result.

    ``start`` prepares the world in one fixed order; what it answers is handed to ``race``.
    """
    tape: list[int] | None = []
    for _ in range(limit):
        assert tape is not None
        chooser, result = one_run(start, race, tape, bound)
        yield chooser.taken, result
        tape = chooser.following()
        if tape is None:
            return
    raise AssertionError(f"more than {limit} schedules within {bound} preemptions")


def one_run(start: Start, race: Race, tape: list[int], bound: int) -> tuple[Bounded, Any]:
    """One schedule: the setup as it comes, then the race by the tape."""
    chooser = Bounded(tape, bound)
    result: list[Any] = []

    async def body(rig: Rig) -> None:
        prepared = await start(rig)
        rig.engine.chooser = chooser
        result.append(await race(rig, prepared))

    rig = Rig()
    rig.engine.step_budget = 20_000
    rig.run(body)
    return chooser, result[0]


def outcomes(start: Start, race: Race, bound: int = 2) -> tuple[int, set[Any]]:
    """How many schedules there are, and every result one of them has."""
    results = [result for _tape, result in every_schedule(start, race, bound)]
    return len(results), set(results)
