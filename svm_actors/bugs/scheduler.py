"""Deviations of the scheduler: who is told that something can go on, and what becomes of a false alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_timeout import SchedTimeout

if TYPE_CHECKING:
    from svm_actors.drm.sched_job import SchedJob


def only_clear(entity: SchedEntity, fence: Fence) -> None:
    """The head job may go on; the worker is left to find out for itself."""
    entity.dependency = None
    fence.put()


async def dropped(timeout: SchedTimeout, job: SchedJob) -> None:
    """A job that was not hung is not put back on the pending list."""
    await timeout.sched.engine.step("read", job)


FEN_B09 = Bug(
    id="FEN-B09",
    title="a dependency that is done is cleared, but the worker is not kicked",
    removes="SchedEntity.dependency_signaled",
    races=("FEN-R19",),
    oracles=("engine/deadlock", "sched"),
    story="bind-queues",
    plant=replace_guard(SchedEntity, "dependency_signaled", only_clear),
)
"""Noticed by the engine: the job behind the dependency is never run."""

FEN_B19 = Bug(
    id="FEN-B19",
    title="a job whose timeout was a false alarm stays off the list of pending jobs",
    removes="SchedTimeout.reinsert",
    races=("FEN-R21",),
    oracles=("engine/deadlock", "sched", "leaks", "submission"),
    story="bind-reset",
    plant=replace_guard(SchedTimeout, "reinsert", dropped),
)
"""Noticed when its queue is taken apart: that waits for a job which nobody frees."""
