"""drm_buddy with everything the kernel's function takes, against a map of pages: used, cleared or dirty."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from svm_actors.drm.buddy import Block, Buddy, BuddyFlags
from svm_actors.drm.buddy_free import FreeBlocks, decompose
from svm_actors.engine.errors import EINVAL, ENOSPC, PropertyFailed

CLEAR = BuddyFlags.CLEAR
CONTIGUOUS = BuddyFlags.CONTIGUOUS
NONE = BuddyFlags.NONE
RANGE = BuddyFlags.RANGE
TOPDOWN = BuddyFlags.TOPDOWN
TRIM_DISABLE = BuddyFlags.TRIM_DISABLE

sizes = st.integers(1, 40)
powers = st.sampled_from([1, 1, 1, 2, 4, 8])
flags = st.sampled_from([NONE, CLEAR, TOPDOWN, CONTIGUOUS, CONTIGUOUS | CLEAR, CONTIGUOUS | TOPDOWN, CLEAR | TOPDOWN])


def pages(blocks: list[Block]) -> list[int]:
    """Every page of the blocks, in the order of the blocks."""
    return [page for block in blocks for page in range(block.start, block.end)]


def round_up(value: int, to: int) -> int:
    return -(-value // to) * to


class BlocksMachine(RuleBasedStateMachine):
    """Random requests; the model knows of each page whether it is used and whether it was zero when freed."""

    held = Bundle("held")

    @initialize(npages=st.integers(1, 100))
    def create(self, npages: int) -> None:
        self.buddy = Buddy(npages)
        self.free: dict[int, bool] = dict.fromkeys(range(npages), False)
        """Free pages, and what is known of them at most: forced merges forget."""

    def aligned_run(self, npages: int, start: int, end: int, alignment: int) -> bool:
        """Some aligned run of free pages inside [start, end)."""
        return any(
            all(page in self.free for page in range(first, first + npages))
            for first in range(round_up(start, alignment), end - npages + 1, alignment)
        )

    def took(self, blocks: list[Block], npages: int, min_block: int, start: int, end: int) -> None:
        """What holds of every answer."""
        got = pages(blocks)
        assert len(got) == len(set(got)) == npages
        assert all(start <= page < end for page in got)
        assert all(block.start % block.npages == 0 for block in blocks)
        assert sum(block.npages < min_block for block in blocks) <= npages % min_block
        for block in blocks:
            for page in pages([block]):
                assert self.free.pop(page) >= block.cleared

    @rule(target=held, npages=sizes, min_block=powers, flags=flags)
    def alloc(self, npages: int, min_block: int, flags: BuddyFlags) -> list[Block]:
        whole = self.buddy.npages
        contiguous = CONTIGUOUS in flags
        try:
            blocks = self.buddy.alloc_blocks(npages, min_block=min_block, flags=flags)
        except (ENOSPC, EINVAL):
            if npages < whole:
                rounded = round_up(npages, min_block)
                if contiguous:
                    assert not self.aligned_run(npages, 0, whole, min_block)
                else:
                    # It fails only when there are not so many aligned blocks of the smallest size.
                    fit = sum(
                        all(page in self.free for page in range(first, first + min_block))
                        for first in range(0, whole - min_block + 1, min_block)
                    )
                    assert fit * min_block < rounded
            return []
        if contiguous:
            assert pages(blocks) == list(range(blocks[0].start, blocks[0].start + npages))
            assert blocks[0].start % min_block == 0
        self.took(blocks, npages, 1 if contiguous else min_block, 0, whole)
        return blocks

    @rule(target=held, npages=sizes, start=st.integers(0, 99), length=sizes, min_block=powers, clear=st.booleans())
    def alloc_inside(self, npages: int, start: int, length: int, min_block: int, clear: bool) -> list[Block]:
        end = start + length
        try:
            blocks = self.buddy.alloc_blocks(
                npages, start=start, end=end, min_block=min_block, flags=RANGE | CLEAR if clear else RANGE
            )
        except EINVAL:
            assert end > self.buddy.npages or start + npages >= end or round_up(npages, min_block) > length
            return []
        except ENOSPC:
            fit = sum(
                all(page in self.free for page in range(first, first + min_block))
                for first in range(round_up(start, min_block), end - min_block + 1, min_block)
            )
            assert fit * min_block < round_up(npages, min_block)
            return []
        self.took(blocks, npages, min_block, start, end)
        return blocks

    @rule(blocks=consumes(held), cleared=st.booleans())
    def give_back(self, blocks: list[Block], cleared: bool) -> None:
        self.buddy.free(blocks, cleared)
        self.free.update(dict.fromkeys(pages(blocks), cleared))

    @rule(target=held, blocks=consumes(held), keep=sizes)
    def trim(self, blocks: list[Block], keep: int) -> list[Block]:
        if not blocks:
            return []
        *rest, last = blocks
        if keep > last.npages:
            with pytest.raises(EINVAL):
                self.buddy.trim(last, keep)
            return blocks
        kept = self.buddy.trim(last, keep)
        assert pages(kept) == pages([last])[:keep]
        self.free.update(dict.fromkeys(pages([last])[keep:], last.cleared))
        return rest + kept

    @rule(cleared=st.booleans())
    def reset_clear(self, cleared: bool) -> None:
        self.buddy.reset_clear(cleared)
        assert self.buddy.cleared_pages == len(self.free) * cleared
        self.free = dict.fromkeys(self.free, cleared)

    @invariant()
    def free_pages_agree(self) -> None:
        blocks = self.buddy.free_blocks()
        assert pages(blocks) == sorted(self.free)
        assert all(self.free[page] >= block.cleared for block in blocks for page in pages([block]))
        assert self.buddy.cleared_pages == sum(block.npages for block in blocks if block.cleared)

    @invariant()
    def free_buddies_of_one_kind_are_merged(self) -> None:
        free = set(self.buddy.free_blocks())
        for block in sorted(free):
            assert block._replace(start=block.start ^ block.npages) not in free

    def teardown(self) -> None:
        if not hasattr(self, "buddy"):
            return
        if self.buddy.used_blocks():
            with pytest.raises(PropertyFailed, match="RULE-41"):
                self.buddy.fini()
            self.buddy.free(self.buddy.used_blocks(), cleared=True)
        self.buddy.fini()
        whole = [block._replace(cleared=False) for block in self.buddy.free_blocks()]
        assert whole == decompose(0, self.buddy.npages)


BlocksMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestBlocksMachine = BlocksMachine.TestCase


# -- one thing at a time -------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(0, 200))
def test_decompose_is_the_shortest_list_of_aligned_blocks(start: int, length: int) -> None:
    blocks = decompose(start, start + length)
    assert pages(blocks) == list(range(start, start + length))
    assert all(block.start % block.npages == 0 for block in blocks)
    # Two neighbours of one size that are buddies would be one block.
    for first, second in pairwise(blocks):
        assert not (first.order == second.order and first.start % (2 * first.npages) == 0)


def test_topdown_takes_the_end_of_the_highest_block() -> None:
    buddy = Buddy(12)
    assert buddy.alloc_blocks(1, flags=TOPDOWN) == [Block(11, 0)]
    assert buddy.alloc_blocks(4, flags=TOPDOWN) == [Block(4, 2)]
    assert buddy.alloc_blocks(1) == [Block(10, 0)]
    assert buddy.alloc_blocks(2, flags=TOPDOWN) == [Block(8, 1)]


def test_a_smallest_block_rounds_up_and_the_excess_goes_back() -> None:
    buddy = Buddy(16)
    assert buddy.alloc_blocks(5, min_block=4) == [Block(0, 2), Block(4, 0)]
    assert buddy.statistics()["used"] == 5
    assert buddy.alloc_blocks(5, min_block=4, flags=TRIM_DISABLE) == [Block(8, 3)]
    assert buddy.statistics()["used"] == 13


def test_a_window_filled_exactly_is_taken_piece_by_piece() -> None:
    buddy = Buddy(16)
    buddy.alloc_blocks(1, start=0, end=1, flags=RANGE)
    assert buddy.alloc_blocks(6, start=1, end=7) == [Block(1, 0), Block(2, 1), Block(4, 1), Block(6, 0)]
    with pytest.raises(ENOSPC):
        buddy.alloc_blocks(3, start=6, end=9)
    with pytest.raises(EINVAL):
        buddy.alloc_blocks(6, start=9, end=15, min_block=2)


def test_neighbours_are_aligned_to_the_smallest_block() -> None:
    """The power of two above it is not there; a run that is long enough begins at 1, but 2 is where it may begin."""
    buddy = Buddy(8)
    singles = [buddy.alloc_blocks(1)[0] for _ in range(8)]
    buddy.free(singles[1:5])
    assert buddy.alloc_blocks(3, min_block=2, flags=CONTIGUOUS) == [Block(2, 1), Block(4, 0)]
    assert buddy.free_blocks() == [Block(1, 0)]


def test_trimming_keeps_what_is_known() -> None:
    buddy = Buddy(8)
    buddy.reset_clear(True)
    (whole,) = buddy.alloc_blocks(8, flags=CLEAR)
    assert buddy.trim(whole, 3) == [Block(0, 1, True), Block(2, 0, True)]
    assert buddy.free_blocks() == [Block(3, 0, True), Block(4, 2, True)]
    with pytest.raises(EINVAL):
        buddy.trim(Block(0, 1), 0)


def test_inside_a_window_the_lowest_place_is_taken() -> None:
    buddy = Buddy(32)
    assert buddy.alloc_blocks(4, start=5, end=20, flags=RANGE) == [Block(8, 2)]
    assert buddy.alloc_blocks(1, start=5, end=20, flags=RANGE) == [Block(5, 0)]
    # TOPDOWN changes nothing there.
    assert buddy.alloc_blocks(1, start=5, end=20, flags=RANGE | TOPDOWN) == [Block(6, 0)]


def test_what_is_cleared_is_spared_unless_asked_for() -> None:
    buddy = Buddy(8)
    first = buddy.alloc_blocks(4)
    buddy.free(first, cleared=True)
    assert buddy.free_blocks() == [Block(0, 2, True), Block(4, 2)]
    assert buddy.alloc_blocks(1) == [Block(4, 0)]
    assert buddy.alloc_blocks(2, flags=CLEAR) == [Block(0, 1, True)]
    assert buddy.alloc_blocks(4, flags=NONE) == [Block(6, 1), Block(2, 1, True)]


def test_kinds_are_merged_only_when_there_is_no_other_way() -> None:
    buddy = Buddy(4)
    blocks = [buddy.alloc_blocks(1)[0] for _ in range(4)]
    buddy.free(blocks[:1], cleared=True)
    buddy.free(blocks[1:])
    assert buddy.free_blocks() == [Block(0, 0, True), Block(1, 0), Block(2, 1)]
    assert buddy.alloc_blocks(2, min_block=2) == [Block(2, 1)]
    assert buddy.cleared_pages == 1
    assert buddy.alloc_blocks(2, min_block=2, flags=CLEAR) == [Block(0, 1)]
    assert buddy.cleared_pages == 0


def test_a_forced_merge_stays_inside_the_window() -> None:
    free = FreeBlocks(decompose(0, 8))
    (whole,) = free.blocks()
    free.take(whole)
    for page in range(8):
        free.add(Block(page, 0, page % 2 == 0))
    assert free.force_merge(4, 8, 1)
    assert sorted(block.order for block in free.blocks()) == [0] * 6 + [1]
    assert free.buddy(Block(0, 0)) == Block(1, 0)
    assert not free.force_merge(4, 8, 3)
    assert free.blocks()[-1] == Block(4, 2)


def test_a_failed_request_gives_back_what_it_had_taken() -> None:
    buddy = Buddy(16)
    buddy.alloc_blocks(1)
    before = buddy.free_blocks()
    with pytest.raises(ENOSPC):
        buddy.alloc_blocks(14, min_block=2, start=0, end=15, flags=RANGE)
    assert buddy.free_blocks() == before


@pytest.mark.parametrize(
    "how",
    [
        {"npages": 0},
        {"npages": 17},
        {"npages": 4, "min_block": 3},
        {"npages": 4, "min_block": 0},
        {"npages": 4, "end": 17},
        {"npages": 4, "start": 13},
        {"npages": 9, "min_block": 32},
    ],
)
def test_requests_that_make_no_sense(how: dict[str, int]) -> None:
    with pytest.raises(EINVAL):
        Buddy(16).alloc_blocks(**how)
