"""The TLB-invalidation engine: takes ranges, acknowledges them in order (gpusvm section 6.2, I6).

An acknowledgement means that no access uses a translation of the range any more.  The model gets that
for free: an access looks its translation up and reaches memory in one atomic step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.actor import Message
from svm_actors.engine.engine import Engine
from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.hardware_queue import HardwareQueue
from svm_actors.gpu.tlb import Tlb

Widen = Callable[[int, int], tuple[int, int]]

_TWO_MIB = 512
_SIXTEEN_MIB = 4096


@attrs.frozen
class InvalidateTlb(Message[tuple[int, Fence]]):
    """Flush a range; answers the sequence number and the fence of the acknowledgement."""

    asid: int
    """GPU address space."""
    start: int
    """First page."""
    end: int
    """One past the last page."""


class _Job(NamedTuple):
    request: InvalidateTlb
    seqno: int
    fence: Fence


def exact(start: int, end: int) -> tuple[int, int]:
    """Flush what was asked and nothing else: the least a driver may rely on (RULE-32)."""
    return start, end


def power_of_two(start: int, end: int) -> tuple[int, int]:
    """What the real command can express: a naturally aligned power of two, in pages, that covers the
    range, and at least 16 MiB once it is 2 MiB or more (RULE-32)."""
    size = 1 << max(end - start - 1, 0).bit_length()
    while True:
        if size >= _TWO_MIB:
            size = max(size, _SIXTEEN_MIB)
        base = start & ~(size - 1)
        if base + size >= end:
            return base, base + size
        size <<= 1


class TlbInvalEngine(HardwareQueue[_Job]):
    """Works off :class:`InvalidateTlb` in order of arrival."""

    def __init__(self, engine: Engine, name: str, gpu: str, tlb: Tlb, widen: Widen = exact) -> None:
        super().__init__(engine, name)
        self.gpu = gpu
        self.tlb = tlb
        self.widen = widen
        """From the range asked for to the range flushed: wider or equal, never narrower."""
        self.seqno = 0
        """Of the last request taken."""
        self.acked = 0
        """Of the last request done; all before it are done."""

    def submit(self, message: Message[Any]) -> tuple[tuple[int, Fence], _Job]:
        """Give out the next sequence number."""
        assert isinstance(message, InvalidateTlb)
        self.seqno += 1
        fence = Fence(self.engine, f"{self.name}.fence.{self.seqno}", self.hardware)
        return (self.seqno, fence), _Job(message, self.seqno, fence)

    async def execute(self, job: _Job) -> None:
        """Flush, then acknowledge."""
        engine = self.engine
        await engine.step("tlb_flush", self.tlb)
        asid = job.request.asid
        start, end = self.widen(job.request.start, job.request.end)
        dropped = self.tlb.flush(asid, start, end)
        if engine.listeners:
            asked = job.request.start, job.request.end
            engine.emit(TlbFlushed(self.gpu, asid, start, end, dropped, asked))
        await engine.step("fence_signal", job.fence)
        self.acked = job.seqno
        job.fence.signal()
