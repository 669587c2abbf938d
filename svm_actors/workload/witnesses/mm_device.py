"""A device that shares a process's pages while the process drops, forks, moves and reaps them (core_mm 5 to 10).

The device is the mended mirror driver, which takes every event and validates every walk, so that what is seen is the
core MM and the retry protocol and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress

from svm_actors.engine.errors import EAGAIN, EEXIST, EFAULT, EINVAL, ENOMEM, EPERM, KernelError
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.content import FILLED
from svm_actors.workload.witness import witness
from svm_actors.world import Config, Process, World


async def may_fail(call: Awaitable[object], *allowed: type[KernelError]) -> None:
    """Whether it succeeds depends on who was first."""
    with suppress(*allowed):
        await call


async def arena(world: World, pages: int = 2) -> tuple[Process, int]:
    """A process with written pages."""
    process = world.process()
    addr = await process.mmap(pages * PAGE_SIZE)
    for page in range(pages):
        await process.write(addr + page * PAGE_SIZE, bytes((1 + page,)))
    return process, addr


@witness("MM-R03 MM-R25 MM-R01 MM-R04")
async def device_reads_what_is_dropped(world: World) -> None:
    """A device reads and writes two pages that are dropped, swapped out and written anew."""
    await _dropped_and_read(world)


@witness("MM-R30 MM-R04", Config(mirror_driver="two-pass"))
async def slow_device_reads_what_is_dropped(world: World) -> None:
    """The same with a device that retires its entries in a second pass."""
    await _dropped_and_read(world)


async def _dropped_and_read(world: World) -> None:
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(_drop_and_write, process, addr, name="cpu")
        nursery.start_soon(_swap_and_read, process, addr, name="reclaim")
        nursery.start_soon(_read_and_write, mirror, addr, name="device")


async def _drop_and_write(process: Process, addr: int) -> None:
    for value in (b"b", b"c"):
        await process.madvise(addr, PAGE_SIZE, "dontneed")
        await process.write(addr, value)


async def _swap_and_read(process: Process, addr: int) -> None:
    await process.swap_out(addr, 2 * PAGE_SIZE)
    await process.read(addr + PAGE_SIZE)


async def _read_and_write(mirror: Mirror, addr: int) -> None:
    await mirror.read(addr, 2)
    await mirror.write(addr, [FILLED[7]])
    await mirror.read(addr, 2)


@witness("MM-R38 MM-R03")
async def device_reads_unlocked(world: World) -> None:
    """A device reads three pages without mmap_lock of its own while they are dropped and made read-only."""
    process, addr = await arena(world, 3)
    await process.madvise(addr + 2 * PAGE_SIZE, PAGE_SIZE, "dontneed")
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(_drop_and_protect, process, addr, name="cpu")
        nursery.start_soon(mirror.read_unlocked, addr, 3, name="device")


async def _drop_and_protect(process: Process, addr: int) -> None:
    await process.madvise(addr, PAGE_SIZE, "dontneed")
    await process.read(addr)
    await process.mprotect(addr, 3 * PAGE_SIZE, "r")


@witness("MM-R12 MM-R17 MM-R19")
async def device_writes_while_forking(world: World) -> None:
    """A device writes pages, in RAM and in its own memory, while fork shares them; parent and child write too."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    await mirror.migrate_to_dev(addr, 1)
    async with world.nursery() as nursery:
        nursery.start_soon(_fork_and_write, process, addr, name="cpu")
        nursery.start_soon(_read_and_write_both, mirror, addr, name="device")


async def _fork_and_write(process: Process, addr: int) -> None:
    child = await process.fork()
    await child.read(addr)
    await process.write(addr + PAGE_SIZE, b"p")
    await child.write(addr, b"c")
    await process.read(addr)
    await child.read(addr + PAGE_SIZE)
    await child.exit()


async def _read_and_write_both(mirror: Mirror, addr: int) -> None:
    await mirror.read(addr, 2)
    await _write_both(mirror, addr)


@witness("MM-R23")
async def device_outlives_the_process(world: World) -> None:
    """A device reads pages and brings them to its memory while their process exits."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    await mirror.read(addr, 1)
    async with world.nursery() as nursery:
        nursery.start_soon(process.exit, name="cpu")
        nursery.start_soon(_read_and_migrate, mirror, addr, name="device")


@witness("MM-R23")
async def device_faults_as_the_process_exits(world: World) -> None:
    """A device writes pages it has not seen before while their process exits."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(process.exit, name="cpu")
        nursery.start_soon(_write_both, mirror, addr, name="device")


