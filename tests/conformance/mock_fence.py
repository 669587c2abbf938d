"""What the dma_fence and dma_fence_chain selftests share: mock fences, and a run that ends with nothing alive."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from cases import on_all_schedules

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.engine import Engine

SUITE = "dma_fence_selftests"

Body = Callable[[FenceMemory], Coroutine[Any, Any, None]]


def program(body: Body) -> Callable[[Engine], Coroutine[Any, Any, None]]:
    """A case with a memory of its own, from which everything must be gone at the end."""

    async def run(engine: Engine) -> None:
        memory = FenceMemory(engine)
        await body(memory)
        await engine.quiesce()  # irq_work and the grace period are through
        memory.check_empty()

    return run


def check(body: Body) -> list[Engine]:
    """The default schedule and many random ones."""
    return on_all_schedules(program(body))


def mock(memory: FenceMemory, name: str = "mock") -> Fence:
    """The suites' mock fence: nothing enables it, nothing signals it by itself."""
    return Fence(memory.engine, name, memory=memory)


async def raise_signal(fence: Fence) -> None:
    """Signal as an op of its own."""
    await fence.engine.step("fence_signal", fence)
    fence.signal()
