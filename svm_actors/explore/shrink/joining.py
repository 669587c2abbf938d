"""Passes (5) and (6): join the stretches of one task; leave out what the failure does not depend on.

Two steps of different tasks that touch nothing in common may be done in either order.  So the steps of a run are
only partly ordered, and some orders that fit have far fewer context switches than the recorded one.  One such order
is computed without running anything: go on with the same task as long as its next step has everything it
depends on behind it, else take up the task whose next step came first.  In pass (6) the steps outside the causal
past of the last one, the one that failed, are left to come after it, which is never.  One confirming run decides.

The dependence used is meant to be nearly right, since the confirming run is what counts: that of announced ops and
of locks changed on the side; a receive depends on the send it takes, not on the other sends to its mailbox; a
request on the receive that made it; an answer on all that was done for it.  Not in it are guards that read more
than their op names, time, and what oracles look at.
"""

from __future__ import annotations

from bisect import insort
from typing import Final

import attrs

from svm_actors.engine.op import LABELLED, LOCAL, MODES, WRITE, Mode, Op
from svm_actors.engine.task import Task
from svm_actors.explore.shrink.shrinker import Shrinker
from svm_actors.explore.strategies.guided import Event, Guided, InOrder, Plan

ANSWERS: Final = ("reply", "join")
"""Kinds of ops that wait for tasks the waiting task has made."""
Access = tuple[Mode, "int | str | None"]
"""How a step uses a resource, and which part of it; None is the whole."""


@attrs.define
class Footstep:
    """One step of a run and what it used."""

    event: Event
    """Its name."""
    parent: str | None
    """The task that made its task."""
    kind: str
    """Kind of its op."""
    resource: str
    """Name of what the op is about; empty for nothing."""
    uses: list[tuple[str, Access]]
    """Resources by name."""


class Footsteps(Guided):
    """A guided run that also notes what every step used."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.touched = []
        self.path: list[Footstep] = []

    def ran(self, task: Task) -> None:
        """A step is made; what was touched on the side since the last one belongs to that."""
        assert self.touched is not None
        if self.path:
            self.path[-1].uses += [(lock.name, (WRITE, None)) for lock in self.touched]
        self.touched.clear()
        parent = None if task.parent is None else task.parent.id
        resource = "" if task.op[1] is None else task.op[1].name
        self.path.append(Footstep(self.next_of(task), parent, task.op[0], resource, _uses(task.op)))
        super().ran(task)


def join_stretches(shrinker: Shrinker) -> None:
    """(5) and (6): try orders with few switches that can be computed from the best run."""
    best = shrinker.best
    watched = Footsteps(best.plan)
    if not best.deviations or not shrinker.anew("join") or not shrinker.fails(shrinker.record(best.kept, watched)):
        return
    before = dependences(watched.path)
    for wanted in (past(before), list(range(len(before)))):
        order = joined(watched.path, before, wanted)
        if shrinker.offer(best.kept, InOrder(best.plan, {event: place for place, event in enumerate(order)})):
            return


def joined(path: list[Footstep], before: list[list[int]], wanted: list[int]) -> list[Event]:
    """The wanted steps, in an order with few switches that keeps every dependence."""
    after: dict[int, list[int]] = {index: [] for index in wanted}
    missing = {index: len(before[index]) for index in wanted}
    for index in wanted:
        for earlier in before[index]:
            after[earlier].append(index)
    ready = [index for index in wanted if not missing[index]]
    order: list[Event] = []
    while ready:
        here = next((index for index in ready if order and path[index].event[0] == order[-1][0]), ready[0])
        ready.remove(here)
        order.append(path[here].event)
        for later in after[here]:
            missing[later] -= 1
            if not missing[later]:
                insort(ready, later)
    return order


def dependences(path: list[Footstep]) -> list[list[int]]:
    """For each step the steps that it directly depends on, as indexes in ascending order."""
    known = _Known()
    return [sorted(known.earlier(index, step) - {index}) for index, step in enumerate(path)]


class _Known:
    """What the steps so far have used."""

    def __init__(self) -> None:
        self._used: dict[str, list[tuple[int, Access]]] = {}
        self._last: dict[str, int] = {}
        """Last step of each task."""
        self._children: dict[str, list[str]] = {}
        self._sends: dict[str, list[int]] = {}
        """Sends to each mailbox."""
        self._receives: dict[str, list[int]] = {}
        self._sent_to: dict[str, str] = {}
        """Where each task sent last."""

    def earlier(self, index: int, step: Footstep) -> set[int]:
        """The steps that this one depends on; it is known from now on."""
        task = step.event[0]
        found = self._own(task, step) | self._messages(index, task, step)
        for name, access in step.uses:
            found.update(_conflicting(self._used.setdefault(name, []), access))
            self._used[name].append((index, access))
        self._last[task] = index
        return found

    def _own(self, task: str, step: Footstep) -> set[int]:
        """The task's own last step; the one that made it; those of the tasks it has made and waits for."""
        if task in self._last:
            made = self._children.get(task, []) if step.kind in ANSWERS else []
            return {self._last[name] for name in (task, *made)}
        parent = step.parent
        if parent is None:
            return set()
        self._children.setdefault(parent, []).append(task)
        took = self._receives.get(self._sent_to.get(parent, ""), [])[-1:]
        return {*took, *([self._last[parent]] if parent in self._last else [])}

    def _messages(self, index: int, task: str, step: Footstep) -> set[int]:
        """The send that a receive takes."""
        mailbox = step.resource
        if step.kind == "send":
            self._sends.setdefault(mailbox, []).append(index)
            self._sent_to[task] = mailbox
        elif step.kind == "receive":
            taken = self._receives.setdefault(mailbox, [])
            taken.append(index)
            return set(self._sends.get(mailbox, [])[len(taken) - 1 : len(taken)])
        return set()


def _conflicting(uses: list[tuple[int, Access]], access: Access) -> list[int]:
    """Uses that must stay before this one: back to the last write of the same part."""
    found = []
    for index, other in reversed(uses):
        if clash(other, access):
            found.append(index)
            if other[0] == WRITE and other[1] in (None, access[1]):
                break
    return found


def clash(one: Access, other: Access) -> bool:
    """Whether two uses of one resource do not commute."""
    if one[1] is not None and other[1] is not None and one[1] != other[1]:
        return False
    return one[0] != other[0] or one[0] == WRITE


def past(before: list[list[int]]) -> list[int]:
    """The last step and all it depends on, directly or not, in ascending order."""
    wanted: set[int] = set()
    todo = [len(before) - 1] if before else []
    while todo:
        index = todo.pop()
        if index not in wanted:
            wanted.add(index)
            todo += before[index]
    return sorted(wanted)


def _uses(op: Op) -> list[tuple[str, Access]]:
    kind, resource, key = op
    mode = MODES.get(kind, WRITE)
    if resource is None or mode == LOCAL or kind in LABELLED:
        return []
    return [(resource.name, (mode, key))]
