"""drm_buddy: device memory in power-of-two blocks (pagemap section 3; conformance catalogue
drm_sched_kunit, section 3).

Blocks are aligned to their size.  Freed blocks merge with their buddy as far as they go, and the block
freed last is handed out first, so that a stale device address meets its new owner soon.

Two ways to ask: :meth:`Buddy.alloc` for what a driver of this model wants, and :meth:`Buddy.alloc_blocks`
with everything the kernel's function takes: a window, a smallest block, from the top, contiguous, cleared.

Simplified: the unit is the page (the kernel's chunk), and starts are page indices from the beginning of
the region.  When no single block is large enough for a contiguous request the kernel looks around free
blocks of half the size; here every run of free neighbours will do, so it never fails where the kernel
succeeds.  Nothing here is an op: the driver announces ``alloc`` or ``free``.
"""

from __future__ import annotations

import enum

from svm_actors.drm.buddy_free import Block, FreeBlocks, decompose
from svm_actors.engine.errors import EINVAL, ENOSPC, PropertyFailed

__all__ = ["MAX_ORDER", "Block", "Buddy", "BuddyFlags"]

MAX_ORDER = 51
"""DRM_BUDDY_MAX_ORDER: half of a 64-bit byte address space, in pages of 4 KiB."""


class BuddyFlags(enum.Flag):
    """How to allocate."""

    NONE = 0
    RANGE = enum.auto()
    """Blocks lie inside the window [start, end)."""
    TOPDOWN = enum.auto()
    """Prefer high addresses; has no effect together with RANGE."""
    CONTIGUOUS = enum.auto()
    """One run of pages."""
    CLEAR = enum.auto()
    """Prefer blocks known to be zero; without it they are spared."""
    TRIM_DISABLE = enum.auto()
    """Keep what rounding up added."""


