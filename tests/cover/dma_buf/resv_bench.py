"""A reservation and fences for it, for the tests of dma_resv."""

from __future__ import annotations

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv, Usage


class Bench:
    """A reservation and a way to make fences for it; keeps one reference on each."""

    def __init__(self, memory: FenceMemory) -> None:
        self.memory = memory
        self.engine = memory.engine
        self.resv = DmaResv(memory.engine, "bo", memory=memory)
        self.made: list[Fence] = []

    def fence(self, context: int = 0, seqno: int = 0) -> Fence:
        name = f"c{context}.{seqno}" if context else f"f{len(self.made)}"
        fence = Fence(self.engine, name, context=context, seqno=seqno, memory=self.memory)
        self.made.append(fence)
        return fence

    async def put_in(self, *fences: tuple[Fence, Usage]) -> None:
        await self.resv.lock()
        self.resv.reserve(len(fences))
        for fence, usage in fences:
            self.resv.add(fence, usage)
        self.resv.unlock()

    def drop(self) -> None:
        self.resv.fini()
        for fence in self.made:
            if not fence.signaled:
                fence.signal()
            fence.put()
