"""dma_fence_unwrap: the plain fences inside a chain of arrays, and merging fences into one.

fences_and_scheduler section 2.  A merge keeps, of every context, only the latest fence: the others are
done by then.  It looks twice, to count and to collect, and fences may signal in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_chain import contained, walk
from svm_actors.dma_buf.fence_memory import FenceMemory, allocate
from svm_actors.dma_buf.seqno import is_later, same_context
from svm_actors.dma_buf.steps import Steps, at_once, in_steps
from svm_actors.dma_buf.stub import dma_fence_allocate_private_stub
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM


def unwrap(fence: Fence | None) -> list[Fence]:
    """dma_fence_unwrap_for_each: the leaves, newest node first.  They belong to ``fence``, not to the caller."""
    leaves: list[Fence] = []
    node = None if fence is None else fence.get()
    while node is not None:
        inner = contained(node)
        leaves += inner.fences if isinstance(inner, FenceArray) else (inner,)
        node = walk(node)
    return leaves


def merge_steps(engine: Engine, fences: Sequence[Fence | None], memory: FenceMemory | None) -> Steps[Fence | None]:
    """dma_fence_unwrap_merge; see :func:`merge`."""
    pending = list(_unsignaled(fences))
    if len(pending) > 1:
        try:
            allocate(engine, memory, "merged fences")
        except ENOMEM:
            return None
        yield ("read", pending[0], None)
        counted, pending = len(pending), list(_unsignaled(fences))
        if len(pending) < counted:
            engine.count("fence.signaled_while_merging")
    kept = engine.parts.of(deduplicate)(pending)
    if not kept:
        return dma_fence_allocate_private_stub(engine, _newest(fences), memory)
    if len(kept) == 1:
        return kept[0].get()
    return engine.parts.of(FenceArray)(engine, merged_name(kept), [fence.get() for fence in kept], memory=memory)


def merge(engine: Engine, fences: Sequence[Fence | None], memory: FenceMemory | None = None) -> Fence | None:
    """One fence for all; the caller owns it, and keeps what it passed in.  None without memory.

    None among ``fences`` counts as nothing to wait for.  Everything signaled: a private stub with the
    newest time; one fence left: that one; else an array.
    """
    return at_once(merge_steps(engine, fences, memory))


async def merge_in_steps(
    engine: Engine, fences: Sequence[Fence | None], memory: FenceMemory | None = None
) -> Fence | None:
    """The same where fences signal between the two looks."""
    return await in_steps(engine, merge_steps(engine, fences, memory))


def deduplicate(fences: Sequence[Fence]) -> list[Fence]:
    """dma_fence_dedup_array: by context, of each context the latest fence only (FEN-B06).

    Fences of context 0 are unrelated to each other and all stay, each once.
    """
    kept: list[Fence] = []
    for fence in sorted(fences, key=lambda fence: fence.context):
        rival = next((other for other in reversed(kept) if same_context(other, fence)), None)
        if rival is None:
            kept.append(fence)
        elif is_later(fence, rival):
            kept[kept.index(rival)] = fence
    return kept


def merged_name(fences: Sequence[Fence]) -> str:
    """Text for traces, from the first fence: ``bind.3+2``."""
    return f"{fences[0].name}+{len(fences) - 1}"


def _unsignaled(fences: Sequence[Fence | None]) -> Iterator[Fence]:
    return (leaf for fence in fences for leaf in unwrap(fence) if not leaf.is_signaled())


def _newest(fences: Sequence[Fence | None]) -> int | None:
    times = [leaf.timestamp for fence in fences for leaf in unwrap(fence) if leaf.timestamp is not None]
    return max(times, default=None)
