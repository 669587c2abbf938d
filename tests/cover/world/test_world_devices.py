"""Device memory through the verbs of a world: filling it, emptying it, two GPUs, a driver that is unbound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from svm_actors import run
from svm_actors.engine.errors import ENODEV
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.page_table import Entry
from svm_actors.workload.witnesses.pgm_memory import BASE, at, in_ram, in_vram, read_pages
from svm_actors.world import Config, Process, World

BASE_VPN = BASE // PAGE_SIZE
TWO = Config(gpus=2, vram_pages=16)


def held(scenario: Callable[[World], Awaitable[None]], config: Config = TWO) -> None:
    """Run under fifo and some random schedules."""
    for seed in range(5):
        result = run(scenario, seed=seed, strategy="random" if seed else "fifo", backend="direct", config=config)
        assert result.ok, result.failure


def where(process: Process, page: int) -> str:
    """``ram``, or the region a page is in."""
    pte = process.mm.page_table.get(BASE_VPN + page)
    assert pte is not None
    return pte.folio.pgmap.name if pte.kind is Entry.DEVICE_PRIVATE else "ram"


def test_memory_goes_to_a_device_and_comes_home() -> None:
    async def scenario(world: World) -> None:
        process = await in_vram(world, 2)
        assert [where(process, page) for page in (0, 1)] == ["gpu0.pagemap.pgmap"] * 2
        await read_pages(process, (1,))
        assert where(process, 0) == where(process, 1) == "ram"

    held(scenario)


@pytest.mark.parametrize("connected", [True, False])
def test_pages_go_straight_between_gpus_that_are_connected(connected: bool) -> None:
    async def scenario(world: World) -> None:
        if connected:
            world.connect(0, 1)
        world.gpu(1)
        process = await in_vram(world, 1)
        if connected:
            await world.gpu(1).populate(process, BASE, PAGE_SIZE)
        assert where(process, 0) == f"gpu{int(connected)}.pagemap.pgmap"
        assert world.linked("gpu1", "gpu0") is connected
        await read_pages(process, (0,))

    held(scenario)


def test_gpus_are_connected_before_they_are_built() -> None:
    async def scenario(world: World) -> None:
        world.gpu(0)
        with pytest.raises(ValueError, match="before the first"):
            world.connect(0, 1)

    held(scenario)


def test_a_driver_that_is_unbound_brings_everything_home_and_lets_nothing_in() -> None:
    async def scenario(world: World) -> None:
        process = await in_vram(world, 2)
        assert await world.gpu().remove() == 0
        assert where(process, 0) == where(process, 1) == "ram"
        assert world.gpu().driver.pagemap.destroyed
        with pytest.raises(ENODEV):
            await world.gpu().populate(process, BASE, PAGE_SIZE)

    held(scenario)


def test_a_page_that_is_held_does_not_move() -> None:
    async def scenario(world: World) -> None:
        process = await in_ram(world, 1)
        async with process.holding(at(0)) as page:
            assert page is not None
            assert page.refs["scan"] == 1
        assert page.refs.get("scan", 0) == 0
        async with process.holding(at(5)) as nothing:
            assert nothing is None

    held(scenario)
