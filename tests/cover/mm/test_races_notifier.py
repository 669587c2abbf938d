"""Races between a device's walk and an invalidation: every row with its guard removed (core_mm section 15).

The correct model holds under fifo and fifty other schedules; each mutant, which replaces one guard,
is noticed within four hundred.
"""

import pytest
from mm_rig import FIRST
from race_guards import no_wait_in_read_begin, remove_without_waiting
from race_rig import Device, MiniGpu, Row, device, first_failure, mutants_of, race, together

from svm_actors.engine.errors import EEXIST, EFAULT, PropertyFailed
from svm_actors.mm import hmm, messages, mmap
from svm_actors.mm.cpu import cpu_read
from svm_actors.mm.mmu_notifier import Event, IntervalNotifier, MmuNotifierSubscriptions

SCHEDULES = 51

# -- guards taken away -----------------------------------------------------------------------


def no_read_retry(patch):
    """MM-B49: a stale walk counts as valid."""
    patch.setattr(IntervalNotifier, "read_retry", lambda sub, seq: False)


def no_set_seq(patch):
    """MM-B50: translations go, the sequence stays."""
    patch.setattr(IntervalNotifier, "set_seq", lambda sub, current: None)


def insert_at_once(patch):
    """MM-B52: the tree changes in an odd period, and the sequence says that nothing is going on."""

    def insert_locked(subs, sub):
        subs._insert_now(sub)
        sub.seq = (subs.sequence.value - 1) | 1
        if sub.seq == subs.sequence.value:
            sub.seq -= 2

    patch.setattr(MmuNotifierSubscriptions, "insert_locked", insert_locked)


def keep_translations(patch):
    """MM-B63: the callback says it is done and leaves everything mapped."""
    patch.setattr(MiniGpu, "drop", lambda gpu, event: None)


def zap_after_unlock(patch):
    """MM-B60: mmap_lock is let go before the zap, so the address can be mapped anew."""

    async def do_munmap(core, mm, start, end, *, downgrade):
        if not mm.vmas.overlapping(start, end):
            return
        vmas = await mmap.gather(core, mm, start, end)
        mm.mmap_write_unlock()
        await mmap.unmap_region(core, mm, vmas, start, end)
        await mm.mmap_lock.read()

    patch.setattr(mmap, "do_munmap", do_munmap)


def unmap_is_final(patch):
    """MM-B71: after UNMAP the address is taken for gone."""

    def drop(gpu, event):
        for vpn in [vpn for vpn in gpu.map if event.start <= vpn < event.end]:
            del gpu.map[vpn]
        if event.event is Event.UNMAP:
            gpu.dead = (event.start, event.end)

    async def fault(gpu, vpn, write):
        if gpu.dead[0] <= vpn < gpu.dead[1]:
            raise EFAULT
        seq, pfn = await gpu.walk(vpn, messages_request(write))
        async with gpu.lock:
            if not gpu.notifier.read_retry(seq):
                gpu.publish(vpn, pfn, write)

    patch.setattr(MiniGpu, "dead", (0, 0), raising=False)
    patch.setattr(MiniGpu, "drop", drop)
    patch.setattr(MiniGpu, "fault", fault)


def messages_request(write):
    return hmm.Hmm.REQ_FAULT | (hmm.Hmm.REQ_WRITE if write else hmm.Hmm.NONE)


def always_writable(patch):
    """MM-B74: the device maps for write whatever the walk answered."""

    def publish(gpu, vpn, pfn, write):
        gpu.map[vpn] = (pfn.folio, pfn.folio.generation, True)

    patch.setattr(MiniGpu, "publish", publish)


def seq_after_walk(patch):
    """MM-B76: the unlocked walk refreshes the sequence when it is through, not before."""
    original = hmm.hmm_range_fault_unlocked

    async def unlocked(core, range_, timeout):
        await original(core, range_, timeout)
        await core.engine.step("local")
        range_.notifier_seq = range_.notifier.seq

    patch.setattr(hmm, "hmm_range_fault_unlocked", unlocked)


# -- rows ----------------------------------------------------------------------------------


async def fault_vs_munmap(rig):
    """MM-R01."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def device_reads():
        try:
            for _ in range(2):
                assert await gpu.load(0) == 1
        except EFAULT:
            pass

    await together(rig, device_reads, (rig.munmap, 0, 1))
    await rig.write(5, 7)
    gpu.check()
    await gpu.close()


async def fault_vs_munmap_and_mmap(rig):
    """MM-R02."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def device_reads():
        for _ in range(3):
            try:
                assert await gpu.load(0) in (0, 1, 9)
            except EFAULT:
                continue

    async def map_again():
        while True:
            try:
                message = messages.Mmap(rig.mm, rig.addr(0), 4096, 3, noreplace=True)
                await rig.core.call(message)
                break
            except EEXIST:
                continue
        await rig.write(0, 9)
        assert await rig.read(0) == 9

    await together(rig, device_reads, (rig.munmap, 0, 1), map_again)
    gpu.check()
    assert await gpu.load(0) == 9
    await gpu.close()


