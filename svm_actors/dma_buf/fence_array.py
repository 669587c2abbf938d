"""dma_fence_array: one fence for several; it completes when all of them have.

fences_and_scheduler section 2; FEN-R07.  Each child has a callback from the moment signaling is
requested on the array; the last one completes the array from an irq_work item, not under its own lock.

Simplified: the any-mode of older kernels does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.irq_work import irq_work_queue
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOENT, PropertyFailed
from svm_actors.engine.task import Task


class FenceArray(Fence):
    """An array; it owns one reference on each child, given by its maker."""

    __slots__ = ("_first_error", "fences", "num_pending")

    container: ClassVar[bool] = True
    lazy: ClassVar[bool] = True
    pins_ops: ClassVar[bool] = True

    def __init__(
        self,
        engine: Engine,
        name: str,
        fences: Sequence[Fence],
        *,
        context: int | None = None,
        seqno: int = 1,
        memory: FenceMemory | None = None,
    ) -> None:
        """dma_fence_array_create.  Without a context it gets one of its own."""
        for fence in fences:
            if fence.container:
                raise PropertyFailed("fence", "containers", f"{fence.name}, a container, is put into {name}")
        context = dma_fence_context_alloc(engine) if context is None else context
        super().__init__(engine, name, context=context, seqno=seqno, memory=memory)
        self.fences = tuple(fences)
        self.num_pending = len(self.fences)
        """Children that have not called back yet."""
        self._first_error: Fence | None = None
        """The first child that failed; only children with a callback are asked."""

    def ops_enable_signaling(self) -> bool:
        """A callback on every child, each with a reference on the array."""
        for fence in self.fences:
            self.get()
            try:
                fence.add_callback(self._child_done)
            except ENOENT:
                self._note_error(fence)
                self.put()
                self.num_pending -= 1
                if not self.num_pending:
                    self._settle_error()
                    return False
        return bool(self.fences)

    def _child_done(self, fence: Fence) -> None:
        """Runs under the child's lock, so the last one leaves the signal to an irq_work item."""
        self._note_error(fence)
        self.num_pending -= 1
        if self.num_pending:
            self.put()
        else:
            irq_work_queue(self.engine, self, self._complete)

    def _complete(self) -> None:
        """FEN-R33: the last callback's reference is held over the signal, in which the others may be dropped."""
        self._settle_error()
        self.signal()
        if self.refs == 1:
            self.engine.count("FEN-R33")
        self.put()

    def _note_error(self, fence: Fence) -> None:
        if fence.error is not None and self._first_error is None:
            self._first_error = fence

    def _settle_error(self) -> None:
        if self._first_error is not None and not self.signaled:
            self.error = self._first_error.error

    def ops_signaled(self) -> bool:
        """The counter, once callbacks are out; before that every child is asked (FEN-B05).

        FEN-R07: the counter is read before the bit, or a poll could mix one time with another.
        """
        pending = self.num_pending
        done = pending <= 0 if self.enabled else all(fence.is_signaled() for fence in self.fences)
        if done:
            self._settle_error()
        return done

    def ops_set_deadline(self, deadline: int) -> None:
        """Every child is waited for."""
        for fence in self.fences:
            fence.set_deadline(deadline)

    def ops_release(self) -> None:
        """Drop the children."""
        for fence in self.fences:
            fence.put()
        self.free()

    def blocked_by(self, _waiter: Task) -> list[Task]:
        """For the wait-for graph: whoever signals the children that are left, as far as known."""
        return [fence.signaler for fence in self.fences if fence.signaler is not None and not fence.signaled]
