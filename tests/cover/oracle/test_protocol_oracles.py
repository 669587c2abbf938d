"""Oracles of the notifier's second passes, of walks, permissions, mirrors and the address space: each has teeth."""

from types import SimpleNamespace

import pytest

from svm_actors import run
from svm_actors.engine.errors import PropertyFailed
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.mm.events import RangeChanged, RangeChanging
from svm_actors.mm.hmm_types import WalkFailed
from svm_actors.mm.mmu_notifier import (
    Event,
    FinishDone,
    FinishQueued,
    InvalidateReturned,
    NotifierRange,
    NotifierRemoved,
    SecondPass,
)
from svm_actors.oracle import AddressSpace, TwoPass, Walks, check_mirrors, check_permissions

MM = SimpleNamespace(name="mm")


def second_pass(finish="object", seq=3):
    notifier = SimpleNamespace(name="sub", seq=3)
    return SecondPass(notifier, finish, NotifierRange(MM, Event.CLEAR, 0, 1), seq)


def failure_of(oracle, *events):
    for event in events[:-1]:
        oracle(event)
    with pytest.raises(PropertyFailed) as failure:
        oracle(events[-1])
    return failure.value.rule


def test_a_second_pass_is_done_before_the_start_returns():
    item = second_pass()
    oracle = TwoPass(None)
    for event in (FinishQueued(item), FinishDone(item), InvalidateReturned(item.range)):
        oracle(event)
    assert failure_of(TwoPass(None), FinishQueued(item), InvalidateReturned(item.range)) == "INV-38"


def test_a_finish_object_has_one_use_at_a_time():
    first, second = second_pass(), second_pass()
    assert failure_of(TwoPass(None), FinishQueued(first), FinishQueued(second)) == "INV-38"
    oracle = TwoPass(None)
    for event in (FinishQueued(first), FinishDone(first), FinishQueued(second)):
        oracle(event)


def test_readers_wait_from_the_first_pass_on():
    assert failure_of(TwoPass(None), FinishQueued(second_pass(seq=5))) == "INV-39"


def test_a_subscription_with_a_second_pass_to_come_is_not_removed():
    item = second_pass()
    assert failure_of(TwoPass(None), FinishQueued(item), NotifierRemoved(item.notifier)) == "INV-22"


@pytest.mark.parametrize("what", ["map", "move"])
def test_an_address_is_not_used_again_before_it_is_free(what):
    old = RangeChanging(MM, 10, 20, "unmap")
    new = RangeChanging(MM, 19, 21, "map") if what == "map" else RangeChanging(MM, 30, 32, "move", to_start=19)
    assert failure_of(AddressSpace(), old, new) == "MM-R02"
    oracle = AddressSpace()
    for event in (old, RangeChanging(MM, 20, 21, "map"), RangeChanged(MM, 10, 20, "unmap"), new):
        oracle(event)


def test_only_a_write_is_refused_for_want_of_permission():
    Walks()(WalkFailed("sub", "EPERM", True))
    Walks()(WalkFailed("sub", "EFAULT", False))
    assert failure_of(Walks(), WalkFailed("sub", "EPERM", False)) == "INV-35"
    assert failure_of(Walks(), WalkFailed("sub", "ENOENT", False)) == "INV-35"


async def mirrored(world):
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"x")
    mirror = await world.mirror(process)
    await mirror.read(addr, 1)
    return process, mirror, addr >> PAGE_SHIFT


def in_a_world(change):
    """What the at-rest checks say after ``change(process, mirror, page)``."""
    said = []

    async def scenario(world):
        process, mirror, vpn = await mirrored(world)
        check_mirrors(world)
        check_permissions(world)
        world.engine.listeners.clear()  # they would hear of the change itself
        undo = change(process, mirror, vpn)
        for check in (check_mirrors, check_permissions):
            try:
                check(world)
            except PropertyFailed as failure:
                said.append((failure.oracle, failure.rule))
        undo()

    assert run(scenario, seed=0).failure is None
    return said


def test_a_mirror_names_the_page_of_the_cpu():
    def drop(process, _mirror, vpn):
        table, pte = process.mm.page_table, process.mm.page_table.get(vpn)
        table.clear(vpn)
        return lambda: table.set(vpn, pte)

    assert in_a_world(drop) == [("mirrors", "INV-03")]


@pytest.mark.parametrize(("tag", "rule"), [(Tag.WRITABLE, "INV-04"), (Tag.ATOMIC, "INV-03")])
def test_a_mirror_has_no_more_permission_than_the_cpu(tag, rule):
    def change(process, mirror, vpn):
        table, pte, entry = process.mm.page_table, process.mm.page_table.get(vpn), mirror.pt.load(vpn)
        table.set(vpn, pte._replace(writable=False))
        mirror.pt.store(vpn, entry.folio, tag)

        def undo():
            table.set(vpn, pte)
            mirror.pt.store(vpn, entry.folio, entry.tag)

        return undo

    assert in_a_world(change) == [("mirrors", rule)]


def test_an_entry_has_no_more_permission_than_its_vma():
    def change(process, _mirror, vpn):
        vma = process.mm.vmas.find(vpn)
        flags = vma.flags
        vma.flags = type(flags)(flags & ~2)

        def undo():
            vma.flags = flags

        return undo

    assert in_a_world(change) == [("permissions", "MM-R16")]
