"""Witnesses: small scenarios in which one guard matters, each for one race or one planted bug.

A story (:mod:`svm_actors.workload.stories`) is made of operations, and can be any program.  What it cannot say (two
drivers at one page, a queue killed at the right moment, an object let go of twice) is a scenario here.

Every module of this package may hold some: each :class:`Witness` that is a global of one is in the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import walk_packages

from svm_actors.workload.witness import Witness


def _written() -> Iterator[Witness]:
    for module in walk_packages(__path__, f"{__name__}."):
        yield from (each for each in vars(import_module(module.name)).values() if isinstance(each, Witness))


@cache
def all_witnesses() -> dict[str, Witness]:
    """Every witness by name."""
    return {each.name: each for each in sorted(_written(), key=lambda each: each.name)}


__all__ = ["Witness", "all_witnesses"]
