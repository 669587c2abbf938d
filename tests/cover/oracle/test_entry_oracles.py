"""Each rule of entries, copies, fault pages and the driver is broken by hand once; the oracle names it.

Those that a planted bug breaks are in its list of oracles, and tests/quality hunts all of them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mm_rig import FIRST, Rig, ToyDevice

from svm_actors.bugs import BUGS
from svm_actors.drm.exec import ExecEnded
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.events import TlbFlushed
from svm_actors.mm import events as e
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmRange, WalkDone, WalkPublished
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.mmu_notifier import Event, InvalidateEnded, InvalidateReturned, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.oracle.copies import Copies
from svm_actors.oracle.driver import Driver
from svm_actors.oracle.entries import Entries
from svm_actors.oracle.fault_pages import FaultPages
from svm_actors.oracle.ranges import Ranges
from svm_actors.oracle.walks import Walks
from svm_actors.xe.queue_events import MadviseCuts, QueueEnded, QueueSwitchedOn


class Table:
    """A page table with the entries given."""

    def __init__(self, **found: Any) -> None:
        self.found = {int(name[1:]): pte for name, pte in found.items()}

    def tables(self, _start: int, _end: int) -> list[int]:
        return [0]

    def entries(self, _table: int, start: int, end: int) -> list[tuple[int, Any]]:
        return [(vpn, pte) for vpn, pte in self.found.items() if start <= vpn < end]


class Space:
    """An address space."""

    name = "p0"

    def __init__(self, users: int = 1, **entries: Any) -> None:
        self.users = users
        self.page_table = Table(**entries)


class Page:
    """A page of which only what the oracles look at is there."""

    def __init__(self, pfn: int, **state: Any) -> None:
        self.name, self.pfn, self.generation = f"page{pfn}", pfn, 0
        self.lock = SimpleNamespace(locked=True, held_by_me=lambda: False)
        self.uptodate, self.freed, self.is_device_private, self.pgmap = True, False, False, None
        self.refs, self.zone_device_data, self.content = {"dst": 1}, None, b""
        self.__dict__.update(state)


def rule_of(oracle: Any, *events: Any) -> str:
    """What the last event breaks; the others break nothing."""
    for event in events[:-1]:
        oracle(event)
    with pytest.raises(PropertyFailed) as failure:
        oracle(events[-1])
    assert type(events[-1]) in oracle.hears
    return failure.value.rule


def change(mm: Any, vpn: int, old: Pte | None, new: Pte | None) -> e.EntryChanged:
    return e.EntryChanged(mm, vpn, old, new)


def present(page: Any, **bits: bool) -> Pte:
    return Pte(Entry.PRESENT, page, **bits)


# -- entries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "new",
    [
        None,
        present(Page(2)),
        present("same"),
        present("same", writable=True, protnone=True),
        Pte(Entry.SWAP, "slot"),
    ],
)
def test_an_entry_loses_nothing_unless_somebody_was_told(new: Pte | None) -> None:
    mm, page = Space(), Page(1)
    if new is not None and new.folio == "same":
        new = new._replace(folio=page)
    event = change(mm, 5, present(page, writable=True), new)
    assert rule_of(Entries(), event) == "INV-25"
    told: Any = NotifierRange(mm, Event.CLEAR, 5, 6)
    oracle = Entries()
    oracle(InvalidateReturned(told))
    oracle(event)
    assert rule_of(oracle, InvalidateEnded(told), event) == "INV-25"


def test_a_restored_entry_names_the_survivor_and_permits_no_more() -> None:
    mm, source, target = Space(), Page(1), Page(2)
    moving = Pte(Entry.MIGRATION, source)
    moved = e.FolioMigrated(source, target, False)
    assert rule_of(Entries(), moved, change(mm, 5, moving, present(source))) == "INV-27"
    assert rule_of(Entries(), change(mm, 5, moving, present(target))) == "INV-27"
    assert rule_of(Entries(), moved, change(mm, 5, moving, present(target, writable=True))) == "INV-27"
    oracle = Entries()
    oracle(moved)
    oracle(change(mm, 5, moving, present(target)))


def test_nothing_new_is_mapped_where_nobody_is() -> None:
    assert rule_of(Entries(), change(Space(users=0), 5, None, present(Page(1)))) == "INV-33"


def test_mremap_moves_the_very_entry_and_leaves_none() -> None:
    mm, pte = Space(p6=present(Page(3))), present(Page(1), writable=True)
    told: Any = InvalidateReturned(NotifierRange(mm, Event.UNMAP, 5, 7))
    begun = e.RangeChanging(mm, 5, 7, "move", to_start=20)
    up = change(mm, 5, pte, None)
    assert rule_of(Entries(), told, begun, up, change(mm, 21, None, pte)) == "INV-36"
    assert rule_of(Entries(), told, begun, up, change(mm, 20, None, present(Page(2)))) == "INV-36"
    ended = e.RangeChanged(mm, 5, 7, "move", to_start=20)
    assert rule_of(Entries(), told, begun, up, change(mm, 20, None, pte), ended) == "INV-36"


# -- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        ({"lock": SimpleNamespace(locked=False)}, "INV-26"),
        ({"uptodate": False}, "INV-26"),
        ({"refs": {"dst": 1, "gup": 1}}, "INV-26"),
        ({"content": b"other"}, "INV-15"),
    ],
)
def test_a_target_is_ready_when_it_becomes_the_page(state: dict[str, Any], rule: str) -> None:
    moved: Any = e.FolioMigrated(Page(1), Page(2, **state), False)
    assert rule_of(Copies(), moved) == rule
    Copies()(e.FolioMigrated(Page(1), Page(2, refs={"dst": 1, "swapcache": 1}), False))


def test_the_data_of_a_device_page_is_constant() -> None:
    page = Page(1, is_device_private=True, zone_device_data="one")
    moved: Any = e.FolioMigrated(None, page, False)
    oracle = Copies()
    oracle(moved)
    oracle(moved)
    page.zone_device_data = "other"
    assert rule_of(oracle, moved) == "INV-30"


def test_a_migration_that_is_over_has_left_nothing() -> None:
    mm, source, target = Space(), Page(1), Page(2)
    waits = change(mm, 5, None, Pte(Entry.MIGRATION, source))
    over: Any = e.MigrationOver(source, target, True, False)
    assert rule_of(Copies(), waits, over) == "INV-09"
    assert rule_of(Copies(), e.MigrationOver(None, Page(3), False, False)) == "INV-26"
    held = SimpleNamespace(locked=True, held_by_me=lambda: True)
    assert rule_of(Copies(), e.MigrationOver(Page(1, lock=held), None, False, False)) == "RULE-44"
    assert rule_of(Copies(), e.MigrationOver(source, Page(2, lock=held), True, False)) == "RULE-44"
    assert rule_of(Copies(), e.MigrationOver(source, None, False, True)) == "RULE-44"
    Copies()(over)


def test_reclaim_drops_only_what_the_slot_holds() -> None:
    slot: Any = SimpleNamespace(name="slot", content=b"old")
    assert rule_of(Copies(), e.SwappedOut(Page(1, content=b"new"), slot)) == "INV-16"


# -- pages under a CPU fault ---------------------------------------------------------------------


class Faulting:
    """A CPU fault on a device page."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        self.mine = True
        lock = SimpleNamespace(held_by_me=lambda: self.mine)
        self.page = Page(1, lock=lock, refs={"map": 1, "fault": 1})
        entry = Pte(Entry.DEVICE_PRIVATE, self.page)
        self.entries = {5: entry}
        mm: Any = SimpleNamespace(name="p0", page_table=self.entries)
        self.fault = VmFault(mm, None, 5, False, self.page)
        task = SimpleNamespace(thread=SimpleNamespace(held=self.held))
        self.oracle = FaultPages(SimpleNamespace(engine=SimpleNamespace(current=task)))


