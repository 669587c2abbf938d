"""Races of faults, migration, eviction and zap over one page, with each guard removed (core_mm section 15)."""


import pytest
from mm_rig import FIRST
from race_rig import Device, Row, device, first_failure, mutants_of, race, together

from svm_actors.mm import memory, messages, migrate_device, rmap
from svm_actors.mm.memory import Fault
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.page_table import Entry, Pte

SCHEDULES = 51

# -- MM-R07, MM-R24: CPU faults on one device page --------------------------------------------


async def fault_vs_fault(rig):
    """MM-R07: whoever loses the lock sleeps, without a reference that would keep the page from moving."""
    toy = device(rig)
    await rig.write(0, 5)
    await rig.core.lru.drain()
    assert await toy.to_device(0, 1) == 1

    async def reader():
        assert await rig.read(0) == 5

    await together(rig, reader, reader, reader, reader)
    counters = rig.engine.counters
    assert (counters["migrate.refs"], counters["MM-R11"]) == (0, 0), "a fault kept another one from migrating"
    assert len(toy.free) == 64


async def _run_callback(core, vma, vpn, write, folio):
    await folio.pgmap.ops.migrate_to_ram(VmFault(vma.mm, vma, vpn, write, folio))


def reference_before_lock(patch):
    """MM-B01: every waiter holds a reference."""

    async def fault(core, vma, vpn, seen, write, vma_locked):
        if vma_locked:
            return Fault.RETRY
        folio = seen.folio
        await core.engine.step("get", folio)
        if vma.mm.page_table.get(vpn) != seen:
            return Fault.DONE
        folio.get("fault")
        await folio.lock.acquire()
        await _run_callback(core, vma, vpn, write, folio)
        folio.lock.release()
        await core.engine.step("put", folio)
        folio.put("fault")
        return Fault.DONE

    patch.setattr(memory, "device_private_fault", fault)


def put_before_unlock(patch):
    """MM-B03."""

    async def fault(core, vma, vpn, seen, write, vma_locked):
        if vma_locked:
            return Fault.RETRY
        folio = seen.folio
        await core.engine.step("trylock", folio.lock)
        if vma.mm.page_table.get(vpn) != seen or not folio.lock.trylock_now():
            return Fault.DONE
        folio.get("fault")
        await _run_callback(core, vma, vpn, write, folio)
        folio.put("fault")
        folio.lock.release()
        return Fault.DONE

    patch.setattr(memory, "device_private_fault", fault)


def no_reference(patch):
    """MM-B04: the callback runs on a page that nothing but the entry keeps."""

    async def fault(core, vma, vpn, seen, write, vma_locked):
        if vma_locked:
            return Fault.RETRY
        folio = seen.folio
        await core.engine.step("trylock", folio.lock)
        if vma.mm.page_table.get(vpn) != seen or not folio.lock.trylock_now():
            return Fault.DONE
        await _run_callback(core, vma, vpn, write, folio)
        folio.lock.release()
        return Fault.DONE

    patch.setattr(memory, "device_private_fault", fault)


def waiter_without_the_entry(patch):
    """MM-B69: the lock is waited for after the entry was let go, and the page is referenced then."""

    async def fault(core, vma, vpn, seen, write, vma_locked):
        if vma_locked:
            return Fault.RETRY
        folio = seen.folio
        await folio.lock.acquire()
        folio.get("fault")
        await _run_callback(core, vma, vpn, write, folio)
        folio.lock.release()
        await core.engine.step("put", folio)
        folio.put("fault")
        return Fault.DONE

    patch.setattr(memory, "device_private_fault", fault)


async def waiter_vs_free_and_reuse(rig):
    """MM-R24: the page is zapped and handed out again while a fault sleeps on its lock."""
    toy = device(rig)
    await rig.write(0, 5)
    assert await toy.to_device(0, 1) == 1

    async def reader():
        assert await rig.read(0) in (0, 5)

    async def zap_and_reuse():
        await rig.madvise(0, 1, "dontneed")
        await rig.write(4, 9)
        await toy.to_device(4, 1)

    await together(rig, reader, reader, zap_and_reuse)
    assert await rig.read(4) == 9


