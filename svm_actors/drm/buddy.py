"""drm_buddy: device memory in power-of-two blocks (pagemap section 3, contiguous buffers).

Blocks are aligned to their size.  Freed blocks merge with their buddy as far as they go, and the block
freed last is handed out first, so that a stale device address meets its new owner soon.

Simplified: no ranges or bias, no split into cleared and dirty blocks (every buffer is cleared by a job),
and no list of blocks per buffer other than the one returned.  Sizes are pages, starts are page indices
from the beginning of the region.  Nothing here is an op: the driver announces ``alloc`` or ``free``.
"""

from __future__ import annotations

from typing import NamedTuple

from svm_actors.engine.errors import EINVAL, ENOSPC, PropertyFailed


class Block(NamedTuple):
    """``2**order`` pages, aligned to that."""

    start: int
    """First page."""
    order: int
    """Size as a power of two."""

    @property
    def npages(self) -> int:
        """Size in pages."""
        return 1 << self.order

    @property
    def end(self) -> int:
        """One past the last page."""
        return self.start + (1 << self.order)


class Buddy:
    """The allocator of one region of ``npages``; a size that is no power of two is several roots."""

    def __init__(self, npages: int) -> None:
        if npages <= 0:
            raise EINVAL
        self.npages = npages
        self._free: list[dict[int, None]] = [{} for _ in range(npages.bit_length())]
        """Starts of free blocks by order; a dict is used as a stack that anything can be taken out of."""
        self._used: dict[int, int] = {}
        """Allocated blocks: start to order."""
        self._available = npages
        for root in _decompose(0, npages):
            self._free[root.order][root.start] = None

    # -- allocation --------------------------------------------------------------------

    def alloc(self, npages: int, contiguous: bool = True) -> list[Block]:
        """Blocks of exactly ``npages`` pages in all, ascending when contiguous.  -ENOSPC, -EINVAL for none."""
        if npages <= 0:
            raise EINVAL
        if npages > self._available:
            raise ENOSPC
        blocks = self._contiguous(npages) if contiguous else self._scattered(npages)
        for block in blocks:
            self._used[block.start] = block.order
        self._available -= npages
        return blocks

    def free(self, blocks: list[Block]) -> None:
        """Give blocks back, exactly once (RULE-41); they merge with free neighbours."""
        for start, order in blocks:
            if self._used.get(start) != order:
                raise PropertyFailed("lifetime", "RULE-41", f"block {start:#x}, order {order}, is freed but not in use")
            del self._used[start]
            self._available += 1 << order
            self._merge(start, order)

    def _contiguous(self, npages: int) -> list[Block]:
        order = (npages - 1).bit_length()
        start = self._carve(order)
        if start is not None:
            return self._trim(Block(start, order), npages)
        # As the kernel does when no block is large enough: neighbours that are free together will do.
        return self._neighbours(npages)

    def _scattered(self, npages: int) -> list[Block]:
        """Largest blocks first; the caller made sure that enough pages are free."""
        blocks: list[Block] = []
        order = npages.bit_length() - 1
        while npages:
            order = min(order, npages.bit_length() - 1)
            start = self._carve(order)
            if start is None:
                order -= 1
                continue
            blocks.append(Block(start, order))
            npages -= 1 << order
        return blocks

    def _carve(self, order: int) -> int | None:
        """Take a block of exactly this order, splitting the smallest one that is large enough."""
        for larger in range(order, len(self._free)):
            if self._free[larger]:
                start, _ = self._free[larger].popitem()
                for half in range(larger - 1, order - 1, -1):
                    self._free[half][start + (1 << half)] = None
                return start
        return None

    def _trim(self, block: Block, npages: int) -> list[Block]:
        """Keep the first ``npages`` of a block, free the rest."""
        kept = _decompose(block.start, npages)
        for rest in _decompose_up(block.start + npages, block.end):
            self._free[rest.order][rest.start] = None
        return kept

    def _neighbours(self, npages: int) -> list[Block]:
        """The lowest run of adjacent free blocks that is long enough, cut to size.  -ENOSPC."""
        run: list[Block] = []
        length = 0
        for block in self.free_blocks():
            if run and run[-1].end != block.start:
                run, length = [], 0
            run.append(block)
            length += block.npages
            if length >= npages:
                for member in run:
                    del self._free[member.order][member.start]
                last = run.pop()
                return run + self._trim(last, npages - (length - last.npages))
        raise ENOSPC

    def _merge(self, start: int, order: int) -> None:
        # A root stops here too: where its buddy would be there are only smaller roots, or nothing.
        while (buddy := start ^ (1 << order)) in self._free[order]:
            del self._free[order][buddy]
            start = min(start, buddy)
            order += 1
        self._free[order][start] = None

    # -- views -------------------------------------------------------------------------

    def free_blocks(self) -> list[Block]:
        """Free blocks in address order."""
        return sorted(Block(start, order) for order, starts in enumerate(self._free) for start in starts)

    def used_blocks(self) -> list[Block]:
        """Allocated blocks in address order."""
        return sorted(Block(start, order) for start, order in self._used.items())

    def statistics(self) -> dict[str, int]:
        """Pages free and in use, and the number of blocks in use; ``used`` is 0 at teardown."""
        return {"free": self._available, "used": self.npages - self._available, "blocks": len(self._used)}


def _decompose(start: int, npages: int) -> list[Block]:
    """``npages`` from a start aligned for them, as blocks of falling size."""
    blocks = []
    while npages:
        order = npages.bit_length() - 1
        blocks.append(Block(start, order))
        start += 1 << order
        npages -= 1 << order
    return blocks


def _decompose_up(start: int, end: int) -> list[Block]:
    """[start, end) as blocks of rising size; ``end`` is aligned for the largest."""
    blocks = []
    while start < end:
        order = (start & -start).bit_length() - 1
        blocks.append(Block(start, order))
        start += 1 << order
    return blocks
