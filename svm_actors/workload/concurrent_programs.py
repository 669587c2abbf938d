"""Concurrent programs: what CPU threads, GPU streams and the driver's own work do at the same time, as data.

A program is small, frozen and serialisable, so a failing one can be printed, stored, shrunk and read by a person.
It prescribes no order between threads; that is the schedule's part.  Any action may fail in any schedule (a page may
be unmapped or read-only by then); an executor takes the error as the answer.

Pages are 4 KiB pages of an arena that every process has at the same addresses.  Zero is never written, so it always
means a page that nobody wrote.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from .formats import Line, convert, json_object
from .kernel_operations import Page, Pages, Protection, Sharing

Index = Annotated[int, msgspec.Meta(ge=0)]
WrittenValue = Annotated[int, msgspec.Meta(ge=1)]


class CpuAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """What a CPU thread does."""


class Mmap(CpuAction, frozen=True, tag="mmap"):
    """MAP_FIXED anonymous mapping over the pages."""

    page: Page
    n: Pages
    prot: Protection
    share: Sharing


class Munmap(CpuAction, frozen=True, tag="munmap"):
    """munmap of the pages."""

    page: Page
    n: Pages


class Mremap(CpuAction, frozen=True, tag="mremap"):
    """mremap with MAYMOVE and FIXED to page ``to``, same size."""

    page: Page
    n: Pages
    to: Page


class Mprotect(CpuAction, frozen=True, tag="mprotect"):
    """mprotect of the pages."""

    page: Page
    n: Pages
    prot: Protection


class Madvise(CpuAction, frozen=True, tag="madvise"):
    """madvise of the pages."""

    page: Page
    n: Pages
    advice: Literal["dontneed", "free"]


class Read(CpuAction, frozen=True, tag="read"):
    """Read the page."""

    page: Page


class Write(CpuAction, frozen=True, tag="write"):
    """Write the value to the page."""

    page: Page
    value: WrittenValue


class Reclaim(CpuAction, frozen=True, tag="reclaim"):
    """Memory pressure on the pages: what can be is written to swap and unmapped."""

    page: Page
    n: Pages


ChildAction = Mmap | Munmap | Mremap | Mprotect | Madvise | Read | Write | Reclaim


class Fork(CpuAction, frozen=True, tag="fork"):
    """Fork a child that does the actions and exits; the parent goes on at once."""

    actions: tuple[ChildAction, ...]


ThreadAction = ChildAction | Fork


class GpuAccess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """What a GPU stream does."""


class Load(GpuAccess, frozen=True, tag="load"):
    """Load from the page."""

    page: Page


class Store(GpuAccess, frozen=True, tag="store"):
    """Store the value to the page."""

    page: Page
    value: WrittenValue


class AtomicAdd(GpuAccess, frozen=True, tag="atomic_add"):
    """Add the value to what is in the page, atomically for CPU and GPU."""

    page: Page
    value: WrittenValue


Access = Load | Store | AtomicAdd


class DriverAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """What the driver does on its own account."""


class Evict(DriverAction, frozen=True, tag="evict"):
    """Evict up to ``n`` pages of device memory of the GPU of a VM."""

    vm: Index
    n: Pages


class CloseVm(DriverAction, frozen=True, tag="close_vm"):
    """Close the VM; its streams end with an error."""

    vm: Index


DriverWork = Evict | CloseVm


class ProcessProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process."""

    setup: tuple[ChildAction, ...]
    """Done before anything runs concurrently."""
    threads: tuple[tuple[ThreadAction, ...], ...]


class Vm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU VM that mirrors a process."""

    process: Index
    gpu: Index


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One GPU stream: accesses in order."""

    vm: Index
    accesses: tuple[Access, ...]


class RandomProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole concurrent program."""

    pages: Pages
    processes: tuple[ProcessProgram, ...]
    vms: tuple[Vm, ...]
    streams: tuple[Stream, ...]
    driver: tuple[DriverWork, ...]
    """Done by one driver task, in order."""

    def to_json(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()


def from_json(text: str, file: str = "program", number: int = 1) -> RandomProgram:
    """The program in one line of JSON; file and line number are for the error.  Raises BadInput."""
    line = Line(file, number, text)
    program: RandomProgram = convert(line, json_object(line), RandomProgram)
    _check_references(line, program)
    for process in program.processes:
        for actions in (process.setup, *process.threads):
            for action in actions:
                _check_action(line, action, program.pages)
    for stream in program.streams:
        for access in stream.accesses:
            _check_pages(line, access.page, 1, program.pages)
    return program


def _check_references(line: Line, program: RandomProgram) -> None:
    _check_index(line, "process", [vm.process for vm in program.vms], len(program.processes))
    users: Final = [*(stream.vm for stream in program.streams), *(work.vm for work in program.driver)]
    _check_index(line, "vm", users, len(program.vms))


def _check_index(line: Line, what: str, used: list[int], count: int) -> None:
    for index in used:
        if index >= count:
            raise line.bad(f"a `{what}` below {count}", str(index))


def _check_action(line: Line, action: ThreadAction, pages: int) -> None:
    if isinstance(action, Fork):
        for each in action.actions:
            _check_action(line, each, pages)
        return
    count = 1 if isinstance(action, (Read, Write)) else action.n
    _check_pages(line, action.page, count, pages)
    if isinstance(action, Mremap):
        _check_pages(line, action.to, count, pages)


def _check_pages(line: Line, first: int, count: int, pages: int) -> None:
    if first + count > pages:
        raise line.bad(f"pages 0 to {pages - 1}", f"{count} pages from page {first}")
