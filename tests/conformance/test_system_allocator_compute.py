"""Cases K1 to K11 of the catalogue igt_system_allocator: kernels that read memory nobody has prepared.

An element is a dword, and a kernel that touches the range reads one of every page.  The rows "-device-host" are the
rows "-device" with a look of the host at the results, so one test has both.
"""

from __future__ import annotations

import pytest
from cases import case
from igt_bench import PAGE, Scenario, hold
from system_allocator_bench import FULL, SMALL, SUITE, Scale, SystemAllocator, value_of

from svm_actors.gpu.program import Load, Store
from svm_actors.world import World


async def kernel(bench: SystemAllocator, addr: int, pages: int, output: int, fence: int, magic: int) -> None:
    """Read a dword of each page; store their sum."""
    first = addr // PAGE
    execution = await bench.submit_program([Load(first + page, 0, 4) for page in range(pages)], fence, magic)
    await bench.done(fence, magic)
    words = [int.from_bytes(word, "little") for word in execution.batch.results if isinstance(word, bytes)]
    total = (sum(words) % (1 << 32)).to_bytes(4, "little")
    await bench.submit_program([Store(output // PAGE, output % PAGE, total)], fence, magic + 1)
    await bench.done(fence, magic + 1)


def faulting(scale: Scale, npages: int, *, whole: bool, host: bool, stat: str = "") -> Scenario:
    """Input of some pages, aligned to its size, for each round."""

    async def scenario(world: World) -> None:
        bench = await SystemAllocator.start(world, scale)
        process, size = bench.process, npages * PAGE
        fence, output = await process.mmap(PAGE, shared=True), await process.mmap(PAGE)
        for number in range(2 if scale is FULL else 1):
            before = world.gpu().gt_stats().get(stat, 0)
            buffer = await bench.memory.mmap(size, 2 * size)
            for page in range(npages):
                await process.write(buffer.addr + page * PAGE, value_of(number, page).to_bytes(4, "little"))
            touched = npages if whole else 1
            await kernel(bench, buffer.addr, touched, output, fence, 2 * number + 1)
            assert not stat or world.gpu().gt_stats()[stat] > before
            if host:
                total = sum(value_of(number, page) for page in range(touched)) % (1 << 32)
                assert await bench.dword(output) == total
                for page in range(npages):
                    assert await bench.dword(buffer.addr + page * PAGE) == value_of(number, page)
            await bench.memory.free(buffer)
        for addr in (fence, output):
            await process.munmap(addr, PAGE)
        await bench.unbind_everything()

    return scenario


@case(SUITE, "K1", "compute")
def test_compute() -> None:
    hold(faulting(FULL, FULL.large, whole=True, host=True), 0)
    hold(faulting(SMALL, SMALL.large, whole=True, host=True))


@case(SUITE, "K2", "eu-fault-4k-once-device")
@case(SUITE, "K3", "eu-fault-4k-once-device-host")
@case(SUITE, "K4", "eu-fault-4k-range-device")
@case(SUITE, "K5", "eu-fault-4k-range-device-host")
@pytest.mark.parametrize("whole", [False, True], ids=["once", "range"])
@pytest.mark.parametrize("host", [False, True], ids=["device", "device-host"])
def test_eu_fault_4k(whole: bool, host: bool) -> None:
    hold(faulting(FULL, 1, whole=whole, host=host, stat="svm_4K_pagefault_count"), 0)
    hold(faulting(SMALL, 1, whole=whole, host=host, stat="svm_4K_pagefault_count"))


@case(SUITE, "K6", "eu-fault-64k-once-device")
@case(SUITE, "K7", "eu-fault-64k-once-device-host")
@case(SUITE, "K8", "eu-fault-64k-range-device")
@case(SUITE, "K9", "eu-fault-64k-range-device-host")
@pytest.mark.parametrize("whole", [False, True], ids=["once", "range"])
def test_eu_fault_64k(whole: bool) -> None:
    """Real sizes and two rounds by default, two pages and one round under random schedules."""
    hold(faulting(FULL, FULL.middle, whole=whole, host=False, stat="svm_64K_pagefault_count"), 0)
    hold(faulting(FULL, FULL.middle, whole=whole, host=True, stat="svm_64K_pagefault_count"), 0)
    hold(faulting(SMALL, SMALL.middle, whole=whole, host=True, stat="svm_8K_pagefault_count"))


@case(SUITE, "K10", "eu-fault-2m-once-device")
@case(SUITE, "K11", "eu-fault-2m-once-device-host")
def test_eu_fault_2m() -> None:
    """As with 64K."""
    hold(faulting(FULL, FULL.large, whole=False, host=True, stat="svm_2M_pagefault_count"), 0)
    hold(faulting(SMALL, SMALL.large, whole=False, host=False, stat="svm_16K_pagefault_count"), 0)
    hold(faulting(SMALL, SMALL.large, whole=False, host=True, stat="svm_16K_pagefault_count"))
