"""The coherence oracle accepts every legal answer and no other one."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mm_rig import FIRST, Rig

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.events import GpuAccess
from svm_actors.mirror.mirror import MirrorAccess
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.content import ZERO
from svm_actors.mm.events import CpuAccess, RangeChanged, RangeChanging
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.oracle.coherence import Coherence, PageValues


class World:
    """As much of a world as the oracle looks at."""

    def __init__(self, rig):
        self.rig = rig
        self.engine = rig.engine
        self.mms = {1: rig.mm}

    def mm_of_asid(self, gpu, asid):
        return self.mms.get(asid)

    def userptr_place(self, gpu, asid, folio, vpn):
        """Address space 3 reaches the page as user memory, wherever it has bound it."""
        return (self.rig.mm, FIRST) if asid == 3 else None


@pytest.fixture
def watched():
    """(oracle, rig): fed by hand."""
    rig = Rig()
    oracle = Coherence(World(rig))
    return oracle, rig


def folio(rig):
    return rig.core.allocator.alloc_now("test")


def cpu(oracle, rig, page, value, *, write=False, mm=None, where=None):
    where = where or folio(rig)
    oracle(CpuAccess(mm or rig.mm, FIRST + page, 0, bytes([value]), write, where))


def refuses(oracle, rig, page, value, **options):
    with pytest.raises(PropertyFailed) as failure:
        cpu(oracle, rig, page, value, **options)
    return failure.value.rule


def change(kind, rig, what, page=0, n=4, **more):
    return kind(rig.mm, FIRST + page, FIRST + page + n, what, **more)


def test_fresh_memory_reads_zero_and_nothing_else(watched):
    oracle, rig = watched
    cpu(oracle, rig, 0, 0)
    assert refuses(oracle, rig, 0, 1) == "INV-14"


def test_a_read_returns_the_last_write(watched):
    oracle, rig = watched
    cpu(oracle, rig, 0, 5, write=True)
    cpu(oracle, rig, 0, 6, write=True)
    cpu(oracle, rig, 0, 6)
    refuses(oracle, rig, 0, 5)
    refuses(oracle, rig, 0, 0)


def test_user_memory_is_judged_where_the_process_has_it(watched):
    oracle, rig = watched
    page = folio(rig)
    oracle(GpuAccess("gpu0", 3, 77, 0, b"\x09", "store", page, 0))
    cpu(oracle, rig, 0, 9)
    with pytest.raises(PropertyFailed):
        oracle(GpuAccess("gpu0", 3, 77, 0, b"\x0a", "load", page, 0))


def test_gpu_and_cpu_share_one_memory(watched):
    oracle, rig = watched
    page = folio(rig)
    oracle(GpuAccess("gpu0", 1, FIRST, 0, b"\x09", "store", page, 0))
    cpu(oracle, rig, 0, 9)
    oracle(GpuAccess("gpu0", 1, FIRST, 0, b"\x0a", "atomic", page, 0, old=b"\x09"))
    cpu(oracle, rig, 0, 10)
    with pytest.raises(PropertyFailed):
        oracle(GpuAccess("gpu0", 1, FIRST, 0, b"\x0c", "atomic", page, 0, old=b"\x0b"))
    oracle(GpuAccess("gpu0", 2, FIRST, 0, b"\x63", "load", page, 0))  # a closed address space is nobody's


@pytest.mark.parametrize("what", ["unmap", "map", "dontneed"])
def test_while_memory_is_emptied_old_and_zero_are_legal_afterwards_only_zero(watched, what):
    oracle, rig = watched
    cpu(oracle, rig, 0, 5, write=True)
    oracle(change(RangeChanging, rig, what))
    cpu(oracle, rig, 0, 5)
    cpu(oracle, rig, 0, 0)
    refuses(oracle, rig, 0, 6)
    oracle(change(RangeChanged, rig, what))
    cpu(oracle, rig, 0, 0)
    refuses(oracle, rig, 0, 5)


def test_a_store_that_races_may_or_may_not_survive(watched):
    oracle, rig = watched
    cpu(oracle, rig, 0, 5, write=True)
    oracle(change(RangeChanging, rig, "dontneed"))
    cpu(oracle, rig, 0, 8, write=True)
    oracle(change(RangeChanged, rig, "dontneed"))
    cpu(oracle, rig, 0, 8)
    cpu(oracle, rig, 0, 0)
    refuses(oracle, rig, 0, 5)


def test_free_keeps_the_old_contents_legal(watched):
    oracle, rig = watched
    cpu(oracle, rig, 0, 5, write=True)
    oracle(change(RangeChanging, rig, "free"))
    oracle(change(RangeChanged, rig, "free"))
    cpu(oracle, rig, 0, 5)
    cpu(oracle, rig, 0, 0)
    cpu(oracle, rig, 0, 7, write=True)
    refuses(oracle, rig, 0, 5)


def test_a_move_takes_the_data_along(watched):
    oracle, rig = watched
    cpu(oracle, rig, 1, 5, write=True)
    oracle(change(RangeChanging, rig, "move", to_start=FIRST + 20))
    cpu(oracle, rig, 1, 5)
    cpu(oracle, rig, 21, 5)
    cpu(oracle, rig, 1, 6, write=True)
    oracle(change(RangeChanged, rig, "move", to_start=FIRST + 20))
    cpu(oracle, rig, 21, 6)
    cpu(oracle, rig, 1, 0)
    refuses(oracle, rig, 1, 5)
    refuses(oracle, rig, 21, 9)


def test_a_store_at_the_old_place_may_be_read_at_the_new_one_before_the_move_is_through(watched):
    oracle, rig = watched
    cpu(oracle, rig, 1, 5, write=True)
    oracle(change(RangeChanging, rig, "move", to_start=FIRST + 20))
    refuses(oracle, rig, 21, 6)
    cpu(oracle, rig, 1, 6, write=True)
    cpu(oracle, rig, 21, 6)
    cpu(oracle, rig, 21, 5)
    refuses(oracle, rig, 22, 6)
    oracle(change(RangeChanged, rig, "move", to_start=FIRST + 20))
    cpu(oracle, rig, 21, 6)


def test_a_child_has_its_parents_past_and_its_own_future(watched):
    oracle, rig = watched
    cpu(oracle, rig, 0, 5, write=True)
    child = rig.core.new_mm("child")
    fork = {"page": -FIRST, "n": 1 << 35, "to_mm": child}
    oracle(change(RangeChanging, rig, "fork", **fork))
    cpu(oracle, rig, 1, 8, write=True)
    oracle(change(RangeChanged, rig, "fork", **fork))
    cpu(oracle, rig, 0, 5, mm=child)
    cpu(oracle, rig, 1, 8, mm=child)
    cpu(oracle, rig, 1, 0, mm=child)
    refuses(oracle, rig, 1, 0)
    cpu(oracle, rig, 0, 6, write=True)
    assert refuses(oracle, rig, 0, 6, mm=child) == "INV-14"


def test_page_cache_is_one_memory_for_everyone(watched):
    oracle, rig = watched
    page = folio(rig)
    page.mapping = rig.core  # anything with a name
    cpu(oracle, rig, 0, 7, write=True, where=page)
    cpu(oracle, rig, 9, 7, where=page, mm=rig.core.new_mm("other"))
    refuses(oracle, rig, 9, 0, where=page)


def test_an_end_without_a_beginning_is_noticed(watched):
    oracle, rig = watched
    with pytest.raises(StopIteration):
        oracle(change(RangeChanged, rig, "unmap"))


some = st.tuples(st.integers(0, PAGE_SIZE - 4), st.binary(min_size=1, max_size=4))
stores = st.lists(some, max_size=8)


def whole(fill, patches):
    """A store of a whole page."""
    page = bytearray((fill,)) * PAGE_SIZE
    for offset, data in patches:
        page[offset : offset + len(data)] = data
    return 0, bytes(page)


whole_pages = st.builds(whole, st.integers(0, 255), stores)


@given(st.lists(some | whole_pages, max_size=6), st.lists(some | whole_pages, max_size=6))
def test_every_byte_has_what_was_stored_there_and_what_may_have_been(definite, possible):
    """The other way to say it: a set for each byte."""
    page, model = PageValues(), [{0} for _ in range(PAGE_SIZE)]
    for offset, data in definite:
        page.write(offset, data)
        for index, value in enumerate(data, offset):
            model[index] = {value}
    for offset, data in possible:
        page.may(offset, data)
        for index, value in enumerate(data, offset):
            model[index].add(value)
    assert [page.at(offset) for offset in range(PAGE_SIZE)] == model


@pytest.mark.parametrize("where", [0, 9, PAGE_SIZE - 1])
def test_a_mirror_writes_whole_pages(watched, where):
    """Each byte of it, also of a page of mixed bytes."""
    oracle, rig = watched
    mirror, page = SimpleNamespace(mm=rig.mm, name="mirror"), folio(rig)
    rig.mm.page_table.set(FIRST, Pte(Entry.PRESENT, page))
    cpu(oracle, rig, 0, 5, write=True)
    oracle(MirrorAccess(mirror, FIRST, True, ZERO.write(where, b"x"), page))
    for offset in (0, 9, 100, PAGE_SIZE - 1):
        value = ord("x") if offset == where else 0
        oracle(CpuAccess(rig.mm, FIRST, offset, bytes([value]), False, page))
        with pytest.raises(PropertyFailed):
            oracle(CpuAccess(rig.mm, FIRST, offset, bytes([value ^ 5]), False, page))


@given(stores)
def test_definite_stores_leave_one_legal_value(writes):
    page, model = PageValues(), bytearray(PAGE_SIZE)
    for offset, data in writes:
        page.write(offset, data)
        model[offset : offset + len(data)] = data
    assert all(page.at(offset) == {model[offset]} for offset in range(0, PAGE_SIZE, 61))
    assert all(page.at(offset) == {model[offset]} for offset, _ in writes)


@given(stores, stores)
def test_possible_stores_only_add_values(definite, possible):
    page = PageValues()
    for offset, data in definite:
        page.write(offset, data)
    before = page.copy()
    for offset, data in possible:
        page.may(offset, data)
    for offset, data in possible:
        assert data[0] in page.at(offset)
        assert before.at(offset) <= page.at(offset)
    page.may_be_zero()
    assert all(0 in page.at(offset) for offset, _ in definite)
    page.write(0, bytes([9]) * PAGE_SIZE)
    assert page.at(77) == {9}
    page.may(0, bytes([4]) * PAGE_SIZE)
    assert page.at(77) == {4, 9}
