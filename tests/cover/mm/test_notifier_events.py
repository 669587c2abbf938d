"""Which operation announces what, over which range (core_mm section 5): whole lists, in order."""

import pytest
from mm_rig import FIRST, Rig, ToyDevice

from svm_actors.mm import messages as m


def events(body, arena="rw"):
    """Run ``body(rig)``; answer what the recorder saw during it."""
    seen = []

    async def wrapped(rig: Rig) -> None:
        await body(rig)
        seen.extend(rig.recorder.take())

    Rig().run(wrapped, arena=arena)
    return seen


async def touch(rig, *pages):
    for page in pages:
        await rig.write(page, page + 1)
    rig.recorder.take()



CASES = {
    "first write: no event": (lambda rig: rig.write(0, 1), []),
    "munmap: the requested range, holes included": (lambda rig: rig.munmap(2, 3), [("UNMAP", 2, 3)]),
    "dontneed": (lambda rig: rig.madvise(1, 4, "dontneed"), [("CLEAR", 1, 4)]),
    "free": (lambda rig: rig.madvise(1, 4, "free"), [("CLEAR", 1, 4)]),
    "fixed mmap over it": (lambda rig: rig.mmap(4, 2), [("UNMAP", 4, 2)]),
    "mprotect": (lambda rig: rig.mprotect(3, 2, "r"), [("PROTECTION_VMA", 3, 2)]),
    "mprotect without change": (lambda rig: rig.mprotect(3, 2, "rw"), []),
    "mremap to a mapped place": (
        lambda rig: rig.mremap(0, 2, 8),
        [("UNMAP", 8, 2), ("UNMAP", 0, 2), ("UNMAP", 0, 2)],
    ),
    "mremap to a free place": (lambda rig: rig.mremap(0, 2, 20), [("UNMAP", 0, 2), ("UNMAP", 0, 2)]),
    "swap out": (lambda rig: rig.swap_out(0, 1), [("CLEAR", 0, 1)]),
}


@pytest.mark.parametrize("name", CASES)
def test_events_of(name):
    act, expected = CASES[name]

    async def body(rig):
        await touch(rig, *range(16))
        await act(rig)

    assert events(body) == expected


def test_an_untouched_arena_announces_no_protection_change():
    assert events(lambda rig: rig.mprotect(0, 4, "r")) == []


def test_dontunmap_announces_the_old_range_once_and_keeps_the_vma():
    async def body(rig):
        await touch(rig, 0, 1)
        await rig.mremap(0, 2, 20, dontunmap=True)
        assert (await rig.read(20), await rig.read(0)) == (1, 0)

    assert events(body) == [("UNMAP", 0, 2)]


def test_fork_announces_whole_vmas_that_have_anonymous_pages():
    async def body(rig):
        await rig.mprotect(8, 4, "r")
        await touch(rig, 1)
        child = await rig.fork()
        assert await rig.read(1, child) == 2
        await child.mmput()

    assert events(body) == [("PROTECTION_PAGE", 0, 8)]


def test_a_copy_on_write_announces_one_page_and_a_sole_owner_none():
    async def body(rig):
        await touch(rig, 1)
        child = await rig.fork()
        rig.recorder.take()
        await rig.write(1, 9)
        assert await rig.read(1, child) == 2
        await child.mmput()
        await rig.write(1, 10)

    assert events(body) == [("CLEAR", 1, 1)]


def test_migration_and_the_way_home():
    async def body(rig):
        device = ToyDevice(rig)
        await touch(rig, 0)
        assert await device.to_device(0, 3) == 3
        assert await rig.read(0) == 1
        assert await rig.read(2) == 0

    assert events(body) == [("MIGRATE", 0, 3), ("MIGRATE", 1, 2), ("MIGRATE", 0, 1), ("MIGRATE", 2, 1)]


def test_a_page_shared_by_fork_is_announced_through_rmap_when_the_other_process_faults():
    async def body(rig):
        device = ToyDevice(rig)
        await touch(rig, 0)
        await device.to_device(0, 1)
        child = await rig.fork()
        rig.recorder.take()
        assert await rig.read(0, child) == 1
        await child.mmput()

    assert events(body) == [("CLEAR", 0, 1)]


def test_eviction_announces_clear_per_mapping():
    async def body(rig):
        device = ToyDevice(rig)
        await touch(rig, 0, 5)
        await device.to_device(0, 1)
        await device.to_device(5, 1)
        rig.recorder.take()
        assert await device.evict() == 2

    assert events(body) == [("CLEAR", 0, 1), ("CLEAR", 5, 1)]


def test_exclusive_and_its_revocation():
    async def body(rig):
        await touch(rig, 3)
        async with rig.mm.mmap_lock.reading():
            folio = await rig.core.call(m.MakeDeviceExclusive(rig.mm, FIRST + 3, None))
        folio.lock.release()
        folio.put("exclusive")
        assert await rig.read(3) == 4

    assert events(body) == [("EXCLUSIVE", 3, 1), ("CLEAR", 3, 1)]


def test_exit_releases_everything_and_then_unmaps_it():
    async def body(rig):
        await touch(rig, 3)
        await rig.mm.mmput()

    (release, unmap) = events(body)
    assert (release[0], unmap[0]) == ("RELEASE", "UNMAP")
    assert release[1:] == unmap[1:] == (-FIRST, release[2])
