"""The catalogue hmm_selftests, case by case: migration.

Sizes and drivers are in ``hmm_bench``.  Every page is a small one: where the catalogue moves a 2M page as one
unit, 512 pages are moved here, as the kernel does when it has no 2M page of device memory left.
"""

from __future__ import annotations

import pytest
from cases import case
from hmm_bench import FEW, HUGE, ROUNDS, STOCK, SUITE, Bench, counts, hold_case, words_of
from igt_bench import PAGE

from svm_actors.engine.errors import ENOENT
from svm_actors.mirror.messages import Perm

LOCAL = Perm.DEV_PRIVATE_LOCAL | Perm.WRITE


async def filled_on_device(bench: Bench) -> None:
    """The pattern, on the device, every page of it."""
    await bench.fill()
    await bench.to_device()
    assert live(bench) == bench.npages


def live(bench: Bench) -> int:
    """Device pages in use."""
    return bench.mirror.device.statistics()["live"]


async def codes(bench: Bench) -> list[int]:
    """SNAPSHOT of the buffer."""
    return list((await bench.mirror.snapshot(bench.addr, bench.npages)).codes)


@case(SUITE, "H11", "migrate")
def test_migrate() -> None:
    hold_case(filled_on_device, small=FEW)


@case(SUITE, "H12", "migrate_fault")
def test_migrate_fault() -> None:
    """The second time half is on the device and half is not."""

    async def body(bench: Bench) -> None:
        await filled_on_device(bench)
        half = bench.npages // 2
        assert await bench.load(0, half) == bench.pattern[:half]
        assert live(bench) == bench.npages - half
        await bench.to_device()
        assert live(bench) == bench.npages

    hold_case(body, small=FEW)


@case(SUITE, "H13", "migrate_release")
def test_migrate_release() -> None:
    """The pages are at home before the CPU looks."""

    async def body(bench: Bench) -> None:
        await filled_on_device(bench)
        await bench.mirror.release(bench.addr, bench.npages)
        assert (live(bench), len(bench.mirror.pt)) == (0, 0)
        half = bench.npages // 2
        assert await bench.load(0, half) == bench.pattern[:half]
        assert bench.count("mirror.cpu_fault") == 0

    hold_case(body, small=FEW)


@case(SUITE, "H14", "migrate_shared")
def test_migrate_shared() -> None:
    """The stock driver only: the mended one reads back through a fault, which brings the pages into RAM."""

    async def body(bench: Bench) -> None:
        with pytest.raises(ENOENT):
            await bench.mirror.migrate_to_dev(bench.addr, bench.npages)
        assert live(bench) == 0

    hold_case(body, drivers=STOCK, shared=True)


@case(SUITE, "H15", "migrate_multiple")
def test_migrate_multiple() -> None:
    """Private memory comes home by the CPU's faults, one a page."""

    async def body(bench: Bench) -> None:
        for turn in range(1, 11):
            await filled_on_device(bench)
            assert await bench.load() == bench.pattern
            assert bench.count("mirror.cpu_fault") == turn * bench.npages
            await bench.unmap()
            await bench.world.settle()
            assert live(bench) == 0
            await bench.map()

    hold_case(body, full=(ROUNDS,), small=2)


@case(SUITE, "H20", "migrate_anon_huge_empty (of small pages)")
def test_migrate_anon_huge_empty() -> None:
    """Holes of a mapping that can only be read are filled too."""

    async def body(bench: Bench) -> None:
        await bench.process.madvise(bench.addr, bench.npages * PAGE, "hugepage")
        result = await bench.mirror.migrate_to_dev(bench.addr, bench.npages)
        assert counts(result) == (bench.npages, 0)
        assert words_of(result) == [0] * bench.npages
        assert live(bench) == bench.npages

    hold_case(body, full=(HUGE,), small=FEW, prot="r")


@case(SUITE, "H21", "migrate_anon_huge_fault (of small pages)")
def test_migrate_anon_huge_fault() -> None:
    async def body(bench: Bench) -> None:
        await bench.process.madvise(bench.addr, bench.npages * PAGE, "hugepage")
        await filled_on_device(bench)
        assert await codes(bench) == [LOCAL] * bench.npages
        assert await bench.load() == bench.pattern
        assert await codes(bench) == [Perm.WRITE] * bench.npages

    hold_case(body, full=(HUGE,), small=FEW)


@case(SUITE, "H22", "migrate_partial_unmap_fault (of small pages)")
@pytest.mark.parametrize("quarter", [0, 1, 2])
def test_migrate_partial_unmap_fault(quarter: int) -> None:
    """Half is unmapped, from a quarter of the buffer on; its device pages are free at once."""

    async def body(bench: Bench) -> None:
        await filled_on_device(bench)
        half = bench.npages // 2
        start = quarter * (bench.npages // 4)
        await bench.process.munmap(bench.at(start), half * PAGE)
        assert live(bench) == bench.npages - half
        for first, count in ((0, start), (start + half, bench.npages - half - start)):
            assert await bench.load(first, count) == bench.pattern[first : first + count]
        gone = [Perm.ERROR] * half
        kept = [Perm.WRITE] * (bench.npages - half)
        assert await codes(bench) == [*kept[:start], *gone, *kept[start:]]

    hold_case(body, full=(HUGE,), small=FEW)
