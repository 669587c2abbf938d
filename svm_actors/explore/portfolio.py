"""How a portfolio campaign deals its runs out among strategies (exploration digest, section 1.2, "Portfolio").

Runs are numbered, and numbers are grouped in epochs of :data:`EPOCH`.  In the first two epochs every
member of the portfolio gets as many runs as every other.  From then on members get runs in proportion to
the new coverage each has yielded per op, older yield counting less; none gets less than a share of
:data:`FLOOR`, because what a strategy finds changes while a campaign goes on.

The allocation is a pure function of its seed and of what was booked: no clock, no processes, no order of
arrival.  Epoch e is decided by the runs of epochs 0 to e-2 alone, so a campaign need not wait at the end of
an epoch: while the last runs of epoch e-1 are on their way, those of epoch e can be handed out
(:meth:`Allocation.known` says how far).  Cost is counted in ops and never in seconds, so that a slow
machine makes the same runs as a fast one.

Use: :meth:`Allocation.strategy_of` names the strategy of a run; when its result is in, and in the order of
the numbers, :meth:`Allocation.book` tells how many features it added to the campaign's coverage
(:mod:`svm_actors.explore.coverage`) and how many ops it took, profiling runs included
(:func:`cost_in_steps`).  A campaign resumed from a store books the recorded runs again and goes on as if
it had never stopped.
"""

from __future__ import annotations

from random import Random
from typing import Final

import attrs

from svm_actors.explore.strategies.portfolio import MEMBERS
from svm_actors.explore.strategies.profile import HORIZON_RUNS, RANDOM_RUNS

EPOCH: Final = 256
"""Runs that are dealt out together."""
LAG: Final = 2
"""An epoch is decided by those at least so many before it."""
FLOOR: Final = 1 / 10
"""Share of the runs that every member keeps, whatever it yields; at most half the runs go this way."""
DECAY: Final = 0.5
"""What the yield and the cost of an epoch count for in the next decision but one, and so on."""
PRIOR: Final = 1.0
"""New features credited to every member in an epoch, so that nobody's yield is nothing."""
PROFILE_RUNS: Final = {
    **dict.fromkeys(("delay", "fair_pct", "pct"), HORIZON_RUNS + 2),
    **dict.fromkeys(("surw", "urw"), RANDOM_RUNS + 1),
}
"""Runs that a strategy makes beforehand to learn the program; none when absent."""


def cost_in_steps(strategy: str, steps: int, *, profiled: bool) -> int:
    """What a run of so many ops cost altogether.

    ``profiled`` says that the program was learned for this run alone, as in a campaign in which every
    run has a program of its own; a profile shared by many runs is not counted.
    """
    return steps * (1 + PROFILE_RUNS.get(strategy, 0)) if profiled else steps


@attrs.define
class _Yield:
    """What one member came to in one epoch."""

    features: float = 0.0
    """Features nobody had seen before."""
    steps: float = 0.0
    """Ops spent."""


class Allocation:
    """Which strategy each run of a campaign uses."""

    def __init__(self, seed: int | str = 0, members: tuple[str, ...] = MEMBERS, epoch: int = EPOCH) -> None:
        """``seed`` orders the runs inside an epoch; it belongs to the campaign's record."""
        if not members or len(set(members)) != len(members) or epoch < len(members):
            raise ValueError(f"expected different members and an epoch no shorter than them, got {members}, {epoch}")
        self.seed = str(seed)
        self.members = members
        self.epoch = epoch
        self.booked = 0
        """Runs booked so far; the next one booked has this number."""
        self._yields: list[dict[str, _Yield]] = []
        self._orders: list[tuple[str, ...]] = []

    @property
    def known(self) -> int:
        """Runs whose strategy is known by now: all numbers below this one."""
        return (self.booked // self.epoch + LAG) * self.epoch

    def strategy_of(self, number: int) -> str:
        """The strategy of a run; ValueError when that depends on runs not booked yet (see :attr:`known`)."""
        if not 0 <= number < self.known:
            raise ValueError(f"run {number} is not decided yet: {self.booked} runs are booked, {self.known} are dealt")
        at, place = divmod(number, self.epoch)
        while len(self._orders) <= at:
            self._orders.append(self._dealt(len(self._orders)))
        return self._orders[at][place]

    def book(self, number: int, strategy: str, new_features: int, steps: int) -> None:
        """Take in the result of a run.  Runs are booked in the order of their numbers, each once.

        ``new_features`` counts what no run before it in that order had shown; ``steps`` is its cost.
        ValueError for a run out of turn or with another strategy than it was dealt.
        """
        if number != self.booked or strategy != self.strategy_of(number):
            raise ValueError(
                f"expected run {self.booked} with {self.strategy_of(self.booked)}, got run {number} with {strategy}"
            )
        at = number // self.epoch
        while len(self._yields) <= at:
            self._yields.append({member: _Yield() for member in self.members})
        found = self._yields[at][strategy]
        found.features += new_features
        found.steps += steps
        self.booked += 1

    def shares(self, epoch: int) -> dict[str, int]:
        """How many runs of an epoch each member gets; they add up to its length."""
        rates = self._rates(epoch)
        total = sum(rates.values())
        floor = min(FLOOR, 0.5 / len(self.members))
        spare = 1 - floor * len(self.members)
        wanted = {member: self.epoch * (floor + spare * rates[member] / total) for member in self.members}
        return _rounded(wanted, self.epoch)

    def _rates(self, epoch: int) -> dict[str, float]:
        """New features per op of each member, as far as this epoch may know; equal when it knows nothing."""
        rates = {}
        for member in self.members:
            features, steps = 0.0, 0.0
            for found in self._yields[: max(0, epoch - LAG + 1)]:
                features = DECAY * features + PRIOR + found[member].features
                steps = DECAY * steps + found[member].steps
            rates[member] = features / steps if steps else 1.0
        return rates

    def _dealt(self, epoch: int) -> tuple[str, ...]:
        """The strategies of an epoch's runs, shuffled: targets take turns by number too, and none may keep step."""
        order = [member for member, count in self.shares(epoch).items() for _ in range(count)]
        Random(f"{self.seed}/portfolio/{epoch}").shuffle(order)
        return tuple(order)


def _rounded(wanted: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to ``total``: the largest remainders are rounded up."""
    counts = {member: int(value) for member, value in wanted.items()}
    by_remainder = sorted(wanted, key=lambda member: counts[member] - wanted[member])
    for member in by_remainder[: total - sum(counts.values())]:
        counts[member] += 1
    return counts
