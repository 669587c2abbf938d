"""Programs of the recorded kind on the mirror driver of a world: one after the other, or several at once.

``kernel_run`` compares one program with its recording, operation by operation.  Here the same operations are material
for fuzzing: each program is a thread of one process, all of them share the arena and the mirrors, and nobody knows
the results; the oracles judge.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from svm_actors.engine.errors import KernelError
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.mm.content import FILLED
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_programs import KernelProgram
from svm_actors.workload.random_kernel_programs import PROFILES, SequentialShape, random_kernel_program
from svm_actors.workload.random_run import tape_draw
from svm_actors.world import Process, World

ARENA: Final = 0x7E12_3440_0000
"""Address of the arena; 2 MiB aligned, with nothing mapped around it."""

Program = Sequence[ops.Arguments]


class MirrorRun:
    """Programs that share one process and its mirrors."""

    def __init__(self, world: World, programs: Sequence[Program], devices: int) -> None:
        self.world = world
        self.programs = programs
        self.devices = devices
        self.mirrors: list[Mirror] = []
        self.process: Process = world.process()

    async def run(self) -> None:
        """Open the mirrors and run every program as a thread."""
        for device in range(self.devices):
            self.mirrors.append(await self.world.mirror(self.process, device))
        async with self.world.nursery() as nursery:
            for program in self.programs:
                nursery.start_soon(self._thread, program, name="thread")

    async def _thread(self, program: Program) -> None:
        for call in program:
            try:
                await self._perform(call)
            except KernelError:
                self.world.engine.count("mirror.refused")

    async def _perform(self, call: ops.Arguments) -> None:
        page, count = call.span
        addr, length = ARENA + (page << PAGE_SHIFT), count << PAGE_SHIFT
        if hasattr(call, "dev"):
            await self._command(call, addr, count)
            return
        match call:
            case ops.CpuRead():
                await self.process.read(addr)
            case ops.CpuWrite(value=value):
                await self.process.write(addr, bytes((value,)) * PAGE_SIZE)
            case ops.ChildRead():
                await self._child(addr, None)
            case ops.ChildWrite(value=value):
                await self._child(addr, value)
            case _:
                await self._memory(call, addr, length)

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

    async def _command(self, call: ops.Arguments, addr: int, count: int) -> None:
        match call:
            case ops.DevRead(dev=dev):
                await self.mirrors[dev].read(addr, count)
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


def recorded_scenario(programs: Sequence[KernelProgram]) -> Callable[[World], Coroutine[Any, Any, None]]:
    """A scenario that runs recorded programs at once; their recorded results are not looked at."""
    calls = [[operation.arguments for operation in program.operations] for program in programs]
    devices = max(program.devices for program in programs)

    async def run_recorded(world: World) -> None:
        await MirrorRun(world, calls, devices).run()

    return run_recorded


def random_mirror_scenario(
    threads: int = 1,
    shape: SequentialShape = SequentialShape(),  # noqa: B008
) -> Callable[[World], Coroutine[Any, Any, None]]:
    """A scenario that draws that many programs from the tape and runs them at once."""

    async def run_random_mirror(world: World) -> None:
        draw = tape_draw(world)
        profile = draw(PROFILES)
        drawn = [random_kernel_program(draw, profile, number, shape) for number in range(threads)]
        calls = [[operation.arguments for operation in program.operations] for program in drawn]
        await MirrorRun(world, calls, shape.devices).run()

    return run_random_mirror
