"""The buddy-allocator cases B1 to B6 of the catalogue drm_sched_kunit.

The unit of the model is the page: sizes that the suite gives in bytes are divided by the chunk size.
Nothing of the allocator is an op, so there is no schedule to vary; where the suite draws random numbers
many seeds are run instead.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from cases import case

from svm_actors.drm.buddy import MAX_ORDER, Block, Buddy, BuddyFlags
from svm_actors.engine.errors import EINVAL, ENOSPC

CHUNK = 4096
MIB = 1 << 20
SUITE = "drm_sched_kunit"
SEEDS = range(40)

CLEAR = BuddyFlags.CLEAR
CONTIGUOUS = BuddyFlags.CONTIGUOUS
RANGE = BuddyFlags.RANGE
TOPDOWN = BuddyFlags.TOPDOWN


def total(blocks: list[Block]) -> int:
    return sum(block.npages for block in blocks)


def refuses(buddy: Buddy, npages: int, **how: object) -> None:
    """The request fails and takes nothing."""
    before = buddy.statistics()
    with pytest.raises((ENOSPC, EINVAL)):
        buddy.alloc_blocks(npages, **how)
    assert buddy.statistics() == before


@case(SUITE, "B1", "alloc_limit", schedules=0)
def test_alloc_limit() -> None:
    buddy = Buddy((2**64 - 1) // CHUNK)
    assert buddy.max_order == MAX_ORDER == 51
    assert buddy.alloc_blocks(1 << MAX_ORDER) == [Block(0, MAX_ORDER)]
    assert Block(0, MAX_ORDER).npages == 2**MAX_ORDER
    with pytest.raises(EINVAL):
        Buddy(2**64 // CHUNK)


@case(SUITE, "B2", "alloc_optimistic", schedules=0)
def test_alloc_optimistic() -> None:
    buddy = Buddy(2**17 - 1)
    assert buddy.max_order == 16
    taken = [buddy.alloc_blocks(1 << order) for order in range(17)]
    assert [[block.order for block in blocks] for blocks in taken] == [[order] for order in range(17)]
    assert buddy.statistics() == {"free": 0, "used": 2**17 - 1, "blocks": 17}
    refuses(buddy, 1)
    for blocks in taken:
        buddy.free(blocks)
    buddy.fini()


@case(SUITE, "B3", "alloc_pessimistic", schedules=0)
def test_alloc_pessimistic() -> None:
    top = 16
    buddy = Buddy(1 << top)
    taken = [buddy.alloc_blocks(1 << order) for order in range(top)]
    last = buddy.alloc_blocks(1)
    for order in range(top + 1):
        refuses(buddy, 1 << order)
    buddy.free(last)
    for order, blocks in enumerate(taken):
        buddy.free(blocks)
        again = buddy.alloc_blocks(1 << order + 1)
        assert [block.order for block in again] == [order + 1]
        buddy.free(again)
    assert buddy.alloc_blocks(1 << top) == [Block(0, top)]


@case(SUITE, "B4", "alloc_contiguous", schedules=0)
def test_alloc_contiguous() -> None:
    buddy = Buddy(16 * 3)
    thirds: tuple[list[Block], list[Block], list[Block]] = ([], [], [])
    for number in range(16 * 3):
        thirds[number % 3].extend(buddy.alloc_blocks(1))
    left, middle, right = thirds
    refuses(buddy, 3, flags=CONTIGUOUS)

    buddy.free(middle)
    refuses(buddy, 3, flags=CONTIGUOUS)
    refuses(buddy, 2, flags=CONTIGUOUS)

    buddy.free(right)
    refuses(buddy, 3, flags=CONTIGUOUS)
    pair = buddy.alloc_blocks(2, flags=CONTIGUOUS)

    buddy.free(left)
    three = buddy.alloc_blocks(3, flags=CONTIGUOUS)
    assert total(pair) + total(three) == 5
    for blocks in (pair, three):
        assert all(first.end == second.start for first, second in pairwise(blocks))
    buddy.free(pair + three)
    buddy.fini()


def test_alloc_contiguous_needs_no_buddies() -> None:
    """The point of B4's last steps, whichever of the pairs is found there: pages 1 and 2 have different parents."""
    buddy = Buddy(4)
    pages = [buddy.alloc_blocks(1)[0] for _ in range(4)]
    buddy.free(pages[1:3])
    assert buddy.free_blocks() == [Block(1, 0), Block(2, 0)]
    refuses(buddy, 2, min_block=2)
    assert buddy.alloc_blocks(2, flags=CONTIGUOUS) == [Block(1, 0), Block(2, 0)]


# -- B5: cleared memory ------------------------------------------------------------------


@case(SUITE, "B5", "alloc_clear", schedules=0)
def test_alloc_clear() -> None:
    prefers_the_kind_asked_for_and_then_makes_do()
    merges_kinds_by_force()
    fini_merges_each_root()


