"""Splitting and merging of VMAs against a map of pages (core_mm sections 1 and 5)."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mm_rig import Rig

from svm_actors.engine.errors import ENOMEM, KernelError
from svm_actors.mm.messages import SIGSEGV

PAGES = 16
page = st.integers(0, PAGES - 1)
span = st.tuples(page, st.integers(1, 8)).map(lambda s: (s[0], min(s[1], PAGES - s[0])))
prot = st.sampled_from(["rw", "r", "none"])
operation = st.one_of(
    st.tuples(st.just("mmap"), span, prot),
    st.tuples(st.just("munmap"), span),
    st.tuples(st.just("mprotect"), span, prot),
    st.tuples(st.just("dontfork"), span),
    st.tuples(st.just("dofork"), span),
    st.tuples(st.just("wipeonfork"), span),
)


class Pages:
    """Attributes per page; an untouched anonymous mapping merges wherever they are equal."""

    def __init__(self):
        self.of = {p: ("rw", True, frozenset()) for p in range(PAGES)}

    def apply(self, op):
        kind, (start, n), *rest = op
        pages = range(start, start + n)
        if kind == "mmap":
            for p in pages:
                self.of[p] = (rest[0], rest[0] == "rw", frozenset())
        elif kind == "munmap":
            for p in pages:
                self.of.pop(p, None)
        elif kind == "mprotect":
            for p in pages:
                if p not in self.of:
                    return "ENOMEM"
                # charged while writable; nothing was ever faulted in, so the charge goes again
                self.of[p] = (rest[0], rest[0] == "rw", self.of[p][2])
        else:
            self.advise(kind, pages)
            return None if all(p in self.of for p in pages) else "ENOMEM"
        return None

    def advise(self, kind, pages):
        flag = "wipe" if kind == "wipeonfork" else "dontcopy"
        for p in pages:
            if p in self.of:
                access, charged, flags = self.of[p]
                self.of[p] = access, charged, flags - {flag} if kind == "dofork" else flags | {flag}

    def intervals(self):
        found = []
        for p in sorted(self.of):
            if found and found[-1][0] + found[-1][1] == p and self.of[p - 1] == self.of[p]:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((p, 1))
        return found


async def perform(rig, op):
    kind, at, *rest = op
    if kind in ("mmap", "mprotect"):
        await getattr(rig, kind)(*at, *rest)
    elif kind == "munmap":
        await rig.munmap(*at)
    else:
        await rig.madvise(*at, kind)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(operation, max_size=20))
def test_untouched_memory_is_split_and_merged_as_its_attributes_say(ops):
    async def body(rig):
        model = Pages()
        for op in ops:
            try:
                await perform(rig, op)
                got = None
            except KernelError as error:
                got = error.code
            assert got == model.apply(op), op
            assert rig.vmas() == model.intervals(), op

    Rig().run(body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(operation, max_size=12), st.lists(page, max_size=6))
def test_the_tree_is_sound_whatever_was_touched(ops, touched):
    """No overlap, no empty VMA, every entry inside one, every linear address consistent."""

    async def body(rig):
        for index, op in enumerate(ops):
            if index < len(touched):
                with suppress(SIGSEGV):
                    await rig.write(touched[index], 1)
            with suppress(ENOMEM):
                await perform(rig, op)
            check_tree(rig.mm)

    Rig().run(body)


def check_tree(mm):
    end = 0
    for vma in mm.vmas:
        assert end <= vma.start < vma.end
        assert vma.attached
        assert not vma.writer
        assert vma.address_of(vma.offset_of(vma.end - 1)) == vma.end - 1
        assert all(vma in anon_vma.vmas for anon_vma in vma.anon_vma_chain)
        end = vma.end
    assert all(mm.vmas.find(vpn) is not None for vpn, _pte in mm.page_table.items())


@pytest.mark.parametrize(
    ("touched", "merged"), [((), [(0, 8)]), ((0,), [(0, 8)]), ((10,), [(0, 4), (4, 4)]), ((0, 10), [(0, 4), (4, 4)])]
)
def test_a_moved_mapping_joins_its_new_neighbour_only_while_it_has_no_pages(touched, merged):
    """Untouched, it takes the page offsets of its new place; with pages it keeps the old ones."""

    async def body(rig):
        await rig.mmap(0, 4)
        await rig.mmap(10, 4)
        for where in touched:
            await rig.write(where, 1)
        await rig.mremap(10, 4, 4)
        assert rig.vmas() == merged

    Rig().run(body, arena=None)


def test_a_split_mapping_shares_its_anon_vma_and_grows_together_again():
    async def body(rig):
        await rig.write(0, 1)
        await rig.write(15, 2)
        await rig.mprotect(8, 8, "r")
        left, right = rig.mm.vmas
        assert (left.anon_vma, left.anon_vma_chain) == (right.anon_vma, right.anon_vma_chain)
        assert right.pgoff == left.pgoff + 8
        await rig.mprotect(8, 8, "rw")
        (whole,) = rig.mm.vmas
        assert (whole is left, left.anon_vma.vmas, right.attached) == (True, [left], False)

    Rig().run(body)


def test_a_hole_in_the_middle_leaves_two_mappings_that_never_meet_again():
    async def body(rig):
        await rig.write(0, 1)
        await rig.munmap(6, 4)
        assert rig.vmas() == [(0, 6), (10, 6)]
        await rig.mmap(6, 4, "r")
        assert rig.vmas() == [(0, 6), (6, 4), (10, 6)]
        await rig.mprotect(6, 4, "rw")
        assert rig.vmas() == [(0, 16)]

    Rig().run(body)
