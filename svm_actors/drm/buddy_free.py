"""Free blocks of the buddy allocator (conformance catalogue drm_sched_kunit, section 3).

For every order two stacks of starts: dirty blocks and cleared ones.  Two free buddies of the same kind
never exist side by side: they are merged.  Buddies of different kinds stay apart, so that cleared memory
is not lost, until somebody needs a larger block and forces the merge; the result counts as dirty.

Simplified: the kernel keeps a tree of split blocks and sorts free ones by address.  Here a buddy is found
by its address alone, and the block freed last is handed out first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """``2**order`` pages, aligned to that."""

    start: int
    """First page."""
    order: int
    """Size as a power of two."""
    cleared: bool = False
    """Known to hold zeroes; of a block in use, what was known when it was handed out."""

    @property
    def npages(self) -> int:
        """Size in pages."""
        return 1 << self.order

    @property
    def end(self) -> int:
        """One past the last page."""
        return self.start + (1 << self.order)


class FreeBlocks:
    """What is free, by order and kind."""

    def __init__(self, roots: list[Block]) -> None:
        self.roots = roots
        self.max_order = roots[0].order
        self._starts: tuple[list[dict[int, None]], ...] = tuple(
            [{} for _ in range(self.max_order + 1)] for _kind in ("dirty", "cleared")
        )
        """Starts by kind and order; a dict is used as a stack that anything can be taken out of."""
        self.pages = 0
        """Free pages in all."""
        self.cleared_pages = 0
        """Those of them that are known to be zero."""
        for root in roots:
            self.add(root)

    # -- one block -------------------------------------------------------------------

    def add(self, block: Block) -> None:
        """Put a block in as it is; the caller knows that it has no free buddy of its kind."""
        self._starts[block.cleared][block.order][block.start] = None
        self.pages += block.npages
        self.cleared_pages += block.npages * block.cleared

    def take(self, block: Block) -> None:
        """Take exactly this block out."""
        del self._starts[block.cleared][block.order][block.start]
        self.pages -= block.npages
        self.cleared_pages -= block.npages * block.cleared

    def find(self, start: int, order: int) -> Block | None:
        """The free block of this order that begins there, of either kind."""
        if order <= self.max_order:
            for cleared in (False, True):
                if start in self._starts[cleared][order]:
                    return Block(start, order, cleared)
        return None

    def containing(self, page: int) -> Block | None:
        """The free block that a page lies in."""
        for order in range(self.max_order + 1):
            block = self.find(page & -(1 << order), order)
            if block is not None:
                return block
        return None

    def buddy(self, block: Block) -> Block | None:
        """The free block it would merge with.

        A root has none: where its buddy would be there are only smaller roots, or nothing.
        """
        return self.find(block.start ^ block.npages, block.order)

    # -- merging ---------------------------------------------------------------------

    def give(self, block: Block, force: bool = False) -> Block:
        """Put a block in, merged as far as it goes.  ``force`` merges kinds too and gives up what is known."""
        while (buddy := self.buddy(block)) is not None and (force or buddy.cleared == block.cleared):
            self.take(buddy)
            cleared = block.cleared and buddy.cleared
            block = Block(min(block.start, buddy.start), block.order + 1, cleared)
        self.add(block)
        return block

    def force_merge(self, start: int, end: int, order: int) -> bool:
        """Merge buddies of different kinds inside [start, end) until there is a block of this order."""
        for smaller in range(min(order, self.max_order + 1) - 1, -1, -1):
            for first in [*self._starts[0][smaller], *self._starts[1][smaller]]:
                block = self.find(first, smaller)
                if block is None or block.start < start or block.end > end or self.buddy(block) is None:
                    continue
                self.take(block)
                if self.give(block, force=True).order >= order:
                    return True
        return False

    # -- cutting ---------------------------------------------------------------------

    def pick(self, order: int, cleared: bool, top: bool) -> Block | None:
        """Take a block of exactly this order from anywhere.

        The kind asked for comes first, in whatever size it is there, then the other one; of one kind the
        smallest block that is large enough, or with ``top`` the highest one.
        """
        for kind in (cleared, not cleared):
            block = self._highest(order, kind) if top else self._smallest(order, kind)
            if block is not None:
                where = block.end - (1 << order) if top else block.start
                return self.cut(block, where, where + (1 << order))[0]
        return None

    def _smallest(self, order: int, cleared: bool) -> Block | None:
        for larger in range(order, self.max_order + 1):
            if self._starts[cleared][larger]:
                return Block(next(reversed(self._starts[cleared][larger])), larger, cleared)
        return None

    def _highest(self, order: int, cleared: bool) -> Block | None:
        fitting = [
            Block(max(self._starts[cleared][larger]), larger, cleared)
            for larger in range(order, self.max_order + 1)
            if self._starts[cleared][larger]
        ]
        return max(fitting, default=None)

    def pick_inside(self, start: int, end: int, order: int, cleared: bool) -> Block | None:
        """Take the lowest block of exactly this order inside [start, end), of the kind asked for if there is one."""
        size = 1 << order
        for kind in (cleared, not cleared):
            for block in self.blocks(kind):
                where = -(-max(block.start, start) // size) * size
                if where + size <= min(block.end, end):
                    return self.cut(block, where, where + size)[0]
        return None

    def cut(self, block: Block, start: int, end: int) -> list[Block]:
        """Take pages [start, end) out of a free block; the rest of it stays free."""
        self.take(block)
        for rest in (*decompose(block.start, start), *decompose(end, block.end)):
            self.add(rest._replace(cleared=block.cleared))
        return [part._replace(cleared=block.cleared) for part in decompose(start, end)]

    # -- views -----------------------------------------------------------------------

    def blocks(self, cleared: bool | None = None) -> list[Block]:
        """Free blocks in address order, of one kind or of both."""
        return sorted(
            Block(start, order, kind)
            for kind in ((False, True) if cleared is None else (cleared,))
            for order, starts in enumerate(self._starts[kind])
            for start in starts
        )

    def runs(self) -> Iterator[tuple[int, int]]:
        """Longest stretches [start, end) of free pages, whatever blocks they are in."""
        start = end = -1
        for block in self.blocks():
            if block.start != end:
                if end > start:
                    yield start, end
                start = block.start
            end = block.end
        if end > start:
            yield start, end


def decompose(start: int, end: int) -> list[Block]:
    """[start, end) as the fewest blocks that are aligned to their size, ascending."""
    blocks = []
    while start < end:
        order = (end - start).bit_length() - 1
        if start:
            order = min(order, (start & -start).bit_length() - 1)
        blocks.append(Block(start, order))
        start += 1 << order
    return blocks
