"""Waiting for one of several fences, and the callback registration in its two real steps.

fences_and_scheduler 1.3; FEN-R01.
"""

from __future__ import annotations

from collections.abc import Sequence

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence, FenceCallback, FenceCb
from svm_actors.dma_buf.fence_memory import FenceMemory, allocate
from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import EINVAL, ENOENT, ERESTARTSYS
from svm_actors.engine.signalling import might_wait
from svm_actors.engine.signals import about_to_sleep


async def add_callback(fence: Fence, callback: FenceCallback | FenceCb) -> FenceCb:
    """dma_fence_add_callback as two ops: the flag is tested without the lock, then again under it.

    FEN-R01: who is signaled in between is told so by the second test.  -ENOENT.
    """
    engine = fence.engine
    await engine.step("read", fence)
    if fence.signaled:
        raise ENOENT
    await engine.step("write", fence)
    if fence.signaled:
        engine.count("FEN-R01")
    return fence.add_callback(callback)


async def wait_any_timeout(
    fences: Sequence[Fence],
    timeout: int = MAX_SCHEDULE_TIMEOUT,
    intr: bool = False,
    memory: FenceMemory | None = None,
) -> tuple[int, int | None]:
    """dma_fence_wait_any_timeout: (time left, index of a signaled fence).

    (0, None) when the time is over; a timeout of 0 looks and does not sleep.  -EINVAL without fences or
    with a negative timeout; -ENOMEM; -ERESTARTSYS.  It needs memory for its callbacks.
    """
    if not fences or timeout < 0:
        raise EINVAL
    engine = fences[0].engine
    might_wait(engine, f"any of {len(fences)} fences")
    if timeout == 0:
        await engine.step("fence_wait", fences[0])
        found = _first(fences)
        return (0, None) if found is None else (1, found)
    allocate(engine, memory, "fence callbacks")
    return await _Any(engine, fences).wait(timeout, intr)


def _first(fences: Sequence[Fence]) -> int | None:
    return next((index for index, fence in enumerate(fences) if fence.is_signaled()), None)


class _Any(Source):
    """One waiter with a callback on every fence."""

    __slots__ = ("callbacks", "fences", "name", "woken")

    def __init__(self, engine: Engine, fences: Sequence[Fence]) -> None:
        super().__init__(engine)
        self.name = f"any({', '.join(fence.name for fence in fences)})"
        self.fences = fences
        self.callbacks: list[FenceCb] = []
        self.woken = False

    async def wait(self, timeout: int, intr: bool) -> tuple[int, int | None]:
        """Register, sleep, look, clean up."""
        engine = self.engine
        try:
            for index, fence in enumerate(self.fences):
                try:
                    self.callbacks.append(await self.engine.parts.of(add_callback)(fence, self._wake))
                except ENOENT:
                    return timeout, index
            left = await self._sleep(timeout, intr)
        finally:
            self._clean_up()
        found = next((index for index, fence in enumerate(self.fences) if fence.signaled), None)
        if found is not None:
            return max(1, left), found
        if intr and engine.current is not None and engine.current.thread.signal:
            raise ERESTARTSYS
        return 0, None

    async def _sleep(self, timeout: int, intr: bool) -> int:
        engine = self.engine
        task = engine.current
        assert task is not None
        thread = task.thread
        end = engine.now + timeout
        limit = None if timeout == MAX_SCHEDULE_TIMEOUT else timeout
        if intr and not self.woken:
            about_to_sleep(engine)
        await engine.wait(
            "fence_wait", self, self, lambda: self.woken or (intr and thread.signal), waits_for=self, timeout=limit
        )
        return timeout if limit is None else end - engine.now

    def _clean_up(self) -> None:
        if not self.engine.closing:
            for fence, cb in zip(self.fences, self.callbacks, strict=False):
                fence.remove_callback(cb)

    def _wake(self, _fence: Fence) -> None:
        self.woken = True
        if self.parked:
            self.changed()

    def blocked_by(self, _waiter: object) -> list[object]:
        """For the wait-for graph: whoever signals one of them, as far as known."""
        return [fence.signaler for fence in self.fences if fence.signaler is not None]