def test_whoever_faults_has_the_page_locked_and_referenced() -> None:
    bench = Faulting()
    bench.mine = False
    assert rule_of(bench.oracle, e.FaultPageTaken(bench.fault)) == "INV-28"
    bench = Faulting()
    del bench.page.refs["fault"]
    assert rule_of(bench.oracle, e.FaultPageTaken(bench.fault)) == "RULE-03"
    bench = Faulting()
    assert rule_of(bench.oracle, e.FaultPageTaken(bench.fault), e.FaultPageLeft(bench.fault)) == "INV-28"


def test_the_driver_takes_no_lock_of_its_own() -> None:
    bench = Faulting()
    bench.held.append(SimpleNamespace(lock_class="vm_lock", name="of the caller"))
    bench.oracle(e.FaultPageTaken(bench.fault))
    bench.held.append(SimpleNamespace(lock_class="mmap_lock", name="of the core"))
    moved: Any = e.FolioMigrated(bench.page, Page(2), True)
    bench.oracle(moved)
    bench.held.append(SimpleNamespace(lock_class="driver", name="of the driver"))
    assert rule_of(bench.oracle, moved) == "RULE-02"
    assert rule_of(bench.oracle, e.FaultPageServed(bench.fault)) == "RULE-02"


def test_a_fault_that_is_served_has_moved_the_page_or_met_somebody() -> None:
    bench = Faulting()
    assert rule_of(bench.oracle, e.FaultPageTaken(bench.fault), e.FaultPageServed(bench.fault)) == "INV-29"
    bench.oracle(e.MigrationRefused(bench.page, 0, 1))
    bench.oracle(e.FaultPageServed(bench.fault))
    bench = Faulting()
    bench.oracle(e.FaultPageTaken(bench.fault))
    bench.entries.clear()
    bench.oracle(e.FaultPageServed(bench.fault))


