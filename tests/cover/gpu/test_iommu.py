"""The IOMMU: single maps, windows, and what a device access through a bad address is told."""

from __future__ import annotations

import pytest
from hardware_bench import Bench, Stay
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM, PropertyFailed
from svm_actors.gpu.address import Direction
from svm_actors.gpu.iommu import Iommu

BOTH = Direction.BIDIRECTIONAL


def make_bench() -> Bench:
    return Bench(Engine(DirectBackend(), Stay()))


@pytest.fixture
def bench() -> Bench:
    return make_bench()


@pytest.fixture
def iommu(bench: Bench) -> Iommu:
    return bench.gpu.iommu


def test_a_mapping_leads_to_its_page(bench: Bench, iommu: Iommu) -> None:
    first, second = bench.ram(), bench.ram()
    one, two = iommu.map(first, BOTH), iommu.map(second, BOTH)
    assert iommu.resolve(one, True) is first
    assert iommu.resolve(two, False) is second
    assert iommu.statistics() == {"mappings": 2, "reservations": 0}
    assert [(iova, mapping.folio) for iova, mapping in iommu.mappings()] == [(one, first), (two, second)]
    iommu.unmap(one)
    iommu.unmap(two)
    assert iommu.statistics() == {"mappings": 0, "reservations": 0}


def test_addresses_are_reused_last_in_first_out(bench: Bench, iommu: Iommu) -> None:
    folio = bench.ram()
    one, two = iommu.map(folio, BOTH), iommu.map(folio, BOTH)
    iommu.unmap(one)
    iommu.unmap(two)
    assert [iommu.map(folio, BOTH), iommu.map(folio, BOTH)] == [two, one]


def test_a_window_is_linked_page_by_page(bench: Bench, iommu: Iommu) -> None:
    pages = [bench.ram() for _ in range(3)]
    base = iommu.reserve(4)
    assert base is not None
    for index, page in enumerate(pages):
        iommu.link(base + index, page, BOTH)
    assert [iommu.resolve(base + index, False) for index in range(3)] == pages
    assert iommu.statistics() == {"mappings": 3, "reservations": 1}
    with pytest.raises(PropertyFailed, match="RULE-18"):
        iommu.resolve(base + 3, False)
    iommu.unlink(base, 3)
    assert iommu.statistics() == {"mappings": 0, "reservations": 1}
    iommu.free(base)
    assert iommu.statistics() == {"mappings": 0, "reservations": 0}
    assert iommu.reserve(4) == base


def test_a_device_without_windows_gets_none(bench: Bench, iommu: Iommu) -> None:
    iommu.has_windows = False
    assert iommu.reserve(4) is None
    assert iommu.statistics()["reservations"] == 0


def test_an_injected_failure_maps_nothing(bench: Bench, iommu: Iommu) -> None:
    folio = bench.ram()
    base = iommu.reserve(1)
    assert base is not None
    iommu.fail_next = 2
    with pytest.raises(ENOMEM):
        iommu.map(folio, BOTH)
    with pytest.raises(ENOMEM):
        iommu.link(base, folio, BOTH)
    assert iommu.statistics() == {"mappings": 0, "reservations": 1}
    iommu.link(base, folio, BOTH)
    assert iommu.resolve(base, True) is folio


def test_an_access_through_an_unmapped_address_is_caught(bench: Bench, iommu: Iommu) -> None:
    iova = iommu.map(bench.ram(), BOTH)
    iommu.unmap(iova)
    with pytest.raises(PropertyFailed, match="RULE-18"):
        iommu.resolve(iova, False)


@pytest.mark.parametrize("reuse", [False, True])
def test_an_access_to_a_freed_page_is_caught_even_when_its_frame_lives_again(reuse: bool) -> None:
    bench = make_bench()
    folio = bench.ram()
    iova = bench.gpu.iommu.map(folio, BOTH)
    folio.put("test")
    if reuse:
        assert bench.ram().pfn == folio.pfn
    with pytest.raises(PropertyFailed, match="INV-05"):
        bench.gpu.iommu.resolve(iova, False)


def test_a_freed_page_cannot_be_mapped(bench: Bench, iommu: Iommu) -> None:
    folio = bench.ram()
    folio.put("test")
    with pytest.raises(PropertyFailed, match="INV-05"):
        iommu.map(folio, BOTH)


