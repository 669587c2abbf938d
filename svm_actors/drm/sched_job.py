"""A job, from its making to its end (fences_and_scheduler 8.2, steps 1 to 4).

    job = SchedJob(entity, credits)      # init
    job.add_dependency(fence.get())      # as often as needed; the reference is consumed
    await job.arm()                      # point of no return: its fences are promised
    await job.push()                     # under the same lock as arm

After the push the job belongs to the scheduler and may be freed any moment (FEN-R16).  A driver puts its
own data into a subclass.  ``submit`` does arm and push under the entity's own lock (FEN-R14), for
drivers that have no lock of their own that covers both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import FenceCb
from svm_actors.dma_buf.fence_memory import allocate
from svm_actors.dma_buf.resv import usage_rw
from svm_actors.dma_buf.seqno import is_later_or_same, same_context
from svm_actors.drm.sched_events import JobEvent
from svm_actors.drm.sched_fence import SchedFence
from svm_actors.engine.errors import EINVAL, ENOENT, ENOMEM, EngineError, PropertyFailed

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.dma_buf.resv import DmaResv, Usage
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_events import JobPhase
    from svm_actors.drm.sched_user import EntityStats, ProcessGroup


class SchedJob:
    """One job.  -EINVAL without credits, -ENOENT when no scheduler of the entity takes jobs, -ENOMEM."""

    def __init__(self, entity: SchedEntity, credits_: int = 1) -> None:
        if entity.rq is None:
            raise ENOENT
        if credits_ < 1:
            raise EINVAL
        self._memory = entity.rq.sched.memory
        allocate(entity.engine, self._memory, "job fences")
        self.engine = entity.engine
        self.name = entity.job_name()
        self.entity: SchedEntity | None = entity
        """Where it is queued; None once it is taken out, as the entity may end before it (FEN-B17)."""
        self.credits = credits_
        """Share of the scheduler's limit that it takes while it is on the hardware."""
        self.dependencies: list[Fence] = []
        """What must be signaled first, one per context."""
        self.next_dependency = 0
        """The worker has looked at those before this one."""
        self.armed: tuple[DrmSched, SchedFence] | None = None
        self.priority = entity.priority
        """Priority of the entity when the job was armed."""
        self.karma = 0
        """How many hangs it is blamed for."""
        self.submit_ts = 0
        """When it was pushed, virtual ns."""
        self.start_ts: int | None = None
        """When the hardware came to it, virtual ns: at its begin, or when the one before it was done."""
        self.stats: EntityStats = entity.stats
        """Where its GPU time is booked; outlives the entity."""
        self.freed = False
        self._prepaid = 0
        """Dependencies there is room for already."""
        self._pushing = False
        """Somebody is in :meth:`push`; only for statistics, the kernel could not know."""
        self.cb = FenceCb(self.hardware_done)
        """On the hardware fence while the job is at the hardware."""

    # -- what an armed job has ---------------------------------------------------------

    @property
    def sched(self) -> DrmSched:
        """Its scheduler, chosen when it is armed."""
        return self._armed()[0]

    @property
    def s_fence(self) -> SchedFence:
        """Its fences."""
        return self._armed()[1]

    def _armed(self) -> tuple[DrmSched, SchedFence]:
        if self.armed is None:
            raise EngineError(f"{self.name} is not armed yet")
        return self.armed

    def alive(self, doing: str) -> None:
        """Raise when it is freed (INV-FEN-08)."""
        if self.freed:
            raise PropertyFailed("lifetime", "INV-FEN-08", f"{doing} {self.name}, which is freed")

    # -- dependencies ------------------------------------------------------------------

    def add_dependency(self, fence: Fence | None) -> None:
        """Wait for this before running; of one context only the latest is kept.  -ENOMEM.

        Consumes a reference, also when it fails: the caller never puts it (FEN-B07).
        """
        if self.armed is not None:
            raise EngineError(f"{self.name} is armed: its dependencies are fixed")
        if fence is None:
            return
        for index, known in enumerate(self.dependencies):
            if same_context(fence, known):
                later, other = (fence, known) if is_later_or_same(fence, known) else (known, fence)
                self.dependencies[index] = later
                other.put()
                return
        if not self._prepaid:
            try:
                self.prealloc_dependency()
            except ENOMEM:
                fence.put()
                raise
        self._prepaid -= 1
        self.dependencies.append(fence)

    def prealloc_dependency(self) -> None:
        """Room for one dependency that will be known only where nothing may be allocated.  -ENOMEM."""
        allocate(self.engine, self._memory, "job dependency")
        self._prepaid += 1

    def add_resv_dependencies(self, resv: DmaResv, usage: Usage) -> None:
        """Wait for what a reservation holds up to this usage; its lock is held.  -ENOMEM.

        FEN-B07: what could not be added is not put here, that has been done.
        """
        for fence in resv.iter(usage):
            self.add_dependency(fence.get())

    def add_implicit_dependencies(self, resv: DmaResv, write: bool) -> None:
        """Wait for what an implicitly synchronised access has to wait for.  -ENOMEM."""
        self.add_resv_dependencies(resv, usage_rw(write))

    def drop_dependencies(self) -> None:
        """Give the references back."""
        for fence in self.dependencies:
            fence.put()
        self.dependencies.clear()

    # -- submission --------------------------------------------------------------------

    async def arm(self) -> None:
        """Choose the run queue and promise the fences; from here on the job must be pushed."""
        entity = self.entity
        assert entity is not None
        await entity.select_rq()
        if self.armed is not None:
            raise EngineError(f"{self.name} is armed twice")
        rq = entity.rq
        assert rq is not None
        self.priority = entity.priority
        self.armed = rq.sched, SchedFence(self.engine, entity.name, rq.sched, entity.fence_context, entity.next_seqno())

    async def push(self, process: ProcessGroup | None = None) -> None:
        """Hand it over.  Do not touch it afterwards, and take references to its fences before."""
        entity = self.entity
        assert entity is not None
        self._armed()
        self._pushing = True
        await entity.push_job(self, process)
        self._prepaid = 0
        """Dependencies there is room for already."""
        self._pushing = False

    async def submit(self, process: ProcessGroup | None = None) -> SchedFence:
        """Arm and push under one lock; answers the fences."""
        entity = self.entity
        assert entity is not None
        async with entity.submission():
            await self.arm()
            fences = self.s_fence
            await self.push(process)
        return fences

    def cleanup(self) -> None:
        """drm_sched_job_cleanup, for jobs that were made and never armed."""
        if self.armed is not None:
            raise EngineError(f"{self.name} is armed: only the scheduler may free it")
        self.release()

    def release(self) -> None:
        """Give back what it holds; it must not be used after this."""
        self.alive("somebody frees")
        self.freed = True
        if self._pushing:
            self.engine.count("FEN-R16")
        self.drop_dependencies()
        if self.armed is not None:
            self.s_fence.finished.put()

    def hardware_done(self, fence: Fence) -> None:
        """drm_sched_job_done_cb: called from the hardware fence's signal, in interrupt context."""
        self.sched.job_done(self, fence.error)

    def emit(self, phase: JobPhase) -> None:
        """Tell oracles."""
        if self.engine.listeners:
            self.engine.emit(JobEvent(phase, self, self.sched))
