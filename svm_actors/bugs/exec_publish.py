"""Deviations of the exec ioctl: when the fence of a job is published, and where it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.signalling import signalling
from svm_actors.xe.exec import Exec, Execution

if TYPE_CHECKING:
    from svm_actors.drm.exec import DrmExec
    from svm_actors.xe.exec_job import ExecJob


async def publish_outside(self: Exec, job: ExecJob, exec_: DrmExec) -> Execution | None:
    """The stale check under notifier_lock; what follows needs no lock, as it seems."""
    async with self.vm.notifier_lock.reading():
        if not self.still_valid():
            return None
    async with self.queue.entity.submission():
        execution = await self._arm(job)
        with signalling(self.engine):
            await self.add_fence(exec_, execution.fence)
            await self._push(job, execution)
    return execution


async def fence_for_the_vm_only(self: Exec, _exec: DrmExec, fence: Fence) -> None:
    """Objects that other VMs map as well do not hear of the job."""
    self.vm.resv_dma.add(fence, Usage.BOOKKEEP)


VMB_R01 = Bug(
    id="VMB-R01",
    title="the fence of a job is published when notifier_lock, under which nothing was stale, is dropped",
    removes="Exec.publish",
    races=("VMB-R01", "VMB-R02", "FEN-R11"),
    oracles=("lifetime", "coherence", "binds/INV-VMB-13"),
    story="bind-userptr",
    plant=replace_guard(Exec, "publish", publish_outside),
)

VMB_R05 = Bug(
    id="VMB-R05",
    title="the fence of a job is added to the VM's reservation, not to those of external objects",
    removes="Exec.add_fence",
    races=("VMB-R05", "VMB-R25"),
    oracles=("submission/INV-VMB-06", "lifetime", "binds/INV-VMB-13"),
    story="bind-shared",
    plant=replace_guard(Exec, "add_fence", fence_for_the_vm_only),
)