@pytest.mark.parametrize(
    ("direction", "reads", "writes"),
    [(Direction.TO_DEVICE, True, False), (Direction.FROM_DEVICE, False, True), (BOTH, True, True)],
)
def test_the_direction_limits_what_the_device_may_do(direction: Direction, reads: bool, writes: bool) -> None:
    bench = make_bench()
    iova = bench.gpu.iommu.map(bench.ram(), direction)
    for write, allowed in ((False, reads), (True, writes)):
        if allowed:
            assert bench.gpu.iommu.resolve(iova, write) is not None
        else:
            with pytest.raises(PropertyFailed, match="RULE-45"):
                bench.gpu.iommu.resolve(iova, write)


def test_the_shared_zero_page_can_be_read_but_not_written(bench: Bench) -> None:
    dma = bench.address(bench.allocator.zero_folio)
    assert bench.gpu.bus.resolve(dma, False).is_zero
    with pytest.raises(PropertyFailed, match="INV-17"):
        bench.gpu.bus.resolve(dma, True)


def test_every_misuse_of_the_api_is_reported(bench: Bench, iommu: Iommu) -> None:
    folio = bench.ram()
    single = iommu.map(folio, BOTH)
    base = iommu.reserve(2)
    assert base is not None
    iommu.link(base, folio, BOTH)
    for rule, misuse in [
        ("RULE-45", lambda: iommu.unmap(base)),
        ("RULE-45", lambda: iommu.unmap(single + 99)),
        ("RULE-45", lambda: iommu.free(base)),
        ("RULE-22", lambda: iommu.link(base, folio, BOTH)),
        ("RULE-22", lambda: iommu.link(base + 2, folio, BOTH)),
        ("RULE-22", lambda: iommu.link(single - 1, folio, BOTH)),
        ("RULE-22", lambda: iommu.unlink(single, 1)),
        ("RULE-22", lambda: iommu.unlink(base + 1, 1)),
        ("RULE-22", lambda: iommu.free(base + 1)),
    ]:
        before = list(iommu.mappings()), iommu.statistics()
        with pytest.raises(PropertyFailed, match=rule):
            misuse()
        assert (list(iommu.mappings()), iommu.statistics()) == before


def test_a_second_unmap_and_a_second_free_are_reported(bench: Bench, iommu: Iommu) -> None:
    iova = iommu.map(bench.ram(), BOTH)
    iommu.unmap(iova)
    with pytest.raises(PropertyFailed, match="RULE-45"):
        iommu.unmap(iova)
    base = iommu.reserve(3)
    assert base is not None
    iommu.free(base)
    with pytest.raises(PropertyFailed, match="RULE-22"):
        iommu.free(base)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=40))
def test_live_addresses_never_overlap(steps: list[tuple[int, int]]) -> None:
    """Size 0 is a single map; a step with a live address of that size in hand may give it back."""
    bench = make_bench()
    iommu, folio = bench.gpu.iommu, bench.ram()
    live: list[tuple[int, int]] = []
    for size, pick in steps:
        if pick < len(live):
            base, kind = live.pop(pick)
            (iommu.free if kind else iommu.unmap)(base)
        else:
            taken = iommu.reserve(size) if size else iommu.map(folio, BOTH)
            assert taken is not None
            live.append((taken, size))
        pages = [page for base, kind in live for page in range(base, base + max(kind, 1))]
        assert len(pages) == len(set(pages))
    assert iommu.statistics() == {
        "mappings": sum(not kind for _, kind in live),
        "reservations": sum(kind > 0 for _, kind in live),
    }


def test_maps_fail_after_those_that_were_let_through(bench: Bench, iommu: Iommu) -> None:
    iommu.fail_next, iommu.fail_after = 1, 1
    first = iommu.map(bench.ram(), BOTH)
    with pytest.raises(ENOMEM):
        iommu.map(bench.ram(), BOTH)
    iommu.unmap(first)


def test_a_mapping_does_not_outlive_its_page(bench: Bench, iommu: Iommu) -> None:
    page = bench.ram()
    iova = iommu.map(page, BOTH)
    page.put("test")
    with pytest.raises(PropertyFailed, match="mapped when it was freed"):
        iommu.unmap(iova)
