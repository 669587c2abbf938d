"""Who holds which reference, step by step (core_mm section 4)."""

import pytest
from mm_rig import FIRST, Rig
from race_rig import device, together

from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.mm import messages as m
from svm_actors.mm.migrate_types import MigrateVma, Select
from svm_actors.mm.page_table import Entry


def test_a_quiet_anonymous_page_counts_its_mappings_and_the_swap_cache():
    async def body(rig):
        await rig.write(0, 1)
        await rig.core.lru.drain()
        folio = rig.pte(0).folio
        assert (folio.refcount, folio.mapcount, folio.swapcache, folio.refs) == (1, 1, 0, {"map": 1})
        child = await rig.fork()
        assert (folio.refcount, folio.mapcount) == (2, 2)
        assert await rig.swap_out(0, 1) == 1
        assert folio.freed
        await rig.read(0)
        await rig.core.lru.drain()
        folio = rig.pte(0).folio
        assert folio.refs == {"map": 1, "swapcache": 1}
        assert folio.swap_slot.count == 1
        await rig.read(0, child)
        await rig.core.lru.drain()
        assert folio.refs == {"map": 2, "swapcache": 1}
        assert (folio.swap_slot.count, rig.core.statistics()["swap"]) == (0, 1)
        await child.mmput()
        await rig.write(0, 2)
        assert (folio.refs, rig.core.statistics()["swap"]) == ({"map": 1}, 0)

    Rig().run(body)


def ledger(args):
    return [None if entry.folio is None else dict(entry.folio.refs) for entry in args.src]


def test_a_page_on_its_way_to_the_device():
    """Source: mapping out, collect in.  Destination: born with one reference, one more per mapping."""

    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        await rig.core.lru.drain()
        async with rig.mm.mmap_lock.reading():
            args = MigrateVma(rig.mm, rig.mm.find_vma(FIRST), FIRST, FIRST + 1, toy, Select.SYSTEM)
            await rig.core.call(m.MigrateVmaSetup(args))
            source = args.src[0].folio
            assert (source.refs, source.lru, source.lock.locked) == ({"collect": 1}, False, True)
            target = toy.pgmap.zone_device_page_init(toy.free.pop(), "dst")
            assert (target.refs, target.lock.locked) == ({"dst": 1}, True)
            args.dst[0] = target
            await rig.core.call(m.MigrateVmaPages(args))
            assert (source.refs, target.refs) == ({"collect": 1}, {"dst": 1})
            await rig.core.call(m.MigrateVmaFinalize(args))
        assert (source.freed, target.refs, target.lock.locked) == (True, {"map": 1}, False)

    Rig().run(body)


def test_a_fault_adds_one_reference_that_the_migration_knows_of():
    seen = []

    class Watched(type(device(Rig()))):
        async def _copy_home(self, src, dst):
            seen.extend(dict(entry.folio.refs) for entry in src)
            await super()._copy_home(src, dst)

    async def body(rig):
        toy = device(rig, Watched)
        await rig.write(0, 1)
        await toy.to_device(0, 1)
        await rig.read(0)
        assert seen == [{"collect": 1, "fault": 1}]
        await rig.core.lru.drain()
        assert rig.pte(0).folio.refs == {"map": 1}

    Rig().run(body)


@pytest.mark.parametrize("kind", ["ram", "device"])
def test_one_reference_too_many_is_enough_to_stay(kind):
    """RAM is refused by the first check; a device page passes it (MM-B48) and is refused at the commit."""

    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        if kind == "device":
            await toy.to_device(0, 1)
        folio = rig.pte(0).folio
        folio.get("extra")
        moved = await toy.evict() if kind == "device" else await toy.to_device(0, 1)
        assert (moved, rig.pte(0).folio) == (0, folio)
        counters = rig.engine.counters
        assert (counters["migrate.refs"], counters["MM-R11"]) == ((0, 1) if kind == "device" else (1, 0))
        folio.put("extra")
        assert await (toy.evict() if kind == "device" else toy.to_device(0, 1)) == 1

    Rig().run(body)


def test_two_references_too_many_stop_a_device_page_before_the_copy():
    async def body(rig):
        toy = device(rig)
        await rig.write(0, 1)
        await toy.to_device(0, 1)
        folio = rig.pte(0).folio
        folio.get("extra", 2)
        assert await toy.evict() == 0
        assert (rig.engine.counters["migrate.refs"], rig.engine.counters["MM-R11"]) == (1, 0)
        folio.put("extra")
        folio.put("extra")

    Rig().run(body)


