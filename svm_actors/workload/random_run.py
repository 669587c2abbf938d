"""Runs random concurrent programs in a world: CPU threads, GPU streams and the driver's own work at once.

A program (:mod:`svm_actors.workload.concurrent_programs`) prescribes no order and expects no result: any action may
fail in any schedule, if only with its own errors (:mod:`svm_actors.workload.refusals`), and the oracles judge what
happens.  What the executor adds is the end: when everything has come
to rest, every process reads every page once more, so that a wrong value that nobody happened to read is still seen.

A GPU fault takes some hundred steps, a system call some ten: started together, the CPU would be done before the first
page is on the device.  So the executor draws a few pages that the GPU touches before the race begins; for each thread
and each piece of driver work the moment it starts, in accesses that the GPU streams have begun; and for each action of
a CPU thread how long the thread computes before it.

The program is drawn from the run's choice tape before anything runs, or from a seed: either way it is the same
whatever the schedule does, so the two can be shrunk apart.  Operations that are left out
(:mod:`svm_actors.workload.program`) are passed over; everything that is drawn is drawn as if they were there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

import msgspec

from svm_actors.engine.errors import KernelError
from svm_actors.engine.locks import WaitQueue
from svm_actors.engine.nursery import Nursery
from svm_actors.gpu.program import AtomicAdd, Instruction, Load, Store
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.workload import concurrent_programs as cp
from svm_actors.workload.concurrent_operations import Place, places
from svm_actors.workload.program import Kept, Operation, ProgramScenario
from svm_actors.workload.random_programs import Draw, ProgramShape, random_program
from svm_actors.workload.refusals import CPU, GPU, Refusals
from svm_actors.world import GpuVm, Process, World

ARENA: Final = 0x7E00_0000_0000
"""Address of the arena in every process; 2 MiB aligned, with nothing mapped around it."""
WORD: Final = 4
"""Bytes of a value in memory, little-endian, at the start of its page."""
VM_KINDS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"bind_by_gpu": True},
    {},
    {"bind_by_gpu": True},
    {"placement": "system"},
)
"""How a VM may be set up; most prefer device memory, since only what moves can be caught moving."""
RANGE_PAGES: Final = 16
"""From this size on an arena has room for GPU ranges of more than one page."""
PAUSES: Final = (0, 0, 4, 16)
"""Steps that a CPU thread may compute before an action."""
WARM: Final = 3
"""A VM touches fewer pages than this before the race begins."""

class ProgramRun:
    """One program in one world."""

    def __init__(
        self, world: World, program: cp.RandomProgram, *, arena: int = ARENA, kept: Kept | None = None
    ) -> None:
        self.world = world
        self.program = program
        self.arena = arena
        self.kept = kept or Kept(world)
        self.numbers = {place: number for number, place in enumerate(places(program))}
        """Number of the operation at each place of the program."""
        self.vms: list[GpuVm | None] = []
        """The program's VMs; None where creating it was left out."""
        self.processes: list[Process] = []
        """The program's own, without forked children."""
        self.begun = 0
        """Accesses that GPU streams have begun."""
        self.streams = len(program.streams)
        """Streams still at work."""
        self.progress = WaitQueue(world.engine, "program.progress")
        self.refusals = Refusals(world, CPU, GPU)

    async def run(self) -> None:
        """Set up, run everything at once, let it come to rest, read every page."""
        populate = self.world.choose(2, "populate")
        for number, entry in enumerate(self.program.processes):
            process = self.world.process()
            self.processes.append(process)
            for index, action in enumerate(entry.setup):
                await self._do(("setup", number, index), partial(self._cpu, process, action))
            if populate:
                await self._read_everything(process)
        for number in range(len(self.program.vms)):
            self.vms.append(None)
            options = VM_KINDS[self.world.choose(len(VM_KINDS), "kind of VM")]
            await self._do(("vm", number), partial(self._create_vm, number, options))
            await self._warm(number)
        async with self.world.nursery() as nursery:
            self._start_all(nursery)
        await self.world.settle()
        for process in self.processes:
            await self._read_everything(process)

    async def _do(self, place: Place, perform: Callable[[], Awaitable[None]]) -> None:
        """The operation at this place, unless it is left out."""
        number = self.numbers[place]
        if number in self.kept:
            with self.kept.doing(number):
                await perform()

    async def _create_vm(self, number: int, options: dict[str, Any]) -> None:
        vm = self.program.vms[number]
        gpu = self.world.gpu(vm.gpu % self.world.config.gpus)
        try:
            self.vms[number] = await gpu.create_vm(self.processes[vm.process], **options)
        except KernelError as error:
            self.refusals.accept(error, "create_vm")

    async def _warm(self, vm: int) -> None:
        """Bring some pages to the device."""
        for _ in range(self.world.choose(WARM, "warm pages")):
            page = self.world.choose(self.program.pages, "warm page")
            await self._access(vm, cp.Load(page))

    def _start_all(self, nursery: Nursery) -> None:
        for number, entry in enumerate(self.program.processes):
            for thread, actions in enumerate(entry.threads):
                pauses = self._pauses(len(actions))
                at = (number, thread)
                nursery.start_soon(self._thread, nursery, at, actions, pauses, self._moment(), name="cpu")
        for number, stream in enumerate(self.program.streams):
            nursery.start_soon(self._stream, number, stream, name="gpu")
        for number, work in enumerate(self.program.driver):
            nursery.start_soon(self._driver, number, work, self._moment(), name="driver")

    def _moment(self) -> int:
        """How many accesses must have begun before something starts; drawn, 0 is at once."""
        total = sum(len(stream.accesses) for stream in self.program.streams)
        return self.world.choose(total + 1, "moment")

    def _pauses(self, actions: int) -> tuple[int, ...]:
        """Steps of computing before each action, drawn."""
        return tuple(PAUSES[self.world.choose(len(PAUSES), "pause")] for _ in range(actions))

    async def _wait_for(self, moment: int) -> None:
        if moment:
            await self.progress.wait_event(lambda: self.begun >= moment or not self.streams)

    def address(self, page: int) -> int:
        """Byte address of a page of the arena."""
        return self.arena + (page << PAGE_SHIFT)

    # -- CPU -----------------------------------------------------------------------------

    async def _thread(
        self,
        nursery: Nursery,
        at: tuple[int, int],
        actions: tuple[cp.ThreadAction, ...],
        pauses: tuple[int, ...],
        moment: int,
    ) -> None:
        """Thread ``at[1]`` of process ``at[0]``."""
        process = self.processes[at[0]]
        await self._wait_for(moment)
        for index, (action, pause) in enumerate(zip(actions, pauses, strict=True)):
            for _ in range(pause):
                await self.world.engine.step("local")
            if isinstance(action, cp.Fork):
                await self._do(("thread", *at, index), partial(self._fork, nursery, (*at, index), action))
            else:
                await self._do(("thread", *at, index), partial(self._cpu, process, action))

    async def _fork(self, nursery: Nursery, at: tuple[int, int, int], action: cp.Fork) -> None:
        process = self.processes[at[0]]
        try:
            child = await process.fork()
        except KernelError as error:
            self.refusals.accept(error, "fork")
            self.world.engine.count("random.fork_refused")
            return
        nursery.start_soon(self._child, child, at, action.actions, name="child")

    async def _child(self, child: Process, at: tuple[int, int, int], actions: tuple[cp.ChildAction, ...]) -> None:
        for index, action in enumerate(actions):
            await self._do(("child", *at, index), partial(self._cpu, child, action))
        await child.exit()

    async def _cpu(self, process: Process, action: cp.ChildAction) -> None:
        try:
            await self._perform(process, action)
        except KernelError as error:
            self.refusals.accept(error, type(action).__name__.lower())
            self.world.engine.count("random.cpu_refused")

    async def _perform(self, process: Process, action: cp.ChildAction) -> None:
        addr = self.address(action.page)
        match action:
            case cp.Mmap(n=n, prot=prot, share=share):
                await process.mmap(n * PAGE_SIZE, addr=addr, prot=prot, shared=share == "shared", fixed=True)
            case cp.Munmap(n=n):
                await process.munmap(addr, n * PAGE_SIZE)
            case cp.Mremap(n=n, to=to):
                await process.mremap(addr, n * PAGE_SIZE, n * PAGE_SIZE, to=self.address(to))
            case cp.Mprotect(n=n, prot=prot):
                await process.mprotect(addr, n * PAGE_SIZE, prot)
            case cp.Madvise(n=n, advice=advice):
                await process.madvise(addr, n * PAGE_SIZE, advice)
            case cp.Reclaim(n=n):
                await process.swap_out(addr, n * PAGE_SIZE)
            case cp.Read():
                await process.read(addr, WORD)
            case cp.Write(value=value):
                await process.write(addr, word(value))

    async def _read_everything(self, process: Process) -> None:
        for page in range(self.program.pages):
            await self._cpu(process, cp.Read(page))

    # -- GPU and driver --------------------------------------------------------------------

    async def _stream(self, number: int, stream: cp.Stream) -> None:
        """One submission per access: a refused one does not stop those that follow."""
        for index, access in enumerate(stream.accesses):
            self.begun += 1
            self.progress.wake_up()
            await self._do(("stream", number, index), partial(self._access, stream.vm, access))
        self.streams -= 1
        self.progress.wake_up()

    async def _access(self, vm: int, access: cp.Access) -> None:
        there = self.vms[vm]
        if there is None:
            return
        try:
            await there.run((self.instruction(access),))
        except KernelError as error:
            self.refusals.accept(error, "gpu")
            self.world.engine.count("random.gpu_refused")

    def instruction(self, access: cp.Access) -> Instruction:
        """The access as an instruction of a GPU program."""
        vpn = self.address(access.page) >> PAGE_SHIFT
        match access:
            case cp.Load():
                return Load(vpn, 0, WORD)
            case cp.Store(value=value):
                return Store(vpn, 0, word(value))
            case cp.AtomicAdd(value=value):
                return AtomicAdd(vpn, 0, value, WORD)

    async def _driver(self, number: int, work: cp.DriverWork, moment: int) -> None:
        await self._wait_for(moment)
        await self._do(("driver", number), partial(self._driver_work, work))

    async def _driver_work(self, work: cp.DriverWork) -> None:
        try:
            if isinstance(work, cp.CloseVm):
                vm = self.vms[work.vm]
                if vm is not None:
                    await vm.close()
            else:
                gpu = self.program.vms[work.vm].gpu % self.world.config.gpus
                await self.world.gpu(gpu).evict(work.n * PAGE_SIZE)
        except KernelError as error:
            self.refusals.accept(error, "driver")
            self.world.engine.count("random.driver_refused")