# -- counters ------------------------------------------------------------------------------------


def test_the_counters_are_what_the_entries_add_up_to() -> None:
    async def body(rig: Rig) -> None:
        device = ToyDevice(rig)
        await rig.write(0, 1)
        await rig.read(1)
        await device.to_device(0, 2)
        rig.structure.check()
        assert (rig.mm.rss.anon, rig.mm.rss.file, rig.mm.rss.swap) == (2, 0, 0)
        assert rig.mm.page_table.get(FIRST) is not None
        rig.mm.rss.anon += 1
        with pytest.raises(PropertyFailed, check=lambda error: error.rule == "INV-31"):
            rig.structure.check()
        rig.mm.rss.anon -= 1

    Rig().run(body)


# -- walks, ranges, the driver -------------------------------------------------------------------


def walk(**state: Any) -> HmmRange:
    notifier: Any = SimpleNamespace(name="sub", seq=state.pop("now", 3))
    return HmmRange(notifier, 3, 0, 1, [HMM_NONE], Hmm.NONE, **state)


def test_what_a_walk_found_is_mapped_while_it_holds() -> None:
    Walks()(WalkPublished(walk()))
    Walks()(WalkDone(walk(walked_seq=3)))
    assert rule_of(Walks(), WalkPublished(walk(now=5))) == "INV-02"
    assert rule_of(Walks(), WalkDone(walk(walked_seq=1))) == "INV-43"


@pytest.mark.parametrize(("name", "rule"), [("end", "RULE-29"), ("device", "RULE-20")])
def test_what_is_fixed_of_a_range_stays(name: str, rule: str) -> None:
    pages = SimpleNamespace(gpu="gpu0")
    range_: Any = SimpleNamespace(start=1, end=2, pages=pages, flags=SimpleNamespace(migrate_devmem=True), refs=1)
    made: Any = type("Range", (), {**vars(range_), "__repr__": lambda _self: "range"})()
    oracle = Ranges(SimpleNamespace(gpus=[]))
    oracle.made[made] = (1, 2, True, "gpu0")
    oracle.check()
    if name == "end":
        made.end = 3
    else:
        pages.gpu = "gpu1"
    with pytest.raises(PropertyFailed, check=lambda error: error.rule == rule):
        oracle.check()


def driver(*held: Any) -> Driver:
    task = SimpleNamespace(thread=SimpleNamespace(held=list(held)))
    return Driver(SimpleNamespace(engine=SimpleNamespace(current=task)))


def test_a_flush_covers_what_was_asked_for() -> None:
    driver()(TlbFlushed("gpu0", 1, 0, 8, 0, (2, 5)))
    assert rule_of(driver(), TlbFlushed("gpu0", 1, 2, 4, 0, (2, 5))) == "RULE-32"


def test_a_queue_that_has_ended_stays_off() -> None:
    queue: Any = type("Queue", (), {"name": "q"})()
    driver()(QueueSwitchedOn(queue))
    assert rule_of(driver(), QueueEnded(queue), QueueSwitchedOn(queue)) == "INV-VMB-11"


def test_a_transaction_ends_with_nothing_locked() -> None:
    ticket = object()
    empty: Any = SimpleNamespace(name="exec", objects=[], prelocked=None, contended=None, ticket=ticket)
    driver(SimpleNamespace(name="other", context=object()))(ExecEnded(empty))
    assert rule_of(driver(SimpleNamespace(name="resv", context=ticket)), ExecEnded(empty)) == "INV-FEN-06"
    empty.objects.append("bo")
    assert rule_of(driver(), ExecEnded(empty)) == "INV-FEN-06"


def test_a_cut_changes_no_translation() -> None:
    vm: Any = type("Vm", (), {"name": "vm", "page_table": {1: "a", 2: "b"}})()
    oracle = driver()
    oracle(MadviseCuts(vm, False))
    del vm.page_table[2]
    oracle(MadviseCuts(vm, True))
    oracle(MadviseCuts(vm, False))
    vm.page_table[1] = "other"
    assert rule_of(oracle, MadviseCuts(vm, True)) == "INV-VMB-15"


def test_planted_bugs_are_noticed_by_these_oracles() -> None:
    named = {oracle for bug in BUGS.values() for oracle in bug.oracles}
    assert {
        "copies/INV-09",
        "copies/INV-15",
        "copies/INV-16",
        "entries/INV-25",
        "entries/INV-27",
        "entries/INV-33",
        "fault_pages/INV-29",
        "fault_pages/RULE-03",
        "walks/INV-02",
        "walks/INV-43",
    } <= named