def test_a_device_page_starts_from_nothing_each_time():
    """Locked, one reference, contents and leftovers wiped; a page in use is not handed out."""

    async def body(rig):
        toy = device(rig)
        await rig.write(0, 9)
        await toy.to_device(0, 1)
        first = rig.pte(0).folio
        first.zone_device_data = "left over"
        with pytest.raises(EngineError, match="handed out while in use"):
            toy.pgmap.zone_device_page_init(first.pfn, "dst")
        await rig.madvise(0, 1, "dontneed")
        again = toy.pgmap.zone_device_page_init(toy.free.pop(), "dst")
        assert (again.pfn, again.generation) == (first.pfn, first.generation + 1)
        assert (again.refs, again.lock.locked, again.content.byte(0)) == ({"dst": 1}, True, 0)
        assert (again.zone_device_data, again.anon, again.anon_exclusive, again.anon_vma) == (None, False, False, None)
        with pytest.raises(PropertyFailed, match="INV-05"):
            first.check_live(first.generation, "a stale pointer")
        again.lock.release()
        again.put("dst")

    Rig().run(body)


@pytest.mark.parametrize("wrong", ["get", "put", "locked", "mapped"])
def test_a_wrong_count_is_noticed_where_it_happens(wrong):
    async def body(rig):
        folio = await rig.core.allocator.alloc("mine")
        if wrong == "get":
            folio.put("mine")
            folio.get("late")
        elif wrong == "put":
            folio.put("yours")
        elif wrong == "locked":
            folio.lock.trylock_now()
            folio.put("mine")
        else:
            folio.mapcount = 1
            folio.put("mine")

    rule = {"get": "INV-05", "put": "INV-06", "locked": "INV-08", "mapped": "INV-07"}[wrong]
    with pytest.raises(PropertyFailed, match=rule):
        Rig().run(body)


async def shared_through_swap(rig):
    """A page in the swap cache that no SWAP entry needs any more."""
    await rig.write(0, 1)
    assert await rig.swap_out(0, 1) == 1
    child = await rig.fork()
    await rig.read(0)
    await child.mmput()
    folio = rig.pte(0).folio
    assert (folio.swapcache, folio.swap_slot.count) == (1, 0)
    return folio


def test_a_page_zapped_while_it_migrates_leaves_the_swap_cache_with_the_lock():
    """The zap meets the lock and leaves the page alone; whoever unlocks it must not forget it."""

    async def body(rig):
        folio = await shared_through_swap(rig)
        async with rig.mm.mmap_lock.reading():
            args = MigrateVma(rig.mm, rig.mm.find_vma(FIRST), FIRST, FIRST + 1, None, Select.SYSTEM)
            await rig.core.call(m.MigrateVmaSetup(args))
            await together(rig, (rig.madvise, 0, 1, "dontneed"))
            assert folio.refs == {"collect": 1, "swapcache": 1}
            await rig.core.call(m.MigrateVmaPages(args))
            await rig.core.call(m.MigrateVmaFinalize(args))
        await rig.core.lru.drain()
        assert folio.freed
        assert rig.core.statistics()["swap"] == 0

    Rig().run(body)


class ZapOnceSwapped:
    """The zapper waits until the entry is a SWAP entry, then goes before everybody else."""

    name = "zap once swapped"

    def __init__(self, rig):
        self.rig = rig

    def schedule(self, running, candidates, timer):
        pte = self.rig.pte(0)
        turn = pte is not None and pte.kind is Entry.SWAP
        for index, task in enumerate(candidates):
            if task.daemon or ("zap" in task.id) is turn:
                return index
        return 0


def test_a_page_zapped_while_reclaim_writes_it_is_not_forgotten():
    """Reclaim gives up because of a reference; by then no entry is left that needs the slot."""

    async def body(rig):
        await rig.write(0, 1)
        folio = rig.pte(0).folio
        folio.get("extra")

        async def zap():
            await rig.madvise(0, 1, "dontneed")

        rig.engine.chooser = ZapOnceSwapped(rig)
        await together(rig, (rig.swap_out, 0, 1), zap)
        await rig.core.lru.drain()
        assert folio.refs == {"extra": 1}
        assert rig.core.statistics()["swap"] == 0
        folio.put("extra")

    Rig("random").run(body)
