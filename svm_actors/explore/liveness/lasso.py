"""Lassos: a prefix of the suspicious run, then a fair schedule, until the same state comes round again.

The first choices of the run are made as they were, up to a random place; from there on a fair schedule decides,
and a state is compared with one remembered (Brent's algorithm: the one remembered is replaced after 1, 2, 4, 8 ...
steps, so a cycle of any length is found in time proportional to it).  What the tasks would do next is compared first;
only if that agrees is the whole state digested (:mod:`svm_actors.explore.snapshot`).

A cycle counts when nothing got done in it, and every task that was enabled throughout took part.  It is
confirmed by going round twice more: the same states at the same distance, with the same steps between.
Data choices repeat what a schedule without surprises gives: 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.engine.task import Task
from svm_actors.explore.liveness.fair import Turns, Walks
from svm_actors.explore.liveness.temperature import Temperature
from svm_actors.explore.snapshot import pending, state_of

LOOKS: Final = 200
"""Whole states compared by one hunt, at most: where so many differ, something grows and nothing comes round."""
ROUNDS: Final = 3
"""How often a cycle is gone round: once to find it, the rest to confirm it."""


@attrs.frozen
class Lasso:
    """A fair run that comes back to where it was."""

    prefix: int
    """Choices of the suspicious run it begins with."""
    length: int
    """Steps of one round."""
    tasks: tuple[str, ...]
    """Tasks that took part, by id without the numbers of calls."""
    retries: dict[str, int]
    """Counters that grew in one round, and by how much: the retry loop."""
    steps: tuple[str, ...] = attrs.field(repr=False)
    """What was done in one round."""
    choices: tuple[int, ...] = attrs.field(repr=False)
    """All choices up to the end of the first round, of schedule and data."""
    reached: int
    """Ops made by then: the last of the choices may lie long before."""


class Caught(EngineError):
    """The run is in a cycle."""

    def __init__(self, lasso: Lasso) -> None:
        super().__init__(f"the same state again after {lasso.length} steps")
        self.lasso = lasso


class Escaped(EngineError):
    """A fair run has gone on for as long as it may without coming round, or has made progress."""


@attrs.define
class _Mark:
    """A state to compare with."""

    step: int
    look: tuple[object, ...]
    state: bytes
    done: int
    counters: Counter[str]


class Hunt:
    """Chooser: the first choices of a tape, then fair turns with an eye on the state."""

    name = "fair"

    def __init__(self, tape: Sequence[int], prefix: int, steps: int) -> None:
        self.prefix = prefix
        self.limit = steps
        """Fair steps at most."""
        self.lasso: Lasso | None = None
        self.confirmed = False
        """The lasso was gone round often enough."""
        self._tape = tape[:prefix]
        self._turns = Turns()
        self._engine: Engine | None = None
        self._heat: Temperature | None = None
        self._choices: list[int] = []
        self._step = self._made = 0
        self._mark: _Mark | None = None
        self._power = 1
        self._rounds = 0
        self._looks = 0
        self._trail: list[str] = []
        self._ran: dict[str, None] = {}
        self._throughout: set[int] = set()
        self._ran_numbers: set[int] = set()

    def watch(self, engine: Engine) -> None:
        """The run begins."""
        self._engine, self._heat = engine, Temperature(engine)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """As before, then fairly."""
        at = len(self._choices)
        count = len(candidates)
        index = self._tape[at] if at < len(self._tape) else self._turns.pick(candidates)
        self._choices.append(min(index, count - 1))
        return self._choices[-1]

    def data(self, count: int, label: str) -> int:
        """As before, then the first value."""
        at = len(self._choices)
        self._choices.append(min(self._tape[at], count - 1) if at < len(self._tape) else 0)
        return self._choices[-1]

    def ran(self, task: Task) -> None:
        """Look at the state before each fair step."""
        self._made += 1
        if len(self._choices) >= len(self._tape):
            self._look(task)
            self._ran.setdefault(plain_id(task))
            self._ran_numbers.add(task.number)
            self._trail.append(f"{plain_id(task)}: {task.op[0]}")
        self._turns.ran(task)

    # -- inside ------------------------------------------------------------------------

    def _look(self, task: Task) -> None:
        engine, heat = self._engine, self._heat
        assert engine is not None
        assert heat is not None
        self._step += 1
        if self._step > self.limit:
            raise Escaped(f"no state came round in {self.limit} fair steps")
        enabled = {each.number for each in engine.enabled}
        self._throughout &= enabled
        look = (task.op[0], plain_id(task), self._turns.order(list(engine.tasks.values())), pending(engine))
        mark = self._mark
        if mark is not None and self._is_at(mark, look):
            self._come_round(engine, heat, mark)
            return
        if mark is None or self._step - mark.step >= self._power:
            self._power *= 2
            self._remember(engine, heat, look, enabled)

    def _is_at(self, mark: _Mark, look: tuple[object, ...]) -> bool:
        """The cheap comparison first."""
        assert self._engine is not None
        assert self._heat is not None
        if look != mark.look or self._heat.done != mark.done:
            return False
        self._looks += 1
        if self._looks > LOOKS:
            raise Escaped(f"no state came round in {LOOKS} that looked like it")
        return state_of(self._engine, oracles=False) == mark.state

    def _remember(self, engine: Engine, heat: Temperature, look: tuple[object, ...], enabled: set[int]) -> None:
        state = state_of(engine, oracles=False)
        self._mark = _Mark(self._step, look, state, heat.done, engine.counters.copy())
        self._rounds = 0
        self._clear(enabled)

    def _clear(self, enabled: set[int]) -> None:
        self._trail, self._ran = [], {}
        self._throughout, self._ran_numbers = enabled, set()

    def _come_round(self, engine: Engine, heat: Temperature, mark: _Mark) -> None:
        """The state remembered is here again."""
        if self._throughout - self._ran_numbers:
            return  # somebody could have gone on all the time and did not: not a fair cycle
        period = self._step - mark.step
        steps = tuple(self._trail)
        if self._rounds and (self.lasso is None or steps != self.lasso.steps):
            self._rounds = 0
            return
        if not self._rounds:
            grown, choices = heat.retries(mark.counters), tuple(self._choices)
            self.lasso = Lasso(self.prefix, period, tuple(self._ran), grown, steps, choices, self._made)
        self._rounds += 1
        assert self.lasso is not None
        if self._rounds == ROUNDS:
            self.confirmed = True
            raise Caught(self.lasso)
        mark.step, mark.counters = self._step, engine.counters.copy()
        self._power = max(self._power, 2 * period)
        self._clear({each.number for each in engine.enabled})


class Continuation:
    """Chooser: into the cycle by its own choices, then another fair schedule, for so many steps."""

    name = "fair"

    def __init__(self, lasso: Lasso, policy: Turns | Walks, steps: int) -> None:
        self.stayed = False
        """The run went on to the limit, and nothing got done after the cycle was entered."""
        self._tape = lasso.choices
        self._reached = lasso.reached
        self._policy = policy
        self._limit = steps
        self._at = self._made = self._step = self._done = 0
        self._heat: Temperature | None = None

    def watch(self, engine: Engine) -> None:
        """The run begins."""
        self._heat = Temperature(engine)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """As the lasso did, then fairly."""
        self._at += 1
        if self._at <= len(self._tape):
            return min(self._tape[self._at - 1], len(candidates) - 1)
        return self._policy.pick(candidates)

    def data(self, count: int, label: str) -> int:
        """As the lasso did, then the first value."""
        self._at += 1
        return min(self._tape[self._at - 1], count - 1) if self._at <= len(self._tape) else 0

    def ran(self, task: Task) -> None:
        """Watch for progress."""
        assert self._heat is not None
        self._policy.ran(task)
        self._made += 1
        if self._made <= self._reached:
            self._done = self._heat.done
            return
        self._step += 1
        if self._heat.done > self._done:
            raise Escaped("something got done")
        if self._step > self._limit:
            self.stayed = True
            raise Escaped(f"nothing got done in {self._limit} steps")


def plain_id(task: Task) -> str:
    """The id without the numbers that count calls: every round makes new ones.

    The numbers of the scenario's own threads, ``main/cpu.1``, stay: they tell one from the other.
    """
    parts = task.id.split("/")
    if len(parts) == 1 or (len(parts) == 2 and parts[0] == "main"):
        return task.id
    return "/".join([parts[0], *(part.rpartition(".")[0] or part for part in parts[1:])])


__all__ = ["Caught", "Continuation", "Escaped", "Hunt", "Lasso", "plain_id"]
