"""Portfolio: no single strategy wins, so runs take turns (exploration digest, section 1.2).

Which strategy finds a bug first depends on the bug: random walks find what needs few constraints, POS
what hides among dependent ops, PCT what needs one task delayed for long (its depth cycles by the seed),
SURW what needs the ops of one resource in a rare order.  For one run the member is drawn from the seed;
a campaign deals members out by what each has found (:mod:`svm_actors.explore.portfolio`).  PCT takes
part in its fair form, so that a run that spends its step budget is worth looking at.

URW is not a member: uniform over *all* ops it is the weakest where most ops are noise, which is what the
model's runs look like (hundreds of ops, few of them racing), and it costs the same profile as SURW.

Deviation from a rotation by run number: a run knows its seed only, so the member is a uniform draw.
"""

from __future__ import annotations

from random import Random
from typing import Final

NAME: Final = "portfolio"
MEMBERS: Final = ("random", "pos", "fair_pct", "surw")
"""Names of the strategies that take turns, in the order in which ties are broken."""


def member_of(seed: int | str) -> str:
    """The member that makes the choices of the run with this seed."""
    return Random(f"{NAME}/{seed}").choice(MEMBERS)
