"""One line for an id: what a rule demands, what a race is about, what a planted bug leaves out.

What the catalogue has a row for is told in the row's words, a planted bug in its own.
"""

from __future__ import annotations

from typing import Final

from svm_actors.bugs import BUGS
from svm_actors.catalogue.rows import read_rows

OTHERS: Final = {
    "deadlock": "somebody can always go on",
    "step-budget": "the run comes to an end",
    "coherence": "a read returns a write that was not definitely overwritten",
}
"""What oracles name that has no id."""


def title(rule: str) -> str:
    """What an id means, in one line; empty for one that nobody explains."""
    if rule in OTHERS:
        return OTHERS[rule]
    if rule in BUGS:
        return BUGS[rule].title
    row = read_rows().get(rule)
    return row.text if row is not None else ""
