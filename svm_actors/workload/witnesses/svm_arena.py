"""A few pages of a process at a known place, for the witnesses of shared virtual memory."""

from __future__ import annotations

from typing import Any, Final

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import GpuFault, GpuStuck, Result
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.world import Process, World

BASE: Final = 0x100_0000
"""Aligned to the largest range."""
ONE: Final[dict[str, Any]] = {"chunk_pages": (1,), "check_pages_threshold": 0}
"""Options of a VM whose ranges are single pages."""
TWO: Final[dict[str, Any]] = {"chunk_pages": (2, 1), "check_pages_threshold": 0}
"""Ranges of two pages where they fit, whether the CPU has touched them or not."""
FOUR: Final[dict[str, Any]] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}


def at(page: int) -> int:
    """Address of a page of the arena."""
    return BASE + page * PAGE_SIZE


async def arena(world: World, npages: int, *, written: int | None = None) -> Process:
    """A process with so many pages at :data:`BASE`, the first of them (else all) written with their number."""
    process = world.process()
    await map_anew(process, 0, npages)
    for page in range(npages if written is None else written):
        await process.write(at(page), bytes((1 + page,)))
    return process


async def map_anew(process: Process, page: int, npages: int) -> None:
    """Fresh memory, in place of whatever was there."""
    await process.mmap(npages * PAGE_SIZE, addr=at(page), fixed=True)


def expect(holds: bool, rule: str, text: str) -> None:
    """What a program may rely on; PropertyFailed of the oracle ``svm`` when it is not so."""
    if not holds:
        raise PropertyFailed("svm", rule, text)


def must_succeed(result: bytes | Result, rule: str = "SVM-R53") -> None:
    """The GPU reached memory that it can reach: nothing was refused, and nothing given up."""
    expect(not isinstance(result, GpuFault | GpuStuck), rule, f"the GPU cannot reach memory of the process: {result!r}")
