"""The catalogue hmm_selftests, case by case: reads, writes, files, snapshots, exclusive access.

Migration is in ``test_hmm_selftests_migrate``, sizes and drivers in ``hmm_bench``.
"""

from __future__ import annotations

import pytest
from cases import case, not_applicable
from hmm_bench import (
    DRIVERS,
    FEW,
    FULL,
    HUGE,
    ROUNDS,
    SMALL,
    SUITE,
    Bench,
    Body,
    contents,
    counts,
    hold_case,
    load,
    pattern,
    scenario_of,
    store,
    words_of,
)
from igt_bench import PAGE, hold

from svm_actors.engine.errors import EFAULT, EPERM
from svm_actors.explore.exploration import explore
from svm_actors.mirror.messages import Perm
from svm_actors.world import Config, Process, World

# -- open -------------------------------------------------------------------------------------------


async def open_close(world: World) -> None:
    process = world.process()
    mirror = await world.mirror(process)
    assert process.mm.subscriptions.tree == [mirror.notifier]
    await mirror.close()
    assert not process.mm.subscriptions.tree
    assert mirror.device.mirrors == []


@case(SUITE, "H1", "open_close")
def test_open_close() -> None:
    for driver in DRIVERS:
        hold(open_close, mirror_driver=driver)


# -- READ -------------------------------------------------------------------------------------------


@case(SUITE, "H2", "anon_read")
def test_anon_read() -> None:
    """One page absent, one the zero page, the rest written."""

    async def body(bench: Bench) -> None:
        await bench.fill(first=2)
        await bench.protect("r")
        assert await bench.load(1, 1) == [0]
        result = await bench.read()
        assert counts(result) == (bench.npages, 1)
        assert words_of(result) == [0, 0, *bench.pattern[2:]]

    hold_case(body)


@case(SUITE, "H3", "anon_read_prot")
def test_anon_read_prot() -> None:
    """The host buffer stays as it was: a command that fails answers nothing that could be put there."""

    async def body(bench: Bench) -> None:
        await bench.fill()
        await bench.protect("none")
        with pytest.raises(EFAULT):
            await bench.read()
        await bench.protect("rw")
        assert await bench.load() == bench.pattern

    hold_case(body)


@case(SUITE, "H16", "anon_read_multiple")
def test_anon_read_multiple() -> None:
    """Every buffer has the address of the one before, and other data."""

    async def body(bench: Bench) -> None:
        addr = bench.addr
        for turn in range(10):
            words = pattern(0, bench.npages, turn)
            await store(bench.process, bench.addr, words)
            result = await bench.read()
            assert counts(result) == (bench.npages, 1)
            assert words_of(result) == words
            await bench.unmap()
            await bench.map()
            assert bench.addr == addr

    hold_case(body, full=(ROUNDS,), small=2)


# -- WRITE ------------------------------------------------------------------------------------------


async def write_all(bench: Bench) -> None:
    """WRITE of the pattern in one round of faults; the CPU sees it."""
    assert counts(await bench.write(bench.pattern)) == (bench.npages, 1)
    assert await bench.load() == bench.pattern


@case(SUITE, "H4", "anon_write")
def test_anon_write() -> None:
    hold_case(write_all)


@case(SUITE, "H5", "anon_write_prot")
def test_anon_write_prot() -> None:
    """The second WRITE replaces the zero page."""

    async def body(bench: Bench) -> None:
        result = await bench.mirror.read(bench.addr, 1)
        assert (counts(result), words_of(result)) == ((1, 1), [0])
        with pytest.raises(EPERM):
            await bench.write(bench.pattern)
        assert await bench.load() == [0] * bench.npages
        await bench.protect("rw")
        await write_all(bench)

    hold_case(body, prot="r")


@case(SUITE, "H8", "anon_write_huge (of small pages)")
def test_anon_write_huge() -> None:
    """The advice has no effect here, as on a machine that has no 2M page left."""

    async def body(bench: Bench) -> None:
        await bench.process.madvise(bench.addr, bench.npages * PAGE, "hugepage")
        await write_all(bench)

    hold_case(body, full=(HUGE,))


# -- WRITE by a child -------------------------------------------------------------------------------


async def writes(bench: Bench, child: Process) -> None:
    """The child's life: its own mirror, a WRITE, exit, and only then are its files closed."""
    assert await load(child, bench.addr, bench.npages) == bench.pattern
    mirror = await bench.world.mirror(child)
    words = pattern(0, bench.npages, sign=-1)
    assert counts(await mirror.write(bench.addr, contents(words))) == (bench.npages, 1)
    assert await load(child, bench.addr, bench.npages) == words
    await child.exit()
    await mirror.close()


async def write_child(bench: Bench, migrated: bool) -> None:
    """The parent looks while the child is at it, and after it has gone."""
    await bench.fill()
    if migrated:
        await bench.to_device()
    child = await bench.process.fork()
    async with bench.world.nursery() as nursery:
        nursery.start_soon(writes, bench, child)
        assert await bench.load() == bench.pattern
    assert await bench.load() == bench.pattern


