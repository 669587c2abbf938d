"""The memory fences live in: who is alive, freed after a grace period, and failing allocations.

A fence made with a memory counts its references; the last put frees it, for good only after an RCU
grace period (fences_and_scheduler 1.1, FEN-R05).  So a leak is a fence still in :attr:`FenceMemory.live`
at teardown, and a use after free is a fence touched after it left (INV-FEN-10).

Simplified: the objects are Python's; "freed" is a mark that makes every later use fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.rcu import Rcu
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM, PropertyFailed
from svm_actors.engine.signalling import Gfp, might_alloc

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence


class FenceMemory:
    """Books of all counted fences of a machine."""

    def __init__(self, engine: Engine, name: str = "fences", *, inject: bool = False) -> None:
        self.engine = engine
        self.name = name
        self.rcu = Rcu(engine, f"{name}.rcu")
        self.live: dict[Fence, None] = {}
        """Fences born and not yet freed, in order of birth."""
        self.stub: Fence | None = None
        """The global stub, made by the first who asks; not among the live ones, as it is static."""
        self.inject = inject
        """Every allocation may fail: a data choice."""
        self.born = 0
        """Fences ever made."""

    def take_in(self, fence: Fence) -> None:
        """A fence is born."""
        self.born += 1
        self.live[fence] = None

    def free(self, fence: Fence) -> None:
        """kfree_rcu: its last reference is gone; readers may still look at it for a grace period (FEN-R05)."""
        self.rcu.call(lambda: self._freed(fence))

    def _freed(self, fence: Fence) -> None:
        fence.freed = True
        del self.live[fence]

    def alloc(self, what: str, gfp: Gfp = Gfp.KERNEL) -> None:
        """kmalloc: -ENOMEM when this is one of the failures injected."""
        might_alloc(self.engine, what, gfp)
        if self.inject and self.engine.choose(2, f"oom.{what}"):
            self.engine.count("inject.enomem")
            raise ENOMEM
        self.engine.faults.fail("fence")

    async def drain(self) -> None:
        """Sleep until everything put so far is freed."""
        await self.rcu.barrier()

    def check_empty(self) -> None:
        """Raise with the fences that are left (INV-FEN-10)."""
        if self.live:
            left = ", ".join(f"{fence.name} (refs {fence.refs})" for fence in self.live)
            raise PropertyFailed("leaks", "INV-FEN-10", f"fences alive at teardown: {left}")

    def statistics(self) -> dict[str, int]:
        """Fences alive."""
        return {"live": len(self.live)}


def allocate(engine: Engine, memory: FenceMemory | None, what: str, gfp: Gfp = Gfp.KERNEL) -> None:
    """An allocation on behalf of fences: reclaim rule, and -ENOMEM if the memory injects failures."""
    if memory is None:
        might_alloc(engine, what, gfp)
        engine.faults.fail("fence")
    else:
        memory.alloc(what, gfp)