class Buddy:
    """The allocator of one region of ``npages``; a size that is no power of two is several roots."""

    def __init__(self, npages: int) -> None:
        if not 0 < npages < 2 << MAX_ORDER:
            raise EINVAL
        self.npages = npages
        self._free = FreeBlocks(decompose(0, npages))
        self._used: dict[int, Block] = {}
        """Allocated blocks by start."""

    @property
    def max_order(self) -> int:
        """Order of the largest root."""
        return self._free.max_order

    # -- allocation --------------------------------------------------------------------

    def alloc(self, npages: int, contiguous: bool = True) -> list[Block]:
        """Blocks of exactly ``npages`` pages in all, ascending when contiguous.  -ENOSPC, -EINVAL for none."""
        if npages > self._free.pages:
            raise ENOSPC
        return self.alloc_blocks(npages, flags=BuddyFlags.CONTIGUOUS if contiguous else BuddyFlags.NONE)

    def alloc_blocks(
        self,
        npages: int,
        *,
        start: int = 0,
        end: int | None = None,
        min_block: int = 1,
        flags: BuddyFlags = BuddyFlags.NONE,
    ) -> list[Block]:
        """drm_buddy_alloc_blocks: ``npages`` in blocks of at least ``min_block`` pages, largest first.

        A window that the request fills exactly is taken as it is.  -EINVAL; -ENOSPC, with nothing taken.
        """
        end = self.npages if end is None else end
        if npages <= 0 or min_block.bit_count() != 1 or end > self.npages or start + npages > self.npages:
            raise EINVAL
        if start + npages == end:
            if (start | end) & (min_block - 1):
                raise EINVAL
            return self._book(self._exactly(start, end))
        rounded = _round_up(npages, min_block)
        smallest = min_block
        if BuddyFlags.CONTIGUOUS in flags:
            rounded = smallest = max(rounded, 1 << (npages - 1).bit_length())
        harder = BuddyFlags.CONTIGUOUS in flags and BuddyFlags.RANGE not in flags
        if rounded.bit_length() - 1 > self.max_order or rounded > self.npages:
            if not harder:
                raise EINVAL
            return self._book(self._neighbours(npages, min_block))
        try:
            blocks = self._collect(rounded, smallest.bit_length() - 1, start, end, flags)
        except ENOSPC:
            if not harder:
                raise
            return self._book(self._neighbours(npages, min_block))
        if npages < rounded and BuddyFlags.TRIM_DISABLE not in flags:
            blocks += self._trim(blocks.pop(), rounded - npages)
        return self._book(blocks)

    def _collect(self, npages: int, min_order: int, start: int, end: int, flags: BuddyFlags) -> list[Block]:
        """Largest blocks first; when none of the smallest size is left, merge by force."""
        blocks: list[Block] = []
        order = self.max_order
        while npages:
            order = min(order, npages.bit_length() - 1)
            block = self._pick(order, start, end, flags)
            if block is None and order > min_order:
                order -= 1
                continue
            if block is None and self._free.cleared_pages and self._free.force_merge(start, end, min_order):
                block = self._pick(order, start, end, flags)
            if block is None:
                for taken in blocks:
                    self._free.give(taken)
                raise ENOSPC
            blocks.append(block)
            npages -= block.npages
        return blocks

    def _pick(self, order: int, start: int, end: int, flags: BuddyFlags) -> Block | None:
        cleared = BuddyFlags.CLEAR in flags
        if BuddyFlags.RANGE in flags:
            return self._free.pick_inside(start, end, order, cleared)
        return self._free.pick(order, cleared, BuddyFlags.TOPDOWN in flags)

    def _exactly(self, start: int, end: int) -> list[Block]:
        """All pages of [start, end), in the blocks they are free in.  -ENOSPC when one is not."""
        covering = []
        page = start
        while page < end:
            block = self._free.containing(page)
            if block is None:
                raise ENOSPC
            covering.append(block)
            page = block.end
        return [
            part for block in covering for part in self._free.cut(block, max(start, block.start), min(end, block.end))
        ]

    def _neighbours(self, npages: int, alignment: int) -> list[Block]:
        """The lowest run of free pages that is long enough, cut to size (B4: no buddies needed).  -ENOSPC."""
        for start, end in self._free.runs():
            first = _round_up(start, alignment)
            if first + npages <= end:
                return self._exactly(first, first + npages)
        raise ENOSPC

    def _trim(self, block: Block, excess: int) -> list[Block]:
        """Keep the beginning of a block just taken, free its last ``excess`` pages."""
        self._free.add(block)
        return self._free.cut(block, block.start, block.end - excess)

    def _book(self, blocks: list[Block]) -> list[Block]:
        for block in blocks:
            self._used[block.start] = block
        return blocks

    # -- giving back -------------------------------------------------------------------

    def free(self, blocks: list[Block], cleared: bool = False) -> None:
        """Give blocks back, exactly once (RULE-41), zeroed by the caller or not; they merge with free neighbours."""
        for block in blocks:
            self._free.give(self._unbook(block)._replace(cleared=cleared))

    def trim(self, block: Block, npages: int) -> list[Block]:
        """drm_buddy_block_trim: keep the first ``npages`` of an allocated block, free the rest.  -EINVAL."""
        if not 0 < npages <= block.npages:
            raise EINVAL
        kept = self._unbook(block)
        for rest in decompose(kept.start + npages, kept.end):
            self._free.give(rest._replace(cleared=kept.cleared))
        return self._book([part._replace(cleared=kept.cleared) for part in decompose(kept.start, kept.start + npages)])

    def _unbook(self, block: Block) -> Block:
        used = self._used.get(block.start)
        if used is None or used.order != block.order:
            raise PropertyFailed(
                "lifetime", "RULE-41", f"block {block.start:#x}, order {block.order}, is freed but not in use"
            )
        return self._used.pop(block.start)

    def reset_clear(self, cleared: bool) -> None:
        """drm_buddy_reset_clear: all free memory is zero now, or none of it is (after suspend)."""
        for block in self._free.blocks(not cleared):
            self._free.take(block)
            self._free.give(block._replace(cleared=cleared))

    def fini(self) -> None:
        """drm_buddy_fini: every root is whole again; blocks still in use are a leak (RULE-41)."""
        if self._used:
            raise PropertyFailed("lifetime", "RULE-41", f"{len(self._used)} blocks are in use when the region ends")
        for root in self._free.roots:
            self._free.force_merge(root.start, root.end, root.order)

    # -- views -------------------------------------------------------------------------

    @property
    def cleared_pages(self) -> int:
        """Free pages known to be zero."""
        return self._free.cleared_pages

    def free_blocks(self) -> list[Block]:
        """Free blocks in address order."""
        return self._free.blocks()

    def used_blocks(self) -> list[Block]:
        """Allocated blocks in address order."""
        return [self._used[start] for start in sorted(self._used)]

    def statistics(self) -> dict[str, int]:
        """Pages free and in use, and the number of blocks in use; ``used`` is 0 at teardown."""
        free = self._free.pages
        return {"free": free, "used": self.npages - free, "blocks": len(self._used)}


def _round_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
