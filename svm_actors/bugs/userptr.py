"""VMB-R17: a notifier that comes between the pinning of user memory and the commit of its entries is forgotten."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.xe.userptr import Userptr


def only_when_bound(userptr: Userptr) -> None:
    """A mapping without entries has nothing to lose, as it seems."""
    vma = userptr.vma
    if vma is not None and getattr(vma, "present", False):
        Userptr.mark_invalidated(userptr)


VMB_R17 = Bug(
    id="VMB-R17",
    title="the notifier lists a user mapping as invalidated only when its entries are written",
    removes="Userptr.mark_invalidated",
    races=("VMB-R17", "VMB-R02"),
    oracles=("lifetime", "coherence", "binds/INV-VMB-13"),
    story="bind-remap",
    plant=replace_guard(Userptr, "mark_invalidated", only_when_bound),
)
