"""drm_syncobj: a slot that holds one fence, or a timeline of them (fences_and_scheduler section 2).

User space passes syncobjs to ioctls as in- and out-fences.  A lookup takes what is in the slot at that
time; what is put there later does not change who looked before.  A waiter that may wait for a point not
submitted yet is told when it comes, see :mod:`svm_actors.drm.syncobj_wait`.

Every change is one atomic step, as under the slot's spinlock; whoever makes it announces the op.
"""

from __future__ import annotations

from typing import Protocol

from svm_actors.dma_buf.events import publish
from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_chain import FenceChain, collect, find_seqno, walk
from svm_actors.dma_buf.fence_memory import FenceMemory, allocate
from svm_actors.dma_buf.stub import dma_fence_allocate_private_stub, dma_fence_get_stub
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, PropertyFailed


class SlotWaiter(Protocol):
    """Somebody registered on a slot who has no fence yet."""

    def slot_changed(self, syncobj: Syncobj) -> bool:
        """The slot has new contents; True when the waiter found its fence and leaves the list."""


class Syncobj:
    """One syncobj.  References: a handle holds one, and so does whoever looked it up (FEN-R32)."""

    def __init__(self, engine: Engine, name: str, *, signaled: bool = False, memory: FenceMemory | None = None) -> None:
        """drm_syncobj_create; ``signaled``: DRM_SYNCOBJ_CREATE_SIGNALED."""
        self.engine = engine
        self.name = name
        self.memory = memory
        self.refs = 1
        self.fence: Fence | None = None
        """What is in the slot; the slot owns a reference."""
        self.waiters: list[SlotWaiter] = []
        """Those who wait for something to be submitted, in order of arrival."""
        self._points = 0
        if signaled:
            self.signal()

    # -- references ------------------------------------------------------------------------------

    def get(self) -> Syncobj:
        """drm_syncobj_get."""
        self._must_live("is referenced")
        self.refs += 1
        return self

    def put(self) -> None:
        """drm_syncobj_put; the last one empties the slot."""
        if self.engine.closing:
            return
        self._must_live("is put")
        self.refs -= 1
        if self.refs:
            return
        if self.waiters:
            text = f"{self.name} is freed while {len(self.waiters)} waiters are on its list"
            raise PropertyFailed("lifetime", "FEN-R32", text)
        old, self.fence = self.fence, None
        if old is not None:
            old.put()

    def _must_live(self, doing: str) -> None:
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "FEN-R32", f"{self.name} {doing} after it was freed")

    # -- the slot --------------------------------------------------------------------------------

    def fence_get(self) -> Fence | None:
        """drm_syncobj_fence_get: what is in the slot now, with a reference for the caller."""
        self._must_live("is looked at")
        return None if self.fence is None else self.fence.get()

    def replace_fence(self, fence: Fence | None) -> None:
        """drm_syncobj_replace_fence: takes a reference of its own; the timeline, if any, is gone."""
        self._must_live("is written")
        if fence is not None:
            fence.get()
            publish(self.engine, fence, self.name)
        old, self.fence = self.fence, fence
        if fence is not old:
            self._tell_waiters()
        if old is not None:
            old.put()

    def chain_alloc(self) -> None:
        """dma_fence_chain_alloc: memory for the next point, before the point of no return.  -ENOMEM."""
        allocate(self.engine, self.memory, "chain node")

    def add_point(self, fence: Fence, point: int) -> None:
        """drm_syncobj_add_point: append to the timeline; cannot fail.

        A point not after the last one starts a new context with the higher number: those who ask for
        points get confused, nothing else.
        """
        self._must_live("is written")
        prev = self.fence_get()
        if prev is not None and prev.seqno >= point:
            self.engine.count("syncobj.unordered_point")
        name = f"{self.name}.{self._points}"
        self._points += 1
        publish(self.engine, fence, self.name)
        node = self.engine.parts.of(FenceChain)(self.engine, name, prev, fence.get(), point, memory=self.memory)
        old, self.fence = self.fence, node
        self._tell_waiters()
        collect(old)  # the slot's reference on the predecessor: walk once, so that what is done goes

    def signal(self) -> None:
        """drm_syncobj_assign_null_handle: put a signaled fence in."""
        stub = dma_fence_allocate_private_stub(self.engine, memory=self.memory)
        self.replace_fence(stub)
        stub.put()

    def signal_point(self, point: int) -> None:
        """DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL for one point.  -ENOMEM."""
        self.chain_alloc()
        stub = dma_fence_get_stub(self.engine, self.memory)
        self.add_point(stub, point)
        stub.put()

    def reset(self) -> None:
        """DRM_IOCTL_SYNCOBJ_RESET: empty again."""
        self.replace_fence(None)

    def _tell_waiters(self) -> None:
        self.waiters = [waiter for waiter in self.waiters if not waiter.slot_changed(self)]

    # -- looking at it -----------------------------------------------------------------------------

    def lookup_point(self, point: int) -> Fence:
        """The fence to wait for so that ``point`` is done, 0: whatever is there; owned by the caller.

        A point that is done and collected gives a stub, so that a recipient always gets a fence
        (FEN-B28).  -EINVAL when nothing was submitted for it yet.
        """
        fence = self.fence_get()
        if fence is None:
            raise EINVAL
        try:
            found = find_seqno(fence, point)
        except EINVAL:
            fence.put()
            raise
        return dma_fence_get_stub(self.engine, self.memory) if found is None else found

    def query(self, last_submitted: bool = False) -> int:
        """DRM_IOCTL_SYNCOBJ_QUERY: the last point done, or the last one submitted; 0 without a timeline."""
        head = self.fence_get()
        if not isinstance(head, FenceChain):
            if head is not None:
                head.put()
            return 0
        point = head.seqno if last_submitted else _last_done(head)
        head.put()
        return point


def _last_done(head: FenceChain) -> int:
    """Number of the last node done in the context of ``head``."""
    oldest = head
    node = walk(head.get())
    while isinstance(node, FenceChain) and node.context == head.context:
        oldest = node
        node = walk(node)
    if node is not None:
        node.put()
    return oldest.seqno if oldest.is_signaled() else oldest.prev_seqno
