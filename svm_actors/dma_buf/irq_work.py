"""irq_work: what a callback may not do under the fence lock, done right after, by somebody else.

Fence arrays and chains complete through it, so that signaling one fence never signals the next one
inside its own lock (fences_and_scheduler section 2, FEN-R20).  Each item is a task of its own: it may
run at once or much later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from svm_actors.engine.engine import Engine

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence


def irq_work_queue(engine: Engine, fence: Fence, work: Callable[[], None]) -> None:
    """Run ``work`` soon, in a task named after the fence it is about."""

    async def run() -> None:
        await engine.step("fence_signal", fence)
        work()

    engine.spawn(run(), f"{fence.name}.irq_work")
