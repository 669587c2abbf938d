"""A machine with mirror devices for tests, and results in the digest's notation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import KernelError
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.messages import CommandResult, OpenMirror
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm import messages as m
from svm_actors.mm.constants import PAGE_SIZE, RW, Prot
from svm_actors.mm.content import FILLED
from svm_actors.mm.core import CoreMm
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.workload.litmus_run import FewSwitches
from svm_actors.workload.mirror_process import InOrder

BASE = 0x7000_0000_0000
FIRST = BASE // PAGE_SIZE
"""Page number of p0."""
NONE, READ = Prot.NONE, Prot.READ


def p(page: int) -> int:
    """Address of a page."""
    return BASE + page * PAGE_SIZE


async def show(command: Awaitable[CommandResult]) -> str:
    """``0/cpages/faults`` or ``-ECODE``."""
    try:
        result = await command
    except KernelError as error:
        return f"-{error.code}"
    return f"0/{result.cpages}/{result.faults}"


async def codes(mirror: Mirror, page: int, count: int) -> str:
    """Snapshot bytes as two-digit hex, ``02 22``."""
    result = await mirror.snapshot(p(page), count)
    assert result.cpages == count
    return " ".join(f"{code:02x}" for code in result.codes)


class Rig:
    """Core MM, one process, any number of mirror devices."""

    def __init__(self, chooser: Chooser | None = None, limit: int | None = None, step_budget: int = 200_000) -> None:
        self.engine = Engine(DirectBackend(), chooser or InOrder(), step_budget=step_budget)
        self.core = CoreMm(self.engine, PageAllocator(self.engine, limit))
        self.mm = self.core.new_mm("mm0")
        self.devices: list[MirrorDevice] = []

    def run(self, body: Callable[[Rig], Coroutine[Any, Any, None]]) -> Rig:
        """Run a test body to its end."""

        async def main() -> None:
            self.core.start()
            await body(self)

        backend = self.engine.backend
        assert isinstance(backend, DirectBackend)
        backend.run(main())
        return self

    def device(self, kind: type[MirrorDevice] = MirrorDevice, **options: Any) -> MirrorDevice:
        """One more device, started."""
        number = len(self.devices)
        device = kind(self.engine, self.core, f"d{number}", index=number, **options)
        device.start()
        self.devices.append(device)
        return device

    async def mirror(self, kind: type[MirrorDevice] = MirrorDevice, **options: Any) -> Mirror:
        """A mirror of the process on a device of its own."""
        return await self.device(kind, **options).call(OpenMirror(self.mm))

    # -- system calls and accesses of the process ----------------------------------------

    async def map(self, page: int, count: int, prot: Prot = RW, **options: Any) -> None:
        await self.core.call(m.Mmap(self.mm, p(page), count * PAGE_SIZE, prot, fixed=True, **options))

    async def munmap(self, page: int, count: int) -> None:
        await self.core.call(m.Munmap(self.mm, p(page), count * PAGE_SIZE))

    async def protect(self, page: int, count: int, prot: Prot) -> None:
        await self.core.call(m.Mprotect(self.mm, p(page), count * PAGE_SIZE, prot))

    async def dontneed(self, page: int, count: int) -> None:
        await self.core.call(m.Madvise(self.mm, p(page), count * PAGE_SIZE, "dontneed"))

    async def fork(self) -> Mm:
        return await self.core.call(m.Fork(self.mm, self.core.new_name("child")))

    async def read(self, page: int, mm: Mm | None = None) -> int:
        return (await cpu_read(self.core, mm or self.mm, p(page), 1))[0]

    async def write(self, page: int, value: int, mm: Mm | None = None) -> None:
        await cpu_write(self.core, mm or self.mm, p(page), bytes((value,)) * PAGE_SIZE)

    async def touch(self, first: int, *values: int) -> None:
        """Write consecutive pages."""
        for page, value in enumerate(values, first):
            await self.write(page, value)

    async def close(self) -> dict[str, int]:
        """Exit and close everything; what is still alive."""
        await self.mm.mmput()
        for device in self.devices:
            for mirror in list(device.mirrors):
                await mirror.close()
        device_pages = sum(device.statistics()["live"] for device in self.devices)
        return {**self.core.statistics(), "device": device_pages}


def fill(*values: int) -> list[Any]:
    """Contents of whole pages."""
    return [FILLED[value] for value in values]


def schedules(count: int, name: str) -> list[Chooser]:
    """Seeded choosers for races."""
    return [FewSwitches(f"{name}/{number}") for number in range(count)]
