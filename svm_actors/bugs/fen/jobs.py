"""Deviations around a job: its dependencies, its result, and who is still there when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part, together
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_job import SchedJob
from svm_actors.engine.errors import KernelError

if TYPE_CHECKING:
    from svm_actors.dma_buf.resv import DmaResv, Usage
    from svm_actors.drm.sched_user import EntityStats


def puts_it_again(job: SchedJob, resv: DmaResv, usage: Usage) -> None:
    """Cleans up after an error as if the reference were still its own."""
    for fence in resv.iter(usage):
        try:
            job.add_dependency(fence.get())
        except KernelError:
            fence.put()
            raise


def no_result(_sched: DrmSched, _error: KernelError) -> KernelError | None:
    """It has ended, that is all."""
    return None


def keeps_the_pointer(original: type[SchedEntity]) -> type[SchedEntity]:
    """A subclass whose jobs still name it when they are taken out."""

    class KeepsThePointer(original):  # type: ignore[misc, valid-type]
        async def pop_job(self) -> SchedJob | None:
            job: SchedJob | None = await super().pop_job()
            if job is not None:
                job.entity = self
            return job

    return KeepsThePointer


def stats_of_the_entity(_sched: DrmSched, job: SchedJob) -> EntityStats:
    """Follows the pointer to the queue for its books."""
    if job.entity is None:
        return job.stats
    job.entity.alive("the time of a job is booked to")
    return job.entity.stats


FEN_B07 = Bug(
    id="FEN-B07",
    title="a dependency that could not be added is put a second time",
    removes="SchedJob.add_resv_dependencies",
    races=(),
    oracles=("lifetime/FEN-R05", "resv"),
    story="sched-no-memory-for-dependencies",
    plant=replace_guard(SchedJob, "add_resv_dependencies", puts_it_again),
)

FEN_B18 = Bug(
    id="FEN-B18",
    title="the error of a submission that failed is not copied to the fence of the job",
    removes="DrmSched.result_of",
    races=(),
    oracles=("caller/FEN-B18",),
    story="sched-failed-submission",
    plant=replace_guard(DrmSched, "result_of", no_result),
)

FEN_B17 = Bug(
    id="FEN-B17",
    title="a job still points to its queue, which may be closed before the job ends",
    removes="DrmSched.stats_of",
    races=("FEN-R18",),
    oracles=("lifetime/INV-FEN-08",),
    story="sched-queue-ends-before-its-job",
    plant=together(
        replace_part(SchedEntity, keeps_the_pointer),
        replace_guard(DrmSched, "stats_of", stats_of_the_entity),
    ),
)
