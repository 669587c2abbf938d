"""Concurrent programs over VM_BIND, as data: what each client of the driver does, in order (vm_bind sections 1 to 10).

A *client* is one thread of user space that fills a window of a VM's address space of its own, submits jobs that use
it, and looks at the memory with the CPU.  Everything it does is ordered by the fences an application would use, so it
knows what its jobs read.  What races are clients with each other, the CPU threads and the mirroring VMs of the
:class:`~svm_actors.workload.concurrent_programs.RandomProgram` inside, and the driver's own work.

A program is frozen and has a readable ``repr`` that evaluates to it.  Every operation stands for itself: when earlier
ones are missing it may be refused or have nothing to do, so a failing program can be made smaller by leaving out
operations.  Pages are 4 KiB; indices of queues are taken modulo the number there is.
"""

from __future__ import annotations

from typing import Literal

import attrs

from .concurrent_programs import RandomProgram

WINDOW: int = 8
"""Pages of a VM's address space that one client fills."""

Placement = Literal["vram", "system", "vram_or_system"]
BindMode = Literal["dma_fence", "lr", "fault"]


# -- what there is ------------------------------------------------------------------------


@attrs.frozen
class BindVmProgram:
    """A VM that user space fills."""

    process: int
    """Whose memory its user mappings are made of."""
    mode: BindMode = "dma_fence"
    """What its jobs end with; one in fault mode mirrors the arena of its process too."""
    bind_queues: int = 1
    """Bind queues of each client."""
    exec_queues: int = 1
    """Exec queues of each client."""


@attrs.frozen
class BoProgram:
    """A buffer object."""

    vm: int
    """The VM it is local to; for an external object any."""
    pages: int
    """Size."""
    placement: Placement = "vram"
    """Where it may be."""
    external: bool = False
    """It can be mapped in every VM."""
    client: int | None = None
    """Who uses it alone; None: whoever can map it."""


# -- what clients do -----------------------------------------------------------------------


@attrs.frozen
class Map:
    """MAP of a part of an object."""

    at: int
    """First page in the window."""
    n: int
    """Pages, cut to what the object has."""
    bo: int
    """Which object."""
    offset: int = 0
    """First page of it."""
    read_only: bool = False
    """The GPU may not write."""


@attrs.frozen
class MapUser:
    """MAP of memory of the process."""

    at: int
    """First page in the window."""
    n: int
    """Pages."""
    page: int
    """First page of the arena; from the program's ``pages`` on it is calm: nobody unmaps it."""


@attrs.frozen
class MapNull:
    """MAP of nothing: reads give 0, writes are dropped."""

    at: int
    """First page in the window."""
    n: int
    """Pages."""


@attrs.frozen
class Unmap:
    """UNMAP."""

    at: int
    """First page in the window."""
    n: int
    """Pages."""


@attrs.frozen
class UnmapAll:
    """UNMAP_ALL of an object the client has alone."""

    bo: int
    """Which object."""


@attrs.frozen
class Prefetch:
    """PREFETCH."""

    at: int
    """First page in the window."""
    n: int
    """Pages."""


Change = Map | MapUser | MapNull | Unmap | UnmapAll | Prefetch


@attrs.frozen
class Bind:
    """One bind ioctl."""

    changes: tuple[Change, ...]
    """Its operations; more than one is an array."""
    queue: int = 0
    """Bind queue of the client."""
    eager: bool = False
    """Without in-fences, where no job can be using what changes."""
    user_fence: bool = False
    """Have memory written when it is through; without a choice in long-running VMs."""
    immediate: bool = False
    """In fault mode, have entries written at once."""


@attrs.frozen
class Access:
    """One instruction of a job."""

    at: int
    """Page of the window; left out of the job when nothing is mapped there."""
    do: Literal["load", "store", "add"]
    """``add`` counts in a word of the page that all clients share; only in device memory."""
    value: int = 0
    """What to store, in the client's own word."""
    of: int | None = None
    """Whose word to load; None: one's own."""


@attrs.frozen
class Submit:
    """One job."""

    accesses: tuple[Access, ...]
    """In order."""
    queue: int = 0
    """Exec queue of the client."""
    spin: int | None = None
    """Keep the execution unit busy before this access; None: not at all."""


@attrs.frozen
class Hang:
    """A job that does not end; in a long-running VM, nothing."""

    queue: int = 0
    """Exec queue of the client."""
    stubborn: bool = False
    """It cannot be preempted either, so it takes a GT reset."""


@attrs.frozen
class Stray:
    """A job that reads where nothing is mapped."""

    queue: int = 0
    """Exec queue of the client."""


@attrs.frozen
class Wait:
    """Wait until everything the client has asked for is through, and look at the results."""


@attrs.frozen
class CpuRead:
    """Read one's own word of a page of an object, when all is through."""

    bo: int
    """Which object."""
    page: int
    """Which page, modulo its size."""


@attrs.frozen
class CpuWrite:
    """Write it."""

    bo: int
    """Which object."""
    page: int
    """Which page, modulo its size."""
    value: int
    """What."""


@attrs.frozen
class UserWrite:
    """Write one's own word of a calm page of the process, when all is through."""

    page: int
    """Calm page."""
    value: int
    """What."""


@attrs.frozen
class Mirror:
    """The same from a VM that mirrors the process, if there is one; load and compare when there is no value."""

    page: int
    """Calm page."""
    value: int = 0
    """What to store; 0: load."""
    wild: bool = False
    """A page that CPU threads unmap instead; what is read there is not compared."""


@attrs.frozen
class Unmirror:
    """In fault mode, UNMAP a part of the mirrored arena; refused while it is in use."""

    page: int
    """First page of the arena."""
    n: int
    """Pages."""


@attrs.frozen
class Remirror:
    """In fault mode, mirror a part of the arena again."""

    page: int
    """First page of the arena."""
    n: int
    """Pages."""


@attrs.frozen
class Drop:
    """Close the handle of an object the client has alone; mappings and jobs keep it alive."""

    bo: int
    """Which object."""


@attrs.frozen
class DestroyQueue:
    """Destroy an exec queue; what it has not finished is cancelled."""

    queue: int = 0
    """Exec queue of the client."""


Look = CpuRead | CpuWrite | UserWrite | Mirror
"""What is done with nothing of the client's under way."""
Operation = Bind | Submit | Hang | Stray | Wait | Look | Unmirror | Remirror | Drop | DestroyQueue


@attrs.frozen
class Client:
    """One thread of user space."""

    vm: int
    """The VM it works on."""
    operations: tuple[Operation, ...]
    """In order."""


# -- what the driver does ------------------------------------------------------------------


@attrs.frozen
class EvictPages:
    """Another client of the device wants memory."""

    n: int
    """Pages."""


@attrs.frozen
class ResetGt:
    """The GT is reset."""


@attrs.frozen
class CloseBindVm:
    """The VM is closed under its clients."""

    vm: int
    """Which."""


DriverTask = EvictPages | ResetGt | CloseBindVm


@attrs.frozen
class BindProgram:
    """A whole program."""

    base: RandomProgram
    """Processes with their CPU threads, VMs that mirror them, and those VMs' streams and driver work."""
    calm: int
    """Pages of each process that are only read, written, reclaimed and copied by fork."""
    vms: tuple[BindVmProgram, ...]
    bos: tuple[BoProgram, ...]
    clients: tuple[Client, ...]
    driver: tuple[DriverTask, ...] = ()
    """Done by one task, in order."""
