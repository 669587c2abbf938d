"""Objects with reservations, and threads that lock sets of them, for the drm_exec tests."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "conformance"))

from cases import every_schedule, on_all_schedules, run_once

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.strategies import Fifo

__all__ = ["Bo", "Scripted", "bos", "every_schedule", "idle", "locking", "on_all_schedules", "run", "run_once", "under"]

Body = Callable[[FenceMemory], Coroutine[Any, Any, None]]


class Scripted:
    """Makes the given choices, then the first alternative."""

    name = "scripted"

    def __init__(self, *choices: int) -> None:
        self.choices = list(choices)

    def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
        return 0

    def data(self, count: int, label: str) -> int:
        return self.choices.pop(0) if self.choices else 0


class Bo:
    """A counted object; its reservation is its own or shared."""

    def __init__(self, memory: FenceMemory, name: str, resv: DmaResv | None = None) -> None:
        self.name = name
        self.resv = DmaResv(memory.engine, name, memory=memory) if resv is None else resv
        self.refs = 1

    def get(self) -> Bo:
        self.refs += 1
        return self

    def put_now(self) -> None:
        self.refs -= 1
        if self.refs < 1:
            raise PropertyFailed("lifetime", "test", f"{self.name} is put too often")

    def __repr__(self) -> str:
        return self.name


def bos(memory: FenceMemory, count: int) -> list[Bo]:
    return [Bo(memory, f"bo{index}") for index in range(count)]


def idle(objects: Sequence[Bo]) -> bool:
    """Nothing locked, nothing referenced but by us."""
    return all(not bo.resv.is_locked() and bo.refs == 1 for bo in objects)


def under(body: Body, *, inject: bool = False) -> Callable[[Engine], Coroutine[Any, Any, None]]:
    """The body with a memory from which every fence must be gone at the end."""

    async def program(engine: Engine) -> None:
        memory = FenceMemory(engine, inject=inject)
        await body(memory)
        await engine.quiesce()
        memory.check_empty()

    return program


def run(body: Body, chooser: Any = None, *, inject: bool = False, **options: Any) -> Engine:
    return run_once(under(body, inject=inject), chooser or Fifo(), **options)


def locking(objects: Sequence[Bo]) -> Callable[[DrmExec], Awaitable[None]]:
    """A body that locks them in this order."""

    async def body(exec_: DrmExec) -> None:
        for bo in objects:
            await exec_.lock_obj(bo)

    return body
