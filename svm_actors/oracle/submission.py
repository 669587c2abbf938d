"""What a job relies on is done before it runs, and told to those who come after (INV-FEN-12, INV-VMB-06, -13, -14).

The moment a job is pushed its exec still holds the reservations of the VM and of all external objects, so
that is when the oracle notes what the job has to wait for: every KERNEL fence there, that is, every move,
clear and rewrite of entries.  The moment the job goes to the hardware all of them must be signaled
(without that it runs on memory that is not there yet: VMB-B02).  And its own fence must be in every one of
those reservations, or eviction would not wait for it.  It is there as BOOKKEEP, the slot of explicit
synchronisation (vm_bind section 3): VMB-B03 was any other.

Long-running jobs publish nothing; for them the queue counts: at rest, nobody with work to do is suspended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.sched_events import JobEvent
from svm_actors.drm.sched_job import SchedJob
from svm_actors.engine.errors import PropertyFailed
from svm_actors.xe.exec_job import ExecJob

ORACLE = "submission"


class Submissions:
    """What the jobs on their way rely on."""

    name = ORACLE
    hears = (JobEvent,)

    def __init__(self, world: Any) -> None:
        self.world = world
        self.relied_on: dict[SchedJob, list[tuple[Fence, str]]] = {}
        """By job pushed and not run: fences it must not overtake, with their places."""

    def __call__(self, event: Any) -> None:
        """The listener."""
        if type(event) is not JobEvent or not isinstance(event.job, ExecJob) or event.job.queue.lr:
            return
        if event.phase == "push":
            self._push(event.job)
        elif event.phase == "run":
            self._run(event.job)
        elif event.phase == "free":
            self.relied_on.pop(event.job, None)

    def _push(self, job: ExecJob) -> None:
        noted = self.relied_on[job] = []
        own = job.s_fence.finished
        for resv in reservations(job.queue.vm):
            noted += [(fence, resv.name) for fence in resv.unsignaled(Usage.KERNEL)]
            usages = [slot.usage for slot in resv.fences.slots if slot.fence is own]
            if not usages:
                text = f"{job.name} is pushed, but its fence is not in {resv.name}, which it relies on"
                raise PropertyFailed(ORACLE, "INV-VMB-06", text)
            if usages != [Usage.BOOKKEEP]:
                text = f"{job.name} is in {resv.name} as {usages[0].name}: others would wait who have not asked to"
                raise PropertyFailed(ORACLE, "VMB-B03", text)

    def _run(self, job: ExecJob) -> None:
        for fence, place in self.relied_on.pop(job, ()):
            if not fence.signaled:
                text = f"{job.name} is run, but {fence.name}, a KERNEL fence of {place}, is not signaled"
                raise PropertyFailed(ORACLE, "INV-FEN-12", text)

    def at_rest(self) -> None:
        """INV-VMB-14: whoever was suspended and has work was resumed, or is dead."""
        for device in self.world.gpus:
            for queue in device.driver.submission.queues:
                stuck = queue.lr and queue.suspend_count and queue.in_flight and not queue.dead
                if stuck and not queue.vm.closed:
                    text = f"{queue.name} has {queue.in_flight} jobs and stays suspended"
                    raise PropertyFailed(ORACLE, "INV-VMB-14", text)


def reservations(vm: Any) -> Iterator[DmaResv]:
    """That of a VM, and those of the external objects mapped in it."""
    yield vm.resv_dma
    for vm_bo in vm.gpuvm.extobj:
        if not vm_bo.zombie:
            yield vm_bo.obj.resv
