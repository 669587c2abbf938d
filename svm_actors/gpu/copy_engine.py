"""The copy engine: moves and clears pages, one job after the other (pagemap section 3.1).

A job is cut into chunks.  ``copy_begin`` reads the whole chunk, ``copy_end`` writes it: what anybody
else writes to the source, or to the destination, between the two is really lost, and what is read from
the destination is the old data (SVM-R16, RULE-46).

Source and destination pages are pinned down at submission.  When one of them has been freed or handed
to somebody else before its chunk is through, that is a use after free (INV-05, RULE-45).  The one
exception is clearing device memory that is not in use yet, as a driver does for a fresh buffer: it is
by physical address and hits whoever has the page by then, which is how a clear that lands too late does
its damage.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.actor import Message
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, EIO, PropertyFailed
from svm_actors.gpu.address import DmaAddr, Proto
from svm_actors.gpu.bus import Bus
from svm_actors.gpu.hardware_queue import HardwareQueue
from svm_actors.mm.content import ZERO, Content
from svm_actors.mm.folio import Folio

CHUNK_PAGES = 2048
"""Pages per chunk: the 8 MiB the driver merges into one job."""

CopyPair = tuple[DmaAddr | None, DmaAddr]
"""Source (None clears) and destination; an order of n on the destination stands for 2**n pages."""


@attrs.frozen
class SubmitCopy(Message[Fence]):
    """Copy pages; answers the fence of the job.  -EINVAL when the orders of a pair differ."""

    pairs: tuple[CopyPair, ...]
    """What goes where."""
    depends: Fence | None = None
    """The job starts after this; its error does not matter (fences_and_scheduler 1.5)."""


class _Move(NamedTuple):
    """One page of a job."""

    source: DmaAddr | None
    target: DmaAddr
    source_folio: Folio | None
    target_folio: Folio | None
    """None: device memory that nobody had at submission."""


class _Job(NamedTuple):
    moves: list[_Move]
    depends: Fence | None
    fence: Fence


class CopyEngine(HardwareQueue[_Job]):
    """Works off :class:`SubmitCopy` in order of arrival."""

    def __init__(self, engine: Engine, name: str, bus: Bus) -> None:
        super().__init__(engine, name)
        self.bus = bus
        self.chunk_pages = CHUNK_PAGES
        """Pages read before the first is written; smaller means more, narrower race windows."""
        self.fail_next = 0
        """How many of the next jobs copy nothing and signal -EIO."""
        self.seqno = 0
        """Number of jobs taken."""

    # -- submission ------------------------------------------------------------------

    def submit(self, message: Message[Any]) -> tuple[Fence, _Job]:
        """Pin down the pages."""
        assert isinstance(message, SubmitCopy)
        moves = [move for source, target in message.pairs for move in self._moves(source, target)]
        self.seqno += 1
        fence = Fence(self.engine, f"{self.name}.fence.{self.seqno}", self.hardware)
        return fence, _Job(moves, message.depends, fence)

    def _moves(self, source: DmaAddr | None, target: DmaAddr) -> list[_Move]:
        if not target.order:
            return [self._move(source, target)]
        if source is not None and source.order != target.order:
            raise EINVAL
        return [
            self._move(None if source is None else _page(source, index), _page(target, index))
            for index in range(1 << target.order)
        ]

    def _move(self, source: DmaAddr | None, target: DmaAddr) -> _Move:
        if source is not None:
            return _Move(source, target, self.bus.resolve(source, False), self.bus.resolve(target, True))
        if target.proto is Proto.VRAM:
            return _Move(None, target, None, self.bus.vram.folio_at(target.addr))
        return _Move(None, target, None, self.bus.resolve(target, True))

    # -- work ------------------------------------------------------------------------

    async def execute(self, job: _Job) -> None:
        """Wait for the dependency, copy chunk by chunk, signal."""
        if job.depends is not None:
            await job.depends.wait()
        error = None
        if self._fails():
            error = EIO()
        else:
            for first in range(0, len(job.moves), self.chunk_pages):
                await self._copy(job.moves[first : first + self.chunk_pages])
        await self.engine.step("fence_signal", job.fence)
        job.fence.signal(error)

    def _fails(self) -> bool:
        """This job was chosen to fail, by a test or by chance."""
        if self.fail_next:
            self.fail_next -= 1
            return True
        return self.engine.faults.strike("copy")

    async def _copy(self, moves: list[_Move]) -> None:
        engine = self.engine
        source, target = moves[0].source_folio, moves[0].target_folio
        await engine.step("copy_begin", source or target or self)
        contents = [self._read(move) for move in moves]
        await engine.step("copy_end", target or source or self)
        for move, content in zip(moves, contents, strict=True):
            self._write(move, content)
        engine.count("gpu.pages_copied", len(moves))

    def _read(self, move: _Move) -> Content:
        if move.source is None:
            return ZERO
        return self._pinned(move.source, move.source_folio, False).content

    def _write(self, move: _Move, content: Content) -> None:
        if move.source is not None:
            # Real hardware reads until the end, so the source must still be there.
            self._pinned(move.source, move.source_folio, False)
        if move.target_folio is not None:
            self._pinned(move.target, move.target_folio, True).content = content
            return
        newcomer = self.bus.vram.folio_at(move.target.addr)
        if newcomer is not None:
            newcomer.content = content

    def _pinned(self, dma: DmaAddr, expected: Folio | None, write: bool) -> Folio:
        """The page at an address, which must be the one that was there at submission."""
        folio = self.bus.resolve(dma, write)
        if folio is not expected:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name}: {folio.name} is not the page the job was for")
        return folio


def _page(dma: DmaAddr, index: int) -> DmaAddr:
    return dma._replace(addr=dma.addr + index, order=0)
