"""What the scheduler of an exec queue calls (fences_and_scheduler sections 8.1 and 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.sched_types import GpuSchedStat, SchedBackend
from svm_actors.xe.exec_job import ExecJob

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.sched_job import SchedJob
    from svm_actors.xe.exec_queue import ExecQueue


class QueueBackend(SchedBackend):
    """drm_sched_backend_ops of one queue."""

    def __init__(self, queue: ExecQueue) -> None:
        self.queue = queue
        self.engine = queue.engine

    async def run_job(self, job: SchedJob) -> Fence | None:
        """On to the ring.  INV-VMB-11: a dead queue does not touch the hardware.

        Its jobs are the timeout handler's to end, one after the other: ending one here would overtake those
        in front of it that the handler has not come to yet (INV-FEN-02).
        """
        assert isinstance(job, ExecJob)
        batch = job.batch
        if self.queue.dead:
            self.engine.count("exec.cancelled")
        else:
            if self.queue.enabled or not self.queue.lr:
                self.queue.submission.group.check_exclusive(self.queue)
            await self.queue.submit(batch)
        return batch.fence

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        """See :mod:`svm_actors.xe.queue_reset`."""
        assert isinstance(job, ExecJob)
        return await self.queue.timeout.timedout_job(job)

    async def free_job(self, job: SchedJob) -> None:
        """One job less on its way."""
        await self.engine.step("free", job)
        self.queue.in_flight -= 1
        self.queue.answer.wake_up()