async def write_child_shared(bench: Bench) -> None:
    """What the parent sees meanwhile is the one or the other."""
    await bench.fill()
    child = await bench.process.fork()
    words = pattern(0, bench.npages, sign=-1)
    async with bench.world.nursery() as nursery:
        nursery.start_soon(writes, bench, child)
        for seen, old, new in zip(await bench.load(), bench.pattern, words, strict=True):
            assert seen in (old, new)
    assert await bench.load() == words


@case(SUITE, "H6", "anon_write_child (of small pages)")
@pytest.mark.parametrize("migrated", [False, True])
def test_anon_write_child(migrated: bool) -> None:
    async def body(bench: Bench) -> None:
        await write_child(bench, migrated)

    hold_case(body, full=(FULL, HUGE), small=FEW if migrated else SMALL)


@case(SUITE, "H7", "anon_write_child_shared")
def test_anon_write_child_shared() -> None:
    hold_case(write_child_shared, shared=True)


async def write_child_migrated(bench: Bench) -> None:
    """:func:`write_child` of what is on the device."""
    await write_child(bench, migrated=True)


async def write_child_in_ram(bench: Bench) -> None:
    """:func:`write_child` of what has never left."""
    await write_child(bench, migrated=False)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("body", "shared", "preemptions"),
    [(write_child_in_ram, False, None), (write_child_migrated, False, 1), (write_child_shared, True, None)],
)
def test_every_order_of_the_child_and_the_waiting_parent(
    body: Body, shared: bool, preemptions: int | None, driver: str
) -> None:
    """H6 and H7 of one page, searched through; the migrated one within one preemption."""
    config = Config(mirror_driver=driver)
    found = explore(scenario_of(body, 1, shared=shared), preemptions=preemptions, config=config)
    assert found.complete
    assert not found.failures
    assert found.runs > 1


# -- files ------------------------------------------------------------------------------------------


@case(SUITE, "H9", "file_read")
def test_file_read() -> None:
    """Another process has written the file."""

    async def body(bench: Bench) -> None:
        file, size = bench.world.file("pattern"), bench.npages * PAGE
        writer = bench.world.process()
        addr = await writer.mmap(size, shared=True, file=file)
        await store(writer, addr, bench.pattern)
        await writer.exit()
        await bench.unmap()
        await bench.map(shared=True, file=file, prot="r")
        result = await bench.read()
        assert counts(result) == (bench.npages, 1)
        assert words_of(result) == bench.pattern

    hold_case(body)


@case(SUITE, "H10", "file_write")
def test_file_write() -> None:
    """What is in the file is what another process finds there once the writer's mapping is gone."""

    async def body(bench: Bench) -> None:
        file, size = bench.world.file("empty"), bench.npages * PAGE
        await bench.unmap()
        await bench.map(shared=True, file=file)
        await write_all(bench)
        await bench.unmap()
        reader = bench.world.process()
        addr = await reader.mmap(size, shared=True, file=file, prot="r")
        assert await load(reader, addr, bench.npages) == bench.pattern
        await bench.map()

    hold_case(body)


# -- SNAPSHOT and EXCLUSIVE ----------------------------------------------------------------------------


not_applicable(
    SUITE,
    "H17",
    "mixedmap",
    "mirror devices cannot be mapped: the model has no VM_MIXEDMAP vma and no vm_insert_page to fill one at mmap",
)


@case(SUITE, "H18", "snapshot")
def test_snapshot() -> None:
    """Two devices of the private kind: what is on the other one has no entry for this one."""

    async def body(bench: Bench) -> None:
        process, other = bench.process, await bench.world.mirror(bench.process, 1)
        await process.munmap(bench.at(1), PAGE)
        await process.mprotect(bench.at(2), PAGE, "r")
        assert await bench.load(2, 1) == [0]
        await process.mprotect(bench.at(3), 4 * PAGE, "rw")
        await store(process, bench.at(3), [3, 4])
        await process.mprotect(bench.at(3), PAGE, "r")
        for page, mirror in ((5, bench.mirror), (6, other)):
            assert counts(await mirror.migrate_to_dev(bench.at(page), 1)) == (1, 0)
        result = await bench.mirror.snapshot(bench.addr, 7)
        assert counts(result) == (7, 0)
        expected = [
            Perm.ERROR,
            Perm.ERROR,
            Perm.ZERO | Perm.READ,
            Perm.READ,
            Perm.WRITE,
            Perm.DEV_PRIVATE_LOCAL | Perm.WRITE,
            Perm.NONE,
        ]
        assert list(result.codes) == expected

    hold_case(body, full=(7,), small=7, prot="none")


@case(SUITE, "H19", "exclusive")
def test_exclusive() -> None:
    """Each access of the CPU takes its page back."""

    async def body(bench: Bench) -> None:
        await bench.fill()
        result = await bench.mirror.exclusive(bench.addr, bench.npages)
        assert counts(result) == (bench.npages, 0)
        assert words_of(result) == bench.pattern
        with pytest.raises(EPERM):
            await bench.mirror.check_exclusive(bench.addr, bench.npages)
        raised = pattern(0, bench.npages, 1)
        for page, word in enumerate(raised):
            assert await bench.load(page, 1) == [word - 1]
            await store(bench.process, bench.at(page), [word])
        assert await bench.load() == raised
        await bench.mirror.check_exclusive(bench.addr, bench.npages)

    hold_case(body, small=FEW)
