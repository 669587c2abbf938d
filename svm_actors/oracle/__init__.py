"""What must always hold.  Oracles read the event stream and the actors' state; they change nothing.

``attach(world)`` installs all of them; a failure is a ``PropertyFailed`` raised in the task whose
step broke the rule.  Which INV rows are covered, and which are not yet, is in docs/design/not_yet.md.
"""

from __future__ import annotations

from typing import Any

from svm_actors.drm.sched_invariants import SchedInvariants
from svm_actors.oracle.bindings import check_bindings
from svm_actors.oracle.coherence import Coherence
from svm_actors.oracle.fences import Promises
from svm_actors.oracle.leaks import check_leaks, leaks_of
from svm_actors.oracle.notifier import Invalidation
from svm_actors.oracle.structure import Structure
from svm_actors.oracle.submission import Submissions


def attach(world: Any) -> None:
    """Install every oracle in a world that has just been built."""
    structure, scheds, promises, submissions = Structure(world), SchedInvariants(), Promises(), Submissions(world)
    world.engine.listeners += [Coherence(world), Invalidation(world), structure, scheds, promises, submissions]
    world.at_rest += [structure.check, structure.check_translations, lambda: check_bindings(world)]
    world.at_rest += [scheds.at_rest, promises.at_rest, submissions.at_rest]
    world.at_close += [structure.check, promises.at_close, leaks_of(world), scheds.at_close]


__all__ = [
    "Coherence",
    "Invalidation",
    "Promises",
    "SchedInvariants",
    "Structure",
    "Submissions",
    "attach",
    "check_bindings",
    "check_leaks",
]
