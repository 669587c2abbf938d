"""Which numbers a campaign makes, in which order, with which strategy.

A *shard* i/N makes the runs i, i+N, i+2N and so on; the whole campaign is the shard 0/1.  A run's
place among those of its shard is its *position*.

Under the portfolio a run's strategy is dealt by :class:`svm_actors.explore.portfolio.Allocation`, which
counts positions: a shard decides by what it has found itself, since it cannot see the others.  Positions
that depend on results still on their way are not dealt yet, and the campaign waits for those.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from svm_actors.explore.plan import Mix
from svm_actors.explore.portfolio import Allocation, cost_in_steps
from svm_actors.explore.strategies.portfolio import NAME as PORTFOLIO
from svm_actors.explore.worker import RunRecord, Share

_SHARD: Final = re.compile(r"(\d{1,6})/(\d{1,6})")


@attrs.frozen
class Shard:
    """Every ``count``-th run, from number ``index`` on."""

    index: int = 0
    """Number of its first run; below ``count``."""
    count: int = 1
    """How many shards the campaign is cut into."""

    @staticmethod
    def parse(text: str) -> Shard:
        """``i/N``; those who count from 1 may call the shard 0/N ``N/N``.  ValueError for other text."""
        found = _SHARD.fullmatch(text)
        if found is None or not 0 <= int(found[1]) <= int(found[2]) or int(found[2]) < 1:
            raise ValueError(f"expected a shard i/N with i from 0 to N, e.g. 1/4, got {text!r}")
        return Shard(int(found[1]) % int(found[2]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def number(self, position: int) -> int:
        """The run at a position."""
        return self.index + position * self.count

    def size(self, executions: int) -> int:
        """How many of the first so many runs of the campaign are its own."""
        return max(0, -(-(executions - self.index) // self.count))


WHOLE: Final = Shard()
"""The campaign in one piece."""


class Dealer:
    """Hands out the runs of one shard."""

    def __init__(self, mix: Mix, shard: Shard) -> None:
        self.shard = shard
        self._mix = mix
        self._strategy = mix.plan.settings.strategy
        self._allocation = Allocation(mix.plan.seed) if self._strategy == PORTFOLIO else None
        self._booked = 0

    @property
    def epoch(self) -> int | None:
        """Runs that are decided together; None when nothing is decided as the campaign goes."""
        return None if self._allocation is None else self._allocation.epoch

    def share(self, position: int, count: int) -> Share:
        """At most ``count`` runs from a position on: none when what they depend on is not booked yet."""
        if self._allocation is not None:
            count = min(count, self._allocation.known - position)
        places = range(position, position + max(0, count))
        return Share(
            tuple(self.shard.number(place) for place in places), tuple(self._strategy_at(place) for place in places)
        )

    def book(self, record: RunRecord) -> None:
        """Take in a result, in the order of positions.  ValueError for one that does not belong here."""
        expected = (self.shard.number(self._booked), self._strategy_at(self._booked))
        if (record.number, record.strategy) != expected:
            found = f"got {record.number} with {record.strategy}"
            raise ValueError(f"expected run {expected[0]} with {expected[1]}, {found}")
        if self._allocation is not None:
            profiled = self._mix.target(record.number).indexed
            cost = cost_in_steps(record.strategy, record.steps, profiled=profiled)
            self._allocation.book(self._booked, record.strategy, record.new_features, cost)
        self._booked += 1

    def _strategy_at(self, position: int) -> str:
        return self._strategy if self._allocation is None else self._allocation.strategy_of(position)
