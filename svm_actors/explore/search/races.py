"""Which events of a run could have come in the other order (exploration digest, section 1.3).

Two events race when they are dependent, of different tasks, and not ordered through a third one.  For
each race source-DPOR asks whether the state before the first event will also be left by a task that
can lead to the other order; if not, such a task is added there.

An event comes after the earlier ones of its task, after those it depends on, and after the one that
enabled it.  What enabled it cannot be reversed: a lock cannot be taken before it is released.  So such a
pair is passed over, and what stands behind it (who took the lock first) still counts.

Under a bound on preemptions (``conservative``) the reversal may cost more than is left where the race is, and be
affordable where the thread of the first event came to run; so the later task is added there, too (exploration
digest 1.3; Coons, Musuvathi, McKinley, OOPSLA 2013).  Source sets and sleep sets both rely on runs that the bound
forbids, so there are none then: the later task is added where it is enabled, else every task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from svm_actors.explore.search.footprint import Footprint, dependent
from svm_actors.explore.search.node import Clock, Event, StepNode


class Races:
    """The events of one run in order, and who enabled whom."""

    def __init__(self, *, conservative: bool = False) -> None:
        self.conservative = conservative
        """A bound is in force."""
        self.events: list[Event] = []
        self._last: dict[int, Event] = {}
        self._spawner: dict[int, Event | None] = {}
        self._enabler: dict[int, Event] = {}
        self._posted: dict[str, deque[Clock]] = {}
        """By mailbox: the clocks of the sends whose requests wait in it."""
        self._before: frozenset[int] = frozenset()

    def enter(self, node: StepNode) -> None:
        """The run is in this state: note who has become enabled by the last event."""
        now = frozenset(node.tasks)
        last = self.events[-1] if self.events else None
        for number in node.tasks:
            self._spawner.setdefault(number, last)
            if last is not None and number not in self._before and number != last.task:
                self._enabler[number] = last
        self._before = now

    def add(self, node: StepNode) -> None:
        """The pick of this node was done.  A new event adds backtrack points to earlier nodes."""
        assert node.footprint is not None
        if node.forced:
            node.event = self._handed_on(node.footprint, node)
        elif node.event is None:
            node.event = self._ordered(node.chosen, node.footprint, node)
        event = node.event
        if node.mail is not None and not node.forced:
            self._posted.setdefault(node.mail[1], deque()).append(event.clock)
        self.events.append(event)
        self._last[event.task] = event
        self._enabler.pop(event.task, None)

    def _handed_on(self, footprint: Footprint, node: StepNode) -> Event:
        """An actor's loop starts the task that serves a request: after the request was sent, and after nothing
        else.  Were the loop's steps ordered as a task's are, every request would come after those before it.
        So each of them is the only event of a task of its own."""
        assert node.mail is not None
        alone = -1 - len(self.events)
        return Event(alone, 1, footprint, {**self._posted[node.mail[1]].popleft(), alone: 1}, node)

    def pending(self, number: int, footprint: Footprint) -> None:
        """The run has ended before this task could do what it announced: look for races all the same."""
        if self.events:
            self._ordered(number, footprint, self.events[-1].node, own=False)

    def _ordered(self, number: int, footprint: Footprint, node: StepNode, *, own: bool = True) -> Event:
        """The event with its clock; its races are dealt with.  Without ``own`` it was never done."""
        previous = self._last.get(number)
        settled: Clock = {}
        for cause in (previous, self._spawner.get(number), *self._causes(node if own else None)):
            if cause is not None:
                join(settled, cause.clock)
        clock = dict(settled)
        enabler = self._enabler.get(number)
        if enabler is not None:
            join(clock, enabler.clock)
        racing = []
        for place in range(len(self.events) - 1, -1, -1):
            earlier = self.events[place]
            if earlier.task == number or earlier.turn <= settled.get(earlier.task, 0):
                continue
            if not dependent(earlier.footprint, footprint):
                continue
            join(clock, earlier.clock)
            if earlier is enabler:
                continue
            join(settled, earlier.clock)
            racing.append(place)
        turn = 1 if previous is None else previous.turn + 1
        clock[number] = turn
        event = Event(number, turn, footprint, clock, node)
        for place in racing:
            self._reverse(place, event)
        return event

    def _causes(self, node: StepNode | None) -> Iterable[Event | None]:
        """The last events of the tasks that had to end before this step."""
        if node is None:
            return ()
        return self._last.values() if node.causes is None else [self._last.get(number) for number in node.causes]

    def _reverse(self, place: int, event: Event) -> None:
        """See to it that the state before the first event is left in the direction of the other order."""
        first = self.events[place]
        if self.conservative:
            self._reverse_within_bound(place, event.task)
            return
        others = [each for each in self.events[place + 1 :] if not _after(each, first)]
        initials = [number for number in _initials([*others, event]) if number in first.node.tasks]
        backtrack = first.node.backtrack
        if initials and not any(number in backtrack for number in initials):
            first.node.add([event.task if event.task in initials else initials[0]])

    def _reverse_within_bound(self, place: int, number: int) -> None:
        """The same where the later task need not fit into what is left of the bound."""
        _open(self.events[place].node, number)
        while place and not self.events[place].node.starts:
            place -= 1
        _open(self.events[place].node, number)


def join(clock: Clock, other: Clock) -> None:
    """Make ``clock`` the later of both."""
    for task, turn in other.items():
        if clock.get(task, 0) < turn:
            clock[task] = turn


def _open(node: StepNode, number: int) -> None:
    node.add([number] if number in node.tasks else node.tasks)


def _after(event: Event, first: Event) -> bool:
    return event.clock.get(first.task, 0) >= first.turn


def _initials(events: list[Event]) -> list[int]:
    """Tasks whose first event here has no predecessor here."""
    seen: list[int] = []
    found = []
    for place, event in enumerate(events):
        if event.task not in seen:
            seen.append(event.task)
            if not any(_after(event, earlier) for earlier in events[:place]):
                found.append(event.task)
    return found
