"""Deviations of the timer, its handler, and the recovery from a hang (fences_and_scheduler 8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_recovery import SchedRecovery
from svm_actors.drm.sched_timeout import SchedTimeout

if TYPE_CHECKING:
    from svm_actors.drm.sched_job import SchedJob


async def leave_it_armed(_sched: DrmSched) -> None:
    """No job is left, so the timer has nothing to find."""


async def only_disarm(sched: DrmSched) -> None:
    """The timer is off; a handler that has begun goes on."""
    await sched.engine.step("write", sched.tdr.work)
    sched.tdr.work.cancel()


def leaves_it_there(original: type[SchedTimeout]) -> type[SchedTimeout]:
    """A subclass whose handler lets the job stay on the list while the driver looks at it."""

    class LeavesItThere(original):  # type: ignore[misc, valid-type]
        async def take_head(self) -> SchedJob | None:
            await self.engine.step("read", self.sched)
            return next(iter(self.sched.pending), None)

        def put_back(self, job: SchedJob) -> None:
            job.alive("the timeout handler puts back")

    return LeavesItThere


async def always_in_time(recovery: SchedRecovery, job: SchedJob) -> bool:
    """Whether the callback was still there is not looked at."""
    pair = job.s_fence
    if pair.parent is None:
        return False
    await recovery.engine.step("write", pair.parent, "callback")
    pair.parent.remove_callback(job.cb)
    pair.drop_parent()
    recovery.sched.refund(job)
    return True


FEN_B22 = Bug(
    id="FEN-B22",
    title="a scheduler goes with its timer armed",
    removes="DrmSched.cancel_timer",
    races=("FEN-R23",),
    oracles=("sched/INV-FEN-08", "lifetime/INV-FEN-08"),
    story="sched-fini-with-jobs",
    plant=replace_guard(DrmSched, "cancel_timer", leave_it_armed),
)

FEN_R23 = Bug(
    id="FEN-R23",
    title="a scheduler goes without waiting for the timeout handler that has begun",
    removes="DrmSched.cancel_timer",
    races=("FEN-R23",),
    oracles=("sched/INV-FEN-08", "lifetime/INV-FEN-08"),
    story="sched-fini-with-jobs",
    plant=replace_guard(DrmSched, "cancel_timer", only_disarm),
)

FEN_R21 = Bug(
    id="FEN-R21",
    title="the job that is late stays on the list, and is freed while the driver looks at it",
    removes="SchedTimeout.take_head",
    races=("FEN-R21",),
    oracles=("lifetime/INV-FEN-08",),
    story="sched-false-alarm",
    plant=replace_part(SchedTimeout, leaves_it_there),
)

FEN_R22 = Bug(
    id="FEN-R22",
    title="a stop takes a job for its own whose callback has run already",
    removes="SchedRecovery.detach",
    races=("FEN-R22",),
    oracles=("sched/INV-FEN-07",),
    story="sched-stop-while-finishing",
    plant=replace_guard(SchedRecovery, "detach", always_in_time),
)
