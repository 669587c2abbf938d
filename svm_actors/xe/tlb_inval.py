"""xe_tlb_inval: flushing a GPU's TLB from the driver (gpusvm section 6.2, I5 and I6).

A submission never waits; whoever needs the translations gone waits for the fence.
"""

from __future__ import annotations

from svm_actors.dma_buf.fence import Fence
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.tlb_inval import InvalidateTlb


class XeTlbInval:
    """TLB invalidations of one device."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.engine = gpu.engine

    async def submit(self, asid: int, start: int, end: int) -> Fence:
        """xe_tlb_inval_range: ask for a flush of pages [start, end)."""
        _seqno, fence = await self.gpu.tlb_inval.call(InvalidateTlb(asid, start, end))
        self.engine.count("gpu.tlb_inval")
        return fence

    async def wait(self, fence: Fence) -> None:
        """xe_tlb_inval_wait: until no access uses a translation of the range any more."""
        await fence.wait()