async def _write_both(mirror: Mirror, addr: int) -> None:
    await may_fail(mirror.write(addr, [FILLED[7], FILLED[8]]), EFAULT)


async def _read_and_migrate(mirror: Mirror, addr: int) -> None:
    await may_fail(mirror.read(addr, 2), EFAULT)
    await may_fail(mirror.migrate_to_dev(addr, 2), EFAULT, EINVAL)


@witness("MM-R21", Config(mirrors=2))
async def devices_take_turns(world: World) -> None:
    """Two devices want the same two pages, each in its own memory."""
    process, addr = await arena(world)
    mirrors = [await world.mirror(process, device) for device in range(2)]
    async with world.nursery() as nursery:
        for number, mirror in enumerate(mirrors):
            nursery.start_soon(_take_and_write, mirror, addr, 7 + number, name=f"device{number}")


async def _take_and_write(mirror: Mirror, addr: int, value: int) -> None:
    await mirror.migrate_to_dev(addr, 2)
    await mirror.write(addr, [FILLED[value]])
    await mirror.read(addr, 2)


@witness("MM-R28")
async def device_has_a_page_to_itself(world: World) -> None:
    """A device makes a page exclusive, twice, and nobody else is about."""
    process, addr = await arena(world, 1)
    await _make_exclusive(await world.mirror(process), addr)


@witness("MM-R28")
async def device_wants_every_page_alone(world: World) -> None:
    """A device makes pages exclusive, and threads read them."""
    process, addr = await arena(world, 4)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(mirror.exclusive, addr, 4, name="device")
        for page in range(4):
            nursery.start_soon(process.read, addr + page * PAGE_SIZE, name=f"thread{page}")


@witness("MM-R28")
async def device_wants_pages_alone(world: World) -> None:
    """A device makes a page exclusive while the CPU reads, writes, forks, drops and swaps it."""
    process, addr = await arena(world, 1)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(_make_exclusive, mirror, addr, name="device")
        nursery.start_soon(_use_and_drop, process, addr, name="cpu")
        nursery.start_soon(process.swap_out, addr, PAGE_SIZE, name="reclaim")


async def _make_exclusive(mirror: Mirror, addr: int) -> None:
    for _turn in range(2):
        await mirror.exclusive(addr, 1)


async def _use_and_drop(process: Process, addr: int) -> None:
    await process.read(addr)
    await process.write(addr, b"b")
    await may_fail(_fork_and_exit(process), ENOMEM)
    await process.madvise(addr, PAGE_SIZE, "dontneed")
    await process.write(addr, b"c")


async def _fork_and_exit(process: Process) -> None:
    child = await process.fork()
    await child.exit()


@witness("MM-R14", Config(ram_pages=5))
async def device_finds_no_ram(world: World) -> None:
    """Two pages come home from a device while there is RAM for one of them."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    await mirror.migrate_to_dev(addr, 2)
    other = await process.mmap(2 * PAGE_SIZE)
    async with world.nursery() as nursery:
        nursery.start_soon(_fill_ram, process, other, name="cpu")
        nursery.start_soon(_bring_home, mirror, addr, name="device")
    await process.munmap(other, 2 * PAGE_SIZE)
    await mirror.migrate_to_sys(addr, 2)
    await process.read(addr)
    await process.read(addr + PAGE_SIZE)


async def _fill_ram(process: Process, addr: int) -> None:
    await may_fail(process.write(addr, b"x"), ENOMEM)
    await may_fail(process.write(addr + PAGE_SIZE, b"x"), ENOMEM)


async def _bring_home(mirror: Mirror, addr: int) -> None:
    await may_fail(mirror.migrate_to_sys(addr, 2), ENOMEM)


@witness("MM-R22")
async def device_outlives_the_reaper(world: World) -> None:
    """The OOM reaper takes the pages of a process while its device reads, writes and migrates them."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    await mirror.read(addr, 1)
    async with world.nursery() as nursery:
        nursery.start_soon(_reap, process, name="reaper")
        nursery.start_soon(_go_on, mirror, addr, name="device")


async def _reap(process: Process) -> None:
    await may_fail(process.oom_reap(), EAGAIN)


async def _go_on(mirror: Mirror, addr: int) -> None:
    await may_fail(mirror.write(addr, [FILLED[7]]), EFAULT)
    await may_fail(mirror.migrate_to_dev(addr, 2), EFAULT, EINVAL)
    await may_fail(mirror.read(addr, 2), EFAULT)


