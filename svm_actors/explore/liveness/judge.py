"""From a suspicion to a verdict: is a run that did not end a livelock, and is it stable?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Literal

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.liveness.fair import Turns, Walks
from svm_actors.explore.liveness.lasso import Continuation, Hunt, Lasso

HUNTS: Final = 4
"""Prefixes tried before a suspicion is dropped."""
LONGEST_PREFIX: Final = 1000
"""Choices of the suspicious run that are made again, at most."""
FAIR_STEPS: Final = 8000
"""Fair steps of one hunt."""
WALKS: Final = 3
"""Random fair continuations a stable livelock must hold against, besides turns the other way round."""
ROUNDS_HELD: Final = 20
"""Rounds' worth of steps in each of them."""
SHOWN: Final = 6
"""Tasks and counters named in the message."""

Once = Callable[[Chooser], object]
"""Makes one run with these choices."""


@attrs.frozen
class Verdict:
    """A livelock."""

    kind: Literal["stable", "transient"]
    """``stable``: every fair continuation tried stays in; ``transient``: one of them got out."""
    lasso: Lasso
    """The cycle."""

    @property
    def text(self) -> str:
        """The report: the first line names the retry loop, the others who is in it."""
        lasso = self.lasso
        loop = ", ".join(list(lasso.retries)[:SHOWN]) or "no counter grows"
        grown = ", ".join(f"{name} +{count}" for name, count in list(lasso.retries.items())[:SHOWN])
        fate = "every fair schedule tried stays in" if self.kind == "stable" else "some fair schedules get out"
        tasks = ", ".join(lasso.tasks[:SHOWN]) + (" ..." if len(lasso.tasks) > SHOWN else "")
        return (
            f"livelock ({self.kind}): retry loop {loop}\n"
            f"the same state came round {lasso.length} steps later, and again, without progress; {fate}\n"
            f"in each round: {grown or 'no counter grows'}\n"
            f"{len(lasso.tasks)} tasks take part: {tasks}"
        )


def judge(once: Once, tape: Sequence[int], seed: str) -> Verdict | None:
    """INV-37: judge a run by its choices; None when no fair run comes round: then nothing is proved.

    A cycle in which no counter grows is no retry loop: a scenario that sleeps for ever is without end, not
    livelocked.  Prefixes are of random length, the whole allowed prefix among them, from a seed of their own.
    """
    random = Random(f"judge/{seed}")
    most = min(len(tape), LONGEST_PREFIX)
    for number in range(HUNTS):
        prefix = most if not number else random.randint(0, most)
        hunt = Hunt(tape, prefix, FAIR_STEPS)
        once(hunt)
        if hunt.lasso is not None and hunt.confirmed and hunt.lasso.retries:
            return Verdict("stable" if _holds(once, hunt.lasso, seed) else "transient", hunt.lasso)
    return None


def _holds(once: Once, lasso: Lasso, seed: str) -> bool:
    """No other fair schedule leads out of the cycle."""
    policies: list[Turns | Walks] = [Turns(youngest=True), *(Walks(f"{seed}/{number}") for number in range(WALKS))]
    for policy in policies:
        chooser = Continuation(lasso, policy, max(ROUNDS_HELD * lasso.length, FAIR_STEPS // 4))
        once(chooser)
        if not chooser.stayed:
            return False
    return True
