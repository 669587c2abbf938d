"""dma_fence: a promise that work will finish, and its result (fences_and_scheduler section 1).

One way only: unsignaled, then signaled for ever; the first signal wins.  Callbacks run in the order
of registration, inside the atomic step that signals, so they must not sleep: they are plain functions.

Simplified: no contexts and sequence numbers, no polling (``signaled()``) and no deadline hints; an
unsignaled fence counts as one with signaling enabled.  Whoever signals announces the ``fence_signal``
op first; :meth:`Fence.signal` itself is what happens with the fence lock held.
"""

from __future__ import annotations

from collections.abc import Callable

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import ENOENT, KernelError
from svm_actors.engine.task import Task

FenceCallback = Callable[["Fence"], None]


class Fence(Source):
    """One fence.  ``error`` is advisory: those who wait go on whatever it says (1.5)."""

    __slots__ = ("_callbacks", "error", "name", "signaled", "signaler")

    def __init__(self, engine: Engine, name: str, signaler: Task | None = None) -> None:
        super().__init__(engine)
        self.name = name
        self.signaled = False
        self.error: KernelError | None = None
        """Why the work failed; set before signaling or never."""
        self.signaler = signaler
        """The task that will signal, if known: the wait-for graph follows it."""
        self._callbacks: list[FenceCallback] = []

    def signal(self, error: KernelError | None = None) -> bool:
        """Signal; True when this call did it, False when it was signaled before (nothing happens then)."""
        if self.signaled:
            return False
        self.error = error
        self.signaled = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
        if self.parked:
            self.changed()
        return True

    def add_callback(self, callback: FenceCallback) -> None:
        """Call ``callback(fence)`` at the signal.  -ENOENT, and no call, when it is signaled already."""
        if self.signaled:
            raise ENOENT
        self._callbacks.append(callback)

    def _is_signaled(self) -> bool:
        return self.signaled

    async def wait(self) -> None:
        """Sleep until signaled.  Never raises: look at ``error``."""
        await self.engine.wait("fence_wait", self, self, self._is_signaled, waits_for=self.signaler)

    def __repr__(self) -> str:
        state = "signaled" if self.signaled else "unsignaled"
        return f"<{self.name} {state}{f' {self.error.code}' if self.error is not None else ''}>"
