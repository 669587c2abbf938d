"""The reservation object of a GPU VM: a lock and bookkeeping fences (gpusvm sections 6.1 and 6.2).

Every page-table update that is not through yet has a fence here before notifier_lock is dropped, so an
invalidation that comes later finds it and waits (SVM-R03).

Simplified: one kind of fence and a plain list; the ww reservation of the dma_buf layer takes its place.
"""

from __future__ import annotations

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.engine import Engine
from svm_actors.engine.locks import Mutex


class VmResv:
    """xe_vm_resv."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.lock = Mutex(engine, f"{name}.resv", "dma_resv")
        """Taken inside vm->lock by whoever adds fences."""
        self._fences: list[Fence] = []

    def add(self, fence: Fence) -> None:
        """dma_resv_add_fence with usage BOOKKEEP; signaled ones are dropped on the way."""
        self.lock.assert_held()
        self._fences = [*self.pending(), fence] if not fence.signaled else self.pending()

    def pending(self) -> list[Fence]:
        """Fences not signaled yet, in order of submission."""
        return [fence for fence in self._fences if not fence.signaled]

    @property
    def idle(self) -> bool:
        """dma_resv_test_signaled."""
        return not self.pending()

    async def wait_all(self) -> None:
        """dma_resv_wait_timeout without a timeout: whatever is pending now."""
        for fence in self.pending():
            await fence.wait()
