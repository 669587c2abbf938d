"""The bench of the catalogue hmm_selftests: a process with a buffer, an open mirror; and how a case is run.

A case is run with both mirror drivers of the model: the stock one, whose answers the catalogue lists, and the
mended one.  The full size goes under the default schedule with the stock driver; else it is ``SMALL`` pages, still
more than one walk piece of 32, so a count of fault rounds cannot pass for a count of pages or of pieces.  Where
nothing counts rounds it is ``FEW`` pages.  A case of ten rounds has ``ROUNDS`` pages for its full size.

Simplified: only device-private memory exists, so what the catalogue expects of coherent memory is left out; every
page is a small one.  The last word of a page stands for all its words: with word[i] = i it is never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import attrs
from igt_bench import PAGE, Scenario, hold

from svm_actors.mirror.messages import CommandResult
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.content import ZERO, Content
from svm_actors.world import Process, World

SUITE = "hmm_selftests"
FULL = 1024
"""Pages of 4 MiB."""
HUGE = 512
"""Pages of 2 MiB."""
SMALL = 34
FEW = 6
ROUNDS = 64
STOCK = ("7.3.4",)
DRIVERS = ("7.3.4", "mended")
WORD = 4
WORDS = PAGE // WORD
AT = PAGE - WORD
"""Where in a page its last word is."""


def pattern(first: int, npages: int, step: int = 0, sign: int = 1) -> list[int]:
    """Last words of pages of the buffer: word[i] = sign * (i + step)."""
    return [sign * (WORDS * page + WORDS - 1 + step) for page in range(first, first + npages)]


def contents(words: Sequence[int]) -> list[Content]:
    """Pages of a host buffer."""
    return [ZERO.write(AT, encode(word)) for word in words]


def encode(word: int) -> bytes:
    """As memory has it."""
    return word.to_bytes(WORD, "little", signed=True)


def words_of(result: CommandResult) -> list[int]:
    """What a command put into the host buffer."""
    return [int.from_bytes(page.read(AT, WORD), "little", signed=True) for page in result.pages]


def counts(result: CommandResult) -> tuple[int, int]:
    """cpages and faults."""
    return result.cpages, result.faults


async def load(process: Process, addr: int, npages: int) -> list[int]:
    """Last words of pages as the CPU sees them."""
    pages = [await process.read(addr + page * PAGE + AT, WORD) for page in range(npages)]
    return [int.from_bytes(data, "little", signed=True) for data in pages]


async def store(process: Process, addr: int, words: Sequence[int]) -> None:
    """CPU writes of the last words of pages."""
    for page, word in enumerate(words):
        await process.write(addr + page * PAGE + AT, encode(word))


@attrs.define(eq=False)
class Bench:
    """A process, its buffer and its mirror on device 0."""

    world: World
    process: Process
    mirror: Mirror
    npages: int
    addr: int = 0

    async def map(self, **options: Any) -> None:
        """The buffer, anywhere."""
        self.addr = await self.process.mmap(self.npages * PAGE, **options)

    async def unmap(self) -> None:
        """Free the buffer; the device has forgotten it then."""
        await self.process.munmap(self.addr, self.npages * PAGE)
        assert len(self.mirror.pt) == 0

    def at(self, page: int) -> int:
        """Address of a page of the buffer."""
        return self.addr + page * PAGE

    @property
    def pattern(self) -> list[int]:
        """word[i] = i, of the whole buffer."""
        return pattern(0, self.npages)

    async def fill(self, first: int = 0) -> None:
        """The pattern from a page on, written by the CPU."""
        await store(self.process, self.at(first), pattern(first, self.npages - first))

    async def load(self, first: int = 0, count: int | None = None) -> list[int]:
        """What the CPU sees of the buffer."""
        return await load(self.process, self.at(first), self.npages - first if count is None else count)

    async def protect(self, prot: str) -> None:
        """mprotect the buffer."""
        await self.process.mprotect(self.addr, self.npages * PAGE, prot)

    async def read(self) -> CommandResult:
        """READ of the whole buffer."""
        return await self.mirror.read(self.addr, self.npages)

    async def write(self, words: Sequence[int]) -> CommandResult:
        """WRITE from the buffer's start."""
        return await self.mirror.write(self.addr, contents(words))

    async def to_device(self) -> None:
        """MIGRATE_TO_DEV of the whole buffer: all of it, and the read-back is the pattern."""
        result = await self.mirror.migrate_to_dev(self.addr, self.npages)
        assert counts(result) == (self.npages, 0)
        assert words_of(result) == self.pattern

    def count(self, event: str) -> int:
        """How often something happened so far."""
        return self.world.engine.counters.get(event, 0)


Body = Callable[[Bench], Coroutine[Any, Any, None]]


def scenario_of(body: Body, npages: int, **options: Any) -> Scenario:
    """The case with a buffer of that size, and what must be so after every case."""

    async def scenario(world: World) -> None:
        process = world.process()
        bench = Bench(world, process, await world.mirror(process), npages)
        free = free_pages(world)
        await bench.map(**options)
        await body(bench)
        await bench.unmap()
        await world.settle()
        assert [device.memory.statistics()["live"] for device in world.mirror_devices] == [0] * len(free_pages(world))
        chunks = bench.mirror.device.memory.chunks
        assert not chunks or free_pages(world)[: len(free)] == free
        assert not process.mm.subscriptions.sequence.active

    return scenario


def free_pages(world: World) -> list[int]:
    """Of each mirror device there is."""
    return [device.memory.free_pages() for device in world.mirror_devices]


def hold_case(
    body: Body, *, full: Sequence[int] = (FULL,), small: int = SMALL, drivers: Sequence[str] = DRIVERS, **options: Any
) -> None:
    """The case at its full size or sizes under the default schedule, and small under many random ones."""
    for npages in full:
        hold(scenario_of(body, npages, **options), schedules=0, mirror_driver=drivers[0])
    for driver in drivers:
        hold(scenario_of(body, small, **options), mirror_driver=driver)
