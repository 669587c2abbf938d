"""Which events of a run could have come in the other order (exploration digest, section 1.3).

Two events race when they are dependent, of different tasks, and not ordered through a third one.  For
each race source-DPOR asks whether the state before the first event will also be left by a task that
can lead to the other order; if not, such a task is added there.

An event comes after the earlier ones of its task, after those it depends on, and after the one that
enabled it.  What enabled it cannot be reversed: a lock cannot be taken before it is released.  So such a
pair is passed over, and what stands behind it (who took the lock first) still counts.
"""

from __future__ import annotations

from svm_actors.explore.search.footprint import Footprint, dependent
from svm_actors.explore.search.node import Clock, Event, StepNode


class Races:
    """The events of one run in order, and who enabled whom."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._last: dict[int, Event] = {}
        self._spawner: dict[int, Event | None] = {}
        self._enabler: dict[int, Event] = {}
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
        if node.event is None:
            node.event = self._ordered(node.chosen, node.footprint, node)
        event = node.event
        self.events.append(event)
        self._last[event.task] = event
        self._enabler.pop(event.task, None)

    def pending(self, number: int, footprint: Footprint) -> None:
        """The run has ended before this task could do what it announced: look for races all the same."""
        if self.events:
            self._ordered(number, footprint, self.events[-1].node)

    def _ordered(self, number: int, footprint: Footprint, node: StepNode) -> Event:
        """The event with its clock; its races are dealt with."""
        previous = self._last.get(number)
        settled: Clock = {}
        for cause in (previous, self._spawner.get(number)):
            if cause is not None:
                join(settled, cause.clock)
        clock = dict(settled)
        enabler = self._enabler.get(number)
        if enabler is not None:
            join(clock, enabler.clock)
        racing = []
        since = 0 if previous is None else self.events.index(previous)
        for place in range(len(self.events) - 1, -1, -1):
            earlier = self.events[place]
            if earlier.task == number or earlier.turn <= settled.get(earlier.task, 0):
                continue
            if not dependent(earlier.footprint, footprint):
                continue
            join(clock, earlier.clock)
            if place > since and number not in earlier.node.tasks:
                continue
            join(settled, earlier.clock)
            racing.append(place)
        turn = 1 if previous is None else previous.turn + 1
        clock[number] = turn
        event = Event(number, turn, footprint, clock, node)
        for place in racing:
            self._reverse(place, event)
        return event

    def _reverse(self, place: int, event: Event) -> None:
        """See to it that the state before the first event is left in the direction of the other order."""
        first = self.events[place]
        others = [each for each in self.events[place + 1 :] if not _after(each, first)]
        initials = [number for number in _initials([*others, event]) if number in first.node.tasks]
        backtrack = first.node.backtrack
        if initials and not any(number in backtrack for number in initials):
            backtrack.append(event.task if event.task in initials else initials[0])


def join(clock: Clock, other: Clock) -> None:
    """Make ``clock`` the later of both."""
    for task, turn in other.items():
        if clock.get(task, 0) < turn:
            clock[task] = turn


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
