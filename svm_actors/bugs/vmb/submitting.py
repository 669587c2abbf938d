"""Deviations of the exec ioctl: what a job waits for, where its fence goes, and when it is armed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.drm.gpuvm import DrmGpuvm, DrmGpuvmBo
from svm_actors.xe.exec import Exec, Execution

if TYPE_CHECKING:
    from svm_actors.drm.exec import DrmExec
    from svm_actors.xe.exec_job import ExecJob


def moves_of_the_vm_only(self: Exec, job: ExecJob, _exec: DrmExec) -> None:
    """Nobody looks into the reservations of external objects."""
    job.add_resv_dependencies(self.vm.resv_dma, Usage.KERNEL)
    for fence in self.syncs.in_fences:
        job.add_dependency(fence.get())


async def as_a_writer(self: Exec, exec_: DrmExec, fence: Fence) -> None:
    """Whoever shares the object and waits for writers waits for this job."""
    await self.vm.gpuvm.resv_add_fence(exec_, fence, Usage.BOOKKEEP, Usage.WRITE)


async def armed_before_the_look(self: Exec, job: ExecJob, exec_: DrmExec) -> Execution | None:
    """The fence is promised first; then it turns out that user memory went stale, and the job is dropped."""
    async with self.queue.entity.submission():
        execution = await self._arm(job)
        async with self.vm.notifier_lock.reading():
            if not self.still_valid():
                return None
            await self.add_fence(exec_, execution.fence)
            await self._push(job, execution)
    return execution


def looks_fresh(_exec: Exec) -> bool:
    """What was pinned will do."""
    return True


def every_object(_vm: DrmGpuvm, _vm_bo: DrmGpuvmBo) -> bool:
    """Local ones are listed with the external ones."""
    return True


VMB_B02 = Bug(
    id="VMB-B02",
    title="a job waits for moves and rewrites found in the VM's reservation, not in those of external objects",
    removes="Exec.add_dependencies",
    races=("VMB-R05", "VMB-R13"),
    oracles=("submission/INV-FEN-12",),
    story="rewrite-of-a-shared-object",
    plant=replace_guard(Exec, "add_dependencies", moves_of_the_vm_only),
)
"""Noticed when the job is run while another VM's rewrite is queued in the object."""

VMB_B03 = Bug(
    id="VMB-B03",
    title="the fence of a job counts as a write of every external object",
    removes="Exec.add_fence",
    races=("VMB-R05",),
    oracles=("submission/VMB-B03",),
    story="bind-shared",
    plant=replace_guard(Exec, "add_fence", as_a_writer),
)
"""Noticed by a look at the slots: a job of user space synchronises with nobody who does not ask for it."""

VMB_B15 = Bug(
    id="VMB-B15",
    title="user memory is looked at after the job is armed, and a job that was promised is dropped",
    removes="Exec.publish",
    races=("VMB-R01", "VMB-R02"),
    oracles=("engine", "lockdep", "signalling"),
    story="bind-userptr",
    plant=replace_guard(Exec, "publish", armed_before_the_look),
)
"""Noticed by the scheduler, which is asked to take back an armed job, or by the order of the two locks."""

VMB_R02 = Bug(
    id="VMB-R02",
    title="a job is submitted without a last look whether user memory is what was pinned",
    removes="Exec.still_valid",
    races=("VMB-R02", "VMB-R03"),
    oracles=("lifetime", "coherence", "binds/INV-VMB-13"),
    story="bind-userptr",
    plant=replace_guard(Exec, "still_valid", looks_fresh),
)

VMB_B31 = Bug(
    id="VMB-B31",
    title="local objects are on the list of external ones, and locked once more",
    removes="GpuvmEvict.belongs_to_extobj",
    races=("VMB-R33",),
    oracles=("scenario/EALREADY", "bindings/VMB-B31"),
    story="unbinds-behind-a-job",
    plant=replace_guard(DrmGpuvm, "belongs_to_extobj", every_object),
)
"""Noticed by the exec: it locks an object twice, and does not ask to have that overlooked."""
