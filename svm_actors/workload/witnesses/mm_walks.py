"""Device faults and copies while the CPU changes the very pages (core_mm sections 5 and 8)."""

from __future__ import annotations

from svm_actors.engine.errors import EFAULT, ENOMEM, EPERM
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.content import FILLED
from svm_actors.workload.witness import witness
from svm_actors.world import Config, Process, World

ONE = Config(mirrors=1)


@witness("MM-R03", ONE)
async def device_reads_met_by_cpu(world: World) -> None:
    """A device reads a page that is dropped and written again."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"a")
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(_read_twice, mirror, addr, name="device")
        nursery.start_soon(_drop_and_write, process, addr, name="cpu")


async def _read_twice(mirror: Mirror, addr: int) -> None:
    await mirror.read(addr, 1)
    await mirror.read(addr, 1)


async def _drop_and_write(process: Process, addr: int) -> None:
    await process.madvise(addr, PAGE_SIZE, "dontneed")
    await process.write(addr, b"b")


@witness("MM-R17", ONE)
async def device_writes_met_by_mprotect(world: World) -> None:
    """A device writes a page in its memory whose address range becomes read-only."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    mirror = await world.mirror(process)
    await mirror.migrate_to_dev(addr, 1)
    async with world.nursery() as nursery:
        nursery.start_soon(_write, mirror, addr, name="device")
        nursery.start_soon(process.mprotect, addr, PAGE_SIZE, "r", name="cpu")


async def _write(mirror: Mirror, addr: int) -> None:
    try:
        await mirror.write(addr, (FILLED[1],))
    except (EPERM, EFAULT):
        mirror.engine.count("hmm.refused")


@witness("MM-R19")
async def copies_of_one_page(world: World) -> None:
    """Two threads write one page that is shared with a child: the second finds that the first has copied it."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"a")
    child = await process.fork()
    async with world.nursery() as nursery:
        nursery.start_soon(process.write, addr, b"b", name="first")
        nursery.start_soon(process.write, addr + 1, b"c", name="second")
    await process.read(addr, 2)
    await child.read(addr, 2)


@witness("MM-R25", Config(mirrors=2))
async def two_devices_want_one_page(world: World) -> None:
    """What lies in the memory of one device is read by another, once with no memory to bring it to."""
    process = world.process()
    addr = await process.mmap(2 * PAGE_SIZE)
    await process.write(addr, b"a")
    owner, reader = await world.mirror(process, 0), await world.mirror(process, 1)
    await owner.migrate_to_dev(addr, 1)
    await reader.read(addr, 1)
    world.allocator.fail_next = 1
    try:
        await reader.write(addr + PAGE_SIZE, (FILLED[1],))
    except ENOMEM:
        world.engine.count("hmm.enomem")
