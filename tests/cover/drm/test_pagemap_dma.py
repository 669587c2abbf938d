"""DMA mappings of a batch: one unmap for each map, whatever was mapped and wherever it failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pagemap_bench import Machine, run

from svm_actors.drm.pagemap_dma import DmaBatch
from svm_actors.engine.errors import EFAULT, ENOMEM
from svm_actors.gpu.address import Direction, Proto
from svm_actors.mm.folio import Folio


def in_machine(body: Callable[[Machine], Any], **options: Any) -> Machine:
    return run(body, **options)


async def ram(machine: Machine, count: int) -> list[Folio | None]:
    return [await machine.core.allocator.alloc("test") for _ in range(count)]


def give_back(folios: list[Folio | None]) -> None:
    for folio in folios:
        if folio is not None:
            folio.put("test")


def test_a_window_is_packed_and_freed_whole() -> None:
    async def body(machine: Machine) -> None:
        pages = await ram(machine, 3)
        sparse = [None, pages[0], None, pages[1], pages[2]]
        gpu = machine.gpus[0]
        async with DmaBatch(machine.pagemap, gpu) as batch:
            await batch.map_system(sparse, Direction.TO_DEVICE)
            addrs = [addr for addr in batch.addrs if addr is not None]
            assert [addr is None for addr in batch.addrs] == [True, False, True, False, False]
            assert [addr.addr - addrs[0].addr for addr in addrs] == [0, 1, 2]
            assert {addr.proto for addr in addrs} == {Proto.SYSTEM}
            assert [gpu.iommu.resolve(addr.addr, False) for addr in addrs] == pages
            assert gpu.iommu.statistics() == {"mappings": 3, "reservations": 1}
            assert machine.pagemap.live_batches == 1
        assert gpu.iommu.statistics() == {"mappings": 0, "reservations": 0}
        give_back(pages)

    assert in_machine(body).engine.counters["PGM-R26"] == 0, "that is when something failed"


def test_without_a_window_each_page_is_mapped_alone() -> None:
    async def body(machine: Machine) -> None:
        pages = await ram(machine, 2)
        iommu = machine.gpus[0].iommu
        iommu.has_windows = False
        async with DmaBatch(machine.pagemap, machine.gpus[0]) as batch:
            await batch.map_system([pages[0], None, pages[1]], Direction.FROM_DEVICE)
            assert iommu.statistics() == {"mappings": 2, "reservations": 0}
        give_back(pages)

    in_machine(body)


def test_no_page_no_window() -> None:
    async def body(machine: Machine) -> None:
        async with DmaBatch(machine.pagemap, machine.gpus[0]) as batch:
            await batch.map_system([None, None], Direction.TO_DEVICE)
            assert batch.addrs == [None, None]
            assert machine.gpus[0].iommu.statistics()["reservations"] == 0

    in_machine(body)


@pytest.mark.parametrize(("windows", "error"), [(True, ENOMEM), (False, EFAULT)])
def test_a_failure_midway_unmaps_what_was_mapped(windows: bool, error: type[Exception]) -> None:
    async def body(machine: Machine) -> None:
        pages = await ram(machine, 3)
        iommu = machine.gpus[0].iommu
        iommu.has_windows = windows
        new_mapping = iommu._new_mapping

        def third_fails(folio: Folio, direction: Direction) -> Any:
            iommu.fail_next = int(folio is pages[2])
            return new_mapping(folio, direction)

        iommu._new_mapping = third_fails  # type: ignore[method-assign]

        async def attempt() -> None:
            async with DmaBatch(machine.pagemap, machine.gpus[0]) as batch:
                await batch.map_system(pages, Direction.TO_DEVICE)

        with pytest.raises(error):
            await attempt()
        assert machine.pagemap.live_batches == 0
        give_back(pages)

    in_machine(body)


def test_peer_pages_go_through_the_region_they_belong_to() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        assert await machine.populate(at, 2, gpu=1) == "ok"
        pages: list[Folio | None] = [machine.folio(at), None, machine.folio(at + 1)]
        peer = machine.xe[1].dpagemap
        async with DmaBatch(machine.pagemap, machine.gpus[0]) as batch:
            await batch.map_peer(peer, pages, Direction.FROM_DEVICE)
            assert [addr.proto if addr else None for addr in batch.addrs] == [Proto.P2P, None, Proto.P2P]
            assert machine.gpus[0].iommu.statistics()["mappings"] == 2
        async with DmaBatch(peer, machine.gpus[1]) as batch:
            await batch.map_peer(peer, pages, Direction.FROM_DEVICE)
            assert [addr.addr if addr else None for addr in batch.addrs] == [pages[0].pfn, None, pages[2].pfn]  # type: ignore[union-attr]
            assert machine.gpus[1].iommu.statistics()["mappings"] == 0

    in_machine(body, gpus=2)


def test_leaving_an_unused_batch_is_nothing() -> None:
    async def body(machine: Machine) -> None:
        async with DmaBatch(machine.pagemap, machine.gpus[0]):
            pass
        assert machine.pagemap.live_batches == 0

    in_machine(body)
