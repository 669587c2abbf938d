"""Strategies: who makes the choices of a run, one per file (exploration digest, section 1.2).

A strategy implements :class:`svm_actors.engine.chooser.Chooser` and lives for one run.  It draws
from a generator seeded by text, so its choices do not depend on PYTHONHASHSEED or on the machine.
"""

from __future__ import annotations

from collections.abc import Callable

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.strategies.fifo import Fifo
from svm_actors.explore.strategies.random_walk import RandomWalk
from svm_actors.explore.strategies.replay import Replay

__all__ = ["STRATEGIES", "Fifo", "RandomWalk", "Replay", "make"]

STRATEGIES: dict[str, Callable[[int | str], Chooser]] = {
    Fifo.name: Fifo,
    RandomWalk.name: RandomWalk,
}
"""What a name on the command line stands for: a function from seed to strategy."""


def make(name: str, seed: int | str) -> Chooser:
    """A fresh strategy for one run; ValueError, listing the known names, for an unknown one."""
    try:
        factory = STRATEGIES[name]
    except KeyError:
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(sorted(STRATEGIES))}") from None
    return factory(seed)
