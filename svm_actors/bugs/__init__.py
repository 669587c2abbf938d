"""Planted bugs: named deviations, each removing one guard (DESIGN section 5).

``BUGS[id].plant(engine.parts)`` changes what a machine is built from, before anything of it is built.
The model itself knows nothing of bugs.  Ids are those of the digests.

Every module of this package may hold bugs: each :class:`Bug` that is a global of one is in the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, replace_part, together


def _planted() -> Iterator[Bug]:
    """Every bug of every module, in the order of the modules."""
    for module in walk_packages(__path__, f"{__name__}."):
        yield from (each for each in vars(import_module(module.name)).values() if isinstance(each, Bug))


def _by_id(bug: Bug) -> list[tuple[str, int]]:
    """The order of a reader: FEN-B9 before FEN-B19."""
    return [(word, int(number or 0)) for word, number in re.findall(r"([A-Za-z-]+)(\d*)", bug.id)]


BUGS: dict[str, Bug] = {bug.id: bug for bug in sorted(_planted(), key=_by_id)}
"""Every bug that can be planted, by id."""

__all__ = ["BUGS", "Bug", "replace_function", "replace_guard", "replace_part", "together"]
