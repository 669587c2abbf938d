"""Deviations of the rebind worker, which switches long-running queues on again."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.xe.rebind_worker import RebindWorker


def no_last_look(_worker: RebindWorker) -> None:
    """What went stale since it was pinned is resumed all the same."""


def stay_asleep(_worker: RebindWorker) -> None:
    """A worker that has given up on an idle VM is not told of the job that was pushed."""


VMB_R20 = Bug(
    id="VMB-R20",
    title="queues are resumed without looking whether user memory went stale meanwhile",
    removes="RebindWorker.still_valid",
    races=("VMB-R20",),
    oracles=("lifetime", "coherence", "binds/INV-VMB-13"),
    story="bind-lr-userptr",
    plant=replace_guard(RebindWorker, "still_valid", no_last_look),
)

VMB_R21 = Bug(
    id="VMB-R21",
    title="a push does not wake the rebind worker that has given up on an idle VM",
    removes="RebindWorker.reactivate",
    races=("VMB-R21",),
    oracles=("engine/deadlock",),
    story="bind-lr-eviction",
    plant=replace_guard(RebindWorker, "reactivate", stay_asleep),
)
"""Noticed by the engine: the job is never run, and whoever waits for it never goes on."""
