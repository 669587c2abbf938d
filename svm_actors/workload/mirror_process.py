"""One process with mirror devices, and no GPU: where recorded programs run.

The process has an arena: some pages at a fixed aligned address with nothing mapped around them, and
one mirror per device, open before anything else happens.  :meth:`MirrorProcess.perform` carries out
one recorded operation; kernel errors and signals are raised, answers are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Task
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.messages import CommandResult, OpenMirror
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm import messages as mm_messages
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE, RW, Prot
from svm_actors.mm.content import Content
from svm_actors.mm.core import CoreMm
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.messages import SIGSEGV
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.workload import kernel_operations as ops

ARENA: Final = 0x7E12_3440_0000
"""Address of the arena: 2 MiB aligned, so that no leaf table is shared with anything else."""
ELSEWHERE: Final = ARENA - (1 << 28)
"""A page of the rest of the process, in the same GiB: mprotect of an untouched arena raises its event
only because the upper page table is there already, as it is in any process."""
AWAY: Final = 0x7E55_0000_0000
"""Where ``mremap_away`` moves pages to; each move gets a place of its own."""
AWAY_STRIDE: Final = 1 << 24
PROTECTIONS: Final = {"none": Prot.NONE, "r": Prot.READ, "rw": RW}
CHILD_SEGV: Final = 255
"""Exit status of a child whose access was killed."""

Fill = Callable[[int], Content]
"""What a page holds after a write of this byte."""
Answer = CommandResult | int | None
Handlers = dict[type[ops.Arguments], Callable[[Any], Coroutine[Any, Any, Answer]]]


class InOrder:
    """Run to block; for programs of a single thread, whose schedule decides nothing."""

    name = "in order"

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """Whoever runs, else the oldest task."""
        return candidates.index(running) if running is not None and running.enabled else 0

    def data(self, count: int, label: str) -> int:
        """Nothing special happens."""
        return 0


class MirrorProcess:
    """A machine with one process and its mirrors."""

    def __init__(
        self,
        chooser: Chooser,
        *,
        pages: int,
        devices: int,
        written: Fill,
        device_class: type[MirrorDevice] = MirrorDevice,
        step_budget: int = 2_000_000,
        record: bool = False,
    ) -> None:
        self.engine = Engine(DirectBackend(), chooser, step_budget=step_budget, record=record)
        self.core = CoreMm(self.engine, PageAllocator(self.engine))
        self.devices = [
            device_class(self.engine, self.core, f"mirror{index}", index=index, own_pages="backing")
            for index in range(devices)
        ]
        self.mm = self.core.new_mm("mm0")
        self.pages = pages
        self.written = written
        self.mirrors: list[Mirror] = []
        """Mirror ``i`` belongs to device ``i``."""
        self._moved_away = 0
        self._handlers: Handlers = {**self._system_calls(), **self._accesses()}

    def _system_calls(self) -> Handlers:
        return {
            ops.Mmap: self._mmap,
            ops.Munmap: self._munmap,
            ops.Mprotect: lambda call: self._mprotect(call, PROTECTIONS[call.prot]),
            ops.MprotectR: lambda call: self._mprotect(call, Prot.READ),
            ops.MprotectRw: lambda call: self._mprotect(call, RW),
            ops.Mremap: lambda call: self._mremap(call, self.address(call.to)),
            ops.MremapAway: lambda call: self._mremap(call, self._next_place_away()),
            ops.MadviseDontneed: self._dontneed,
        }

    def _accesses(self) -> Handlers:
        return {
            ops.CpuRead: lambda call: self.cpu_read(call.page),
            ops.CpuWrite: self._cpu_write,
            ops.ChildRead: lambda call: self._child(call.page, None),
            ops.ChildWrite: lambda call: self._child(call.page, call.value),
            ops.DevRead: lambda call: self.mirrors[call.dev].read(self.address(call.page), call.n),
            ops.DevWrite: self._dev_write,
            ops.ToDev: lambda call: self.mirrors[call.dev].migrate_to_dev(self.address(call.page), call.n),
            ops.ToSys: lambda call: self.mirrors[call.dev].migrate_to_sys(self.address(call.page), call.n),
            ops.Exclusive: lambda call: self.mirrors[call.dev].exclusive(self.address(call.page), call.n),
            ops.Snapshot: lambda call: self.mirrors[call.dev].snapshot(self.address(call.page), call.n),
        }

    def run(self, program: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a program to its end in this machine; its failure is raised here."""
        backend = self.engine.backend
        assert isinstance(backend, DirectBackend)
        backend.run(self._main(program))

    async def _main(self, program: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.core.start()
        await self.core.call(mm_messages.Mmap(self.mm, ELSEWHERE, PAGE_SIZE, RW, fixed=True))
        await cpu_write(self.core, self.mm, ELSEWHERE, b"\x01")
        for device in self.devices:
            device.start()
            self.mirrors.append(await device.call(OpenMirror(self.mm)))
        await program()

    async def teardown(self) -> dict[str, int]:
        """The process exits and closes its files; answers what is still alive (all zero is clean)."""
        await self.mm.mmput()
        for mirror in self.mirrors:
            await mirror.close()
        device_pages = sum(device.statistics()["live"] for device in self.devices)
        return {**self.core.statistics(), "device_pages": device_pages}

    def address(self, page: int) -> int:
        """Byte address of a page of the arena."""
        return ARENA + (page << PAGE_SHIFT)

    async def perform(self, call: ops.Arguments) -> Answer:
        """Carry out one operation.  Raises kernel errors, SIGSEGV and SIGBUS."""
        return await self._handlers[type(call)](call)

    # -- address space -----------------------------------------------------------------------

    async def _mmap(self, call: ops.Mmap) -> None:
        await self.map(call.page, call.n, PROTECTIONS[call.prot], shared=call.share == "shared")

    async def map(self, page: int, count: int, prot: Prot, *, shared: bool = False) -> None:
        """Anonymous MAP_FIXED mapping inside the arena."""
        length = count << PAGE_SHIFT
        await self.core.call(mm_messages.Mmap(self.mm, self.address(page), length, prot, shared=shared, fixed=True))

    async def _munmap(self, call: ops.Munmap) -> None:
        await self.core.call(mm_messages.Munmap(self.mm, self.address(call.page), call.n << PAGE_SHIFT))

    async def _mprotect(self, call: ops.Mprotect | ops.MprotectR | ops.MprotectRw, prot: Prot) -> None:
        await self.core.call(mm_messages.Mprotect(self.mm, self.address(call.page), call.n << PAGE_SHIFT, prot))

    async def _mremap(self, call: ops.Mremap | ops.MremapAway, target: int) -> None:
        length = call.n << PAGE_SHIFT
        await self.core.call(
            mm_messages.Mremap(
                self.mm, self.address(call.page), length, length, maymove=True, fixed=True, new_addr=target
            )
        )

    def _next_place_away(self) -> int:
        self._moved_away += 1
        return AWAY + self._moved_away * AWAY_STRIDE

    async def _dontneed(self, call: ops.MadviseDontneed) -> None:
        await self.core.call(
            mm_messages.Madvise(self.mm, self.address(call.page), call.n << PAGE_SHIFT, "dontneed")
        )

    # -- accesses ----------------------------------------------------------------------------

    async def cpu_read(self, page: int) -> int:
        """The first byte of a page as the process reads it.  Raises SIGSEGV or SIGBUS."""
        return (await cpu_read(self.core, self.mm, self.address(page), 1))[0]

    async def _cpu_write(self, call: ops.CpuWrite) -> None:
        await cpu_write(self.core, self.mm, self.address(call.page), self.stored(call.value))

    def stored(self, value: int) -> bytes:
        """The bytes a CPU write of this value stores from the start of its page."""
        content = self.written(value)
        return bytes((value,)) if content.patch else content.read(0, 1 << PAGE_SHIFT)

    async def _child(self, page: int, value: int | None) -> int:
        """Fork; the child writes if told to, reads the page and exits with what it read."""
        child = await self.core.call(mm_messages.Fork(self.mm, self.core.new_name("child")))
        try:
            if value is not None:
                await cpu_write(self.core, child, self.address(page), self.stored(value))
            status = (await cpu_read(self.core, child, self.address(page), 1))[0]
        except SIGSEGV:
            status = CHILD_SEGV
        await child.mmput()
        return status

    async def _dev_write(self, call: ops.DevWrite) -> CommandResult:
        contents = [self.written((call.value + index) % 256) for index in range(call.n)]
        return await self.mirrors[call.dev].write(self.address(call.page), contents)
