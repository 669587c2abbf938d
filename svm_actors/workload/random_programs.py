"""Random concurrent programs, drawn choice by choice from a random source or from the choice tape.

What is drawn is biased to where races are: few pages, so that threads meet; short ranges that overlap; GPU accesses
as frequent as CPU accesses, since only a page that moves between the two can be caught moving.  Actions that end a
story (closing a VM) are rare.  All values written are distinct, so a value that is read tells which write it is.
"""

from __future__ import annotations

from typing import Final

import attrs

from .concurrent_programs import (
    Access,
    AtomicAdd,
    ChildAction,
    CloseVm,
    DriverWork,
    Evict,
    Fork,
    Load,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    ProcessProgram,
    RandomProgram,
    Read,
    Reclaim,
    Store,
    Stream,
    ThreadAction,
    Vm,
    Write,
    from_json,
)
from .kernel_operations import Protection
from .random_kernel_programs import Draw, random_kernel_program, weighted

__all__ = ["Draw", "ProgramShape", "RandomProgram", "from_json", "random_kernel_program", "random_program"]


@attrs.frozen
class ProgramShape:
    """Upper bounds for what is drawn; every count is at least one, unless said otherwise."""

    pages: int = 8
    processes: int = 3
    threads: int = 2
    """CPU threads of a process."""
    actions: int = 6
    """Actions of a CPU thread, and accesses of a stream."""
    child_actions: int = 3
    vms: int = 2
    gpus: int = 2
    streams: int = 2
    """GPU streams of a VM."""
    driver_actions: int = 2
    """May be none."""


_CPU: Final = (
    ("write", 24),
    ("read", 20),
    ("munmap", 8),
    ("mmap", 8),
    ("madvise", 8),
    ("mremap", 8),
    ("mprotect", 8),
    ("reclaim", 8),
    ("fork", 8),
)
_CHILD: Final = tuple((name, weight) for name, weight in _CPU if name != "fork")
_GPU: Final = (("load", 40), ("store", 40), ("atomic_add", 20))
_PROTECTIONS: Final[tuple[Protection, ...]] = ("rw", "r", "none")


def random_program(draw: Draw, shape: ProgramShape = ProgramShape()) -> RandomProgram:
    """A program within the bounds of ``shape``; equal draws give equal programs."""
    return _Generator(draw, shape).program()


class _Generator:
    """One program in the making; it counts the values written, so that they are distinct."""

    def __init__(self, draw: Draw, shape: ProgramShape) -> None:
        self.draw = draw
        self.shape = shape
        self.values = 0

    def program(self) -> RandomProgram:
        processes = tuple(self._process() for _ in range(self._up_to(self.shape.processes)))
        vms = tuple(
            Vm(self.draw(len(processes)), self.draw(self.shape.gpus)) for _ in range(self._up_to(self.shape.vms))
        )
        streams = tuple(
            Stream(vm, tuple(self._access() for _ in range(self._up_to(self.shape.actions))))
            for vm in range(len(vms))
            for _ in range(self._up_to(self.shape.streams))
        )
        driver = tuple(self._driver(len(vms)) for _ in range(self.draw(self.shape.driver_actions + 1)))
        return RandomProgram(self.shape.pages, processes, vms, streams, driver)

    def _up_to(self, limit: int) -> int:
        return 1 + self.draw(limit)

    def _value(self) -> int:
        self.values += 1
        return self.values

    def _range(self) -> tuple[int, int]:
        """First page and length; short three times out of four."""
        page = self.draw(self.shape.pages)
        longest = self.shape.pages - page
        return page, 1 + self.draw(longest if self.draw(4) == 3 else min(2, longest))

    def _process(self) -> ProcessProgram:
        whole = Mmap(0, self.shape.pages, "rw", "shared" if self.draw(4) == 3 else "private")
        # some pages hold data before the race begins, the others are holes
        filled = tuple(Write(page, self._value()) for page in range(self.shape.pages) if self.draw(2))
        threads = tuple(
            tuple(self._thread_action() for _ in range(self._up_to(self.shape.actions)))
            for _ in range(self._up_to(self.shape.threads))
        )
        return ProcessProgram((whole, *filled), threads)

    def _thread_action(self) -> ThreadAction:
        name = weighted(self.draw, _CPU)
        if name != "fork":
            return self._action(name)
        count = self._up_to(self.shape.child_actions)
        return Fork(tuple(self._action(weighted(self.draw, _CHILD)) for _ in range(count)))

    def _action(self, name: str) -> ChildAction:
        if name == "write":
            return Write(self.draw(self.shape.pages), self._value())
        if name == "read":
            return Read(self.draw(self.shape.pages))
        page, n = self._range()
        match name:
            case "mmap":
                protection: Protection = "r" if self.draw(4) == 3 else "rw"
                return Mmap(page, n, protection, "shared" if self.draw(4) == 3 else "private")
            case "munmap":
                return Munmap(page, n)
            case "mremap":
                return Mremap(page, n, self.draw(self.shape.pages - n + 1))
            case "mprotect":
                return Mprotect(page, n, _PROTECTIONS[self.draw(3)])
            case "madvise":
                return Madvise(page, n, "free" if self.draw(2) else "dontneed")
        return Reclaim(page, n)

    def _access(self) -> Access:
        page = self.draw(self.shape.pages)
        match weighted(self.draw, _GPU):
            case "load":
                return Load(page)
            case "store":
                return Store(page, self._value())
        return AtomicAdd(page, self._value())

    def _driver(self, vms: int) -> DriverWork:
        vm = self.draw(vms)
        return CloseVm(vm) if self.draw(4) == 3 else Evict(vm, self._up_to(self.shape.pages))
