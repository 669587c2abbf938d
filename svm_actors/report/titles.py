"""One line for an id: what a rule demands, what a race is about, what a planted bug leaves out.

What the catalogue has a row for is told in the row's words, a planted bug in its own.  Of a race without a row the
first line of the docstring of its guard is told: the model's own words for what it does there.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from svm_actors.bugs import BUGS
from svm_actors.catalogue.rows import read_rows
from svm_actors.catalogue.sources import cited

OTHERS: Final = {
    "deadlock": "somebody can always go on",
    "step-budget": "the run comes to an end",
    "coherence": "a read returns a write that was not definitely overwritten",
}
"""What oracles name that has no id."""
_ID: Final = re.compile(r"\s*\(?\b(?:(?:SVM|PGM|MM|VMB|FEN)-[RBS]\d+(?:,? )?)+\)?:?\s*")


def title(rule: str) -> str:
    """What an id means, in one line; empty for one that nobody explains."""
    if rule in OTHERS:
        return OTHERS[rule]
    if rule in BUGS:
        return BUGS[rule].title
    if rule in read_rows():
        return read_rows()[rule].text
    return _guards().get(rule, "")


@cache
def _guards() -> dict[str, str]:
    """By race, the first line of the docstring of its first guard."""
    return {
        name: _ID.sub(" ", places[0].text.splitlines()[0]).strip(" .") for name, places in cited("guards").items()
    }
