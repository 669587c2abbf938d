"""dma_fence_chain: the timeline; a list of nodes, newest first, each with one fence.

fences_and_scheduler section 2; FEN-R08.  A node is signaled when its fence and all before it are.  To
signal, a node keeps one callback on the first fence that is left, and looks for the next one from an
irq_work item.  Walking drops predecessors that are signaled, with compare-exchange, so that two walkers
never drop one twice; release unlinks in a loop.  Neither recurses, however long the chain is.

Errors of contained fences are not propagated.

Functions that end in ``_steps`` are generators, see :mod:`svm_actors.dma_buf.steps`.  References: a node
owns its predecessor and its fence; a walk owns the node it stands on.
"""

from __future__ import annotations

from typing import ClassVar

from svm_actors.dma_buf.fence import Fence, FenceCb
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.irq_work import irq_work_queue
from svm_actors.dma_buf.seqno import dma_fence_context_alloc, seqno_is_later
from svm_actors.dma_buf.steps import Steps, at_once, in_steps
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, ENOENT, PropertyFailed
from svm_actors.engine.task import Task


class FenceChain(Fence):
    """One node of a timeline."""

    __slots__ = ("_cb", "fence", "prev", "prev_seqno")

    seqno64: ClassVar[bool] = True
    container: ClassVar[bool] = True
    lazy: ClassVar[bool] = True
    pins_ops: ClassVar[bool] = True

    def __init__(
        self,
        engine: Engine,
        name: str,
        prev: Fence | None,
        fence: Fence,
        seqno: int,
        *,
        memory: FenceMemory | None = None,
    ) -> None:
        """dma_fence_chain_init: takes over the caller's references on ``prev`` and ``fence``.

        It continues its predecessor's context if the number comes later; otherwise a new context
        begins, and the number does not go back.
        """
        if isinstance(fence, FenceChain):
            raise PropertyFailed("fence", "containers", f"{fence.name}, a chain, is contained in {name}")
        self.prev_seqno = 0
        """Number of the predecessor in the same context when this node was made; 0 without."""
        if isinstance(prev, FenceChain) and seqno_is_later(seqno, prev.seqno, wide=True):
            context, self.prev_seqno = prev.context, prev.seqno
        else:
            context = dma_fence_context_alloc(engine)
            if isinstance(prev, FenceChain):
                seqno = max(seqno, prev.seqno)
        super().__init__(engine, name, context=context, seqno=seqno, memory=memory)
        self.prev = prev
        """The node before; None at the beginning, or when everything before is done and dropped."""
        self.fence = fence
        self._cb = FenceCb(self._fence_done)

    def ops_enable_signaling(self) -> bool:
        """A callback on the first contained fence that is left; False when there is none."""
        node: Fence | None = self.get()
        while node is not None:
            fence = contained(node).get()
            try:
                fence.add_callback(self._cb)
            except ENOENT:
                fence.put()
                node = walk(node)
            else:
                self.get()  # the callback's own, until it is done with
                node.put()
                return True
        return False

    def _fence_done(self, fence: Fence) -> None:
        """Runs under that fence's lock: look for the next one later."""
        irq_work_queue(self.engine, self, lambda: self._rearm(fence))

    def _rearm(self, fence: Fence) -> None:
        fence.put()
        if not self.signaled and not self.ops_enable_signaling():
            self.signal()
        self.put()

    def ops_signaled(self) -> bool:
        """Every contained fence from here back is."""
        node: Fence | None = self.get()
        while node is not None:
            if not contained(node).is_signaled():
                node.put()
                return False
            node = walk(node)
        return True

    def ops_set_deadline(self, deadline: int) -> None:
        """Everything that is left is waited for."""
        node: Fence | None = self.get()
        while node is not None:
            contained(node).set_deadline(deadline)
            node = walk(node)

    def ops_release(self) -> None:
        """Unlink in a loop what nobody else holds: a chain of any length is freed without recursion."""
        prev = self.prev
        while isinstance(prev, FenceChain) and prev.refs == 1:
            self.prev, prev.prev = prev.prev, None
            prev.put()
            prev = self.prev
        self.prev = None
        if prev is not None:
            prev.put()
        self.fence.put()
        self.free()

    def replace_prev(self, expected: Fence, replacement: Fence | None) -> bool:
        """Compare-exchange of the predecessor: only one of two walkers drops it (FEN-R08)."""
        if self.prev is not expected:
            self.engine.count("FEN-R08")
            return False
        self.prev = replacement
        return True

    def blocked_by(self, _waiter: Task) -> list[Task]:
        """For the wait-for graph: whoever signals the fences that are left, as far as known."""
        tasks: list[Task] = []
        node: Fence | None = self
        while node is not None:
            fence = contained(node)
            if not fence.signaled and fence.signaler is not None:
                tasks.append(fence.signaler)
            node = node.prev if isinstance(node, FenceChain) else None
        return tasks


def contained(fence: Fence) -> Fence:
    """dma_fence_chain_contained: the fence of a node; any other fence is its own."""
    return fence.fence if isinstance(fence, FenceChain) else fence


# -- walking -----------------------------------------------------------------------------


def walk_steps(fence: Fence) -> Steps[Fence | None]:
    """One step back: gives up the reference on ``fence``, answers one on what is left before it.

    Predecessors that are signaled are dropped from the list on the way.
    """
    if not isinstance(fence, FenceChain):
        fence.put()
        return None
    while True:
        yield ("read", fence, "prev")
        prev = _get(fence.prev)
        if prev is None:
            break
        yield ("read", contained(prev), None)
        if not contained(prev).is_signaled():
            break
        # The contained fence alone decides: what is before it stays in the list, one link nearer.
        replacement = _get(prev.prev) if isinstance(prev, FenceChain) else None
        yield ("write", fence, "prev")
        _drop(prev if fence.replace_prev(prev, replacement) else replacement)
        prev.put()
    fence.put()
    return prev


def walk(fence: Fence) -> Fence | None:
    """dma_fence_chain_walk, in one step."""
    return at_once(walk_steps(fence))


def find_seqno_steps(fence: Fence, seqno: int) -> Steps[Fence | None]:
    """dma_fence_chain_find_seqno; see :func:`find_seqno`."""
    if not seqno:
        return fence
    if not isinstance(fence, FenceChain) or fence.seqno < seqno:
        raise EINVAL
    node: Fence | None = fence.get()
    while isinstance(node, FenceChain) and node.context == fence.context and node.prev_seqno >= seqno:
        node = yield from walk_steps(node)
    fence.put()
    return node


def find_seqno(fence: Fence, seqno: int) -> Fence | None:
    """The oldest fence that still guarantees that everything up to ``seqno`` is done.

    Gives up the reference on ``fence`` for one on the answer; None when all that was signaled and
    collected.  -EINVAL, with the reference kept, when it is no chain or does not reach that far.
    """
    return at_once(find_seqno_steps(fence, seqno))


async def find_seqno_in_steps(engine: Engine, fence: Fence, seqno: int) -> Fence | None:
    """The same where others may walk, signal and collect at the same time."""
    return await in_steps(engine, find_seqno_steps(fence, seqno))


def collect(fence: Fence | None) -> None:
    """Walk to the end for the sake of dropping what is signaled; gives up the reference."""
    while fence is not None:
        fence = walk(fence)


def _get(fence: Fence | None) -> Fence | None:
    return None if fence is None else fence.get()


def _drop(fence: Fence | None) -> None:
    if fence is not None:
        fence.put()
