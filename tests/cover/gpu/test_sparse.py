"""The sparse map behaves like a dict, and work over a range costs what is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from svm_actors.gpu.page_table import GpuPageTable
from svm_actors.gpu.sparse import SparseMap

PAGES = st.one_of(st.integers(0, 1600), st.integers(2**35, 2**35 + 600))
RANGES = st.tuples(PAGES, PAGES)


@given(st.dictionaries(PAGES, st.integers()), st.lists(RANGES, max_size=4))
def test_it_is_a_dict_with_range_operations(model: dict[int, int], ranges: list[tuple[int, int]]) -> None:
    sparse: SparseMap[int] = SparseMap()
    for page, value in model.items():
        sparse.set(page, value)
    for start, end in ranges:
        inside = sorted((page, value) for page, value in model.items() if start <= page < end)
        assert sparse.entries_in(start, end) == inside
        assert sparse.any_in(start, end) is bool(inside)
        assert sparse.clear_range(start, end) == len(inside)
        assert not sparse.any_in(start, end)
        for page, _ in inside:
            del model[page]
        assert list(sparse.items()) == sorted(model.items())
        assert len(sparse) == len(model)
    assert all(sparse.get(page) == value for page, value in model.items())
    assert bool(sparse) is bool(model)


@given(st.lists(PAGES, min_size=1, unique=True))
def test_nothing_is_left_of_what_was_cleared(pages: list[int]) -> None:
    sparse: SparseMap[str] = SparseMap()
    for page in pages:
        sparse.set(page, "x")
    for page in pages:
        assert sparse.clear_range(page, page + 1) == 1
        assert sparse.get(page) is None
    assert not sparse._tables


class CountedDict(dict[int, str]):
    """Counts the pages that are looked at."""

    looked = 0

    def __contains__(self, key: object) -> bool:
        CountedDict.looked += 1
        return super().__contains__(key)

    def __iter__(self):  # type: ignore[no-untyped-def]
        for key in super().__iter__():
            CountedDict.looked += 1
            yield key


def looked_at(npages: int) -> int:
    """Pages looked at when three pages lie far apart inside a range of this length, which is cleared."""
    sparse: SparseMap[str] = SparseMap()
    for page in (1, npages // 2, npages - 2):
        sparse.set(page, "x")
    for index, table in list(sparse._tables.items()):
        sparse._tables[index] = CountedDict(table)
    CountedDict.looked = 0
    assert sparse.any_in(1, npages - 1)
    assert sparse.clear_range(1, npages - 1) == 3
    return CountedDict.looked


def test_the_cost_of_a_range_does_not_grow_with_its_length() -> None:
    assert looked_at(2**40) == looked_at(2**20) <= 8


def test_a_page_in_a_full_table_is_found_without_looking_at_the_others() -> None:
    sparse: SparseMap[str] = SparseMap()
    for page in range(512):
        sparse.set(page, "x")
    sparse._tables[0] = CountedDict(sparse._tables[0])
    CountedDict.looked = 0
    assert sparse.clear_range(100, 101) == 1
    assert CountedDict.looked == 1


def test_an_empty_page_table_is_still_a_page_table() -> None:
    table = GpuPageTable("gpu0.vm1")
    assert table.name == "gpu0.vm1"
    assert len(table) == 0
    assert table.clear_range(0, 2**47) == 0
    assert table.entries_in(5, 5) == []
    assert not table.any_in(9, 3)
