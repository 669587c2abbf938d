"""What the witnesses about device memory share: memory of a process in an allocation, and threads that check it.

Page ``n`` holds the byte ``n + 1``.  Ranges are aligned to 16 pages, so the window a CPU fault looks at is the
allocation itself unless a witness moves things about.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from svm_actors.engine.errors import EBUSY, ENOMEM, PropertyFailed
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.world import Process, World

BASE: Final = 0x1000_0000
"""Where memory is mapped."""
MS: Final = 1_000_000
"""One millisecond of virtual time."""


async def in_ram(world: World, npages: int) -> Process:
    """A process with so many written pages at :data:`BASE`."""
    process = world.process()
    await process.mmap(npages * PAGE_SIZE, addr=BASE, fixed=True)
    for page in range(npages):
        await process.write(at(page), bytes((page + 1,)))
    return process


async def in_vram(world: World, npages: int, *, timeslice: int = 0) -> Process:
    """The same, with all of it in one allocation of the first GPU."""
    process = await in_ram(world, npages)
    await world.gpu().populate(process, BASE, npages * PAGE_SIZE, timeslice=timeslice)
    return process


def expect(held: bool, rule: str, text: str) -> None:
    """What user space may rely on when nobody else is about."""
    if not held:
        raise PropertyFailed("device-memory", rule, text)


def at(page: int) -> int:
    """Address of a page."""
    return BASE + page * PAGE_SIZE


async def read_pages(process: Process, pages: Iterable[int]) -> None:
    """Read some pages, each of which holds its number plus 1."""
    for page in pages:
        found = await process.read(at(page))
        expect(found == bytes((page + 1,)), "RULE-46", f"page {page} holds {found!r}")


async def write_pages(process: Process, pages: Iterable[int]) -> None:
    """Write to some pages what they hold already, in the second byte too."""
    for page in pages:
        await process.write(at(page), bytes((page + 1, page + 1)))


async def try_populate(
    world: World, process: Process, first: int, npages: int, *, gpu: int = 0, timeslice: int = 0
) -> bool:
    """Bring pages into an allocation; losing a race and finding no room are answers too."""
    try:
        await world.gpu(gpu).populate(process, at(first), npages * PAGE_SIZE, timeslice=timeslice)
    except (EBUSY, ENOMEM):
        return False
    return True


async def evict_in_between(world: World, npages: int) -> None:
    """Memory pressure on the first GPU, at some point of whatever else goes on there."""
    for _ in range(world.choose(10, "delay") * 8):
        await world.engine.step("local", None, "elsewhere")
    for _ in range(2):
        await world.gpu().evict(npages * PAGE_SIZE)
