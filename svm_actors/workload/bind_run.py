"""Runs programs over VM_BIND in a world: clients, CPU threads, mirroring VMs and the driver's own work at once.

The executor of :mod:`svm_actors.workload.random_run` runs processes and mirroring VMs; this one adds the VMs that user
space fills, their buffer objects, and their clients (:mod:`svm_actors.workload.bind_client`).  When everything has
come to rest, every word that a client ever wrote is read once more, so that a wrong value that nobody happened to read
is still seen, and so is every counter.

The program is made from one number, which is the first choice of the run's tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from svm_actors.engine.errors import ENOMEM, KernelError
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.workload import bind_programs as bp
from svm_actors.workload.bind_client import COUNTER, STRIDE, BindClient
from svm_actors.workload.bind_faults import RUN_OUT, focus, struck
from svm_actors.workload.bind_job import WORD, Job
from svm_actors.workload.bind_memory import BindMemory, Place, check_word
from svm_actors.workload.bind_operations import places
from svm_actors.workload.bind_random import BindShape, random_bind_program
from svm_actors.workload.program import Kept, Operation, ProgramScenario
from svm_actors.workload.random_kernel_programs import Draw
from svm_actors.workload.random_run import ProgramRun

if TYPE_CHECKING:
    from svm_actors.engine.nursery import Nursery
    from svm_actors.world import BindVm, GpuVm, Process, World
    from svm_actors.xe.gem import XeBo

FENCES: Final = 0x7D00_0000_0000
"""Address of the page of user fences in every process."""
WINDOWS: Final = 0x10_0000
"""GPU address of the first window; all of them lie under one page-table node."""
PROGRAMS: Final = 1 << 32
"""How many programs there are of one shape."""


class BindRun(ProgramRun):
    """One program in one world."""

    def __init__(self, world: World, binds: bp.BindProgram, kept: Kept | None = None) -> None:
        super().__init__(world, binds.base, kept=kept)
        self.binds = binds
        self.numbers = {place: number for number, place in enumerate(places(binds))}
        self.bind_vms: list[BindVm] = []
        self.bos: dict[int, XeBo] = {}
        """Objects with an open handle, by number."""
        self.made: dict[str, XeBo] = {}
        """All objects, by name, with a handle or without."""
        self.memory = BindMemory()
        self.memory.lost = lambda name: name in self.made and self.made[name].lost
        self.streams += len(binds.clients)

    # -- places ------------------------------------------------------------------------------

    @staticmethod
    def window_page(client: int) -> int:
        """First page of a client's window."""
        return (WINDOWS >> PAGE_SHIFT) + client * bp.WINDOW

    @staticmethod
    def fence_address(client: int, slot: int) -> int:
        """Where the user fences of a bind queue are written."""
        return FENCES + client * STRIDE + slot * 8

    def mirror_of(self, vm: int) -> GpuVm | BindVm | None:
        """A VM that mirrors the process of a VM, if there is one: itself, in fault mode."""
        if self.binds.vms[vm].mode == "fault":
            return self.bind_vms[vm] if self.bind_vms[vm].open else None
        process = self.binds.vms[vm].process
        for number, entry in enumerate(self.program.vms):
            mirror = self.vms[number]
            if entry.process == process and mirror is not None and mirror.open:
                return mirror
        return None

    @property
    def disturbed(self) -> bool:
        """A GT reset has banned whoever had a job on the hardware."""
        return bool(self.world.engine.counters["exec.gt_reset"])

    # -- the run -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything at once, then a last look."""
        focus(self.world)
        await super().run()
        await self._look_at_everything()

    def _start_all(self, nursery: Nursery) -> None:
        super()._start_all(nursery)
        nursery.start_soon(self._start_clients, nursery, name="setup")
        for number, task in enumerate(self.binds.driver):
            nursery.start_soon(self._driver_task, number, task, self._moment(), name="driver")

    def _moment(self) -> int:
        """How many accesses and jobs must have begun; drawn, 0 is at once."""
        total = sum(len(stream.accesses) for stream in self.program.streams)
        for client in self.binds.clients:
            total += sum(isinstance(operation, bp.Submit) for operation in client.operations)
        return self.world.choose(total + 1, "moment")

    async def _start_clients(self, nursery: Nursery) -> None:
        for process in self.processes:
            await self._map_at(process, FENCES, PAGE_SIZE)
            await self._map_at(process, self.address(self.program.pages), self.binds.calm * PAGE_SIZE)
        for vm in self.binds.vms:
            self.bind_vms.append(await self._create_bind_vm(vm))
        for number, bo in enumerate(self.binds.bos):
            await self._do(("bo", number), partial(self._create_bo, number, bo))
        for number, client in enumerate(self.binds.clients):
            process = self.processes[self.binds.vms[client.vm].process]
            worker = BindClient(self, number, client, self.bind_vms[client.vm], process)
            nursery.start_soon(self._client, worker, name="client")

    async def _map_at(self, process: Process, addr: int, length: int) -> None:
        """Memory without which nothing works: asked for until it is there."""
        while True:
            try:
                await process.mmap(length, addr=addr, fixed=True)
                return
            except KernelError as error:
                self.refusals.accept(error, "mmap")

    async def _create_bind_vm(self, vm: bp.BindVmProgram) -> BindVm:
        gpu, process = self.world.gpu(), self.processes[vm.process]
        if vm.mode != "fault":
            return await gpu.create_vm(process, vm.mode)
        made = await gpu.create_vm(process, "fault", mirror=False)
        try:
            await made.bind_mirror(self.arena, (self.program.pages + self.binds.calm) * PAGE_SIZE)
        except ENOMEM:
            if not struck(self.world.engine, *RUN_OUT):
                raise
        return made

    async def _create_bo(self, number: int, bo: bp.BoProgram) -> None:
        try:
            made = await self.bind_vms[bo.vm].create_bo(
                bo.pages * PAGE_SIZE, placement=bo.placement, external=bo.external
            )
        except KernelError:
            self.world.engine.count("binds.bo_refused")
            return
        self.bos[number] = self.made[made.name] = made

    async def _client(self, client: BindClient) -> None:
        await client.work()
        self.streams -= 1
        self.progress.wake_up()

    async def do_operation(self, client: BindClient, index: int) -> None:
        """One operation of a client, unless it is left out."""
        operation = client.program.operations[index]
        if isinstance(operation, bp.Submit):
            self.begun += 1
            self.progress.wake_up()
        await self._do(("client", client.number, index), partial(client.do, operation))

    async def _driver_task(self, number: int, task: bp.DriverTask, moment: int) -> None:
        await self._wait_for(moment)
        await self._do(("task", number), partial(self._perform_task, task))

    async def _perform_task(self, task: bp.DriverTask) -> None:
        match task:
            case bp.EvictPages(n):
                await self.world.gpu().evict(n * PAGE_SIZE)
            case bp.ResetGt():
                self.world.gpu().driver.submission.reset.queue()
            case bp.CloseBindVm(number):
                if number < len(self.bind_vms):
                    await self.bind_vms[number].close()

    # -- what clients tell ---------------------------------------------------------------------

    def ended(self, client: BindClient, job: Job) -> None:
        """A job of a client is through."""
        client.check_failed(job)

    def drop(self, number: int) -> None:
        """The handle of an object is closed."""
        del self.bos[number]

    # -- the end -------------------------------------------------------------------------------

    async def _look_at_everything(self) -> None:
        for place, owner in self.memory.words():
            data = await self._read(place, STRIDE * (1 + owner))
            if data is not None and self.memory.known(place):
                legal = self.memory.own(place, owner)
                check_word(legal, int.from_bytes(data, "little"), "the CPU, at the end,", place, owner)
        for place in self.memory.counters():
            data = await self._read(place, COUNTER)
            if data is not None:
                self.memory.check_counter(place, int.from_bytes(data, "little"))

    async def _read(self, place: Place, offset: int) -> bytes | None:
        """A word of a page; None when nobody can read it any more."""
        name, page = place
        for bo in self.bos.values():
            if bo.name == name:
                try:
                    return await bo.read(page * PAGE_SIZE + offset, WORD)
                except KernelError:
                    return None
        for process in self.processes:
            if process.name == name:
                try:
                    return await process.read(self.address(page) + offset, WORD)
                except KernelError as error:
                    self.refusals.accept(error, "read")
                    return None
        return None


def bind_program(number: int | str, shape: BindShape = BindShape()) -> bp.BindProgram:  # noqa: B008
    """The program with this number."""
    return random_bind_program(Random(str(number)).randrange, shape)


def bind_program_scenario(program: bp.BindProgram) -> ProgramScenario[bp.BindProgram]:
    """A scenario that runs this program."""
    return ProgramScenario(lambda _draw: program, list_operations, run_program)


def list_operations(program: bp.BindProgram) -> Sequence[Operation]:
    """The program's operations by number."""
    return tuple(places(program).values())


async def run_program(world: World, program: bp.BindProgram, kept: Kept) -> None:
    """Run what is kept of a program."""
    await BindRun(world, program, kept).run()


def random_bind_scenario(
    shape: BindShape = BindShape(),  # noqa: B008
    seed: int | str | None = None,
) -> ProgramScenario[bp.BindProgram]:
    """A scenario that makes a program, from the tape's first choice or from a seed, and runs it."""

    def make(draw: Draw) -> bp.BindProgram:
        return bind_program(draw(PROGRAMS) if seed is None else seed, shape)

    return ProgramScenario(make, list_operations, run_program)
