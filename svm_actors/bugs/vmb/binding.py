"""Deviations of the bind ioctl: what is waited for, what the copy engine writes, what an array may do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched_work import Work
from svm_actors.xe.bind_queue import CHUNK, PtWriter
from svm_actors.xe.pt_bind import PtBind
from svm_actors.xe.pt_tree import PtUpdate
from svm_actors.xe.vm_bind import Ioctl
from svm_actors.xe.vm_mode import XeBindVm

if TYPE_CHECKING:
    from svm_actors.xe.bind_vma import XeBindVma
    from svm_actors.xe.vm_bind import BindOp


def always_idle(_bind: PtBind) -> bool:
    """The CPU writes when its own operation has to wait for nothing."""
    return True


def nothing_to_wait_for(_bind: PtBind) -> list[Fence]:
    """What user space wants to come first is not asked."""
    return []


def user_work(_bind: PtBind) -> None:
    """As if user space had asked for what the kernel does on its own."""


def from_the_start(_writer: PtWriter, update: PtUpdate) -> list[PtUpdate]:
    """Each command counts its entries from the first of the update."""
    if not update.entries:
        return [update]
    chunks = []
    for first in range(0, len(update.entries), CHUNK):
        count = len(update.entries[first : first + CHUNK])
        chunks.append(PtUpdate(update.start, update.start + count, update.entries[:count]))
    return chunks


def throws_out_its_own(_ioctl: Ioctl) -> bool:
    """Whatever is under the reservation may go."""
    return True


async def lists_first(self: Ioctl, ops: Sequence[BindOp]) -> None:
    """All lists are made, then all are applied."""
    lists: list[tuple[Any, Any]] = []

    async def keep(made: Any, new: Any) -> None:
        lists.append((made, new))

    apply = self.bind_ops.commit
    self.bind_ops.commit = keep  # type: ignore[method-assign]
    for op in ops:
        await self.parse(op)
    self.bind_ops.commit = apply  # type: ignore[method-assign]
    for made, new in lists:
        await apply(made, new)


def at_once(self: XeBindVm, vma: XeBindVma, fence: Fence | None) -> None:
    """A worker frees it as soon as it comes to it."""
    self.destroy_wq.queue_work(Work(self.engine, f"{vma.name}.destroy", lambda: vma.destroy_late(fence)))


VMB_R11 = Bug(
    id="VMB-R11",
    title="the CPU writes entries although the bind queue has a job under way",
    removes="PtBind.queue_is_idle",
    races=("VMB-R11",),
    oracles=("binds/VMB-R12", "lifetime"),
    story="unbinds-behind-a-job",
    plant=replace_guard(PtBind, "queue_is_idle", always_idle),
)
"""Noticed by a job whose mapping was to go after what is in front of the unbind in its queue."""

VMB_R12 = Bug(
    id="VMB-R12",
    title="an update of the page table does not wait for its in-syncs",
    removes="PtBind.in_syncs",
    races=("VMB-R12",),
    oracles=("binds/VMB-R12", "binds/INV-VMB-13", "lifetime"),
    story="unbinds-behind-a-job",
    plant=replace_guard(PtBind, "in_syncs", nothing_to_wait_for),
)

VMB_R13 = Bug(
    id="VMB-R13",
    title="what stays of a mapping that is cut is rewritten as if user space had asked for it",
    removes="PtBind.kept_piece_is_kernel_work",
    races=("VMB-R13",),
    oracles=("binds/VMB-R13", "lifetime"),
    story="cuts-of-user-memory-under-jobs",
    plant=replace_guard(PtBind, "kept_piece_is_kernel_work", user_work),
)
"""Noticed by a job that faults in the moment in which the piece is gone."""

VMB_R14 = Bug(
    id="VMB-R14",
    title="a mapping is freed while the job or the flush of its unbind is under way",
    removes="XeBindVm.destroy_on",
    races=("VMB-R14",),
    oracles=("lifetime/VMB-R14", "lifetime/INV-VMB-10"),
    story="unbinds-behind-a-job",
    plant=replace_guard(XeBindVm, "destroy_on", at_once),
)

VMB_R29 = Bug(
    id="VMB-R29",
    title="all lists of an array are made against the tree as it is before the first is applied",
    removes="Ioctl.parse_all",
    races=("VMB-R29",),
    oracles=("gpuvm/VMB-R29",),
    story="bind-refused",
    plant=replace_guard(Ioctl, "parse_all", lists_first),
)

VMB_B16 = Bug(
    id="VMB-B16",
    title="an array of binds may throw out what it has made resident itself",
    removes="Ioctl.may_evict_own",
    races=("VMB-R07",),
    oracles=("bindings/INV-VMB-13", "binds/INV-VMB-13"),
    story="an-array-that-does-not-fit",
    plant=replace_guard(Ioctl, "may_evict_own", throws_out_its_own),
)

VMB_B18 = Bug(
    id="VMB-B18",
    title="every command of a long update writes the first entries of it",
    removes="PtWriter.chunks",
    races=("VMB-R10",),
    oracles=("bindings/INV-VMB-03",),
    story="entries-for-two-commands",
    plant=replace_guard(PtWriter, "chunks", from_the_start),
)
