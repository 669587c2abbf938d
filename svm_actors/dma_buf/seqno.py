"""Fence contexts and sequence numbers (fences_and_scheduler 1.4).

All fences of one context complete in the order of their sequence numbers, so of two of them the later
one stands for both.  Only numbers of one context may be compared.  Context 0 is nobody's: a fence in it
was numbered by nobody and is comparable with itself only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence

NO_CONTEXT = 0

_COUNTER = "dma_fence.contexts"


def dma_fence_context_alloc(engine: Engine, n: int = 1) -> int:
    """``n`` consecutive contexts, the first one's number.  Never reused in a run."""
    first = engine.counters[_COUNTER] + 1
    engine.counters[_COUNTER] += n
    return first


def seqno_is_later(first: int, second: int, *, wide: bool) -> bool:
    """``first`` comes after ``second``: plain with 64 bits, else the wrapping signed difference of 32."""
    if wide:
        return first > second
    return 0 < ((first - second) & 0xFFFFFFFF) < (1 << 31)


def same_context(first: Fence, second: Fence) -> bool:
    """One of them can stand for the other."""
    return first is second or first.context == second.context != NO_CONTEXT


def is_later(first: Fence, second: Fence) -> bool:
    """dma_fence_is_later; both must be of one context."""
    if first is second:
        return False
    if not same_context(first, second):
        text = f"{first.name} of context {first.context} is compared with {second.name} of {second.context}"
        raise PropertyFailed("fence", "INV-FEN-02", text)
    return seqno_is_later(first.seqno, second.seqno, wide=first.seqno64 or second.seqno64)


def is_later_or_same(first: Fence, second: Fence) -> bool:
    """dma_fence_is_later_or_same: ``first`` completes no earlier than ``second``."""
    return first is second or is_later(first, second)


def later(first: Fence, second: Fence) -> Fence | None:
    """dma_fence_later: the one that completes last; None when that one is signaled."""
    last = second if first is second or is_later(second, first) else first
    return None if last.is_signaled() else last
