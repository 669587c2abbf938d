"""What a GPU program can do: touch bytes of one page at a time."""

from __future__ import annotations

from typing import NamedTuple

import attrs

from svm_actors.engine.errors import EINVAL
from svm_actors.mm.constants import PAGE_SIZE


@attrs.frozen
class Load:
    """Read bytes; the result is ``bytes``."""

    vpn: int
    """Virtual page."""
    offset: int = 0
    """First byte inside the page."""
    length: int = 1
    """Bytes, inside the page."""


@attrs.frozen
class Store:
    """Write bytes; the result is None."""

    vpn: int
    """Virtual page."""
    offset: int
    """First byte inside the page."""
    data: bytes
    """What to write, inside the page."""


@attrs.frozen
class AtomicAdd:
    """Add to a little-endian number, wrapping around; the result is the number found (int)."""

    vpn: int
    """Virtual page."""
    offset: int
    """First byte inside the page."""
    amount: int
    """What to add; may be negative."""
    width: int = 4
    """Bytes of the number."""


@attrs.frozen
class Spin:
    """Keep the execution unit busy; only in batches of a hardware context.  The result is None."""

    ns: int | None = None
    """Virtual time; None is for ever: a hang."""
    preemptible: bool = True
    """False: the context does not let itself be switched off meanwhile."""


Instruction = Load | Store | AtomicAdd
Step = Instruction | Spin
"""What a batch consists of."""


class GpuFault(NamedTuple):
    """Last result of a program that was ended by a fault the driver refused."""

    errno: int
    """What the driver answered."""


class GpuStuck(NamedTuple):
    """Last result of a program that was given up: every fault was acknowledged, and none was cured."""

    replays: int
    """How often the instruction was replayed."""


Result = bytes | int | None | GpuFault | GpuStuck


def check(instruction: Instruction) -> None:
    """-EINVAL when the instruction is empty or leaves its page."""
    match instruction:
        case Load(offset=offset, length=length):
            pass
        case Store(offset=offset, data=data):
            length = len(data)
        case AtomicAdd(offset=offset, width=length):
            pass
    if length <= 0 or offset < 0 or offset + length > PAGE_SIZE:
        raise EINVAL
