"""Stub fences: signaled from birth, for places that need a fence where there is nothing to wait for.

fences_and_scheduler 1.3.  Fences with a memory share one global stub, as in the kernel; a private stub
carries a timestamp of its own.  Both belong to context 0.
"""

from __future__ import annotations

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.engine import Engine


def dma_fence_allocate_private_stub(
    engine: Engine, timestamp: int | None = None, memory: FenceMemory | None = None
) -> Fence:
    """A fence signaled at ``timestamp``, now if None; the caller owns the reference."""
    stub = Fence(engine, "stub", memory=memory)
    stub.enabled = True
    stub.signal(timestamp=timestamp)
    return stub


def dma_fence_get_stub(engine: Engine, memory: FenceMemory | None = None) -> Fence:
    """The global stub with one more reference; without a memory there is nobody to share it with."""
    if memory is None:
        return dma_fence_allocate_private_stub(engine)
    if memory.stub is None:
        # The kernel's is a static variable: its first reference is never dropped.
        memory.stub = dma_fence_allocate_private_stub(engine)
        memory.stub.refs = 1
    return memory.stub.get()