async def walk_vs_clear(rig):
    """MM-R03, MM-R04, MM-R38: a walk, and the page it read goes."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def device_reads():
        for _ in range(3):
            await gpu.load(0)

    async def change():
        for value in (2, 3):
            await rig.madvise(0, 1, "dontneed")
            await rig.write(0, value)

    await together(rig, device_reads, change)
    gpu.check()
    assert await gpu.load(0) == 3
    await gpu.close()


async def insert_vs_clear(rig):
    """MM-R05."""
    gpu = MiniGpu(rig)
    await rig.write(0, 1)

    async def device_comes():
        await gpu.open()
        await gpu.load(0)

    await together(rig, device_comes, (rig.madvise, 0, 1, "dontneed"))
    await rig.write(0, 2)
    gpu.check()
    assert await gpu.load(0) == 2
    await gpu.close()


class Leaving(MiniGpu):
    """Notes when it has gone; nothing may call it then (INV-22)."""

    gone = False

    async def leave(self):
        await self.close()
        self.gone = True

    async def invalidate(self, notifier, event, seq):
        answer = await super().invalidate(notifier, event, seq)
        assert not self.gone
        return answer


async def remove_vs_clear(rig):
    """MM-R06."""
    gpu = Leaving(rig)
    await gpu.open()
    await rig.write(0, 1)
    await gpu.load(0)
    await together(rig, gpu.leave, (rig.madvise, 0, 1, "dontneed"), (rig.madvise, 1, 1, "dontneed"))


class MapsEarly(Device):
    """Maps the new page for its GPU between pages and finalize, if the sequence has not moved."""

    async def to_device_and_map(self, gpu, page):
        core, mm = self.rig.core, self.rig.mm
        seq = await gpu.notifier.read_begin()
        async with mm.mmap_lock.reading():
            vpn = FIRST + page
            args = messages.MigrateVma(mm, mm.find_vma(vpn), vpn, vpn + 1, self, 1)
            await core.call(messages.MigrateVmaSetup(args))
            if args.src[0].migrate:
                new = self.pgmap.zone_device_page_init(self.free.pop(), "dst")
                if args.src[0].folio is not None:
                    new.content = args.src[0].folio.content
                args.dst[0] = new
            await core.call(messages.MigrateVmaPages(args))
            if args.src[0].migrate:
                async with gpu.lock:
                    if not gpu.notifier.read_retry(seq):
                        gpu.map[vpn] = (new, new.generation, True)
            await core.call(messages.MigrateVmaFinalize(args))


class OwnMigrations(MiniGpu):
    """Skips MIGRATE events of its own device: event first, then owner.  Its own code retires what it moves."""

    def ignores(self, event):
        return event.event is Event.MIGRATE and event.owner is self.owner


async def map_before_finalize_vs_dontneed(rig):
    """MM-R15."""
    toy = device(rig, MapsEarly)
    gpu = OwnMigrations(rig, owner=toy)
    await gpu.open()
    await rig.write(0, 1)
    await together(rig, (toy.to_device_and_map, gpu, 0), (rig.madvise, 0, 1, "dontneed"))
    gpu.check()
    assert await gpu.load(0) in (0, 1)
    await gpu.close()


async def mprotect_vs_device_write(rig):
    """MM-R17."""
    toy = device(rig)
    gpu = MiniGpu(rig, owner=toy)
    await gpu.open()
    await rig.write(0, 1)
    assert await toy.to_device(0, 1) == 1

    async def device_writes():
        try:
            await gpu.load(0)
            await gpu.store(0, 5)
            await gpu.store(0, 6)
        except EFAULT:
            await gpu.load(0)

    await together(rig, device_writes, (rig.mprotect, 0, 1, "r"))
    gpu.check()
    await gpu.close()


async def copy_vs_device_write(rig):
    """MM-R19: the CPU and the device write to different bytes of a page that a child shares."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)
    child = await rig.fork()
    assert await gpu.load(0) == 1
    await together(rig, (rig.write, 0, 9), (gpu.store, 0, 7, 1))
    assert await cpu_read(rig.core, rig.mm, rig.addr(0), 2) == b"\x09\x07"
    assert await cpu_read(rig.core, child, rig.addr(0), 2) == b"\x01\x00"
    gpu.check()
    await gpu.close()
    await child.mmput()