# -- MM-R08, MM-R09, MM-R14: eviction, ranges, zaps -------------------------------------------


async def fault_vs_eviction(rig):
    """MM-R08."""
    toy = device(rig)
    for page in range(2):
        await rig.write(page, page + 1)
    assert await toy.to_device(0, 2) == 2

    async def reader(page):
        assert await rig.read(page) == page + 1

    await together(rig, (reader, 0), (reader, 1), toy.evict)
    assert len(toy.free) == 64
    assert [rig.pte(page).kind for page in range(2)] == [Entry.PRESENT] * 2


def collect_without_lock(patch):
    """The evictor takes a page that somebody else has locked."""

    async def migrate_device_pfns(core, pgmap, pfns):
        src = []
        for pfn in pfns:
            entry = migrate_device.MigratePfn()
            src.append(entry)
            await core.engine.step("trylock", None)
            if pfn in pgmap.live:
                folio = pgmap.live[pfn]
                folio.lock.trylock_now()
                folio.get("collect")
                entry.folio, entry.migrate = folio, True
        await migrate_device.migrate_device_unmap(core, src, None)
        return src

    patch.setattr(migrate_device, "migrate_device_pfns", migrate_device_pfns)


class RangeDevice(Device):
    """Brings the whole arena home at each fault, as far as it goes."""

    async def migrate_to_ram(self, fault):
        start, end = fault.vma.start, fault.vma.start + 4
        args = messages.MigrateVma(fault.mm, fault.vma, start, end, self, 2, fault_page=fault.page)
        core = self.rig.core
        await core.call(messages.MigrateVmaSetup(args))
        if self.enough(args):
            await self._copy_home(args.src, args.dst)
        await core.call(messages.MigrateVmaPages(args))
        moved = args.src[fault.vpn - start].migrate
        await core.call(messages.MigrateVmaFinalize(args))
        assert moved, "the faulting page stayed"

    def enough(self, args):
        """One page is."""
        return True


def all_or_nothing(patch):
    """MM-B73: what could not be collected is a reason to leave everything."""
    patch.setattr(RangeDevice, "enough", lambda toy, args: sum(entry.valid for entry in args.src) == 4)


async def neighbours_fault(rig):
    """MM-R09: two faults inside one allocation skip each other's page, and both get on."""
    toy = device(rig, RangeDevice)
    for page in range(4):
        await rig.write(page, page + 1)
    await rig.core.lru.drain()
    assert await toy.to_device(0, 4) == 4

    async def reader(page):
        assert await rig.read(page) == page + 1

    await together(rig, (reader, 0), (reader, 2))
    assert [await rig.read(page) for page in range(4)] == [1, 2, 3, 4]


async def eviction_vs_zap(rig):
    """MM-R14: every entry goes while the page is on its way; nothing is left to restore."""
    toy = device(rig)
    await rig.write(0, 1)
    await rig.write(1, 2)
    assert await toy.to_device(0, 2) == 2
    await together(rig, toy.evict, (rig.madvise, 0, 1, "dontneed"))
    assert (await rig.read(0), await rig.read(1)) == (0, 2)


def finalize_without_pages(patch):
    """MM-B47: destinations are live, but nothing was committed."""

    async def migrate_device_pages(core, src, dst):
        await core.engine.step("local")

    patch.setattr(migrate_device, "migrate_device_pages", migrate_device_pages)


# -- MM-R10, MM-R11, MM-R22: what the commit checks -------------------------------------------


async def to_device_vs_first_touch(rig):
    """MM-R10: a hole is filled by the CPU and by the device."""
    toy = device(rig)
    await together(rig, (toy.to_device, 0, 2), (rig.write, 0, 5))
    assert (await rig.read(0), await rig.read(1)) == (5, 0)


async def _insert(core, args, vpn, target, *, hole, stable):
    vma = args.vma
    rmap.anon_vma_prepare(core, vma)
    await core.engine.step("pte_write", args.mm.page_table, vpn)
    pte = args.mm.page_table.get(vpn)
    if (stable and args.mm.unstable) or (hole and pte is not None):
        return False
    rmap.folio_add_new_anon_rmap(target, vma, vpn)
    args.mm.page_table.set(vpn, Pte(Entry.DEVICE_PRIVATE, target, True))
    return True


