"""The range map against a dictionary of single addresses."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from svm_actors.workload.ranges import RangeMap

END = 24
bounds = st.tuples(st.integers(0, END), st.integers(0, END)).map(lambda pair: (min(pair), max(pair)))
edits = st.lists(st.tuples(bounds, st.sampled_from([None, "a", "b"])), max_size=20)


def build(changes: list[tuple[tuple[int, int], str | None]]) -> tuple[RangeMap[str], dict[int, str]]:
    ranges: RangeMap[str] = RangeMap()
    single: dict[int, str] = {}
    for (start, end), value in changes:
        if value is None:
            ranges.clear(start, end)
        else:
            ranges.assign(start, end, value)
        for address in range(start, end):
            single.pop(address, None)
            if value is not None:
                single[address] = value
    return ranges, single


@given(edits)
def test_same_content_as_single_addresses(changes: list[tuple[tuple[int, int], str | None]]) -> None:
    ranges, single = build(changes)
    assert {address: value for start, end, value in ranges for address in range(start, end)} == single


@given(edits)
def test_ranges_are_sorted_apart_and_merged(changes: list[tuple[tuple[int, int], str | None]]) -> None:
    ranges, _ = build(changes)
    parts = list(ranges)
    assert len(parts) == len(ranges)
    assert all(start < end for start, end, _ in parts)
    for (_, end, value), (start, _, after) in itertools.pairwise(parts):
        assert end < start or (end == start and value != after)


@given(edits, bounds)
def test_pieces_and_gaps_cover_the_question_once(
    changes: list[tuple[tuple[int, int], str | None]], asked: tuple[int, int]
) -> None:
    ranges, single = build(changes)
    pieces, gaps = ranges.pieces(*asked), ranges.gaps(*asked)
    there = {address: value for start, end, value in pieces for address in range(start, end)}
    missing = [address for start, end in gaps for address in range(start, end)]
    assert there == {address: single[address] for address in range(*asked) if address in single}
    assert missing == [address for address in range(*asked) if address not in single]


@given(edits, edits)
def test_copies_are_independent(
    first: list[tuple[tuple[int, int], str | None]], then: list[tuple[tuple[int, int], str | None]]
) -> None:
    ranges, _ = build(first)
    before = list(ranges)
    twin = ranges.copy()
    for (start, end), value in then:
        if value is None:
            twin.clear(start, end)
        else:
            twin.assign(start, end, value)
    assert list(ranges) == before


def test_huge_ranges_cost_one_entry() -> None:
    ranges: RangeMap[int] = RangeMap()
    ranges.assign(0, 1 << 64, 1)
    ranges.assign(1 << 40, 1 << 41, 2)
    ranges.assign(1 << 40, 1 << 41, 1)
    assert list(ranges) == [(0, 1 << 64, 1)]
