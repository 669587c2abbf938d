"""Page-table updates by the GPU: the bind queue of the migration engine (gpusvm section 6.1).

The CPU writes page-table entries itself only when the VM is idle; otherwise the writes become a job
that waits for what is pending.  One queue per tile serves all VMs, in order.

A job may end with a TLB flush of what it cleared; its fence signals when that is through as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.actor import Message
from svm_actors.engine.engine import Engine
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.hardware_queue import HardwareQueue
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.gpu.tlb_inval import InvalidateTlb


@attrs.frozen
class UpdatePageTable(Message[Fence]):
    """Write or clear entries of one page table; answers the fence of the job."""

    page_table: GpuPageTable
    """Where."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
    entries: tuple[tuple[int, GpuPte], ...]
    """What to write; empty clears the whole span."""
    depends: tuple[Fence, ...]
    """The job starts after these."""
    flush_asid: int | None = None
    """Flush the span in the TLB of this address space afterwards."""


def write_entries(page_table: GpuPageTable, start: int, end: int, entries: tuple[tuple[int, GpuPte], ...]) -> None:
    """One update, by whichever hand; the caller announced it."""
    if not entries:
        page_table.clear_range(start, end)
    for vpn, pte in entries:
        page_table.set(vpn, pte)


class _Job(NamedTuple):
    request: UpdatePageTable
    fence: Fence


class PtUpdateQueue(HardwareQueue[_Job]):
    """Works off :class:`UpdatePageTable` in order of arrival."""

    def __init__(self, engine: Engine, gpu: Gpu) -> None:
        super().__init__(engine, f"{gpu.name}.bind")
        self.gpu = gpu
        self.seqno = 0
        self.done = 0

    def submit(self, message: Message[Any]) -> tuple[Fence, _Job]:
        """Give out the fence."""
        assert isinstance(message, UpdatePageTable)
        self.seqno += 1
        fence = Fence(self.engine, f"{self.name}.fence.{self.seqno}", self.hardware)
        return fence, _Job(message, fence)

    async def execute(self, job: _Job) -> None:
        """Dependencies, writes, flush, signal."""
        request, engine = job.request, self.engine
        for fence in request.depends:
            await fence.wait()
        await engine.step("pte_write", request.page_table)
        write_entries(request.page_table, request.start, request.end, request.entries)
        if request.flush_asid is not None:
            _seqno, flushed = await self.gpu.tlb_inval.call(
                InvalidateTlb(request.flush_asid, request.start, request.end)
            )
            await flushed.wait()
        await engine.step("fence_signal", job.fence)
        self.done += 1
        job.fence.signal()
