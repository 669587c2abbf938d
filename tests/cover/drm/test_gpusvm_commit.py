"""The checks before pages are mapped: what the walk found must still be so (gpusvm section 4, step 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gpusvm_bench import Range, Svm, counted, every, run

from svm_actors.drm.gpusvm import DrmGpusvm, GpusvmCtx, GpusvmPages
from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.mm.hmm_types import HmmRange
from svm_actors.mm.messages import Madvise

AT = 0x10000


async def attempt(machine: Svm, range_: Range) -> None:
    machine.results["get"] = await machine.get(range_)


def never_stale(_self: DrmGpusvm, _walk: HmmRange) -> bool:
    return False


def never_unmapped(_self: DrmGpusvm, _pages: GpusvmPages) -> bool:
    return False


async def unmap_while_getting(machine: Svm) -> None:
    await machine.map(4)
    await machine.write(AT, 1, 2, 3, 4)
    range_ = await machine.find(AT)
    async with machine.engine.nursery() as nursery:
        nursery.start_soon(attempt, machine, range_)
        nursery.start_soon(machine.unmap, AT, 4)
    assert machine.iommu() == {"mappings": 0, "reservations": 0}


def test_pages_of_unmapped_memory_are_never_mapped() -> None:
    """SVM-R01: the munmap comes before, during or after the walk; nothing stays mapped."""
    machines = list(every(unmap_while_getting))
    assert {machine.results["get"] for machine in machines} == {"ok", "EFAULT"}
    assert counted(machines, "SVM-R01")


@pytest.mark.parametrize("guards", [("walk_is_stale",), ("walk_is_stale", "is_unmapped")])
def test_without_the_checks_a_freed_page_is_mapped(guards: tuple[str, ...]) -> None:
    """SVM-B35 alone lets a page that reclaim took be mapped; the IOMMU notices."""
    deviations: dict[str, Callable[..., Any]] = {"walk_is_stale": never_stale, "is_unmapped": never_unmapped}
    broken = type("Broken", (DrmGpusvm,), {name: deviations[name] for name in guards})

    async def body(machine: Svm) -> None:
        await machine.map(1)
        await machine.write(AT, 1)
        range_ = await machine.find(AT)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(attempt, machine, range_)
            nursery.start_soon(machine.core.call, Madvise(machine.mm, AT << PAGE_SHIFT, PAGE_SIZE, "dontneed"))

    seen = set()
    for seed in range(300):
        try:
            run(body, "random", seed, gpusvm=broken)
        except PropertyFailed as error:
            seen.add(error.rule)
    assert seen == {"INV-05"}


def test_a_mapping_never_names_a_page_the_cpu_has_left() -> None:
    """Migration to the device and home again against get_pages: what is mapped is where the data is."""

    async def shuffle(machine: Svm) -> None:
        await machine.populate(AT, 4)
        await machine.read(AT)

    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        range_ = await machine.find(AT)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(shuffle, machine)
            nursery.start_soon(get_mixed, machine, range_)
        if range_.pages.flags.has_dma_mapping:
            for vpn, page in enumerate(range_.pages.entries, AT):
                assert page.folio is machine.folio(vpn)
                assert page.folio.generation == machine.folio(vpn).generation

    async def get_mixed(machine: Svm, range_: Range) -> None:
        mine = GpusvmCtx(device_private_page_owner=machine.pagemap.owner, allow_mixed=True)
        await machine.get(range_, mine)

    machines = list(every(body))
    assert counted(machines, "gpu.retry.walk")
