"""xe_range_fence: which spans of a page table have an update under way (vm_bind section 6, VMB-R10).

Updates of one bind queue are in order anyway; those of different queues are not.  Two of them that touch
the same page-table node must be, so a later one depends on the fences found here.  A span is widened to
what the nodes it touches cover, hence two ranges that have nothing in common may conflict.

Entries are reaped lazily, when the next one is inserted.
"""

from __future__ import annotations

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.engine import Engine

NODE_PAGES = 512
"""What one page-table node covers."""


@attrs.define(eq=False)
class RangeFence:
    """One update that is not through."""

    start: int
    """First page."""
    end: int
    """One past the last page."""
    fence: Fence
    """Of the job; holds a reference."""


class RangeFenceTree:
    """Of one VM (and tile); protected by the VM's reservation."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.entries: list[RangeFence] = []
        """In order of insertion."""

    @staticmethod
    def widen(start: int, end: int) -> tuple[int, int]:
        """VMB-R10: conflicts are found node by node, not page by page."""
        return start // NODE_PAGES * NODE_PAGES, -(-end // NODE_PAGES) * NODE_PAGES

    def insert(self, start: int, end: int, fence: Fence) -> None:
        """xe_range_fence_insert: a fence that has signaled is not kept, nor is its reference (VMB-B24)."""
        self._reap()
        if not fence.is_signaled():
            self.entries.append(RangeFence(*self.widen(start, end), fence.get()))

    def overlapping(self, start: int, end: int) -> list[Fence]:
        """VMB-R10: unsignaled fences of overlapping updates, oldest first."""
        first, last = self.widen(start, end)
        return [
            entry.fence
            for entry in self.entries
            if entry.start < last and first < entry.end and not entry.fence.is_signaled()
        ]

    def _reap(self) -> None:
        kept = []
        for entry in self.entries:
            if entry.fence.is_signaled():
                entry.fence.put()
            else:
                kept.append(entry)
        self.entries = kept

    def fini(self) -> None:
        """xe_range_fence_tree_fini: the VM goes."""
        for entry in self.entries:
            entry.fence.put()
        self.entries.clear()
