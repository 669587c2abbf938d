"""Where callbacks run, and how long a name is there to be read (fences_and_scheduler 1.2 and 1.3; FEN-B11, FEN-R05)."""

from __future__ import annotations

import pytest
from fence_bench import run

from svm_actors.dma_buf.fence import DETACHED, Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.errors import EngineError


def test_a_callback_may_not_sleep() -> None:
    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        fence = Fence(engine, "job")
        fence.add_callback(lambda _fence: engine.step("local").send(None))
        fence.signal()

    with pytest.raises(EngineError, match=r"in an atomic section: it holds job, and whoever holds a spinlock"):
        run(body)


def test_after_its_callbacks_one_may_sleep_again() -> None:
    async def body(memory: FenceMemory) -> None:
        engine = memory.engine
        outer, inner = Fence(engine, "outer"), Fence(engine, "inner")
        called: list[str] = []

        def signal_inner(fence: Fence) -> None:
            inner.signal()
            called.append(fence.name)

        inner.add_callback(lambda fence: called.append(fence.name))
        outer.add_callback(signal_inner)
        outer.signal()
        await engine.step("local")
        assert called == ["inner", "outer"]

    run(body)


def test_the_name_of_a_fence_is_read_inside_a_section() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = Fence(memory.engine, "job", memory=memory)
        assert await fence.read_timeline_name(memory.rcu) == "job"
        fence.signal()
        assert await fence.read_timeline_name(memory.rcu) == DETACHED
        fence.put()

    run(body)
