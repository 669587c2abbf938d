"""CPU faults, migration and eviction over a few pages of a mirror device (core_mm sections 9 and 10)."""

from __future__ import annotations

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.world import Config, Process, World

ONE = Config(mirrors=1)
ELSEWHERE = 0x10_0000_0000
BLOCK = 16
"""Pages of the range a GPU takes at once."""


async def _on_the_device(world: World, pages: int) -> tuple[Process, Mirror, int]:
    """A process with so many pages, written 1, 2 ..., that lie on its mirror device."""
    process = world.process()
    addr = await process.mmap(pages * PAGE_SIZE)
    for page in range(pages):
        await process.write(addr + page * PAGE_SIZE, bytes((page + 1,)))
    mirror = await world.mirror(process)
    await mirror.migrate_to_dev(addr, pages)
    return process, mirror, addr


def _nobody_was_in_the_way(world: World, race: str) -> None:
    """A page that nobody uses but those who wait for it has no reference too many, and goes at the first try."""
    if world.engine.counters["migrate.refs"] + world.engine.counters["MM-R11"]:
        raise PropertyFailed("migrations", race, "a page did not migrate because of those who waited for it")


@witness("MM-R07", ONE)
async def readers_of_a_device_page(world: World) -> None:
    """Several threads read a page that lies on a device: one brings it home, the others wait for it."""
    process, _mirror, addr = await _on_the_device(world, 1)
    async with world.nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(process.read, addr, name="reader")
    _nobody_was_in_the_way(world, "MM-R07")


@witness("MM-R11", ONE)
async def migration_met_by_readers(world: World) -> None:
    """Threads read a page while it is on its way to a device: they wait and do not keep it from going."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"a")
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(mirror.migrate_to_dev, addr, 1, name="device")
        for _ in range(2):
            nursery.start_soon(process.read, addr, name="reader")
    _nobody_was_in_the_way(world, "MM-R11")


@witness("MM-R08 MM-R14", ONE)
async def eviction_met_by_cpu(world: World) -> None:
    """A device gives its pages back while the CPU reads one and drops the other."""
    process, _mirror, addr = await _on_the_device(world, 2)
    other = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(other.close, name="device")
        nursery.start_soon(process.read, addr, name="reader")
        nursery.start_soon(_drop, process, addr + PAGE_SIZE, name="dropper")


async def _drop(process: Process, addr: int) -> None:
    await process.madvise(addr, PAGE_SIZE, "dontneed")
    await process.read(addr)


@witness("MM-R10 MM-R15", ONE)
async def to_device_met_by_cpu(world: World) -> None:
    """A page in use and one never touched go to a device while the CPU drops the one and touches the other."""
    process = world.process()
    addr = await process.mmap(2 * PAGE_SIZE)
    await process.write(addr, b"a")
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(mirror.migrate_to_dev, addr, 2, name="device")
        nursery.start_soon(process.write, addr + PAGE_SIZE, b"b", name="toucher")
        nursery.start_soon(_drop, process, addr, name="dropper")
    await mirror.read(addr, 2)


@witness("MM-R09")
async def faults_in_one_allocation(world: World) -> None:
    """Two threads read pages that lie in one allocation of a GPU: each fault brings home what the other leaves."""
    process = world.process()
    addr = await process.mmap(BLOCK * PAGE_SIZE)
    for page in range(BLOCK):
        await process.write(addr + page * PAGE_SIZE, bytes((page + 1,)))
    vm = await world.gpu().create_vm(process)
    await vm.store(addr, b"x")
    async with world.nursery() as nursery:
        for page in (3, BLOCK - 3):
            nursery.start_soon(process.read, addr + page * PAGE_SIZE, name="reader")


@witness("MM-R12", ONE)
async def eviction_met_by_fork(world: World) -> None:
    """Pages go home while fork copies the entries that name them."""
    process, _mirror, addr = await _on_the_device(world, 4)
    other = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(other.close, name="device")
        nursery.start_soon(_touch_and_fork, process, name="parent")
    child = world.processes[-1]
    await child.write(addr, b"c")
    await process.read(addr)


async def _touch_and_fork(process: Process) -> None:
    await _touch(process)
    await process.fork()


async def _touch(process: Process) -> None:
    """Eviction has a long way to the pages: who had nothing to do before would nearly always be through by then."""
    addr = await process.mmap(PAGE_SIZE, shared=True)
    for _ in range(3):
        await process.write(addr, b"t")
        await process.madvise(addr, PAGE_SIZE, "dontneed")


@witness("MM-R13", ONE)
async def eviction_met_by_mremap(world: World) -> None:
    """Pages go home while a child moves the later ones of its mapping to another address."""
    process, _mirror, addr = await _on_the_device(world, 4)
    child = await process.fork()
    other = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(other.close, name="device")
        nursery.start_soon(_touch_and_move, child, addr + PAGE_SIZE, name="mover")


async def _touch_and_move(process: Process, addr: int) -> None:
    await _touch(process)
    for offset in (2 * PAGE_SIZE, PAGE_SIZE, 0):
        await process.mremap(addr + offset, PAGE_SIZE, PAGE_SIZE, to=ELSEWHERE + 2 * offset)


@witness("MM-R16", ONE)
async def eviction_met_by_mprotect(world: World) -> None:
    """Pages go home while their address range becomes read-only."""
    process, _mirror, addr = await _on_the_device(world, 3)
    other = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(other.close, name="device")
        nursery.start_soon(_touch_and_close, process, addr, name="cpu")


async def _touch_and_close(process: Process, addr: int) -> None:
    await _touch(process)
    await process.mprotect(addr, 3 * PAGE_SIZE, "r")
