"""drm_buddy: no overlap, natural alignment, full merge, -ENOSPC exactly when there is no room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from svm_actors.drm.buddy import Block, Buddy
from svm_actors.engine.errors import EINVAL, ENOSPC, PropertyFailed


def pages(blocks: list[Block]) -> list[int]:
    """Every page of the blocks, in the order of the blocks."""
    return [page for block in blocks for page in range(block.start, block.end)]


def longest_run(buddy: Buddy) -> int:
    """Length of the longest run of free pages, whatever blocks they are in."""
    best = length = 0
    end = -1
    for block in buddy.free_blocks():
        length = length + block.npages if block.start == end else block.npages
        end = block.end
        best = max(best, length)
    return best


class BuddyMachine(RuleBasedStateMachine):
    """Random allocations and frees against what any allocator of pages must keep true."""

    held = Bundle("held")

    @initialize(npages=st.integers(1, 100))
    def create(self, npages: int) -> None:
        self.buddy = Buddy(npages)
        self.live: list[list[Block]] = []

    @rule(target=held, npages=st.integers(1, 40), contiguous=st.booleans())
    def alloc(self, npages: int, contiguous: bool) -> list[Block]:
        room = longest_run(self.buddy) if contiguous else self.buddy.statistics()["free"]
        if npages > room:
            before = self.buddy.free_blocks()
            with pytest.raises(ENOSPC):
                self.buddy.alloc(npages, contiguous)
            assert self.buddy.free_blocks() == before
            return []
        blocks = self.buddy.alloc(npages, contiguous)
        got = pages(blocks)
        assert len(got) == npages
        if contiguous:
            assert got == list(range(got[0], got[0] + npages))
        self.live.append(blocks)
        return blocks

    @rule(blocks=consumes(held))
    def free(self, blocks: list[Block]) -> None:
        if blocks:
            self.buddy.free(blocks)
            self.live.remove(blocks)

    @invariant()
    def every_page_is_in_exactly_one_block(self) -> None:
        used = [block for blocks in self.live for block in blocks]
        free = self.buddy.free_blocks()
        assert sorted(pages(used) + pages(free)) == list(range(self.buddy.npages))
        assert self.buddy.used_blocks() == sorted(used)
        assert all(block.start % block.npages == 0 for block in used + free)

    @invariant()
    def free_buddies_are_merged(self) -> None:
        free = set(self.buddy.free_blocks())
        for block in sorted(free):
            buddy = Block(block.start ^ block.npages, block.order)
            whole = (min(block.start, buddy.start) // (2 * block.npages)) * 2 * block.npages
            same_root = whole + 2 * block.npages <= self.buddy.npages
            assert buddy not in free or not same_root

    @invariant()
    def statistics_agree(self) -> None:
        used = sum(len(pages(blocks)) for blocks in self.live)
        assert self.buddy.statistics() == {
            "free": self.buddy.npages - used,
            "used": used,
            "blocks": sum(map(len, self.live)),
        }


BuddyMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBuddyMachine = BuddyMachine.TestCase


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=12), st.randoms())
def test_when_everything_is_given_back_it_is_as_on_the_first_day(
    npages: int, wanted: list[tuple[int, bool]], order: object
) -> None:
    buddy = Buddy(npages)
    first_day = buddy.free_blocks()
    live = []
    for size, contiguous in wanted:
        if size <= (longest_run(buddy) if contiguous else buddy.statistics()["free"]):
            live += [[block] for block in buddy.alloc(size, contiguous)]
    order.shuffle(live)  # type: ignore[attr-defined]
    for blocks in live:
        buddy.free(blocks)
    assert buddy.free_blocks() == first_day


@pytest.mark.parametrize(
    ("npages", "roots"),
    [
        (1, [Block(0, 0)]),
        (16, [Block(0, 4)]),
        (11, [Block(0, 3), Block(8, 1), Block(10, 0)]),
    ],
)
def test_a_region_is_cut_into_aligned_roots(npages: int, roots: list[Block]) -> None:
    assert Buddy(npages).free_blocks() == roots


def test_a_power_of_two_is_one_aligned_block() -> None:
    buddy = Buddy(64)
    buddy.alloc(1)
    assert buddy.alloc(16) == [Block(16, 4)]


def test_another_size_is_rounded_up_and_trimmed() -> None:
    buddy = Buddy(16)
    assert buddy.alloc(5) == [Block(0, 2), Block(4, 0)]
    assert buddy.free_blocks() == [Block(5, 0), Block(6, 1), Block(8, 3)]


def test_scattered_pages_come_largest_block_first() -> None:
    buddy = Buddy(16)
    single = [buddy.alloc(1)[0] for _ in range(16)]
    buddy.free([single[2], single[3], single[8], single[13]])
    with pytest.raises(ENOSPC):
        buddy.alloc(4)
    assert buddy.alloc(4, contiguous=False) == [Block(2, 1), Block(13, 0), Block(8, 0)]


def test_free_neighbours_that_are_no_buddies_still_make_a_contiguous_run() -> None:
    buddy = Buddy(8)
    single = [buddy.alloc(1)[0] for _ in range(8)]
    buddy.free(single[3:7])
    assert buddy.free_blocks() == [Block(3, 0), Block(4, 1), Block(6, 0)]
    assert buddy.alloc(3) == [Block(3, 0), Block(4, 1)]
    assert buddy.free_blocks() == [Block(6, 0)]


def test_a_request_larger_than_any_root_can_span_roots() -> None:
    buddy = Buddy(12)
    assert buddy.alloc(12) == [Block(0, 3), Block(8, 2)]
    with pytest.raises(ENOSPC):
        buddy.alloc(1)


def test_the_block_freed_last_is_handed_out_first() -> None:
    buddy = Buddy(16)
    blocks = [buddy.alloc(1) for _ in range(16)]
    buddy.free(blocks[2])
    buddy.free(blocks[8])
    buddy.free(blocks[5])
    assert [buddy.alloc(1) for _ in range(3)] == [blocks[5], blocks[8], blocks[2]]


@pytest.mark.parametrize("wrong", [Block(0, 1), Block(2, 0), Block(1, 0), Block(0, 0)])
def test_freeing_what_is_not_in_use_is_caught(wrong: Block) -> None:
    buddy = Buddy(8)
    first = buddy.alloc(1)
    assert buddy.alloc(2) == [Block(2, 1)]
    buddy.free(first)
    with pytest.raises(PropertyFailed, match="RULE-41"):
        buddy.free([wrong])
    assert buddy.statistics() == {"free": 6, "used": 2, "blocks": 1}


@pytest.mark.parametrize("npages", [0, -3])
def test_no_pages_are_no_request(npages: int) -> None:
    with pytest.raises(EINVAL):
        Buddy(8).alloc(npages)
    with pytest.raises(EINVAL):
        Buddy(npages)
