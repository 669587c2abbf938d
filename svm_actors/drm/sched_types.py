"""Names and the backend interface of the GPU scheduler (fences_and_scheduler 8.1 to 8.3).

The backend is the driver: it puts jobs on its hardware and says what to do when one hangs.  All its
operations may sleep and are called in a work item; ``run_job`` and ``timedout_job`` are part of the
signalling critical section (section 5), so they must not allocate, fault or take a reservation lock.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_job import SchedJob

UNLIMITED_CREDITS: Final = (1 << 32) - 1
"""A credit limit that no set of jobs reaches."""


class Priority(IntEnum):
    """Run queues of a scheduler, served strictly in this order (except with the FAIR policy)."""

    KERNEL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class GpuSchedStat(Enum):
    """What ``timedout_job`` found and did."""

    RESET = "reset"
    """The hang was real and is dealt with; the timer goes on for what is pending."""
    ENODEV = "enodev"
    """The device is gone; the timer stays off."""
    NO_HANG = "no hang"
    """False alarm, or the job finished meanwhile: it goes back to the pending list."""


class SchedBackendOps(Protocol):
    """drm_sched_backend_ops: what the driver does."""

    can_cancel: bool
    """``cancel_job`` is there; without it, jobs pending when the scheduler ends are leaked."""

    async def prepare_job(self, job: SchedJob, entity: SchedEntity) -> Fence | None:
        """One more thing to wait for before the job may run; asked again until it answers None."""
        ...

    async def run_job(self, job: SchedJob) -> Fence | None:
        """Put it on the hardware; answers the hardware fence, None when it is done already.

        A raised kernel error is the job's result: it must not be retried, its fence is promised.
        """
        ...

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        """The job at the head of the hardware took too long."""
        ...

    async def free_job(self, job: SchedJob) -> None:
        """The scheduler is through with it; called once per job, after ``finished`` was signaled."""
        ...

    async def cancel_job(self, job: SchedJob) -> None:
        """Take it off the hardware and signal its hardware fence with an error; it is freed next."""
        ...


class SchedBackend:
    """The optional operations, for backends that need none of them."""

    can_cancel = False

    async def prepare_job(self, job: SchedJob, entity: SchedEntity) -> Fence | None:
        """Nothing more to wait for."""
        return None

    async def free_job(self, job: SchedJob) -> None:
        """Nothing of the driver's own hangs on a job."""

    async def cancel_job(self, job: SchedJob) -> None:
        """Never called while :attr:`can_cancel` is False."""
        raise NotImplementedError
