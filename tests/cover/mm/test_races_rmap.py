"""Races of fork, mremap, mprotect, copies, exit and exclusive pages, with each guard removed (core_mm section 15)."""

from contextlib import suppress

import pytest
from mm_rig import FIRST
from race_rig import WRITE, Device, MiniGpu, Row, device, first_failure, mutants_of, race, together

from svm_actors.engine.errors import EFAULT, ENOMEM
from svm_actors.engine.locks import Mutex
from svm_actors.mm import exclusive, fork, memory, messages, migrate_device, mremap, rmap
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, IntervalNotifier, NotifierRange
from svm_actors.mm.page_table import Entry, Pte

SCHEDULES = 51

# -- MM-R12, MM-R13, MM-R16: fork, mremap, mprotect against rmap -------------------------------


async def fork_vs_eviction(rig):
    """MM-R12: both copies end read-only and apart."""
    toy = device(rig)
    await rig.write(0, 1)
    assert await toy.to_device(0, 1) == 1
    children = []

    async def forker():
        children.append(await rig.fork())

    await together(rig, forker, toy.evict)
    rig.structure.check()
    (child,) = children
    await rig.write(0, 7, child)
    assert (await rig.read(0), await rig.read(0, child)) == (1, 7)
    await rig.write(0, 8)
    assert (await rig.read(0), await rig.read(0, child)) == (8, 7)
    await child.mmput()


def fork_leaves_writable(patch):
    """MM-B57: device and migration entries keep their write permission."""
    original = fork.copy_entry

    def copy_entry(core, copy, vma, vpn, pte):
        original(core, copy, vma, vpn, pte)
        if pte.kind in (Entry.DEVICE_PRIVATE, Entry.MIGRATION):
            vma.mm.page_table.set(vpn, pte)
            copy.mm.page_table.set(vpn, pte)

    patch.setattr(fork, "copy_entry", copy_entry)


async def mremap_vs_eviction(rig):
    """MM-R13: an entry on the move is still found."""
    toy = device(rig)
    await rig.write(0, 1)
    await rig.write(1, 2)
    assert await toy.to_device(0, 2) == 2

    async def mover():
        for source, target in ((0, 20), (20, 40), (40, 60)):
            await rig.mremap(source, 2, target)

    await together(rig, mover, toy.evict)
    rig.structure.check()
    assert [await rig.read(60), await rig.read(61)] == [1, 2]


def no_rmap_order_no_rmap_lock(patch):
    """MM-B59: the walk meets the new place first, and the move does not wait for it."""

    async def move_page_tables(core, vma, copy, start, end, target):
        mm = vma.mm
        event = NotifierRange(mm, Event.UNMAP, start, end)
        await mm.subscriptions.invalidate_range_start(event)
        for table in mm.page_table.tables(start, end):
            await core.engine.step("pte_write", mm.page_table, table * 512)
            for vpn, pte in mm.page_table.entries(table, start, end):
                mm.page_table.clear(vpn)
                mm.page_table.set(vpn - start + target, pte)
        await mm.subscriptions.invalidate_range_end(event)

    patch.setattr(mremap, "move_page_tables", move_page_tables)
    patch.setattr(rmap.AnonVma, "in_order", lambda anon_vma: anon_vma.vmas[::-1])


async def restore_vs_mprotect(rig):
    """MM-R16: protection taken away while the page was on its way."""
    toy = device(rig)
    await rig.write(0, 1)
    assert await toy.to_device(0, 1) == 1
    await together(rig, toy.evict, (rig.mprotect, 0, 1, "r"))
    assert not rig.pte(0).writable
    with pytest.raises(messages.SIGSEGV):
        await rig.write(0, 2)
    assert await rig.read(0) == 1


def restore_from_source_flags(patch):
    """MM-B58: what the entry was when it was collected decides, not what it is now."""
    install, restore = rmap.install_migration_entry, rmap.restore_entry
    was = {}

    def install_and_note(vma, vpn, pte):
        was[vpn] = pte.writable
        install(vma, vpn, pte)

    for module in (rmap, migrate_device):
        patch.setattr(module, "install_migration_entry", install_and_note)
    patch.setattr(
        rmap, "restore_entry",
        lambda vma, vpn, pte, target: restore(vma, vpn, pte._replace(writable=was[vpn]), target),
    )  # fmt: skip


# -- MM-R19, MM-R23, MM-R26, MM-R28, MM-R41 ----------------------------------------------------


async def copy_vs_copy(rig):
    """MM-R19: two write faults copy one shared page; one of the copies is thrown away."""
    await rig.write(0, 1)
    child = await rig.fork()
    await together(rig, (rig.write, 0, 9), (rig.write, 0, 9))
    assert (await rig.read(0), await rig.read(0, child)) == (9, 1)
    await child.mmput()


