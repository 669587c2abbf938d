"""What must always hold of schedulers (fences_and_scheduler 8.5: INV-FEN-07; INV-FEN-08 in part).

:class:`SchedInvariants` listens to the event stream and keeps its own books of every job; it changes
nothing.  ``engine.listeners.append(checker)`` makes it check every event; :meth:`~SchedInvariants.at_rest`
is for moments when nothing can run, :meth:`~SchedInvariants.at_close` for the end.

Per job: pushed in the order of its entity's sequence numbers, run in that order, ``scheduled`` once and
then ``finished`` once, freed once and last.  Per scheduler: the credits are those of the jobs on the
hardware and never more than the limit, and nothing is run while it is parked.  Per entity: ``finished``
in order.  At rest: nobody who could run was forgotten.

Two exceptions the kernel makes, counted as ``sched.finished_out_of_order``: a job the driver could not
put on the hardware ends at once, even when one in front of it is still there; and the end of a scheduler
cancels what is on the hardware newest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NoReturn

import attrs

from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_events import JobEvent, SchedEnded, SchedStarted
from svm_actors.drm.sched_job import SchedJob
from svm_actors.engine.errors import PropertyFailed


class Life(IntEnum):
    """How far a job has come."""

    PUSHED = 1
    RUN = 2
    SCHEDULED = 3
    FINISHED = 4
    FREED = 5


@attrs.define
class JobBook:
    """What is known of one job."""

    life: Life
    charged: int = 0
    """Credits it holds."""


@attrs.define
class EntityBook:
    """What one entity's jobs have come to."""

    pushed: int = 0
    """Sequence number of the last one pushed."""
    run: int = 0
    """Sequence number of the last one run."""
    unfinished: OrderedDict[int, None] = attrs.field(factory=OrderedDict)
    """Sequence numbers pushed and not finished, in that order."""


