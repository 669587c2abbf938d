"""What the fence tests share: running a body with a memory, on the plain schedule or on many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "conformance"))

from cases import every_schedule, on_all_schedules, run_once

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.engine.engine import Engine
from svm_actors.explore.strategies import Fifo

__all__ = ["Driver", "Polled", "Scripted", "Timeline", "every_schedule", "on_all_schedules", "run", "signal", "under"]

Body = Callable[[FenceMemory], Coroutine[Any, Any, None]]
Program = Callable[[Engine], Coroutine[Any, Any, None]]


class Scripted:
    """Makes the given choices, then the first alternative."""

    name = "scripted"

    def __init__(self, *choices: int) -> None:
        self.choices = list(choices)

    def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
        return self.choices.pop(0) if self.choices else 0

    def data(self, count: int, label: str) -> int:
        return self.choices.pop(0) if self.choices else 0


def under(body: Body, *, inject: bool = False) -> Program:
    """The body with a memory; afterwards nothing may be left in it."""

    async def program(engine: Engine) -> None:
        memory = FenceMemory(engine, inject=inject)
        await body(memory)
        await engine.quiesce()
        memory.check_empty()

    return program


def run(body: Body, chooser: Any = None, *, inject: bool = False, **options: Any) -> Engine:
    """One run on the plainest schedule; raises what made it fail."""
    return run_once(under(body, inject=inject), chooser or Fifo(), **options)


async def signal(fence: Fence, error: Any = None) -> None:
    """Signal as hardware does: an op, then the effect."""
    await fence.engine.step("fence_signal", fence)
    fence.signal(error)


class Driver(Fence):
    """A fence with an implementation that notes what is asked of it."""

    __slots__ = ("asked", "willing")

    lazy = True

    def __init__(self, memory: FenceMemory, name: str = "driver", *, willing: bool = True, **options: Any) -> None:
        super().__init__(memory.engine, name, memory=memory, **options)
        self.asked: list[str] = []
        self.willing = willing

    def ops_enable_signaling(self) -> bool:
        self.asked.append("enable")
        return self.willing

    def ops_set_deadline(self, deadline: int) -> None:
        self.asked.append(f"by {deadline}")


class Polled(Driver):
    """Done when somebody looks after the memory was written."""

    __slots__ = ("written",)

    def __init__(self, memory: FenceMemory, name: str = "polled") -> None:
        super().__init__(memory, name)
        self.written = False

    def ops_signaled(self) -> bool:
        self.asked.append("poll")
        return self.written


class Timeline:
    """Fences of one context, numbered as they are made."""

    def __init__(self, memory: FenceMemory, context: int) -> None:
        self.memory = memory
        self.context = context
        self.seqno = 0

    def fence(self) -> Fence:
        self.seqno += 1
        name = f"c{self.context}.{self.seqno}"
        return Fence(self.memory.engine, name, context=self.context, seqno=self.seqno, memory=self.memory)
