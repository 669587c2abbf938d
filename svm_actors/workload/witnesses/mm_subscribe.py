"""Subscriptions that come and go while address ranges are invalidated (core_mm section 6)."""

from __future__ import annotations

from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.world import Config, Process, World


@witness("MM-R05 MM-R06", Config(mirrors=2))
async def subscribe_during_invalidations(world: World) -> None:
    """A mirror is opened, used, asked for a snapshot and closed while the pages it shows are dropped."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"a")
    await world.mirror(process, 0)
    async with world.nursery() as nursery:
        nursery.start_soon(_drop_and_write, process, addr, name="cpu")
        nursery.start_soon(_come_and_go, world, process, addr, name="device")


async def _drop_and_write(process: Process, addr: int) -> None:
    for value in (b"b", b"c"):
        await process.madvise(addr, PAGE_SIZE, "dontneed")
        await process.write(addr, value)


async def _come_and_go(world: World, process: Process, addr: int) -> None:
    mirror = await world.mirror(process, 1)
    await mirror.read(addr, 1)
    await mirror.snapshot(addr, 1)
    await mirror.close()


@witness("MM-R04", Config(mirrors=1))
async def overlapping_invalidations(world: World) -> None:
    """Two threads drop pages next to each other while a device reads both."""
    process = world.process()
    addr = await process.mmap(2 * PAGE_SIZE)
    await process.write(addr, b"a")
    await process.write(addr + PAGE_SIZE, b"b")
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        for page in range(2):
            nursery.start_soon(_drop_and_write, process, addr + page * PAGE_SIZE, name="cpu")
        nursery.start_soon(_read_twice, mirror, addr, name="device")


async def _read_twice(mirror: Mirror, addr: int) -> None:
    await mirror.read(addr, 2)
    await mirror.read(addr, 2)
