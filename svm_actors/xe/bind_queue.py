"""A bind queue: in which order updates of page tables happen (vm_bind sections 7.2, 7.3 and 13).

A queue has two in-order schedulers.  One writes page-table entries; its hardware is a context of the
copy engine.  The other flushes the TLB: its job depends on the job that wrote, and its fence is the one
whoever wants to reuse the memory needs.  Both are schedulers of their own for every queue, so a queue that
waits does not hold up another one.

What is complete when: the *last* page-table fence and the *last* flush fence of the queue, together.  Since
each kind completes in order, so do the binds of a queue (INV-VMB-09).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_types import GpuSchedStat, Priority, SchedBackend
from svm_actors.engine.actor import Message
from svm_actors.gpu.hardware_queue import HardwareQueue
from svm_actors.gpu.page_table import GpuPageTable
from svm_actors.xe.pt_tree import PtUpdate

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.xe.vm_mode import XeBindVm


@attrs.frozen
class WriteEntries(Message[Fence]):
    """Write entries in order; answers the fence."""

    page_table: GpuPageTable
    """Where."""
    updates: tuple[PtUpdate, ...]
    """What."""


CHUNK: Final = 0x1FE
"""MAX_PTE_PER_SDI: entries that one command of the copy engine stores."""


class _Write(NamedTuple):
    request: WriteEntries
    fence: Fence


class PtWriter(HardwareQueue[_Write]):
    """The context of the copy engine that writes page tables."""

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine, name)
        self.seqno = 0

    def submit(self, message: Message[Any]) -> tuple[Fence, _Write]:
        """Give out the fence."""
        assert isinstance(message, WriteEntries)
        self.seqno += 1
        fence = Fence(self.engine, f"{self.name}.{self.seqno}", self.hardware)
        return fence, _Write(message, fence)

    async def execute(self, job: _Write) -> None:
        """One update after the other, then the fence."""
        for update in job.request.updates:
            for chunk in self.chunks(update):
                single = chunk.start if chunk.end - chunk.start == 1 else None
                await self.engine.step("pte_write", job.request.page_table, single)
                chunk.write(job.request.page_table)
        await self.engine.step("fence_signal", job.fence)
        job.fence.signal()


    def chunks(self, update: PtUpdate) -> list[PtUpdate]:
        """VMB-B18: a command stores :data:`CHUNK` entries at most; the next goes on behind them."""
        count = max(1, len(update.entries))
        return [
            PtUpdate(*update.part(first, CHUNK), update.entries[first : first + CHUNK])
            for first in range(0, count, CHUNK)
        ]


class PtJob(SchedJob):
    """Page-table writes of one ioctl."""

    def __init__(self, queue: BindQueue, updates: Sequence[PtUpdate]) -> None:
        super().__init__(queue.pt_entity)
        self.updates = tuple(updates)


class TlbJob(SchedJob):
    """The flush that belongs to them."""

    def __init__(self, queue: BindQueue, start: int, end: int) -> None:
        super().__init__(queue.tlb_entity)
        self.start = start
        self.end = end


class _Backend(SchedBackend):
    """What both schedulers have in common: their jobs never hang, and nothing of them is left behind."""

    can_cancel = True

    def __init__(self, vm: XeBindVm) -> None:
        self.vm = vm

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        """These queues have no timeout."""
        return GpuSchedStat.NO_HANG

    async def cancel_job(self, job: SchedJob) -> None:
        """It was put on the hardware, so it completes."""
        parent = job.s_fence.parent
        if parent is not None:
            await parent.wait()


class PtBackend(_Backend):
    """Puts page-table jobs on the copy engine."""

    def __init__(self, vm: XeBindVm, name: str) -> None:
        super().__init__(vm)
        self.writer = vm.engine.parts.of(PtWriter)(vm.engine, name)

    async def run_job(self, job: SchedJob) -> Fence | None:
        """Ring the doorbell."""
        assert isinstance(job, PtJob)
        return await self.writer.call(WriteEntries(self.vm.page_table, job.updates))


class TlbBackend(_Backend):
    """Sends flushes."""

    async def run_job(self, job: SchedJob) -> Fence | None:
        """xe_tlb_inval_range; the entries are written, the job depended on that."""
        assert isinstance(job, TlbJob)
        return await self.vm.device.tlb_inval.submit(self.vm.asid, job.start, job.end)


class BindQueue:
    """One queue of one VM; ``vm.resv_dma`` is what keeps submissions to it in order (VMB-R11)."""

    def __init__(self, vm: XeBindVm, name: str) -> None:
        engine = vm.engine
        self.vm = vm
        self.engine = engine
        self.name = name
        sched, entity = vm.device.engine.parts.of(DrmSched), vm.device.engine.parts.of(SchedEntity)
        self.pt_sched = sched(engine, f"{name}.pt", PtBackend(vm, f"{name}.writer"))
        self.pt_entity: SchedEntity = entity(engine, f"{name}.pt", [self.pt_sched], Priority.KERNEL)
        self.tlb_sched = sched(engine, f"{name}.tlb", TlbBackend(vm))
        self.tlb_entity: SchedEntity = entity(engine, f"{name}.tlb", [self.tlb_sched], Priority.KERNEL)
        self.last_pt: Fence | None = None
        """Of the last job that writes; no container."""
        self.last_tlb: Fence | None = None
        """Of the last flush."""
        self.last_user_fence: Fence | None = None
        """The worker that writes the last user fence: they are written in order."""
        self.killed = False

    @property
    def idle(self) -> bool:
        """All that was submitted is written; an advisory look (VMB-R11)."""
        return self.last_pt is None or self.last_pt.is_signaled()

    def last_fences(self) -> list[Fence]:
        """What has to be signaled for everything submitted so far to be complete."""
        return [fence for fence in (self.last_pt, self.last_tlb) if fence is not None]

    def note_pt(self, fence: Fence) -> None:
        """A job was submitted."""
        fence.get()
        if self.last_pt is not None:
            self.last_pt.put()
        self.last_pt = fence

    def note_tlb(self, fence: Fence) -> None:
        """A flush was submitted."""
        fence.get()
        if self.last_tlb is not None:
            self.last_tlb.put()
        self.last_tlb = fence

    async def kill(self) -> None:
        """xe_exec_queue_kill and fini; calling it again does nothing."""
        if self.killed:
            return
        self.killed = True
        for entity, sched in ((self.pt_entity, self.pt_sched), (self.tlb_entity, self.tlb_sched)):
            await entity.fini()
            await sched.fini()

    async def destroy(self) -> None:
        """DRM_IOCTL_XE_EXEC_QUEUE_DESTROY: what is queued completes first."""
        for fence in self.last_fences():
            await fence.wait()
        await self.kill()

    def statistics(self) -> dict[str, int]:
        """Jobs on the hardware."""
        return {"pt_jobs": len(self.pt_sched.pending), "tlb_jobs": len(self.tlb_sched.pending)}
