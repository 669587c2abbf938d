"""Footprints: what a step touches, in names that mean the same in every run of a program.

A search makes the same program run again and again; its objects are new each time, their names are
not.  So resources are replaced by one stand-in per name before footprints are compared.

A step's footprint is the op it announced and the locks it released, or took, without one.  Sleeping
depends on everything: time passes only when nothing else can run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from svm_actors.engine.op import Named, Op, conflicts


@attrs.frozen(eq=False)
class Resource:
    """Stands for every object of this name."""

    name: str
    """The name."""


@attrs.frozen
class Footprint:
    """What one step touches."""

    op: Op
    """The op announced, with a stand-in for its resource."""
    touched: frozenset[Resource] = frozenset()
    """Locks let go of or taken on the side; only asked for membership."""

    def with_touched(self, more: Iterable[Resource]) -> Footprint:
        """The same and more."""
        return attrs.evolve(self, touched=self.touched.union(more))


class Names:
    """The stand-ins of one search."""

    def __init__(self) -> None:
        self._known: dict[str, Resource] = {}

    def of(self, resource: Named) -> Resource:
        """The stand-in for this resource."""
        name = resource.name
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = Resource(name)
        return known

    def footprint(self, op: Op) -> Footprint:
        """That of an op alone."""
        kind, resource, key = op
        return Footprint(op if resource is None else (kind, self.of(resource), key))


TIMED: Final = "sleep"


def dependent(one: Footprint, other: Footprint) -> bool:
    """True unless the two steps, done in either order, come to the same."""
    if conflicts(one.op, other.op) or TIMED in (one.op[0], other.op[0]):
        return True
    if one.touched and (other.op[1] in one.touched or not one.touched.isdisjoint(other.touched)):
        return True
    return bool(other.touched) and one.op[1] in other.touched
