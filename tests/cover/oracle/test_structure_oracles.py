"""Each structural rule is broken by hand once; the oracle names the rule."""

from types import SimpleNamespace

import pytest
from mm_rig import FIRST, Rig

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.folio import Kind
from svm_actors.mm.mmu_notifier import Event, InvalidateEnded, InvalidateReturned, InvalidateStarted, NotifierRange
from svm_actors.mm.page_table import Entry
from svm_actors.oracle import attach
from svm_actors.oracle.leaks import check_leaks
from svm_actors.oracle.notifier import Invalidation


def rule_broken_by(damage, prepare=None):
    """Run ``damage(rig)`` on a machine with one written page; the rule of the failure."""
    found = []

    async def body(rig):
        await rig.write(0, 1)
        if prepare is not None:
            await prepare(rig)
        rig.structure.check()
        damage(rig)
        with pytest.raises(PropertyFailed) as failure:
            rig.structure.check()
        found.append(failure.value.rule)
        raise StopAsyncIteration

    with pytest.raises((StopAsyncIteration, RuntimeError)):
        Rig().run(body)
    return found[0]


def page(rig, **changes):
    pte = rig.pte(0)
    rig.mm.page_table.set(FIRST, pte._replace(**changes))
    return pte.folio


def test_a_count_that_is_not_the_sum_of_its_reasons():
    def damage(rig):
        rig.pte(0).folio.refcount += 1

    assert rule_broken_by(damage) == "INV-06"


def test_an_entry_more_than_the_page_knows():
    assert rule_broken_by(lambda rig: rig.mm.page_table.set(FIRST + 1, rig.pte(0))) == "INV-07"


def test_a_migration_entry_whose_page_is_not_locked():
    def damage(rig):
        folio = page(rig, kind=Entry.MIGRATION)
        folio.get("held")
        folio.remove_mapping()

    assert rule_broken_by(damage) == "INV-08"


def test_an_entry_to_a_free_page():
    def damage(rig):
        folio = rig.pte(0).folio
        folio.mapcount = 0
        for reason in list(folio.refs):
            folio.put(reason)

    assert rule_broken_by(damage) == "INV-10"


def test_a_device_entry_to_a_page_on_the_lru():
    assert rule_broken_by(lambda rig: page(rig, kind=Entry.DEVICE_PRIVATE)) == "INV-11"


def test_a_writable_device_entry_shared_by_two():
    def damage(rig):
        folio = page(rig, kind=Entry.DEVICE_PRIVATE)
        folio.kind, folio.lru = Kind.DEVICE_PRIVATE, False
        folio.add_mapping()
        rig.mm.page_table.set(FIRST + 1, rig.pte(0))

    assert rule_broken_by(damage) == "INV-12"


def test_a_writable_page_that_is_not_exclusive():
    def damage(rig):
        rig.pte(0).folio.anon_exclusive = False

    assert rule_broken_by(damage) == "INV-13"


def test_a_swap_slot_with_a_wrong_count():
    async def prepare(rig):
        assert await rig.swap_out(0, 1) == 1

    def damage(rig):
        rig.pte(0).folio.count += 1

    assert rule_broken_by(damage, prepare) == "INV-32"


# -- the notifier protocol --------------------------------------------------------------------


@pytest.fixture
def protocol():
    """(oracle, rig, event) fed by hand."""
    rig = Rig()
    world = SimpleNamespace(gpus=[], mirrors=[])
    return Invalidation(world), rig, NotifierRange(rig.mm, Event.CLEAR, FIRST, FIRST + 4)


def broken(oracle, event):
    with pytest.raises(PropertyFailed) as failure:
        oracle(event)
    return failure.value.rule


def test_an_end_without_a_start(protocol):
    oracle, _rig, event = protocol
    assert broken(oracle, InvalidateEnded(event)) == "INV-19"


@pytest.mark.parametrize(("active", "value"), [(-1, 2), (0, 3)])
def test_an_impossible_sequence(protocol, active, value):
    oracle, rig, event = protocol
    rig.mm.subscriptions.sequence.active, rig.mm.subscriptions.sequence.value = active, value
    assert broken(oracle, InvalidateStarted(event, value)) == "INV-18"


def test_a_subscription_ahead_of_the_mm_and_one_with_an_even_value(protocol):
    oracle, rig, event = protocol
    subs = rig.mm.subscriptions
    subs.tree.append(rig.recorder.notifier)
    for seq in (2, 99):
        rig.recorder.notifier.seq = seq
        assert broken(oracle, InvalidateStarted(event, 2)) == "INV-20"


def test_deferred_work_in_an_even_period(protocol):
    oracle, rig, event = protocol
    rig.mm.subscriptions.deferred.append(rig.recorder.notifier)
    assert broken(oracle, InvalidateStarted(event, 2)) == "INV-21"


def gpu_world(rig, *, in_table=(), in_tlb=()):
    """One GPU address space that translates these pages."""

    def having(pages):
        return lambda start, end: [(page, object()) for page in pages if start <= page < end]

    vm = SimpleNamespace(mm=rig.mm, asid=1, page_table=SimpleNamespace(entries_in=having(in_table)))
    tlb = SimpleNamespace(entries_in=lambda asid, start, end: having(in_tlb)(start, end) if asid == 1 else [])
    driver = SimpleNamespace(vms={1: vm}, bind_vms={})
    device = SimpleNamespace(gpu=SimpleNamespace(name="gpu0", tlb=tlb), driver=driver)
    return SimpleNamespace(gpus=[device], mirrors=[])


@pytest.mark.parametrize("where", ["in_table", "in_tlb"])
def test_a_translation_left_behind(where):
    rig = Rig()
    event = NotifierRange(rig.mm, Event.UNMAP, FIRST, FIRST + 4)
    assert broken(Invalidation(gpu_world(rig, **{where: [FIRST + 2]})), InvalidateReturned(event)) == "INV-01"
    Invalidation(gpu_world(rig, **{where: [FIRST + 4]}))(InvalidateReturned(event))


# -- teardown ---------------------------------------------------------------------------------


def world_with(statistics, held=()):
    thread = SimpleNamespace(held=[SimpleNamespace(name=name) for name in held])
    task = SimpleNamespace(id="somebody", thread=thread)
    return SimpleNamespace(statistics=lambda: statistics, engine=SimpleNamespace(tasks={1: task}))


def test_everything_alive_is_listed_by_owner():
    with pytest.raises(PropertyFailed) as failure:
        check_leaks(world_with({"ram": {"live": 2, "name": "x"}, "gpu0": {"faults": 9, "mappings": 1}}, ["mmap_lock"]))
    assert failure.value.text == (
        "alive at teardown: ram.live=2, gpu0.mappings=1, lock mmap_lock held by somebody"
    )


def test_a_clean_teardown_passes():
    check_leaks(world_with({"ram": {"live": 0}, "gpu0": {"faults": 4}}))


def test_attach_installs_listeners_and_checks():
    world = SimpleNamespace(engine=SimpleNamespace(listeners=[]), at_rest=[], at_close=[])
    attach(world)
    names = [listener.name for listener in world.engine.listeners]
    assert len(names) == len(set(names))
    assert {"coherence", "invalidation", "structure", "ranges", "sched", "fences", "submission"} <= set(names)
    assert len(world.at_rest) >= 7
    assert len(world.at_close) >= 4
