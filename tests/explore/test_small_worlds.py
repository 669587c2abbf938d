"""Small races searched through: every schedule within two or three preemptions, and every result there is.

A result that no schedule reaches any more, or a new one, changes a set below.
"""

import pytest
from every_schedule import Bounded, every_schedule, one_run, outcomes
from mm_rig import FIRST, Recorder
from race_rig import NOTICED, MiniGpu, device, together

from svm_actors.engine.errors import EFAULT
from svm_actors.mm import fork as fork_module
from svm_actors.mm import messages, migrate_device
from svm_actors.mm.mmu_notifier import IntervalNotifier, MmuNotifierSubscriptions


def kind(rig, page=0, mm=None):
    pte = rig.pte(page, mm)
    return "NONE" if pte is None else pte.kind.name


# -- CPU fault and eviction -------------------------------------------------------------------


async def device_page(rig):
    toy = device(rig)
    await rig.write(0, 7)
    await rig.core.lru.drain()
    assert await toy.to_device(0, 1) == 1
    return toy


async def fault_and_eviction(rig, toy):
    read, moved = [], []

    async def fault():
        read.append(await rig.read(0))

    async def evict():
        moved.append(await toy.evict())

    await together(rig, fault, evict)
    assert len(toy.free) == 64
    rig.structure.check()
    return read[0], moved[0], kind(rig)


def test_cpu_fault_and_eviction():
    """Whoever has the page lock moves the page, and the other finds it at home."""
    count, results = outcomes(device_page, fault_and_eviction)
    assert results == {(7, 0, "PRESENT"), (7, 1, "PRESENT")}
    assert count > 500


# -- hmm walk and zap -------------------------------------------------------------------------


async def gpu_and_page(rig):
    gpu = MiniGpu(rig)
    await rig.write(0, 7)
    await gpu.open()
    return gpu


async def walk_and_zap(rig, gpu):
    read = []

    async def load():
        read.append(await gpu.load(0))

    await together(rig, load, (rig.madvise, 0, 1, "dontneed"))
    gpu.check()
    result = read[0], "mapped" if gpu.map else "not mapped"
    await gpu.close()
    return result


def test_hmm_walk_and_zap():
    """The old page before the zap, zeros after it; a map survives only if the walk came later."""
    count, results = outcomes(gpu_and_page, walk_and_zap, 3)
    assert results == {(7, "not mapped"), (0, "mapped")}
    assert count > 1000


async def walk_and_unmap(rig, gpu):
    read = []

    async def load():
        try:
            read.append(await gpu.load(0))
        except EFAULT:
            read.append("EFAULT")

    await together(rig, load, (rig.munmap, 0, 1))
    gpu.check()
    assert gpu.map == {}
    await gpu.close()
    return read[0]


def test_hmm_walk_and_munmap():
    count, results = outcomes(gpu_and_page, walk_and_unmap, 3)
    assert count > 1000
    assert results == {7, "EFAULT"}


# -- notifier insert and invalidation -----------------------------------------------------------


async def nothing(rig):
    await rig.write(0, 7)
    return Recorder("late")


async def insert_and_invalidation(rig, late):
    subs, seen = rig.mm.subscriptions, []

    async def comes():
        await rig.core.call(messages.IntervalNotifierInsert(late.notifier, rig.mm, FIRST, 1))
        seq = await late.notifier.read_begin()
        seen.append((kind(rig), late.notifier.read_retry(seq)))

    await together(rig, comes, (rig.madvise, 0, 1, "dontneed"))
    assert (subs.deferred, subs.sequence.active, subs.sequence.value % 2) == ([], 0, 0)
    assert late.notifier in subs.tree
    await rig.core.call(messages.IntervalNotifierRemove(late.notifier))
    return (len(late.events), *seen[0])


def test_notifier_insert_and_invalidation():
    """A subscriber that was not told reads after the change; one that was told may read before it."""
    count, results = outcomes(nothing, insert_and_invalidation, 3)
    assert results == {(0, "NONE", False), (1, "PRESENT", False), (1, "NONE", False)}
    assert count > 300


