"""Deviations of the way into the scheduler: arm, push, wake the worker (fences_and_scheduler 8.2)."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from svm_actors.bugs.bug import Bug, replace_guard, replace_part, together
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_queue import JobQueue
from svm_actors.engine.locks import Mutex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_user import ProcessGroup


class NoLock:
    """Stands for a lock that nobody takes."""

    async def __aenter__(self) -> NoLock:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        return None


def no_lock(_entity: SchedEntity) -> NoLock:
    """Whoever submits is alone, as it thinks."""
    return NoLock()


async def links_first(queue: JobQueue, job: SchedJob) -> bool:
    """The job can be found, and is not counted yet: a worker that comes now goes to sleep."""
    await queue.engine.step("write", queue, "link")
    first = queue.link(job)
    await queue.engine.step("write", queue, "count")
    queue.announce()
    return first


async def spares_a_busy_worker(_entity: SchedEntity, sched: DrmSched) -> None:
    """It is at work, and will look once more by itself, as it seems."""
    if sched.work_run_job.worker is None:
        sched.run_job_queue()


async def kicks_if_it_fits(entity: SchedEntity, sched: DrmSched) -> None:
    """Saves a kick for a job that the hardware has no room for; but it is the worker's job by now."""
    job = entity.queue.peek()
    if job is None:
        return
    await entity.engine.step("read", job, "credits")
    job.alive("a kick looks at the credits of")
    if sched.credit_count + job.credits <= sched.credit_limit:
        sched.run_job_queue()


def looks_back(original: type[SchedEntity]) -> type[SchedEntity]:
    """A subclass that looks at a job when it has been pushed."""

    class LooksBack(original):  # type: ignore[misc, valid-type]
        async def push_job(self, job: SchedJob, process: ProcessGroup | None) -> None:
            await super().push_job(job, process)
            await self.engine.step("read", job, "submit_ts")
            job.alive("the push looks once more at")

    return LooksBack


def locked_twice(original: type[SchedJob]) -> type[SchedJob]:
    """A subclass whose arm and push each take the entity's lock, which is dropped in between."""

    class LockedTwice(original):  # type: ignore[misc, valid-type]
        def lock(self) -> Mutex:
            lock: Mutex = self.entity._submission
            return lock

        async def arm(self) -> None:
            async with self.lock():
                await super().arm()

        async def push(self, process: ProcessGroup | None = None) -> None:
            async with self.lock():
                await super().push(process)

    return LockedTwice


async def torn(entity: SchedEntity, scheds: Sequence[DrmSched]) -> None:
    """The list is replaced without the lock, one word after the other."""
    entity._scheds = tuple(scheds)
    await entity.engine.step("write", entity, "num_sched_list")
    entity._num_scheds = len(entity._scheds)
    entity._settled = False


async def moves_at_will(entity: SchedEntity) -> bool:
    """An empty queue is all that is asked for; its last job may still be at the other ring."""
    await entity.engine.step("read", entity.queue, "count")
    return not entity.queue.count


def any_ring_is_own(_entity: SchedEntity, _pair: Any, _sched: DrmSched) -> bool:
    """That a job is on its hardware is enough, whichever hardware that is."""
    return True


_NOT_TOLD = ("sched/INV-FEN-07", "engine/deadlock")

FEN_B08 = Bug(
    id="FEN-B08",
    title="a job is counted after it was linked, so a worker that comes in between sees none",
    removes="JobQueue.push",
    races=("FEN-R15",),
    oracles=_NOT_TOLD,
    story="sched-push-and-idle",
    plant=replace_guard(JobQueue, "push", links_first),
)

FEN_R15 = Bug(
    id="FEN-R15",
    title="a push does not kick a worker that is at work just now",
    removes="SchedEntity.wake",
    races=("FEN-R15",),
    oracles=_NOT_TOLD,
    story="sched-push-and-idle",
    plant=replace_guard(SchedEntity, "wake", spares_a_busy_worker),
)

FEN_B16 = Bug(
    id="FEN-B16",
    title="a push looks whether the first job has room before it kicks, while the worker may free that job",
    removes="SchedEntity.wake",
    races=("FEN-R16",),
    oracles=("lifetime/INV-FEN-08", *_NOT_TOLD),
    story="sched-push-and-idle",
    plant=replace_guard(SchedEntity, "wake", kicks_if_it_fits),
)

FEN_R16 = Bug(
    id="FEN-R16",
    title="a push reads from the job after it handed it over",
    removes="SchedEntity.stamp",
    races=("FEN-R16",),
    oracles=("lifetime/INV-FEN-08",),
    story="sched-push-and-idle",
    plant=replace_part(SchedEntity, looks_back),
)

FEN_R14 = Bug(
    id="FEN-R14",
    title="two threads arm and push to one queue without a lock",
    removes="SchedEntity.submission",
    races=("FEN-R14",),
    oracles=("sched/FEN-R14",),
    story="sched-two-submitters",
    plant=replace_guard(SchedEntity, "submission", no_lock),
)

FEN_B31 = Bug(
    id="FEN-B31",
    title="the lock is dropped between arm and push, so jobs are queued in another order than numbered",
    removes="SchedEntity.submission",
    races=("FEN-R14",),
    oracles=("sched/FEN-R14",),
    story="sched-two-submitters",
    plant=together(
        replace_guard(SchedEntity, "submission", no_lock),
        replace_part(SchedJob, locked_twice),
    ),
)

FEN_B15 = Bug(
    id="FEN-B15",
    title="the list of rings is replaced without the lock that whoever chooses one takes",
    removes="SchedEntity.modify_sched",
    races=("FEN-R25",),
    oracles=("sched/FEN-R25",),
    story="sched-list-changes",
    plant=replace_guard(SchedEntity, "modify_sched", torn),
)

FEN_R17 = Bug(
    id="FEN-R17",
    title="a queue moves to another ring while its last job is still at the first one",
    removes="SchedEntity.may_move",
    races=("FEN-R17",),
    oracles=("sched/INV-FEN-02", "sched/INV-FEN-07"),
    story="sched-entity-moves",
    plant=replace_guard(SchedEntity, "may_move", moves_at_will),
)

FEN_B26 = Bug(
    id="FEN-B26",
    title="a job waits only until the other one is on the hardware, even on other hardware than its own",
    removes="SchedEntity.is_own",
    races=("FEN-R19",),
    oracles=("sched/INV-FEN-07", "submission"),
    story="sched-two-rings",
    plant=replace_guard(SchedEntity, "is_own", any_ring_is_own),
)
