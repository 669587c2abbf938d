"""Random sequential programs of the kind that were recorded on a real kernel.

The mix was counted in the recording: after a mapping of the whole arena, forty operations and a final snapshot and
read of every page.  Weights are per hundred and the same for all profiles, with two exceptions.  Profile 0 takes a
snapshot instead of everything that changes the mapping or makes pages exclusive.  Only profile 2 migrates to other
mirrors than the first.  Other device commands go to the first mirror three times out of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from . import kernel_operations as ops
from .kernel_operations import Arguments
from .kernel_programs import KernelProgram, Operation

Draw = Callable[[int], int]
"""``draw(n)`` gives a number in ``range(n)``; small numbers are the simple choices, so that programs shrink well."""

WEIGHTS: Final = (
    ("cpu_read", 12),
    ("cpu_write", 14),
    ("dev_read", 10),
    ("dev_write", 12),
    ("to_dev", 18),
    ("to_sys", 5),
    ("snapshot", 3),
    ("child_read", 3),
    ("child_write", 4),
    ("madvise_dontneed", 3),
    ("mmap", 4),
    ("munmap", 3),
    ("mprotect", 4),
    ("mremap", 3),
    ("exclusive", 2),
)
"""Of a hundred operations in profiles 1 and 2."""
PROFILES: Final = 3
_NOT_IN_PROFILE_0: Final = ("mmap", "munmap", "mprotect", "mremap", "exclusive")
_MAX_VALUE: Final = 200


@attrs.frozen
class SequentialShape:
    """The size of a sequential program."""

    pages: int = 16
    devices: int = 2
    length: int = 40
    """Operations between the first mapping and the final snapshot."""


def random_kernel_program(
    draw: Draw, profile: int, number: int = 1, shape: SequentialShape = SequentialShape()
) -> KernelProgram:
    """A program without results, to be run side by side on two implementations."""
    whole = ops.Mmap(0, shape.pages, "rw", "private")
    body = [_operation(draw, profile, shape) for _ in range(shape.length)]
    closing = [ops.Snapshot(0, 0, shape.pages), *(ops.CpuRead(page) for page in range(shape.pages))]
    operations = tuple(Operation(each, {}, 0) for each in (whole, *body, *closing))
    return KernelProgram(number, shape.pages, shape.devices, profile, operations, 0)


def weighted(draw: Draw, weights: tuple[tuple[str, int], ...]) -> str:
    """A name, with the probability of its weight."""
    left = draw(sum(weight for _, weight in weights))
    for name, weight in weights:
        if left < weight:
            return name
        left -= weight
    raise ValueError(f"draw gave {left} more than it was asked for")


def _operation(draw: Draw, profile: int, shape: SequentialShape) -> Arguments:
    name = weighted(draw, WEIGHTS)
    if profile == 0 and name in _NOT_IN_PROFILE_0:
        name = "snapshot"
    if name == "snapshot":
        return ops.Snapshot(_device(draw, shape), 0, shape.pages)
    page = draw(shape.pages)
    if name in ("cpu_read", "cpu_write", "child_read", "child_write"):
        return _access(draw, name, page)
    n = min(_length(draw, shape), shape.pages - page)
    if name in ("mmap", "munmap", "mprotect", "mremap", "madvise_dontneed"):
        return _memory(draw, name, page, n, shape)
    return _command(draw, name, page, n, profile, shape)


def _access(draw: Draw, name: str, page: int) -> Arguments:
    match name:
        case "cpu_read":
            return ops.CpuRead(page)
        case "child_read":
            return ops.ChildRead(page)
        case "cpu_write":
            return ops.CpuWrite(page, 1 + draw(_MAX_VALUE))
    return ops.ChildWrite(page, 1 + draw(_MAX_VALUE))


def _memory(draw: Draw, name: str, page: int, n: int, shape: SequentialShape) -> Arguments:
    match name:
        case "mmap":
            return ops.Mmap(page, n, "r" if draw(4) == 3 else "rw", "shared" if draw(4) == 3 else "private")
        case "munmap":
            return ops.Munmap(page, n)
        case "mprotect":
            protections: tuple[ops.Protection, ...] = ("rw", "r", "none")
            return ops.Mprotect(page, n, protections[draw(3)])
        case "mremap":
            return ops.Mremap(page, n, min(draw(shape.pages), shape.pages - n))
    return ops.MadviseDontneed(page, n)


def _command(draw: Draw, name: str, page: int, n: int, profile: int, shape: SequentialShape) -> Arguments:
    if name == "to_dev":
        return ops.ToDev(_device(draw, shape) if profile == 2 else 0, page, n)
    device = _device(draw, shape)
    match name:
        case "to_sys":
            return ops.ToSys(device, page, n)
        case "dev_read":
            return ops.DevRead(device, page, n)
        case "dev_write":
            return ops.DevWrite(device, page, n, 1 + draw(_MAX_VALUE))
    return ops.Exclusive(device, page, n)


def _device(draw: Draw, shape: SequentialShape) -> int:
    others = shape.devices - 1
    return 1 + draw(others) if others and draw(4) == 3 else 0


def _length(draw: Draw, shape: SequentialShape) -> int:
    """One to four pages two times out of three, else any number; what sticks out of the arena is cut off."""
    return 1 + draw(shape.pages if draw(3) == 2 else min(4, shape.pages))
