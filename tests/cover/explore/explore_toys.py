"""Small scenarios for the tests of runs, campaigns and the command line, as functions and as scripts."""

from __future__ import annotations

from pathlib import Path

from svm_actors.engine.locks import Mutex, WaitQueue
from svm_actors.world import World

PAGE = 4096


async def held(world: World) -> None:
    """A process and a GPU use two pages; nothing can go wrong."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = await process.mmap(2 * PAGE)

    async def cpu() -> None:
        await process.write(addr, b"cpu")

    async def gpu() -> None:
        await vm.store(addr + PAGE, b"gpu")

    async with world.nursery() as nursery:
        nursery.start_soon(cpu)
        nursery.start_soon(gpu)
    assert await vm.load(addr, 3) == b"cpu"
    assert await process.read(addr + PAGE, 3) == b"gpu"


async def lost_update(world: World) -> None:
    """Two threads raise a counter without a lock: some schedules lose one of the two."""
    process = world.process()
    addr = await process.mmap(PAGE)
    await process.write(addr, b"\0")

    async def thread(reads_before: int) -> None:
        for _ in range(reads_before):
            await process.read(addr)
        value = (await process.read(addr))[0]
        await process.write(addr, bytes((value + 1,)))

    async with world.nursery() as nursery:
        nursery.start_soon(thread, 0)
        nursery.start_soon(thread, 2)
    assert await process.read(addr, 1) == b"\2", "an update was lost"


async def stuck(world: World) -> None:
    """Two threads wait for what nobody does."""
    queue = WaitQueue(world.engine, "toy.queue")
    async with world.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(queue.wait_event, lambda: False)


async def inverted(world: World) -> None:
    """Two locks, taken in both orders."""
    first, second = (Mutex(world.engine, f"toy.{name}", name) for name in ("a", "b"))
    for outer, inner in ((first, second), (second, first)):
        async with outer, inner:
            pass


async def endless(world: World) -> None:
    """Never comes to an end."""
    while True:
        await world.sleep(1)


async def refused(world: World) -> None:
    """A kernel error that nobody handles."""
    await world.process().munmap(1, PAGE)


async def drawing(world: World) -> None:
    """Draws from the tape; one value of five is bad."""
    assert world.choose(5, "toy") != 3


LOST_UPDATE = """\
from svm_actors import World

PAGE = 4096


async def scenario(world: World) -> None:
    process = world.process()
    addr = await process.mmap(PAGE)
    await process.write(addr, b"\\0")

    async def thread(reads_before: int) -> None:
        for _ in range(reads_before):
            await process.read(addr)
        value = (await process.read(addr))[0]
        await process.write(addr, bytes((value + 1,)))

    async with world.nursery() as nursery:
        nursery.start_soon(thread, 0)
        nursery.start_soon(thread, 2)
    assert await process.read(addr, 1) == b"\\2", "an update was lost"
"""

HELD = """\
from svm_actors import Config, World

CONFIG = Config(gpus=2)


async def scenario(world: World) -> None:
    process = world.process()
    vm = await world.gpu(1).create_vm(process)
    addr = await process.mmap(4096)
    async with world.nursery() as nursery:
        nursery.start_soon(process.write, addr, b"a")
        nursery.start_soon(vm.store, addr + 8, b"b")
    assert await process.read(addr, 9) == b"a" + bytes(7) + b"b"
"""

ENDLESS = """\
async def scenario(world):
    while True:
        await world.sleep(1)
"""

UNSEEDED = """\
import os


async def scenario(world):
    for _ in range(os.urandom(1)[0] % 5):
        await world.process().mmap(4096)
    async with world.nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(world.process().mmap, 4096)
"""
"""Not deterministic: the same seed gives different runs."""


def script(directory: Path, text: str, name: str = "toy.py") -> str:
    """Write a scenario script into the working directory, which is ``directory``; answers its name.

    A relative name, because the seeds of a campaign's runs are made of it.
    """
    assert directory == Path.cwd()
    Path(name).write_text(text, "utf-8")
    return name
