"""States a search has met (exploration digest, section 1.3, "Stateful search").

A state is entered again when there is more to come from it than before: when a task slept then that is awake
now, when less of the bound was left then, or fewer steps.  What is stored grows thinner with every visit:
the tasks that slept both times (Godefroid).

A state is a digest of everything the run can go on from (:mod:`svm_actors.explore.snapshot`), together with
the task that made the last step and how many steps that task has made: it is asked for a pick before it parks,
and what it has begun to evaluate cannot be seen then.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from svm_actors.engine.engine import Engine
from svm_actors.explore.snapshot import state_of

Entry = tuple[frozenset[str], int, int]
"""Tasks that slept, what of the bound was spent, steps made."""


class Visited:
    """What is known of every state met so far."""

    def __init__(self) -> None:
        self.entries: dict[bytes, list[Entry]] = {}
        self.fresh: dict[bytes, list[Entry]] = {}
        """Changes since somebody took them: for a store."""

    def __len__(self) -> int:
        return len(self.entries)

    def covers(self, engine: Engine, at_work: str, sleep: frozenset[str], spent: int, depth: int) -> bool:
        """True when nothing new can come from here; else the state is booked."""
        key = blake2b(state_of(engine) + at_work.encode(), digest_size=16)
        known = self.entries.get(key.digest(), [])
        if any(slept <= sleep and cost <= spent and steps <= depth for slept, cost, steps in known):
            return True
        same = [entry for entry in known if entry[1:] == (spent, depth)]
        entry = (sleep.intersection(*(each[0] for each in same)), spent, depth)
        kept = [each for each in known if each not in same] + [entry]
        self.entries[key.digest()] = self.fresh[key.digest()] = kept
        return False

    def take_fresh(self) -> Iterator[tuple[bytes, list[Entry]]]:
        """What has changed since the last call."""
        fresh, self.fresh = self.fresh, {}
        yield from fresh.items()