async def owner_filter_vs_other_owner(rig):
    """MM-R21: its own MIGRATE is skipped, another device's and a CLEAR are not."""
    mine, other = device(rig), Device(rig)
    other.pgmap.base_pfn = 1 << 37
    other.free = [(1 << 37) + index for index in range(8)]
    gpu = OwnMigrations(rig, owner=mine)
    await gpu.open()
    await rig.write(0, 1)

    async def device_works():
        for _ in range(2):
            async with gpu.lock:
                gpu.map.clear()
            await mine.to_device(0, 1)
            await gpu.load(0)

    async def others_work():
        await other.to_device(0, 1)
        await rig.madvise(0, 1, "dontneed")

    await together(rig, device_works, others_work)
    gpu.check()
    await gpu.close()


def any_migration_is_mine(patch):
    """MM-B61: the filter looks at the event alone."""
    patch.setattr(OwnMigrations, "ignores", lambda gpu, event: event.event is Event.MIGRATE)


def owner_before_event(patch):
    """MM-B61: the owner is read first; for other events the field holds what the last range left there."""

    def ignores(gpu, event):
        if event.owner is not None:
            gpu.leftover = event.owner
        return gpu.leftover is gpu.owner

    patch.setattr(OwnMigrations, "leftover", None, raising=False)
    patch.setattr(OwnMigrations, "ignores", ignores)


async def walk_vs_reclaim(rig):
    """MM-R25: the page moves through rmap alone, without a system call of this process."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def device_reads():
        for _ in range(2):
            assert await gpu.load(0) == 1

    await together(rig, device_reads, (rig.swap_out, 0, 1))
    await rig.write(3, 9)
    gpu.check()
    assert await gpu.load(0) == 1
    await gpu.close()


async def dontunmap_then_fault(rig):
    """MM-R27: UNMAP is announced, the VMA stays."""
    gpu = MiniGpu(rig)
    await gpu.open()
    await rig.write(0, 1)

    async def device_reads():
        for _ in range(2):
            assert await gpu.load(0) in (0, 1)

    async def move():
        await rig.mremap(0, 1, 20, dontunmap=True)

    await together(rig, device_reads, move)
    assert await gpu.load(0) == 0
    gpu.check()
    await gpu.close()


ROWS = {
    "MM-R01": Row(fault_vs_munmap, {"MM-B49": no_read_retry, "MM-B63": keep_translations}),
    "MM-R02": Row(fault_vs_munmap_and_mmap, {"MM-B50": no_set_seq, "MM-B60": zap_after_unlock}),
    "MM-R03": Row(walk_vs_clear, {"MM-B49": no_read_retry, "MM-B50": no_set_seq, "MM-B63": keep_translations}),
    "MM-R04": Row(walk_vs_clear, {"MM-B51": no_wait_in_read_begin}),
    "MM-R05": Row(insert_vs_clear, {"MM-B52": insert_at_once}),
    "MM-R06": Row(remove_vs_clear, {"MM-B05": remove_without_waiting}),
    "MM-R15": Row(map_before_finalize_vs_dontneed, {"MM-B36": no_read_retry}),
    "MM-R17": Row(mprotect_vs_device_write, {"MM-B63": keep_translations, "MM-B74": always_writable}),
    "MM-R19": Row(copy_vs_device_write, {"MM-B74": always_writable}),
    "MM-R21": Row(owner_filter_vs_other_owner, {"MM-B61 owner": any_migration_is_mine, "MM-B61": owner_before_event}),
    "MM-R25": Row(walk_vs_reclaim, {"MM-B49": no_read_retry}),
    "MM-R27": Row(dontunmap_then_fault, {"MM-B71": unmap_is_final}),
    "MM-R38": Row(walk_vs_clear, {"MM-B76": seq_after_walk}),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_guard_holds(row):
    for schedule in range(SCHEDULES):
        race(ROWS[row].body, schedule)


@pytest.mark.parametrize(("row", "bug"), mutants_of(ROWS))
def test_without_the_guard_it_is_noticed(row, bug, monkeypatch):
    ROWS[row].mutants[bug](monkeypatch)
    assert first_failure(ROWS[row].body, 8 * SCHEDULES) is not None


def test_a_translation_that_stays_is_named():
    """What the oracle says: the rule, and the page."""

    class Lazy(MiniGpu):
        def drop(self, event):
            pass

    async def body(rig):
        gpu = Lazy(rig)
        await gpu.open()
        await rig.write(3, 1)
        await gpu.load(3)
        await rig.munmap(3, 1)

    with pytest.raises(PropertyFailed, match="page 3 is still mapped"):
        race(body, 0)
