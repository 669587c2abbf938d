"""Deviations about objects: where they are, what is flushed when they move, what their end waits for.

VMB-B35: whoever writes entries keeps the device memory in which an object was, in this module only.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.gpuvm import DrmGpuva, DrmGpuvm
from svm_actors.engine.parts import Deviate, Parts
from svm_actors.gpu.address import DmaAddr
from svm_actors.gpu.page_table import GpuPte
from svm_actors.mm.folio import Folio
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.exec_job import ExecJob
from svm_actors.xe.gem import XeBo
from svm_actors.xe.pt_bind import PtBind
from svm_actors.xe.range_fence import RangeFence, RangeFenceTree
from svm_actors.xe.scratch import job_must_flush

Nodes = dict[str, list[tuple[DmaAddr, Folio]]]
"""Device memory in which each object was last, by its name."""


def writing_the_node(nodes: Nodes) -> Deviate:
    """An object has a node of device memory; that is what entries lead to."""

    def deviate(original: type[PtBind]) -> type[PtBind]:
        class WritesTheNode(original):  # type: ignore[misc, valid-type]
            def entries(self, vma: XeBindVma) -> tuple[tuple[int, GpuPte], ...]:
                bo = vma.bo
                if bo is None:
                    return super().entries(vma)  # type: ignore[no-any-return]
                if bo.in_vram:
                    nodes[bo.name] = [(bo.dma_addr(page), bo.folios[page]) for page in range(bo.npages)]
                node = nodes.get(bo.name)
                if node is None:
                    return super().entries(vma)  # type: ignore[no-any-return]
                pages = node[vma.offset : vma.offset + vma.range]
                writable = not vma.read_only
                return tuple((vma.addr + i, GpuPte.of(dma, writable, folio)) for i, (dma, folio) in enumerate(pages))

        return WritesTheNode

    return deviate


def plant_the_node(parts: Parts) -> None:
    """With one notebook per machine."""
    parts.replace(PtBind, writing_the_node({}))


def only_over_scratch(job: ExecJob) -> None:
    """A rebind asks for no flush, and the job that comes after it does none of its own."""
    job.batch.flush_tlb = job_must_flush(job.queue.vm)


def everything_pending(_bo: XeBo, fences: list[Fence]) -> list[Fence]:
    """Preempt fences are among them: whoever waits for one has the queue stopped."""
    return fences


def keeps_a_reference(tree: RangeFenceTree, start: int, end: int, fence: Fence) -> None:
    """The reference is taken first; when the fence is not kept nobody drops it."""
    tree._reap()
    fence.get()
    if not fence.is_signaled():
        tree.entries.append(RangeFence(*tree.widen(start, end), fence))


def as_if_it_had(_vm: DrmGpuvm, _va: DrmGpuva) -> bool:
    """Every mapping has an object."""
    return True


VMB_B35 = Bug(
    id="VMB-B35",
    title="entries lead to the device memory in which an object was, while it is in system memory",
    removes="PtBind.entries",
    races=("VMB-R04",),
    oracles=("lifetime", "binds/INV-VMB-13", "bindings/INV-VMB-03"),
    story="an-object-in-its-fallback",
    plant=plant_the_node,
)

VMB_B13 = Bug(
    id="VMB-B13",
    title="a rebind leaves the flush to the ring of the next job, which does not do it",
    removes="ExecJob.note_flush",
    races=("VMB-R04", "VMB-R05"),
    oracles=("lifetime", "binds/INV-VMB-13", "coherence"),
    story="bind-shared",
    plant=replace_guard(ExecJob, "note_flush", only_over_scratch),
)
"""What the kernel did instead, a flush of its own for every rebind, cost time and nothing else."""

VMB_B29 = Bug(
    id="VMB-B29",
    title="the end of an object waits for preempt fences, and stops the queues of VMs that do not map it any more",
    removes="XeBo.still_used_by",
    races=("VMB-R20",),
    oracles=("binds/VMB-B29",),
    story="an-object-ends-beside-a-long-running-job",
    plant=replace_guard(XeBo, "still_used_by", everything_pending),
)

VMB_B24 = Bug(
    id="VMB-B24",
    title="the fence of an update that is through when it is written down is never put",
    removes="RangeFenceTree.insert",
    races=("VMB-R10",),
    oracles=("leaks",),
    story="updates-that-are-through-at-once",
    plant=replace_guard(RangeFenceTree, "insert", keeps_a_reference),
)

VMB_B32 = Bug(
    id="VMB-B32",
    title="whoever locks a range locks the object of a mapping that has none",
    removes="GpuvmExec.has_object",
    races=("VMB-R05",),
    oracles=("model",),
    story="a-range-with-a-null-mapping",
    plant=replace_guard(DrmGpuvm, "has_object", as_if_it_had),
)
"""Noticed as what it is, a crash."""