def prefers_the_kind_asked_for_and_then_makes_do() -> None:
    """Parts a and b."""
    buddy = Buddy(1 << 12)
    five = buddy.alloc_blocks(5, flags=TOPDOWN)
    assert max(block.end for block in five) == buddy.npages
    buddy.free(five, cleared=True)
    assert buddy.cleared_pages == 5
    clean: list[Block] = []
    dirty: list[Block] = []
    for number in range(10):
        wanted = (dirty, clean)[number % 2]
        wanted.extend(buddy.alloc_blocks(1, flags=CLEAR if wanted is clean else BuddyFlags.NONE))
    assert len(clean) == len(dirty) == 5
    assert all(block.cleared for block in clean)
    assert not any(block.cleared for block in dirty)

    buddy.free(clean, cleared=True)
    ten = buddy.alloc_blocks(10, flags=CLEAR)
    assert total(ten) == 10
    assert {block.cleared for block in ten} == {False, True}
    buddy.free(dirty)
    buddy.free(ten)
    buddy.fini()


def merges_kinds_by_force() -> None:
    """Part c: every second page is cleared, so nothing merges by itself."""
    top = 12
    buddy = Buddy(1 << top)
    halves: tuple[list[Block], list[Block]] = ([], [])
    for number in range(1 << top):
        halves[number % 2].extend(buddy.alloc_blocks(1))
    buddy.free(halves[0], cleared=True)
    buddy.free(halves[1])
    assert {block.order for block in buddy.free_blocks()} == {0}
    for order in range(1, top + 1):
        blocks = buddy.alloc_blocks(1 << order, min_block=1 << order, flags=CLEAR)
        assert total(blocks) == 1 << order
        if order < top:
            assert not any(block.cleared for block in blocks)
        buddy.free(blocks)
    buddy.fini()


def fini_merges_each_root() -> None:
    """Part d: two roots, each of them half cleared."""
    low, high = 1 << 12, 1 << 10
    buddy = Buddy(low + high)
    roots = buddy.free_blocks()
    assert [root.npages for root in roots] == [low, high]
    first = buddy.alloc_blocks(low >> 1, start=0, end=low >> 1, flags=RANGE)
    second = buddy.alloc_blocks(high >> 1, start=low, end=low + (high >> 1), flags=RANGE)
    buddy.free(first + second, cleared=True)
    assert len(buddy.free_blocks()) == 4
    buddy.fini()
    assert buddy.free_blocks() == roots


# -- B6: windows -------------------------------------------------------------------------


@case(SUITE, "B6", "alloc_range_bias", schedules=0)
@pytest.mark.parametrize("seed", SEEDS)
def test_alloc_range_bias(seed: int) -> None:
    random = Random(f"alloc_range_bias/{seed}")
    chunk = 1 << random.randint(12, 20)
    buddy = Buddy((8 * MIB - 1) // chunk)
    window = MIB // chunk
    starts = [start * window for start in range(buddy.npages // window)]
    random.shuffle(starts)
    kept = [block for start in starts for block in one_window(buddy, start, start + window, random)]
    buddy.free(kept)
    buddy.fini()

    free_form(buddy, random)

    fresh = Buddy(buddy.npages)
    blocks = fresh.alloc_blocks(window, start=window, end=min(3 * window, fresh.npages), flags=CLEAR | RANGE)
    assert total(blocks) == window
    assert not any(block.cleared for block in blocks)
    inside(blocks, window, 3 * window)


def inside(blocks: list[Block], start: int, end: int) -> None:
    assert all(start <= block.start and block.end <= end for block in blocks)


def one_window(buddy: Buddy, start: int, end: int, random: Random) -> list[Block]:
    """The fixed questions about one window of 1 MiB; answers what it kept."""
    size = end - start
    refuses(buddy, size + 1, start=start, end=end, min_block=size, flags=RANGE)
    refuses(buddy, size + 1, start=start, end=end, flags=RANGE)
    refuses(buddy, size, start=start + 1, end=end, flags=RANGE)
    refuses(buddy, size >> 1, start=start + 1, end=end - 1, min_block=size >> 1, flags=RANGE)
    for npages in (size, 1):
        blocks = buddy.alloc_blocks(npages, start=start, end=end, min_block=size, flags=RANGE)
        assert total(blocks) == npages
        inside(blocks, start, end)
        buddy.free(blocks)

    kept = buddy.alloc_blocks(random.randint(1, size), start=start, end=end, flags=RANGE)
    rest = size - total(kept)
    refuses(buddy, rest + 1, start=start, end=end, flags=RANGE)
    if rest:
        kept += buddy.alloc_blocks(random.randint(1, rest), start=start, end=end, flags=RANGE)
    inside(kept, start, end)
    return kept


def free_form(buddy: Buddy, random: Random) -> None:
    """A window that grows on both sides until it covers everything, and is always full."""
    start = random.randint(0, buddy.npages - 1)
    end = random.randint(start + 1, buddy.npages)
    kept: list[Block] = []
    while True:
        while room := end - start - total(kept):
            blocks = buddy.alloc_blocks(random.randint(1, room), start=start, end=end, flags=RANGE)
            inside(blocks, start, end)
            kept += blocks
        refuses(buddy, 1, start=start, end=end, flags=RANGE)
        if (start, end) == (0, buddy.npages):
            break
        start = random.randint(0, start)
        end = random.randint(end, buddy.npages)
    refuses(buddy, 1)
    buddy.free(kept)
    buddy.fini()