def word(value: int) -> bytes:
    """A value as it lies in memory."""
    return value.to_bytes(WORD, "little")


def seeded_draw(seed: int | str) -> Draw:
    """Draws from a generator of its own, the same on every machine."""
    return Random(str(seed)).randrange


def program_scenario(program: cp.RandomProgram) -> ProgramScenario[cp.RandomProgram]:
    """A scenario that runs this program."""
    return ProgramScenario(lambda _draw: program, list_operations, run_program, ARENA)


def list_operations(program: cp.RandomProgram) -> Sequence[Operation]:
    """The program's operations by number."""
    return tuple(places(program).values())


async def run_program(world: World, program: cp.RandomProgram, kept: Kept) -> None:
    """Run what is kept of a program."""
    await ProgramRun(world, program, kept=kept).run()


def without_mprotect(program: cp.RandomProgram) -> cp.RandomProgram:
    """The program with reads where it changes protection.

    For arenas that the GPU maps in ranges of many pages: when a part of such a range changes protection, 7.3.4 retries
    its next fault without end (SVM-S01), and so does the model.
    """

    def plain(action: cp.ChildAction) -> cp.ChildAction:
        return cp.Read(action.page) if isinstance(action, cp.Mprotect) else action

    def plain_or_fork(action: cp.ThreadAction) -> cp.ThreadAction:
        return cp.Fork(tuple(map(plain, action.actions))) if isinstance(action, cp.Fork) else plain(action)

    processes = tuple(
        cp.ProcessProgram(entry.setup, tuple(tuple(map(plain_or_fork, thread)) for thread in entry.threads))
        for entry in program.processes
    )
    return msgspec.structs.replace(program, processes=processes)


def random_scenario(
    shape: ProgramShape = ProgramShape(),  # noqa: B008
    seed: int | str | None = None,
) -> ProgramScenario[cp.RandomProgram]:
    """A scenario that draws a program, from the tape or from a seed, and runs it."""

    def make(draw: Draw) -> cp.RandomProgram:
        program = random_program(draw if seed is None else seeded_draw(seed), shape)
        return without_mprotect(program) if shape.pages >= RANGE_PAGES else program

    return ProgramScenario(make, list_operations, run_program, ARENA)
