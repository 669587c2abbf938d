"""What a thread of a replayed program does: one class per memory or process call, with recorded addresses.

An address is where the kernel really put the mapping, so a replay places every mapping where the log has it and later
calls find it.  Lengths are as the program gave them; whoever runs an action rounds them up to pages as the kernel does.
"""

from __future__ import annotations

import attrs

PAGE: int = 4096
"""Size of a page in the logs, in bytes."""


def page_down(address: int) -> int:
    """The start of the page that holds the address."""
    return address & -PAGE


def page_up(address: int) -> int:
    """The end of the last page before the address."""
    return -(-address // PAGE) * PAGE


@attrs.frozen
class Mmap:
    """mmap; with ``file`` the content comes from a file, which a replay may take as zeroes."""

    address: int
    """Where it was put; of a failed call the wished address."""
    length: int
    prot: str
    """``none`` or letters out of ``rwx``, in this order."""
    flags: tuple[str, ...]
    shared: bool
    fixed: bool
    """Whether the program insisted on the address (MAP_FIXED: what was there is unmapped)."""
    file: bool


@attrs.frozen
class Munmap:
    """munmap."""

    address: int
    length: int


@attrs.frozen
class Mremap:
    """mremap, to where the kernel moved it."""

    old_address: int
    old_length: int
    new_length: int
    flags: tuple[str, ...]
    new_address: int | None
    """Where it was put; of a failed call the wished address, None if it had none."""


@attrs.frozen
class Mprotect:
    """mprotect."""

    address: int
    length: int
    prot: str


@attrs.frozen
class Madvise:
    """madvise; ``advice`` is the symbolic name, e.g. ``MADV_DONTNEED``."""

    address: int
    length: int
    advice: str


@attrs.frozen
class Brk:
    """brk; without ``end`` it only asks for the present end of the heap."""

    end: int | None


@attrs.frozen
class Fork:
    """A new task: a thread that shares the address space, or a child with a copy of it."""

    thread: int
    process: int
    """The address space of the new task; with ``shares_memory`` that of its creator."""
    shares_memory: bool


@attrs.frozen
class Exec:
    """The thread leaves its address space and goes on in a new one, which starts with its premaps only."""

    process: int


@attrs.frozen
class Wait:
    """A wait that returns the end of a child."""

    thread: int


@attrs.frozen
class Exit:
    """The end of the thread; the last thread of an address space takes it down."""

    status: int | None
    signal: str | None


Action = Mmap | Munmap | Mremap | Mprotect | Madvise | Brk | Fork | Exec | Wait | Exit
