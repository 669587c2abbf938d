"""What all exec queues of a device share: work queues, limits, GT reset (fences_and_scheduler section 9).

Building one starts nothing: work queues start with their first item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.drm.sched_work import Workqueue
from svm_actors.xe.engine_group import EngineGroup
from svm_actors.xe.queue_reset import GtReset

if TYPE_CHECKING:
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.exec_queue import ExecQueue

SECOND = 1_000_000_000


@attrs.define
class SubmissionLimits:
    """Times in virtual ns."""

    job_timeout: int = 5 * SECOND
    """No sign of life of a queue for so long makes the driver look at it."""
    ack_timeout: int = 5 * SECOND
    """The firmware has so long to switch a context off."""
    min_run_period: int = 5_000_000
    """A long-running context runs at least so long between resume and suspend."""
    job_limit: int = 1000
    """Jobs of one queue that may be on their way."""


class Submission:
    """The submission side of one device."""

    reset_class = GtReset
    group_class = EngineGroup

    def __init__(self, device: XeDevice) -> None:
        engine = device.engine
        self.device = device
        self.engine = engine
        self.limits = SubmissionLimits()
        self.queues: list[ExecQueue] = []
        """Every queue that is not taken apart, in order of creation."""
        self.wedged = False
        """The device is given up: nothing is submitted any more, jobs end with an error."""
        self.preempting = 0
        """Preempt fences on their way."""
        self._created = 0
        name = device.gpu.name
        self.timeout_wq = Workqueue(engine, f"{name}.gt_ordered")
        """Timeouts and resets: one recovery at a time."""
        self.preempt_wq = Workqueue(engine, f"{name}.preempt_fence")
        """All preempt fences of the device, one after the other (FEN-R30)."""
        self.ordered_wq = Workqueue(engine, f"{name}.ordered")
        """Rebind workers; not ordered against the two above, as it takes vm.lock."""
        self.reset = engine.parts.of(self.reset_class)(self)
        self.group = engine.parts.of(self.group_class)(self)
        """Whose jobs may be on the hardware: those with a dma-fence, or those that fault."""

    def queue_name(self) -> str:
        """The next queue's."""
        self._created += 1
        return f"{self.device.gpu.name}.q{self._created}"

    def wedge(self) -> None:
        """xe_device_declare_wedged."""
        self.wedged = True
        self.engine.count("device.wedged")
        for queue in self.queues:
            queue.kill()

    def statistics(self) -> dict[str, int]:
        """0 when every queue has been taken apart."""
        return {"exec_queues": len(self.queues)}
