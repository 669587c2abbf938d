"""VMB-R04: a move of an object does not wait for the jobs that use it."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.xe.gem import XeBo


def moves_only(bo: XeBo) -> Fence | None:
    """As for a first clear: earlier moves are waited for, jobs are not."""
    return bo.clear_waits_for()


VMB_R04 = Bug(
    id="VMB-R04",
    title="the copy of an eviction waits for earlier moves, not for the jobs that use the object",
    removes="XeBo.move_waits_for",
    races=("VMB-R04", "VMB-R05"),
    oracles=("lifetime", "binds/INV-VMB-13"),
    story="bind-shared",
    plant=replace_guard(XeBo, "move_waits_for", moves_only),
)
"""Noticed by data, when the copy is taken before the job has stored, and by a store to memory that is freed."""
