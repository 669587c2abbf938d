"""A fence pointer read without a lock: dma_fence_get_rcu_safe (fences_and_scheduler 1.3, FEN-R05).

Between reading the pointer and taking the reference the fence may die, or the pointer may change to
another fence that got the same memory.  So the reference is refused on a dead fence, and the pointer is
looked at once more when it was got.
"""

from __future__ import annotations

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.rcu import Rcu
from svm_actors.engine.engine import Engine


class RcuPointer:
    """One published pointer.  It owns no reference by itself: its writer says who does."""

    __slots__ = ("_fence", "engine", "name", "rcu")

    def __init__(self, engine: Engine, name: str, rcu: Rcu) -> None:
        self.engine = engine
        self.name = name
        self.rcu = rcu
        self._fence: Fence | None = None

    async def assign(self, fence: Fence | None) -> None:
        """rcu_assign_pointer."""
        await self.engine.step("write", self)
        self._fence = fence

    def __bool__(self) -> bool:
        """It points to a fence now."""
        return self._fence is not None

    async def get_safe(self) -> Fence | None:
        """A reference on the fence it points to; None when it points to nothing."""
        engine = self.engine
        with self.rcu.reading():
            while True:
                await engine.step("read", self)
                fence = self._fence
                if fence is None:
                    return None
                await engine.step("get", fence)
                if fence.get_rcu() is None:
                    engine.count("FEN-R05")
                    continue
                await engine.step("read", self)
                if self._fence is fence:
                    return fence
                await engine.step("put", fence)
                fence.put()
