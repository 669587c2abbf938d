"""How a run is made, apart from what is run: strategy, timers, step budget.

A token has one text field for the strategy.  Settings that change which choices a run has ride in
it, after the name, when they are not the default: ``random race_timers step_budget=5000``.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import attrs

from svm_actors.bugs import BUGS
from svm_actors.explore.strategies import STRATEGIES

STEP_BUDGET: Final = 2_000_000
"""Ops in one run; more than that is a suspected livelock."""


class UnknownName(ValueError):
    """No strategy, or no bug, has this name; the text lists those that have one."""


@attrs.frozen
class Settings:
    """What a strict replay must know besides the choices."""

    strategy: str = "fifo"
    """Name of the strategy."""
    race_timers: bool = False
    """Whether firing a due timer is one of the choices."""
    step_budget: int = STEP_BUDGET
    """Ops after which a run is given up."""

    def __str__(self) -> str:
        words = [self.strategy]
        if self.race_timers:
            words.append("race_timers")
        if self.step_budget != STEP_BUDGET:
            words.append(f"step_budget={self.step_budget}")
        return " ".join(words)

    @staticmethod
    def parse(text: str) -> Settings:
        """The inverse of ``str``; ValueError for other text."""
        name, *words = text.split(" ")
        found = Settings(name)
        for word in words:
            key, _, value = word.partition("=")
            if key == "race_timers" and not value:
                found = attrs.evolve(found, race_timers=True)
            elif key == "step_budget" and value.isdecimal():
                found = attrs.evolve(found, step_budget=int(value))
            else:
                raise ValueError(f"expected a strategy with race_timers or step_budget=N, got {text!r}")
        return found


def check_strategy(name: str) -> None:
    """Raise UnknownName, with the known names, for an unknown strategy."""
    if name not in STRATEGIES:
        raise UnknownName(f"unknown strategy {name!r}; known: {', '.join(sorted(STRATEGIES))}")


def check_bugs(bugs: Sequence[str]) -> None:
    """Raise UnknownName, with names that look alike, for an unknown bug."""
    for bug in bugs:
        if bug not in BUGS:
            near = get_close_matches(bug.upper(), BUGS, n=3, cutoff=0.5)
            known = f"did you mean {', '.join(near)}?" if near else "`svm-actors bugs` lists them"
            raise UnknownName(f"unknown bug {bug!r}; {known}")