# -- fork and migration -------------------------------------------------------------------------


async def fork_and_migration(rig, toy):
    children, moved = [], []

    async def fork():
        children.append(await rig.fork())

    async def evict():
        moved.append(await toy.evict())

    await together(rig, fork, evict)
    rig.structure.check()
    (child,) = children
    result = moved[0], kind(rig), kind(rig, 0, child), rig.pte(0).writable or rig.pte(0, child).writable
    await rig.write(0, 9, child)
    assert (await rig.read(0), await rig.read(0, child)) == (7, 9)
    await child.mmput()
    return result


def test_fork_and_migration():
    """Both entries move or none does, and neither stays writable."""
    count, results = outcomes(device_page, fork_and_migration)
    assert results == {(1, "PRESENT", "PRESENT", False)}
    assert count > 300


# -- the search itself --------------------------------------------------------------------------


def first_failure(start, race, bound):
    """The tape of the first schedule that fails, None when all hold."""
    chooser_tape = []
    try:
        for tape, _result in every_schedule(start, race, bound):
            chooser_tape = tape
    except NOTICED:
        return chooser_tape
    return None


MUTANTS = {
    "MM-B49": (IntervalNotifier, "read_retry", lambda sub, seq: False, gpu_and_page, walk_and_zap),
    "MM-B50": (IntervalNotifier, "set_seq", lambda sub, current: None, gpu_and_page, walk_and_unmap),
    "MM-B63": (MiniGpu, "drop", lambda gpu, event: None, gpu_and_page, walk_and_zap),
    "MM-B57": (
        fork_module, "copy_entry",
        lambda core, copy, vma, vpn, pte: (pte.folio.add_mapping() if pte.is_mapping else None,
                                           copy.mm.page_table.set(vpn, pte)),
        device_page, fork_and_migration,
    ),
    "lost lock": (
        migrate_device, "migrate_device_unmap",
        lambda core, src, fault_page: core.engine.step("local"), device_page, fault_and_eviction,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", MUTANTS)
def test_the_search_finds_a_guard_that_is_gone(bug, monkeypatch):
    place, name, deviation, start, race = MUTANTS[bug]
    monkeypatch.setattr(place, name, deviation)
    assert first_failure(start, race, 2) is not None


def test_one_preemption_is_enough_to_lose_the_wait_of_read_begin(monkeypatch):
    """MM-B51: the walk between the callback and the zap is one switch away."""

    async def read_begin(subs, sub):
        await subs.engine.step("seq_read", subs, sub.name)
        return sub.seq

    monkeypatch.setattr(MmuNotifierSubscriptions, "read_begin", read_begin)
    assert first_failure(gpu_and_page, walk_and_zap, 1) is not None


def test_no_schedule_is_run_twice_and_the_same_tape_is_the_same_run():
    tapes = [tuple(tape) for tape, _result in every_schedule(gpu_and_page, walk_and_zap, 1)]
    assert len(set(tapes)) == len(tapes)
    for tape in tapes[:: max(1, len(tapes) // 5)]:
        chooser, _result = one_run(gpu_and_page, walk_and_zap, list(tape), 1)
        assert tuple(chooser.taken) == tape


def test_without_preemption_only_blocking_switches():
    runs = [len(list(every_schedule(device_page, fault_and_eviction, bound))) for bound in (0, 1)]
    assert runs[0] < 10 < runs[1]


def test_a_search_without_end_says_so():
    with pytest.raises(AssertionError, match="more than 3 schedules"):
        list(every_schedule(device_page, fault_and_eviction, 2, limit=3))


def test_a_tape_that_was_followed_to_its_end_has_no_successor():
    chooser = Bounded([], 0)
    assert chooser.following() is None
    chooser.taken, chooser.arity = [0, 1, 0], [2, 2, 1]
    assert chooser.following() == [1]
