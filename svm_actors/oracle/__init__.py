"""What must always hold.  Oracles read the event stream and the actors' state; they change nothing.

``attach(world)`` installs all of them; a failure is a ``PropertyFailed`` raised in the task whose
step broke the rule.  Which INV rows are covered, and which are not yet, is in docs/design/not_yet.md.
"""

from __future__ import annotations

from typing import Any

from svm_actors.drm.sched_invariants import SchedInvariants
from svm_actors.oracle.address_space import AddressSpace
from svm_actors.oracle.bindings import check_bindings
from svm_actors.oracle.coherence import Coherence
from svm_actors.oracle.copies import Copies
from svm_actors.oracle.driver import Driver
from svm_actors.oracle.entries import Entries
from svm_actors.oracle.fault_pages import FaultPages
from svm_actors.oracle.fences import Promises
from svm_actors.oracle.leaks import check_leaks, leaks_of
from svm_actors.oracle.migrations import Migrations
from svm_actors.oracle.mirrors import check_mirrors
from svm_actors.oracle.notifier import Invalidation
from svm_actors.oracle.permissions import check_permissions
from svm_actors.oracle.ranges import Ranges
from svm_actors.oracle.reservations import Reservations
from svm_actors.oracle.structure import Structure
from svm_actors.oracle.submission import Submissions
from svm_actors.oracle.two_pass import TwoPass
from svm_actors.oracle.walks import Walks


def attach(world: Any) -> None:
    """Install every oracle in a world that has just been built."""
    structure, scheds, promises, submissions = Structure(world), SchedInvariants(), Promises(), Submissions(world)
    ranges, invalidation = Ranges(world), Invalidation(world)
    world.engine.listeners += [Coherence(world), invalidation, structure, scheds, promises, submissions, ranges]
    world.engine.listeners += [Migrations(world), TwoPass(world), AddressSpace(), Walks()]
    world.engine.listeners += [Reservations(), Entries(), Copies(), FaultPages(world), Driver(world)]
    world.at_rest += [structure.check, structure.check_translations, lambda: check_bindings(world)]
    world.at_rest += [invalidation.at_rest, lambda: check_mirrors(world), lambda: check_permissions(world)]
    world.at_rest += [scheds.at_rest, promises.at_rest, submissions.at_rest, ranges.check_mirrored]
    world.at_close += [structure.check, promises.at_close, leaks_of(world), scheds.at_close]


__all__ = [
    "AddressSpace",
    "Coherence",
    "Copies",
    "Driver",
    "Entries",
    "FaultPages",
    "Invalidation",
    "Migrations",
    "Promises",
    "Ranges",
    "Reservations",
    "SchedInvariants",
    "Structure",
    "Submissions",
    "TwoPass",
    "Walks",
    "attach",
    "check_bindings",
    "check_leaks",
    "check_mirrors",
    "check_permissions",
]
