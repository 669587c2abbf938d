"""Deviations of the end of a queue, and of whoever still waits for it (fences_and_scheduler 8.4)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from svm_actors.bugs.bug import Bug, replace_guard, replace_part, together
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_entity_kill import EntityTeardown, KilledJob
from svm_actors.engine.errors import ENOENT, ESRCH

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.dma_buf.rcu import Rcu
    from svm_actors.drm.sched_user import ProcessGroup


def goes_on_itself(killed: KilledJob, fence: Fence) -> None:
    """Registers on the next fence at once, under the lock of this one."""
    fence.put()
    dependencies = killed.job.dependencies
    while dependencies:
        following = killed.strongest(dependencies.pop(0))
        if following is None:
            continue
        try:
            following.add_callback(killed.cb)
        except ENOENT:
            following.put()
        else:
            return
    killed.job.sched.system_wq.queue_work(killed.work)


def in_interrupt(work: Coroutine[Any, Any, None]) -> None:
    """Run it where nothing may sleep."""
    try:
        work.send(None)
    except StopIteration:
        return


def ends_in_interrupt(killed: KilledJob, fence: Fence) -> None:
    """The last fence it waited for ends the job then and there."""
    fence.put()
    job = killed.job
    if job.dependencies:
        job.sched.system_wq.queue_work(killed.work)
        return
    pair = job.s_fence
    job.emit("scheduled")
    pair.signal_scheduled(None)
    job.emit("finished")
    job.sched.score.value -= 1
    pair.signal_finished(ESRCH())
    in_interrupt(job.sched.free_job(job))


async def only_finished(killed: KilledJob) -> None:
    """It was never on the hardware, so its ``scheduled`` says nothing."""
    job = killed.job
    await job.engine.step("fence_signal", job.s_fence.finished)
    job.emit("finished")
    job.sched.score.value -= 1
    job.s_fence.signal_finished(ESRCH())
    await job.sched.free_job(job)


def unknown_is_mine(teardown: EntityTeardown, process: ProcessGroup) -> bool:
    """Nobody used it yet, so it must be the caller's."""
    return teardown.entity.last_user is None or teardown.entity.last_user is process


def nobody_opened_it(original: type[SchedEntity]) -> type[SchedEntity]:
    """A subclass that does not note who opened it."""

    class NobodyOpenedIt(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.last_user = None

    return NobodyOpenedIt


def everybody_is(_teardown: EntityTeardown, _process: ProcessGroup) -> bool:
    """Whoever closes the file is the user of the queue."""
    return True


def leaves_the_callback(entity: SchedEntity) -> bool:
    """The queue goes, the fence still knows where to call."""
    known, entity.dependency = entity.dependency, None
    return known is not None


def sleep_on(_sched: DrmSched) -> None:
    """Their condition holds, and nobody has them look."""


def at_once(sched: DrmSched, _rcu: Rcu) -> None:
    """Its last fence is signaled: nobody needs it any more, as it seems."""
    sched.free()


FEN_B10 = Bug(
    id="FEN-B10",
    title="a callback on the fence of the job in front registers on the next fence under that one's lock",
    removes="KilledJob.called_back",
    races=("FEN-R20",),
    oracles=("fence/FEN-R20",),
    story="sched-killed-behind-hardware",
    plant=replace_guard(KilledJob, "called_back", goes_on_itself),
)

FEN_B11 = Bug(
    id="FEN-B11",
    title="a killed job is freed in the interrupt that ends what it waited for, where its driver may not sleep",
    removes="KilledJob.called_back",
    races=("FEN-R20",),
    oracles=("engine/EngineError",),
    story="sched-killed-dependency",
    plant=replace_guard(KilledJob, "called_back", ends_in_interrupt),
)

FEN_B12 = Bug(
    id="FEN-B12",
    title="of a killed job only the finished fence is signaled",
    removes="KilledJob.end",
    races=("FEN-R19",),
    oracles=("sched/INV-FEN-07", "engine/deadlock"),
    story="sched-killed-dependency",
    plant=replace_guard(KilledJob, "end", only_finished),
)

FEN_B13 = Bug(
    id="FEN-B13",
    title="a queue that nobody has used yet counts as that of whoever closes the file",
    removes="EntityTeardown.is_last_user",
    races=("FEN-R26",),
    oracles=("caller/FEN-R26", "engine/deadlock", "sched"),
    story="sched-forked-child-dies",
    plant=together(
        replace_guard(EntityTeardown, "is_last_user", unknown_is_mine),
        replace_part(SchedEntity, nobody_opened_it),
    ),
)

FEN_R26 = Bug(
    id="FEN-R26",
    title="a process that is killed takes the queue along, whoever used it last",
    removes="EntityTeardown.is_last_user",
    races=("FEN-R26",),
    oracles=("caller/FEN-R26", "engine/deadlock", "sched"),
    story="sched-forked-child-dies",
    plant=replace_guard(EntityTeardown, "is_last_user", everybody_is),
)

FEN_R18 = Bug(
    id="FEN-R18",
    title="a queue is taken apart with its callback still on the fence that its first job waits for",
    removes="SchedEntity.forget_dependency",
    races=("FEN-R18",),
    oracles=("lifetime/INV-FEN-08", "leaks"),
    story="sched-queue-ends-before-its-job",
    plant=replace_guard(SchedEntity, "forget_dependency", leaves_the_callback),
)

FEN_R24 = Bug(
    id="FEN-R24",
    title="the end of a scheduler does not wake whoever waits for one of its queues to drain",
    removes="DrmSched.wake_flushers",
    races=("FEN-R24",),
    oracles=("sched/FEN-R24", "engine/deadlock"),
    story="sched-flush-and-fini",
    plant=replace_guard(DrmSched, "wake_flushers", sleep_on),
)

FEN_B21 = Bug(
    id="FEN-B21",
    title="a scheduler is freed as soon as its last fence is signaled, while its name is being read",
    removes="DrmSched.free_rcu",
    races=("FEN-R05",),
    oracles=("lifetime/INV-FEN-08",),
    story="sched-name-reader",
    plant=replace_guard(DrmSched, "free_rcu", at_once),
)
