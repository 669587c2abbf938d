"""Programs of the recorded kind on the mirror driver of a world: one after the other, or several at once.

``kernel_run`` compares one program with its recording, operation by operation.  Here the same operations are material
for fuzzing: each program is a thread of one process, all of them share the arena and the mirrors, and nobody knows
the results; the oracles judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from svm_actors.engine.errors import KernelError
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.mm.content import FILLED
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_programs import KernelProgram
from svm_actors.workload.program import Kept, Operation, ProgramScenario
from svm_actors.workload.random_kernel_programs import PROFILES, Draw, SequentialShape, random_kernel_program
from svm_actors.workload.refusals import CPU, MIRROR, Refusals
from svm_actors.world import Process, World

ARENA: Final = 0x7E12_3440_0000
"""Address of the arena; 2 MiB aligned, with nothing mapped around it."""

PARTS: Final = {
    "cpu_read": ("read",),
    "cpu_write": ("write",),
    "child_read": ("fork", "read"),
    "child_write": ("fork", "read", "write"),
    "madvise_dontneed": ("madvise",),
}
"""What operations consist of, where their name does not say it."""

Program = Sequence[ops.Arguments]


class MirrorRun:
    """Programs that share one process and its mirrors."""

    def __init__(self, world: World, programs: Sequence[Program], devices: int, kept: Kept | None = None) -> None:
        self.world = world
        self.programs = programs
        self.devices = devices
        self.kept = kept or Kept(world)
        self.first = 0
        """Number of the first program's first operation; the others follow."""
        self.mirrors: list[Mirror] = []
        self.process: Process = world.process()
        self.refusals = Refusals(world, CPU, MIRROR)

    async def run(self) -> None:
        """Open the mirrors and run every program as a thread; without its mirrors it does not run."""
        try:
            for device in range(self.devices):
                opened = await self.process.as_thread(self.world.mirror(self.process, device))
                self.mirrors.append(opened)
        except KernelError as error:
            self.refusals.accept(error, "open")
            return
        async with self.world.nursery() as nursery:
            first = self.first
            for program in self.programs:
                nursery.start_soon(self._thread, program, first, name="thread")
                first += len(program)

    async def _thread(self, program: Program, first: int) -> None:
        for number, call in enumerate(program, first):
            if number in self.kept:
                with self.kept.doing(number):
                    await self._attempt(call)

    async def _attempt(self, call: ops.Arguments) -> None:
        try:
            await self._perform(call)
        except KernelError as error:
            self.refusals.accept(error, *PARTS.get(call.op, (call.op,)))
            self.world.engine.count("mirror.refused")

    async def _perform(self, call: ops.Arguments) -> object:
        """Do it; answers what a CPU or a device read."""
        page, count = call.span
        addr, length = ARENA + (page << PAGE_SHIFT), count << PAGE_SHIFT
        if hasattr(call, "dev"):
            return await self.process.as_thread(self._command(call, addr, count))
        match call:
            case ops.CpuRead():
                return await self.process.read(addr)
            case ops.CpuWrite(value=value):
                await self.process.write(addr, bytes((value,)) * PAGE_SIZE)
            case ops.ChildRead():
                await self._child(addr, None)
            case ops.ChildWrite(value=value):
                await self._child(addr, value)
            case _:
                await self._memory(call, addr, length)
        return None

    async def _memory(self, call: ops.Arguments, addr: int, length: int) -> None:
        process = self.process
        match call:
            case ops.Mmap(prot=prot, share=share):
                await process.mmap(length, addr=addr, prot=prot, shared=share == "shared", fixed=True)
            case ops.Munmap():
                await process.munmap(addr, length)
            case ops.Mprotect(prot=prot):
                await process.mprotect(addr, length, prot)
            case ops.Mremap(to=to):
                await process.mremap(addr, length, length, to=ARENA + (to << PAGE_SHIFT))
            case ops.MadviseDontneed():
                await process.madvise(addr, length, "dontneed")
            case _:
                raise TypeError(f"{call.op} is not an operation of sequential programs")

    async def _child(self, addr: int, value: int | None) -> None:
        child = await self.process.fork()
        try:
            if value is not None:
                await child.write(addr, bytes((value,)) * PAGE_SIZE)
            await child.read(addr)
        finally:
            await child.exit()

    async def _command(self, call: ops.Arguments, addr: int, count: int) -> object:
        match call:
            case ops.DevRead(dev=dev):
                return (await self.mirrors[dev].read(addr, count)).data
            case ops.DevWrite(dev=dev, value=value):
                pages = [FILLED[(value + index) % 256] for index in range(count)]
                await self.mirrors[dev].write(addr, pages)
            case ops.ToDev(dev=dev):
                await self.mirrors[dev].migrate_to_dev(addr, count)
            case ops.ToSys(dev=dev):
                await self.mirrors[dev].migrate_to_sys(addr, count)
            case ops.Exclusive(dev=dev):
                await self.mirrors[dev].exclusive(addr, count)
            case ops.Snapshot(dev=dev):
                await self.mirrors[dev].snapshot(addr, count)
        return None


@attrs.frozen
class MirrorPrograms:
    """Programs that run at once, and the mirrors they need."""

    programs: tuple[tuple[ops.Arguments, ...], ...]
    devices: int


def list_operations(programs: Sequence[Program], names: Sequence[str] = ()) -> tuple[Operation, ...]:
    """The operations of all programs, one after the other; ``names`` says who makes those of each."""
    found = []
    for number, program in enumerate(programs):
        who = names[number] if names else f"thread {number}"
        found += [Operation(who, call_text(call)) for call in program]
    return tuple(found)


def call_text(call: ops.Arguments) -> str:
    """``to_dev dev 0, pages 2-3``; other arguments by name."""
    page, count = call.span
    device = [f"dev {call.dev}"] if hasattr(call, "dev") else []
    pages = f"page {page}" if count == 1 else f"pages {page}-{page + count - 1}"
    others = [
        f"{name} {getattr(call, name)}" for name in call.__struct_fields__ if name not in ("page", "n", "dev")
    ]
    return f"{call.op} {', '.join([*device, pages, *others])}"


def _list(programs: MirrorPrograms) -> tuple[Operation, ...]:
    return list_operations(programs.programs)


async def _run(world: World, programs: MirrorPrograms, kept: Kept) -> None:
    await MirrorRun(world, programs.programs, programs.devices, kept).run()


def recorded_scenario(programs: Sequence[KernelProgram]) -> ProgramScenario[MirrorPrograms]:
    """A scenario that runs recorded programs at once; their recorded results are not looked at."""
    known = _calls_of(programs, max(program.devices for program in programs))
    return ProgramScenario(lambda _draw: known, _list, _run, ARENA)


def random_mirror_scenario(
    threads: int = 1,
    shape: SequentialShape = SequentialShape(),  # noqa: B008
) -> ProgramScenario[MirrorPrograms]:
    """A scenario that draws that many programs from the tape and runs them at once."""

    def make(draw: Draw) -> MirrorPrograms:
        profile = draw(PROFILES)
        return _calls_of(
            [random_kernel_program(draw, profile, number, shape) for number in range(threads)], shape.devices
        )

    return ProgramScenario(make, _list, _run, ARENA)


def _calls_of(programs: Sequence[KernelProgram], devices: int) -> MirrorPrograms:
    calls = tuple(tuple(operation.arguments for operation in program.operations) for program in programs)
    return MirrorPrograms(calls, devices)