def copy_without_second_look(patch):
    """MM-B53."""

    async def wp_page_copy(core, vma, vpn, seen):
        mm, old = vma.mm, seen.folio
        new = await core.allocator.alloc("fault")
        new.content = old.content
        event = NotifierRange(mm, Event.CLEAR, vpn, vpn + 1)
        await mm.subscriptions.invalidate_range_start(event)
        await core.engine.step("pte_write", mm.page_table, vpn)
        rmap.folio_add_new_anon_rmap(new, vma, vpn)
        mm.page_table.set(vpn, Pte(Entry.PRESENT, new, True, True, True))
        old.remove_mapping()
        await mm.subscriptions.invalidate_range_end(event)
        new.put("fault")

    patch.setattr(memory, "_wp_page_copy", wp_page_copy)


async def exit_vs_fault_worker(rig):
    """MM-R23: the worker keeps the mm, or leaves it alone."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def worker():
        if await rig.mm.mmget_not_zero():
            for page in range(3):
                await gpu.load(page)
            gpu.check()
            await rig.mm.mmput()

    await together(rig, worker, rig.mm.mmput)
    assert gpu.map == {}
    await gpu.close()


def no_mmget(patch):
    """MM-B65: the worker walks whatever is left of the mm."""
    exits = Mm.mmput

    async def mmget_not_zero(mm):
        mm.borrowed = True
        return True

    async def mmput(mm):
        if getattr(mm, "borrowed", False) and mm.engine.current.id.count("worker"):
            return
        await exits(mm)

    patch.setattr(Mm, "mmget_not_zero", mmget_not_zero)
    patch.setattr(Mm, "mmput", mmput)


async def walk_asleep_vs_writer(rig):
    """MM-R26: a walk sleeps on a migrating page with mmap_lock held, and a writer waits behind it."""
    toy = device(rig)
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)
    assert await toy.to_device(0, 1) == 1
    await together(rig, toy.evict, (gpu.load, 0), (rig.mprotect, 4, 2, "r"))
    gpu.check()
    await gpu.close()


def folio_owner_wants_mmap_lock(patch):
    """MM-B70: whoever holds the locked page asks for mmap_lock."""
    original = Device._copy_home

    async def copy_home(toy, src, dst):
        mm = toy.rig.mm
        if not mm.mmap_lock.held_by_me():
            async with mm.mmap_lock.reading():
                await original(toy, src, dst)

    patch.setattr(Device, "_copy_home", copy_home)


class OneLock(Device):
    """A driver with a lock of its own around eviction."""

    def __init__(self, rig):
        super().__init__(rig)
        self.mutex = Mutex(rig.engine, "driver", "driver_lock")

    async def evict_locked(self):
        async with self.mutex:
            for pfn in sorted(self.pgmap.live):
                folio = self.pgmap.live.get(pfn)
                if folio is not None:
                    await folio.lock.wait_clear()
            await self.evict()


async def driver_lock_vs_folio(rig):
    """MM-R26: the evictor waits for pages with its lock held, so the fault callback must not want that lock."""
    toy = device(rig, OneLock)
    await rig.write(0, 1)
    assert await toy.to_device(0, 1) == 1
    await together(rig, toy.evict_locked, (rig.read, 0))
    assert await rig.read(0) == 1


def driver_lock_in_migrate_to_ram(patch):
    """MM-B70: the callback waits for a lock whose holder wants the page."""
    original = Device.migrate_to_ram

    async def migrate_to_ram(toy, fault):
        async with toy.mutex:
            await original(toy, fault)

    patch.setattr(OneLock, "migrate_to_ram", migrate_to_ram, raising=False)


class ExclusiveGpu(MiniGpu):
    """Takes a page for itself; the folio stays locked until its own table is written."""

    def ignores(self, event):
        return event.event is Event.EXCLUSIVE and event.owner is self

    async def take(self, vpn):
        core, mm = self.rig.core, self.rig.mm
        while True:
            # faulted in first: giving back what an earlier round took is an event of its own
            seq, _pfn = await self.walk(vpn, WRITE)
            async with mm.mmap_lock.reading():
                folio = await core.call(messages.MakeDeviceExclusive(mm, vpn, self))
            await self.programming(folio)
            async with self.lock:
                valid = not self.notifier.read_retry(seq)
                if valid:
                    self.map[vpn] = (folio, folio.generation, True)
            self.programmed(folio)
            folio.put("exclusive")
            if valid:
                return

    async def programming(self, folio):
        """The folio is locked, and stays so."""

    def programmed(self, folio):
        folio.lock.release()

    def check_exclusive(self):
        for vpn, (folio, _generation, _writable) in self.map.items():
            assert self.rig.mm.page_table.get(vpn) == Pte(Entry.DEVICE_EXCLUSIVE, folio), "it is not exclusive"


async def exclusive_vs_cpu_and_fork(rig):
    """MM-R28."""
    gpu = ExclusiveGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def forker():
        try:
            child = await rig.fork()
        except ENOMEM:  # the page is locked just now
            return
        assert await rig.read(0, child) in (1, 2)
        await child.mmput()

    await together(rig, (gpu.take, FIRST), (rig.write, 0, 2), forker)
    gpu.check_exclusive()
    assert await rig.read(0) == 2
    await gpu.close()


def unlocked_before_programmed(patch):
    """MM-B62: the page is given up before the device has it, by a driver that trusts in the lock alone."""

    async def programming(gpu, folio):
        folio.lock.release()
        await gpu.rig.engine.step("local")

    patch.setattr(ExclusiveGpu, "programming", programming)
    patch.setattr(ExclusiveGpu, "programmed", lambda gpu, folio: None)
    patch.setattr(IntervalNotifier, "read_retry", lambda sub, seq: False)


def own_event_not_ignored(patch):
    """MM-B72: the event of its own call counts as a change, for ever."""
    patch.setattr(ExclusiveGpu, "ignores", lambda gpu, event: False)


async def exclusive_vs_dontneed(rig):
    """MM-R28: the page is zapped between the reference and the entry."""
    gpu = ExclusiveGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def take():
        with suppress(EFAULT):
            await gpu.take(FIRST)

    await together(rig, take, (rig.madvise, 0, 1, "dontneed"))
    gpu.check_exclusive()
    await gpu.close()


def exclusive_without_second_look(patch):
    """MM-B53."""

    def install(mm, vpn, folio):
        mm.page_table.set(vpn, Pte(Entry.DEVICE_EXCLUSIVE, folio))
        return True

    patch.setattr(exclusive, "install_exclusive", install)


async def swap_cache_vs_to_device(rig):
    """MM-R41: a page leaves the swap cache on its way to the device, whoever else goes meanwhile."""
    toy = device(rig)
    await rig.write(0, 1)
    assert await rig.swap_out(0, 1) == 1
    child = await rig.fork()
    assert await rig.read(0) == 1
    assert rig.pte(0).folio.swapcache == 1
    await together(rig, (toy.to_device, 0, 1), child.mmput)
    assert await rig.read(0) == 1


def swap_cache_sampled_early(patch):
    """MM-B22: what the page was before it left the swap cache decides how it is moved."""
    original = migrate_device._migrate_folio

    async def migrate_folio(core, source, target, fault_page):
        was = source.swap_slot
        done = await original(core, source, target, fault_page)
        if done and was is not None and target.is_device_private:
            core.swap.add_to_cache(target, was)
            source.put("swapcache")
        return done

    patch.setattr(migrate_device, "_migrate_folio", migrate_folio)


ROWS = {
    "MM-R12": Row(fork_vs_eviction, {"MM-B57": fork_leaves_writable}),
    "MM-R13": Row(mremap_vs_eviction, {"MM-B59": no_rmap_order_no_rmap_lock}),
    "MM-R16": Row(restore_vs_mprotect, {"MM-B58": restore_from_source_flags}),
    "MM-R19": Row(copy_vs_copy, {"MM-B53": copy_without_second_look}),
    "MM-R23": Row(exit_vs_fault_worker, {"MM-B65": no_mmget}),
    "MM-R26": Row(walk_asleep_vs_writer, {"MM-B70 mmap": folio_owner_wants_mmap_lock}),
    "MM-R26 driver": Row(driver_lock_vs_folio, {"MM-B70": driver_lock_in_migrate_to_ram}),
    "MM-R28": Row(
        exclusive_vs_cpu_and_fork, {"MM-B62": unlocked_before_programmed, "MM-B72": own_event_not_ignored}
    ),
    "MM-R28 zap": Row(exclusive_vs_dontneed, {"MM-B53": exclusive_without_second_look}),
    "MM-R41": Row(swap_cache_vs_to_device, {"MM-B22": swap_cache_sampled_early}),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_guard_holds(row):
    for schedule in range(SCHEDULES):
        race(ROWS[row].body, schedule)


@pytest.mark.parametrize(("row", "bug"), mutants_of(ROWS))
def test_without_the_guard_it_is_noticed(row, bug, monkeypatch):
    ROWS[row].mutants[bug](monkeypatch)
    assert first_failure(ROWS[row].body, 8 * SCHEDULES) is not None
