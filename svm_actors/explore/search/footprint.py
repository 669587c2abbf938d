"""Footprints: what a step touches, in names that mean the same in every run of a program.

A search makes the same program run again and again; its objects are new each time, their names are
not.  So resources are replaced by one stand-in per name before footprints are compared.

A step's footprint is the op it announced, the locks it released or took without one, and, where the
search measures them (:mod:`svm_actors.explore.search.meter`), the fields of the model it read and wrote.
Sleeping depends on everything: time passes only when nothing else can run.

What an actor's loop does is local: it takes a request out of the mailbox and starts a task for it, a child
of the caller whose name does not depend on arrival.  So two requests to one actor commute, and whatever
they share beyond the mailbox shows in what the tasks that serve them touch (digest 1.3, "Actor refinements").
So is taking an answer: only one task waits for it, and it comes after the task that gave it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from svm_actors.engine.actor import Mailbox
from svm_actors.engine.channel import Reply
from svm_actors.engine.op import Named, Op, conflicts


@attrs.frozen(eq=False)
class Resource:
    """Stands for every object of this name."""

    name: str
    """The name."""


Fields = frozenset[str]
"""Fields of the model, each as ``class:creator.number.field``; only asked for membership."""

NO_FIELDS: Final[Fields] = frozenset()


@attrs.frozen
class Footprint:
    """What one step touches."""

    op: Op
    """The op announced, with a stand-in for its resource."""
    touched: frozenset[Resource] = frozenset()
    """Locks let go of or taken on the side; only asked for membership."""
    reads: Fields = NO_FIELDS
    """Fields of the model that were looked at."""
    writes: Fields = NO_FIELDS
    """Fields of the model that changed."""

    def with_touched(self, more: Iterable[Resource]) -> Footprint:
        """The same and more."""
        return attrs.evolve(self, touched=self.touched.union(more))

    def with_fields(self, reads: Fields, writes: Fields) -> Footprint:
        """The same and these fields."""
        return attrs.evolve(self, reads=self.reads | reads, writes=self.writes | writes)


_LOCAL: Final[Op] = ("local", None, None)


class Names:
    """The stand-ins of one search."""

    def __init__(self) -> None:
        self._known: dict[str, Resource] = {}

    def of(self, resource: Named) -> Resource:
        """The stand-in for this resource."""
        return self.called(resource.name)

    def called(self, name: str) -> Resource:
        """The stand-in for what has this name."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = Resource(name)
        return known

    def footprint(self, op: Op) -> Footprint:
        """That of an op alone."""
        kind, resource, key = op
        if isinstance(resource, (Mailbox, Reply)):
            return Footprint(_LOCAL)
        return Footprint(op if resource is None else (kind, self.of(resource), key))


TIMED: Final = "sleep"


def dependent(one: Footprint, other: Footprint) -> bool:
    """True unless the two steps, done in either order, come to the same."""
    if conflicts(one.op, other.op) or TIMED in (one.op[0], other.op[0]):
        return True
    if one.writes and not (one.writes.isdisjoint(other.writes) and one.writes.isdisjoint(other.reads)):
        return True
    if other.writes and not other.writes.isdisjoint(one.reads):
        return True
    if one.touched and (other.op[1] in one.touched or not one.touched.isdisjoint(other.touched)):
        return True
    return bool(other.touched) and one.op[1] in other.touched
