"""Exit codes, the same for every command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from svm_actors.explore.failure import Failure

HELD: Final = 0
"""Every property held."""
FAILED: Final = 1
"""A property failed."""
BAD_INPUT: Final = 2
"""Usage or bad input."""
INTERNAL: Final = 3
"""This package broke."""
NO_VERDICT: Final = 4
"""The budget was spent without a verdict."""


def of_failures(failures: Iterable[Failure], bugs: Sequence[str] = ()) -> int:
    """The code for what was found.  What breaks because a bug was planted is that bug's failure."""
    kinds = {failure.kind for failure in failures}
    if kinds & {"property", "deadlock", "livelock", "error"} or (bugs and "internal" in kinds):
        return FAILED
    if "internal" in kinds:
        return INTERNAL
    return NO_VERDICT if "budget" in kinds else HELD