class SchedInvariants:
    """The checker; one for all schedulers of an engine."""

    name = "sched"
    hears = (JobEvent, SchedEnded, SchedStarted)

    def __init__(self) -> None:
        self.scheds: dict[DrmSched, None] = {}
        """Those not torn down."""
        self.ended: dict[DrmSched, None] = {}
        """Those that are."""
        self.jobs: dict[SchedJob, JobBook] = {}
        """Jobs pushed and not freed."""
        self.entities: dict[int, EntityBook] = {}
        """By fence context."""
        self.credits: dict[DrmSched, int] = {}
        self._on: dict[str, Callable[[SchedJob, DrmSched], None]] = {
            "push": self._push,
            "charge": self._charge,
            "run": self._run,
            "scheduled": self._scheduled,
            "refund": self._refund,
            "finished": self._finished,
            "free": self._free,
        }

    def __call__(self, event: Any) -> None:
        """The listener."""
        if type(event) is JobEvent:
            self._on[event.phase](event.job, event.sched)
        elif type(event) is SchedStarted:
            self.scheds[event.sched] = None
            self.credits[event.sched] = 0
        elif type(event) is SchedEnded:
            del self.scheds[event.sched]
            self.ended[event.sched] = None
            self._ended(event.sched)

    def _fail(self, rule: str, text: str) -> NoReturn:
        raise PropertyFailed(self.name, rule, text)

    # -- one job -----------------------------------------------------------------------

    def _push(self, job: SchedJob, sched: DrmSched) -> None:
        if job in self.jobs:
            self._fail("INV-FEN-07", f"{job.name} is pushed twice")
        self.jobs[job] = JobBook(Life.PUSHED)
        book = self._entity(job)
        seqno = job.s_fence.seqno
        if seqno != book.pushed + 1:
            self._fail("FEN-R14", f"{job.name} has number {seqno}, but is pushed as number {book.pushed + 1}")
        book.pushed = seqno
        book.unfinished[seqno] = None

    def _run(self, job: SchedJob, sched: DrmSched) -> None:
        self._step(job, Life.RUN, (Life.PUSHED,))
        if sched.parked:
            self._fail("INV-FEN-07", f"{job.name} is run while {sched.name} is stopped")
        if not self.jobs[job].charged:
            self._fail("INV-FEN-07", f"{job.name} is run without credits")
        book = self._entity(job)
        if job.s_fence.seqno <= book.run:
            self._fail("INV-FEN-07", f"{job.name} is run after a later job of its entity")
        book.run = job.s_fence.seqno
        for fence in job.dependencies:
            self._was_awaited(job, fence)

    def _was_awaited(self, job: SchedJob, fence: Any) -> None:
        """Signaled, or of the same entity, or on the same hardware in front of the job."""
        pair = getattr(fence, "pair", None)
        if fence.signaled or fence.context in (job.s_fence.scheduled.context, job.s_fence.finished.context):
            return
        if pair is None or pair.sched is not job.sched or pair.dont_pipeline or not pair.scheduled.signaled:
            self._fail("INV-FEN-07", f"{job.name} is run, but {fence.name}, which it depends on, is not signaled")

    def _scheduled(self, job: SchedJob, sched: DrmSched) -> None:
        self._step(job, Life.SCHEDULED, (Life.PUSHED,) if job.s_fence.killed else (Life.RUN,))

    def _finished(self, job: SchedJob, sched: DrmSched) -> None:
        self._step(job, Life.FINISHED, (Life.SCHEDULED,))
        pair = job.s_fence
        if pair.finished.signaled:
            self._fail("INV-FEN-01", f"{pair.finished.name} is signaled before its job is done")
        if not pair.scheduled.signaled:
            self._fail("INV-FEN-07", f"{job.name} finishes before it is scheduled")
        if pair.parent is not None and not pair.parent.signaled:
            self._fail("INV-FEN-11", f"{job.name} finishes while the hardware is still at it")
        unfinished = self._entity(job).unfinished
        if next(iter(unfinished)) != pair.seqno:
            if pair.killed or (pair.parent is not None and not sched.ending):
                self._fail("INV-FEN-02", f"{pair.finished.name} is signaled before an earlier one of its context")
            job.engine.count("sched.finished_out_of_order")
        del unfinished[pair.seqno]

    def _free(self, job: SchedJob, sched: DrmSched) -> None:
        self._step(job, Life.FREED, (Life.FINISHED,))
        if not job.s_fence.finished.signaled:
            self._fail("INV-FEN-07", f"{job.name} is freed, but its finished fence is not signaled")
        del self.jobs[job]

    def _step(self, job: SchedJob, to: Life, allowed: tuple[Life, ...]) -> None:
        book = self.jobs.get(job)
        if book is None:
            self._fail("INV-FEN-08", f"{job.name} is {to.name.lower()}, but it was freed or never pushed")
        if book.life not in allowed:
            self._fail("INV-FEN-07", f"{job.name} is {to.name.lower()}, but it is {book.life.name.lower()} already")
        book.life = to

    def _entity(self, job: SchedJob) -> EntityBook:
        return self.entities.setdefault(job.s_fence.scheduled.context, EntityBook())

    # -- credits -----------------------------------------------------------------------

    def _charge(self, job: SchedJob, sched: DrmSched) -> None:
        book = self.jobs.get(job)
        if book is None or book.charged:
            self._fail("INV-FEN-07", f"{job.name} takes credits twice, or after it was freed")
        book.charged = job.credits
        self._count(sched, job.credits)

    def _refund(self, job: SchedJob, sched: DrmSched) -> None:
        book = self.jobs.get(job)
        if book is None or not book.charged:
            self._fail("INV-FEN-07", f"{job.name} returns credits that it does not have")
        self._count(sched, -book.charged)
        book.charged = 0

    def _count(self, sched: DrmSched, change: int) -> None:
        self.credits[sched] += change
        if sched.credit_count != self.credits[sched]:
            text = f"{sched.name} counts {sched.credit_count} credits, its jobs have {self.credits[sched]}"
            self._fail("INV-FEN-07", text)
        if sched.credit_count > sched.credit_limit:
            self._fail("INV-FEN-07", f"{sched.name} has given {sched.credit_count} of {sched.credit_limit} credits")

    # -- moments -----------------------------------------------------------------------

    def at_rest(self) -> None:
        """No scheduler whose worker sleeps may have a job that could run (INV-FEN-07, FEN-R15).

        Holds between any two ops, so a search may ask at any time.
        """
        for sched in self.scheds:
            self._at_rest(sched)

    def _at_rest(self, sched: DrmSched) -> None:
        if sched.pause_submit or sched.work_free_job.busy:
            return
        job = next(iter(sched.pending), None)
        if job is not None and job.s_fence.finished.signaled:
            self._fail("INV-FEN-07", f"{job.name} is finished, but nobody frees it")
        if not sched.work_run_job.busy:
            self._forgotten(sched)

    def _forgotten(self, sched: DrmSched) -> None:
        for rq in sched.rqs:
            for entity in rq.waiting():
                if not rq.is_on(entity) or entity.freed:
                    self._fail("INV-FEN-08", f"{entity.name} was taken off {rq.name}, but is still served there")
                if not entity.is_ready():
                    self._waits(entity)
                    continue
                if self._has_room(sched, entity):
                    self._fail("INV-FEN-07", f"{entity.name} could run on {sched.name}, but nobody told the worker")
                return  # whoever is behind it has to wait for the credits too

    def _has_room(self, sched: DrmSched, entity: SchedEntity) -> bool:
        job = entity.queue.peek()
        return job is not None and sched.credit_count + min(job.credits, sched.credit_limit) <= sched.credit_limit

    def _waits(self, entity: SchedEntity) -> None:
        if entity.dependency is not None and entity.dependency.signaled:
            self._fail("INV-FEN-07", f"{entity.name} waits for {entity.dependency.name}, which is signaled")

    def _ended(self, sched: DrmSched) -> None:
        """After the teardown nothing may be armed or queued (INV-FEN-08)."""
        for work in (sched.work_run_job, sched.work_free_job, sched.tdr.work):
            if work.busy:
                self._fail("INV-FEN-08", f"{work.name} is still there after {sched.name} ended")
        if sched.job_scheduled.parked and any(not task.enabled for task, _guard in sched.job_scheduled.parked):
            self._fail("FEN-R24", f"somebody still sleeps in a flush after {sched.name} ended")

    def at_close(self) -> None:
        """The end: every scheduler is torn down, every job freed, every promise kept (INV-FEN-10)."""
        for sched in self.scheds:
            self._fail("INV-FEN-10", f"{sched.name} was never torn down")
        for sched in self.ended:
            if sched.leaked:
                names = ", ".join(job.name for job in sched.leaked)
                self._fail("INV-FEN-10", f"{sched.name} ended with jobs on the hardware, which are leaked: {names}")
            if sched.credit_count or sched.score.value:
                self._fail("INV-FEN-07", f"{sched.name} ends with {sched.statistics()}")
        for job, book in self.jobs.items():
            self._fail("INV-FEN-10", f"{job.name} is never freed, it is {book.life.name.lower()}")
