"""What clients of VM_BIND may read: the words of every object and calm page, with who wrote them when.

In each page every client has a word of its own, which nobody else writes.  The client's operations are ordered by
fences, so in its own word there is exactly one value it may read, unless a job that was to write it failed: that job
may have come so far or not.  What somebody else reads there is judged by time: any value whose write had begun
before the read was over, and that no other write *definitely overwrote*, which means that the other one came later in
the owner's order and was known to be through before the read began.

One more word of a page is a counter that everybody adds one to, atomically: no two additions find the same number,
and in the end there is one for each that went through, and at most one for each that may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from svm_actors.engine.errors import PropertyFailed

ORACLE = "binds"

Place = tuple[str, int]
"""Name of an object or process, and page."""


@attrs.define(eq=False)
class Write:
    """One write of one word by its owner."""

    value: int
    """What was written."""
    begun: int
    """Step at which it was asked for."""
    done: int | None = None
    """Step at which it was known to be over; None while it is not."""
    certain: bool = False
    """It went through."""


@attrs.define
class Counter:
    """The word everybody adds to."""

    found: dict[int, str] = attrs.field(factory=dict)
    """What additions found, with who it was."""
    uncertain: int = 0
    """Additions of jobs that failed."""


class BindMemory:
    """All words; shared by the clients of one run."""

    def __init__(self) -> None:
        self._words: dict[tuple[Place, int], list[Write]] = {}
        self._counters: dict[Place, Counter] = {}
        self.lost: Callable[[str], bool] = lambda _name: False
        """Whether the bytes of an object are anybody's guess, because a copy of it has failed."""

    def known(self, place: Place) -> bool:
        """What is read there can be judged."""
        return not self.lost(place[0])

    # -- words -----------------------------------------------------------------------------

    def write(self, place: Place, owner: int, value: int, now: int) -> Write:
        """Somebody has asked for a write of its own word; to be ended with :meth:`end`."""
        made = Write(value, now)
        self._words.setdefault((place, owner), [Write(0, 0, 0, certain=True)]).append(made)
        return made

    @staticmethod
    def end(write: Write, now: int, *, certain: bool) -> None:
        """It is over."""
        write.done, write.certain = now, certain

    def cancel(self, write: Write) -> None:
        """It was refused: nothing was written."""
        for writes in self._words.values():
            if write in writes:
                writes.remove(write)

    def own(self, place: Place, owner: int) -> list[int]:
        """What the owner may read after everything of its own that is over."""
        legal = [0]
        for write in self._words.get((place, owner), ()):
            if write.done is None:
                break
            legal = [write.value] if write.certain else [*legal, write.value]
        return legal

    def foreign(self, place: Place, owner: int, begun: int, done: int) -> list[int]:
        """What anybody may read in a span of steps."""
        legal = [0]
        for write in self._words.get((place, owner), ()):
            if write.begun > done:
                break
            over = write.certain and write.done is not None and write.done <= begun
            legal = [write.value] if over else [*legal, write.value]
        return legal

    def words(self) -> Iterable[tuple[Place, int]]:
        """Every word that was ever written, with its owner."""
        return list(self._words)

    # -- counters --------------------------------------------------------------------------

    def added(self, place: Place, found: int, who: str) -> None:
        """An addition went through.  Raises when another one found the same number: one of the two is lost."""
        counter = self._counters.setdefault(place, Counter())
        if not self.known(place):
            return
        if found in counter.found:
            raise PropertyFailed(
                ORACLE, "INV-VMB-13", f"{who} and {counter.found[found]} both find {found} in the counter of {place}"
            )
        counter.found[found] = who

    def may_have_added(self, place: Place) -> None:
        """The job failed."""
        self._counters.setdefault(place, Counter()).uncertain += 1

    def check_counter(self, place: Place, value: int) -> None:
        """At the end, when nobody adds any more."""
        if not self.known(place):
            return
        counter = self._counters.get(place, Counter())
        least = len(counter.found)
        if not least <= value <= least + counter.uncertain:
            raise PropertyFailed(
                ORACLE, "INV-VMB-13", f"the counter of {place} is {value}, after {least} to {least + counter.uncertain}"
            )

    def counters(self) -> Iterable[Place]:
        """Pages whose counter was used."""
        return list(self._counters)


def check_word(legal: list[int], value: int, who: str, place: Place, owner: int) -> None:
    """Raise unless the value is one of the legal ones (INV-VMB-13)."""
    if value not in legal:
        wanted = ", ".join(str(each) for each in sorted(set(legal)))
        raise PropertyFailed(
            ORACLE, "INV-VMB-13", f"{who} reads {value} in the word of client {owner} of {place}, legal: {wanted}"
        )
