"""One job of an exec queue (fences_and_scheduler sections 8.2 and 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.sched_job import SchedJob
from svm_actors.gpu.context import Batch
from svm_actors.gpu.program import Spin, check
from svm_actors.xe.scratch import job_must_flush

if TYPE_CHECKING:
    from svm_actors.gpu.program import Step
    from svm_actors.xe.exec_queue import ExecQueue


class ExecJob(SchedJob):
    """A program on its way to the ring; its batch, and so its results, outlive it.  -EINVAL, -ENOMEM."""

    def __init__(self, queue: ExecQueue, program: tuple[Step, ...]) -> None:
        for step in program:
            if not isinstance(step, Spin):
                check(step)
        super().__init__(queue.entity)
        self.queue = queue
        self.batch = Batch(program, queue.context.new_fence())
        self.strikes = 0
        """How often the timer found that the hardware had not even begun it."""

    def note_flush(self) -> None:
        """Part of arming: translations the VM has rewritten since the last job go before this one begins (VMB-B13)."""
        wanted = self.queue.vm.tlb_flush_seqno
        if self.queue.flushed_seqno != wanted or job_must_flush(self.queue.vm):
            self.queue.flushed_seqno = wanted
            self.batch.flush_tlb = True
