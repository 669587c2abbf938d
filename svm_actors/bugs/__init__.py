"""Planted bugs: named deviations, each removing one guard (DESIGN section 5).

``BUGS[id].install(world)`` changes a world that has just been built, before anything happens in it.
The model itself knows nothing of bugs.  Ids are those of the digests.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.bugs.eviction import PGM_B36
from svm_actors.bugs.invalidation import SVM_B41, SVM_B50, SVM_S08
from svm_actors.bugs.precommit import SVM_B37

BUGS: dict[str, Bug] = {bug.id: bug for bug in (PGM_B36, SVM_B37, SVM_B41, SVM_B50, SVM_S08)}
"""Every bug that can be planted, by id."""

__all__ = ["BUGS", "Bug", "replace_guard"]