@witness("MM-R22 MM-R30 MM-R31", Config(mirrors=2, mirror_driver="two-pass"))
async def slow_devices_outlive_the_reaper(world: World) -> None:
    """The OOM reaper takes the pages of a process while two devices with two-pass callbacks use them."""
    process, addr = await arena(world)
    mirrors = [await world.mirror(process, device) for device in range(2)]
    for mirror in mirrors:
        await mirror.read(addr, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(_reap, process, name="reaper")
        nursery.start_soon(_read_twice, mirrors[1], addr, name="device")


async def _read_twice(mirror: Mirror, addr: int) -> None:
    for _turn in range(2):
        await may_fail(mirror.read(addr, 2), EFAULT)


@witness("MM-R26")
async def device_is_emptied(world: World) -> None:
    """The memory of a device is taken away while the CPU and the device fault on its pages and mappings change."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    await mirror.migrate_to_dev(addr, 2)
    async with world.nursery() as nursery:
        nursery.start_soon(mirror.release, addr, 1, name="release")
        nursery.start_soon(_read_both, process, addr, name="cpu")
        nursery.start_soon(_map_elsewhere, process, name="mapper")


@witness("MM-R13")
async def pages_come_back_under_eviction(world: World) -> None:
    """Device pages that were moved away come back to where their neighbour's mapping takes them in, and are evicted."""
    process, addr = await arena(world, 7)
    mirror = await world.mirror(process)
    here, there, length = addr + PAGE_SIZE, addr + 16 * PAGE_SIZE, 6 * PAGE_SIZE
    await mirror.migrate_to_dev(here, 6)
    await process.mremap(here, length, length, to=there)
    async with world.nursery() as nursery:
        nursery.start_soon(_move, process, there, here, length, name="cpu")
        nursery.start_soon(mirror.release, addr, 1, name="release")


async def _move(process: Process, here: int, there: int, length: int) -> None:
    await process.mremap(here, length, length, to=there)


async def _read_both(process: Process, addr: int) -> None:
    await process.read(addr + PAGE_SIZE)
    await process.read(addr)


async def _map_elsewhere(process: Process) -> None:
    elsewhere = await process.mmap(PAGE_SIZE)
    await process.munmap(elsewhere, PAGE_SIZE)


@witness("MM-R02")
async def address_used_again(world: World) -> None:
    """An address is mapped anew as soon as it is free, and a device reads there."""
    process, addr = await arena(world)
    mirror = await world.mirror(process)
    async with world.nursery() as nursery:
        nursery.start_soon(process.munmap, addr, 2 * PAGE_SIZE, name="unmapper")
        nursery.start_soon(_map_again, process, addr, name="mapper")
        nursery.start_soon(_look, mirror, addr, name="device")


async def _map_again(process: Process, addr: int) -> None:
    for _attempt in range(3):
        try:
            await process.mmap(PAGE_SIZE, addr=addr, noreplace=True)
        except EEXIST:
            continue
        await process.write(addr, b"n")
        await process.read(addr)
        return


async def _look(mirror: Mirror, addr: int) -> None:
    await may_fail(mirror.read(addr, 1), EFAULT, EPERM)


@witness("MM-R10 MM-R19")
async def first_touch_of_one_page(world: World) -> None:
    """Two threads touch a page for the first time, and two processes write one that fork has shared."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    async with world.nursery() as nursery:
        for number in range(2):
            nursery.start_soon(process.write, addr + number, b"t", name=f"thread{number}")
    child = await process.fork()
    async with world.nursery() as nursery:
        nursery.start_soon(process.write, addr, b"p", name="parent")
        nursery.start_soon(process.write, addr + 1, b"q", name="parent2")
        nursery.start_soon(child.write, addr, b"c", name="child")
    await process.read(addr, 2)


@witness("MM-R24 MM-R07")
async def device_page_is_freed_under_waiters(world: World) -> None:
    """Threads wait for one device page, which is brought home, dropped, and goes to the device again."""
    process, addr = await arena(world, 1)
    mirror = await world.mirror(process)
    await mirror.migrate_to_dev(addr, 1)
    async with world.nursery() as nursery:
        for number in range(2):
            nursery.start_soon(process.read, addr, name=f"thread{number}")
        nursery.start_soon(_drop_and_take, process, mirror, addr, name="cpu")


async def _drop_and_take(process: Process, mirror: Mirror, addr: int) -> None:
    await process.madvise(addr, PAGE_SIZE, "dontneed")
    await process.write(addr, b"b")
    await mirror.migrate_to_dev(addr, 1)
