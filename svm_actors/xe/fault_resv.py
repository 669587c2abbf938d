"""The reservation of a VM as its SVM side sees it (gpusvm sections 6.1 and 6.2).

SVM publishes fences of one kind, BOOKKEEP, and waits for all there are, so it needs little of a dma_resv; but it must
be the one that binds use, or a callback would not find what they have queued.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.engine.errors import KernelError

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence

FENCES_PER_UPDATE = 1


class ResvLock:
    """``async with``: the lock, with a slot for the fence of one update."""

    def __init__(self, resv: DmaResv) -> None:
        self.resv = resv

    async def __aenter__(self) -> ResvLock:
        await self.resv.lock()
        try:
            self.resv.reserve(FENCES_PER_UPDATE)
        except KernelError:
            self.resv.unlock()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KernelError):
            self.resv.unlock()


class SharedResv:
    """The view."""

    def __init__(self, resv: DmaResv) -> None:
        self.resv = resv
        self.lock = ResvLock(resv)

    def add(self, fence: Fence) -> None:
        """With usage BOOKKEEP; the slot was reserved with the lock."""
        self.resv.add(fence, Usage.BOOKKEEP)

    def pending(self) -> list[Fence]:
        """Unsignaled fences of every kind: binds, moves, SVM."""
        return self.resv.unsignaled(Usage.BOOKKEEP)

    @property
    def idle(self) -> bool:
        """None of them."""
        return self.resv.test_signaled(Usage.BOOKKEEP)

    async def wait_all(self) -> None:
        """Wait for them."""
        await self.resv.wait(Usage.BOOKKEEP)