def fill_what_is_no_hole(patch):
    """MM-B53: the entry is not looked at again."""
    patch.setattr(migrate_device, "_insert_page", lambda *a: _insert(*a, hole=False, stable=True))


def fill_an_unstable_mm(patch):
    """MM-B56."""
    patch.setattr(migrate_device, "_insert_page", lambda *a: _insert(*a, hole=True, stable=False))


async def to_device_vs_reaper(rig):
    """MM-R22: what is inserted after the mm was marked would never be reaped."""
    toy = device(rig)

    async def reaper():
        rig.mm.unstable = True
        await rig.madvise(0, 2, "dontneed")

    await together(rig, (toy.to_device, 0, 2), reaper)
    assert [rig.pte(page) for page in range(2)] == [None, None]


async def eviction_vs_reference(rig):
    """MM-R11: a page that was found mapped and referenced stays what it is until the reference goes."""
    toy = device(rig)
    await rig.write(0, 1)
    assert await toy.to_device(0, 1) == 1

    async def holder():
        for _ in range(3):
            await rig.engine.step("pte_read", rig.mm.page_table, FIRST)
            pte = rig.pte(0)
            if pte is None or pte.kind is not Entry.DEVICE_PRIVATE:
                continue
            folio = pte.folio
            folio.get("holder")
            for _ in range(8):
                await rig.engine.step("local")
            assert rig.pte(0).folio is folio, "the page was replaced under a reference"
            folio.put("holder")

    await together(rig, holder, toy.evict)
    await toy.evict()
    assert await rig.read(0) == 1


def any_references(patch):
    """MM-B55."""
    patch.setattr(migrate_device, "exact_references", lambda source, fault_page: True)


async def to_device_vs_waiters(rig):
    """MM-R11: those who wait for a migrating page hold nothing that would stop it."""
    toy = device(rig)
    await rig.write(0, 1)
    await rig.core.lru.drain()
    moved = []

    async def migrate():
        moved.append(await toy.to_device(0, 1))

    async def reader():
        assert await rig.read(0) == 1

    await together(rig, migrate, reader, reader)
    assert moved == [1], "a waiter stopped the migration"


def waiters_hold_references(patch):
    """MM-B10."""

    async def wait(core, mm, vpn, seen):
        await core.engine.step("pte_read", mm.page_table, vpn)
        if mm.page_table.get(vpn) == seen:
            seen.folio.get("wait")
            await seen.folio.lock.wait_clear()
            seen.folio.put("wait")

    patch.setattr(memory, "migration_entry_wait", wait)


ROWS = {
    "MM-R07": Row(
        fault_vs_fault,
        {"MM-B01": reference_before_lock, "MM-B03": put_before_unlock, "MM-B04": no_reference},
    ),
    "MM-R08": Row(fault_vs_eviction, {"lock ignored": collect_without_lock, "MM-B04": no_reference}),
    "MM-R09": Row(neighbours_fault, {"MM-B73": all_or_nothing}),
    "MM-R10": Row(to_device_vs_first_touch, {"MM-B53": fill_what_is_no_hole}),
    "MM-R11": Row(eviction_vs_reference, {"MM-B55": any_references}),
    "MM-R11 waiters": Row(to_device_vs_waiters, {"MM-B10": waiters_hold_references}),
    "MM-R14": Row(eviction_vs_zap, {"MM-B47": finalize_without_pages}),
    "MM-R22": Row(to_device_vs_reaper, {"MM-B56": fill_an_unstable_mm}),
    "MM-R24": Row(waiter_vs_free_and_reuse, {"MM-B69": waiter_without_the_entry}),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_guard_holds(row):
    for schedule in range(SCHEDULES):
        race(ROWS[row].body, schedule)


@pytest.mark.parametrize(("row", "bug"), mutants_of(ROWS))
def test_without_the_guard_it_is_noticed(row, bug, monkeypatch):
    ROWS[row].mutants[bug](monkeypatch)
    assert first_failure(ROWS[row].body, 8 * SCHEDULES) is not None
