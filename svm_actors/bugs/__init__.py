"""Planted bugs: named deviations, each removing one guard (DESIGN section 5).

``BUGS[id].install(world)`` changes a world that has just been built, before anything happens in it.
The model itself knows nothing of bugs.  Ids are those of the digests.
"""

from __future__ import annotations

from svm_actors.bugs.binding import VMB_B17, VMB_B25, VMB_R10
from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.bugs.eviction import PGM_B36
from svm_actors.bugs.exec_publish import VMB_R01, VMB_R05
from svm_actors.bugs.gpuvm import VMB_B14
from svm_actors.bugs.invalidation import SVM_B41, SVM_B50, SVM_S08
from svm_actors.bugs.moves import VMB_R04
from svm_actors.bugs.precommit import SVM_B37
from svm_actors.bugs.rebind import VMB_R20, VMB_R21
from svm_actors.bugs.reset import FEN_B20
from svm_actors.bugs.scheduler import FEN_B09, FEN_B19
from svm_actors.bugs.userptr import VMB_R17

BUGS: dict[str, Bug] = {
    bug.id: bug
    for bug in (
        *(PGM_B36, SVM_B37, SVM_B41, SVM_B50, SVM_S08),
        *(VMB_B14, VMB_B17, VMB_B25, VMB_R01, VMB_R04, VMB_R05, VMB_R10, VMB_R17, VMB_R20, VMB_R21),
        *(FEN_B09, FEN_B19, FEN_B20),
    )
}
"""Every bug that can be planted, by id."""

__all__ = ["BUGS", "Bug", "replace_guard"]
