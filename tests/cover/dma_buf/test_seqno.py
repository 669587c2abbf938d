"""Contexts and sequence numbers (fences_and_scheduler 1.4)."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.seqno import (
    dma_fence_context_alloc,
    is_later,
    is_later_or_same,
    later,
    same_context,
    seqno_is_later,
)
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.strategies import Fifo

NUMBERS = st.integers(0, (1 << 32) - 1)


class Wide(Fence):
    """Compares with 64 bits."""

    seqno64 = True


def engine() -> Engine:
    return Engine(DirectBackend(), Fifo())


def test_contexts_are_handed_out_once_each_from_one_on() -> None:
    one = engine()
    assert [dma_fence_context_alloc(one), dma_fence_context_alloc(one, 3), dma_fence_context_alloc(one)] == [1, 2, 5]
    assert dma_fence_context_alloc(engine()) == 1


@given(NUMBERS, st.integers(1, (1 << 31) - 1))
def test_the_next_half_range_is_later_also_over_the_wrap(start: int, step: int) -> None:
    there = (start + step) & 0xFFFFFFFF
    assert seqno_is_later(there, start, wide=False)
    assert not seqno_is_later(start, there, wide=False)


@given(NUMBERS)
def test_nothing_is_later_than_itself_nor_half_a_range_away(number: int) -> None:
    assert not seqno_is_later(number, number, wide=False)
    assert not seqno_is_later((number + (1 << 31)) & 0xFFFFFFFF, number, wide=False)


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 64))
def test_wide_numbers_are_plain(first: int, second: int) -> None:
    assert seqno_is_later(first, second, wide=True) == (first > second)


@given(NUMBERS, NUMBERS, st.booleans())
def test_the_later_one_of_two(first: int, second: int, wide: bool) -> None:
    assume(first != second and (first - second) & 0xFFFFFFFF != 1 << 31)
    kind, one = Wide if wide else Fence, engine()
    a, b = kind(one, "a", context=3, seqno=first), kind(one, "b", context=3, seqno=second)
    last, other = (a, b) if is_later(a, b) else (b, a)
    assert not is_later(other, last)
    assert is_later_or_same(last, other)
    assert is_later_or_same(a, a)
    assert not is_later(a, a)
    assert later(a, b) is later(b, a) is last
    other.signal()
    assert later(a, b) is last
    last.signal()
    assert later(a, b) is None


def test_numbers_of_two_contexts_may_not_be_compared() -> None:
    one = engine()
    a, b = Fence(one, "a", context=1, seqno=1), Fence(one, "b", context=2, seqno=2)
    for compare in (is_later, is_later_or_same, later):
        with pytest.raises(PropertyFailed, match="of context") as info:
            compare(a, b)
        assert info.value.rule == "INV-FEN-02"


def test_context_zero_is_nobodys() -> None:
    one = engine()
    a, b = Fence(one, "a", seqno=1), Fence(one, "b", seqno=2)
    assert same_context(a, a)
    assert not same_context(a, b)
    assert same_context(Fence(one, "c", context=4), Fence(one, "d", context=4))
