"""The TLB keeps copies until they are flushed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from svm_actors.gpu.address import DmaAddr, Proto
from svm_actors.gpu.page_table import GpuPte
from svm_actors.gpu.tlb import Tlb

KEYS = st.tuples(st.integers(1, 3), st.integers(0, 1100))


def entry(number: int, writable: bool = True) -> GpuPte:
    return GpuPte(DmaAddr(number, Proto.SYSTEM), writable, number, 0)


def test_a_fill_is_found_and_replaced() -> None:
    tlb = Tlb("gpu0.tlb")
    assert tlb.lookup(1, 5) is None
    tlb.fill(1, 5, entry(1))
    tlb.fill(1, 5, entry(2))
    assert tlb.lookup(1, 5) == entry(2)
    assert len(tlb) == 1


def test_address_spaces_do_not_mix() -> None:
    tlb = Tlb("gpu0.tlb")
    tlb.fill(1, 5, entry(1))
    tlb.fill(2, 5, entry(2))
    assert tlb.flush(1, 0, 2**36) == 1
    assert tlb.lookup(1, 5) is None
    assert tlb.lookup(2, 5) == entry(2)
    assert tlb.flush(3, 0, 2**36) == 0


@given(st.dictionaries(KEYS, st.integers(0, 99)), st.integers(1, 3), st.integers(0, 1100), st.integers(0, 1100))
def test_a_flush_takes_its_range_and_nothing_else(
    model: dict[tuple[int, int], int], asid: int, start: int, end: int
) -> None:
    tlb = Tlb("gpu0.tlb")
    for (space, vpn), number in model.items():
        tlb.fill(space, vpn, entry(number))
    inside = {key for key in model if key[0] == asid and start <= key[1] < end}
    assert tlb.any_in(asid, start, end) is bool(inside)
    assert [(asid, vpn) for vpn, _ in tlb.entries_in(asid, start, end)] == sorted(inside)
    assert tlb.flush(asid, start, end) == len(inside)
    assert not tlb.any_in(asid, start, end)
    left = sorted((space, vpn, entry(n)) for (space, vpn), n in model.items() if (space, vpn) not in inside)
    assert [(space, vpn, pte) for space, vpn, pte in tlb.entries()] == left
    assert len(tlb) == len(left)
