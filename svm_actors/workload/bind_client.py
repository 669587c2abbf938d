"""One client of VM_BIND at work (:mod:`svm_actors.workload.bind_programs`).

The client orders what it does the way an application has to, and no more: a job waits for the binds before it, on
every bind queue, and for jobs on other queues; a bind waits for the jobs before it, because the kernel does not order
an unbind behind the jobs that use the mapping (VMB-R12); binds on different queues are *not* ordered by it, as
overlapping updates of page tables are the kernel's affair (VMB-R10).  A long-running VM has no out-fences, so there the
client sleeps: for the user fences of its binds, for its jobs.

An operation may be refused with an error that the interface documents for it, and with no other.  A job may fail only
for a reason: its queue was made to hang, astray or destroyed, the GT was reset, the VM is closed or banned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from svm_actors.engine.errors import (
    EAGAIN,
    EBUSY,
    ECANCELED,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOMEM,
    EPERM,
    KernelError,
    PropertyFailed,
)
from svm_actors.gpu.program import AtomicAdd, GpuFault, Load, Spin, Step, Store
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.workload import bind_programs as bp
from svm_actors.workload.bind_faults import excused
from svm_actors.workload.bind_job import WORD, Item, Job, word
from svm_actors.workload.bind_memory import ORACLE, Place, Write, check_word
from svm_actors.workload.bind_window import Target, Window
from svm_actors.xe.sync import Sync
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp

if TYPE_CHECKING:
    from svm_actors.workload.bind_run import BindRun
    from svm_actors.world import BindVm, GpuVm, Process, UserSyncobj
    from svm_actors.xe.exec import Execution
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.gem import XeBo
    from svm_actors.xe.user_fence import UserFence

STRIDE: Final = 64
"""Bytes from one client's word to the next one's; the first ``STRIDE`` bytes of a page are the CPU threads'."""
COUNTER: Final = 31 * STRIDE
"""Where in a page everybody counts."""
SPIN: Final = 1000
"""How long a busy job is, in virtual ns."""
POLLS: Final = 8
"""How often a client looks at a user fence before it goes to sleep."""

MAPS: Final = (BindKind.MAP, BindKind.MAP_USERPTR)
BIND_ERRORS: Final = (ENOENT, ENOMEM, EFAULT, EBUSY, EPERM)
EXEC_ERRORS: Final = (ECANCELED, ENOENT, EAGAIN, ENOMEM, EFAULT, EPERM, EBUSY)


class BindClient:
    """Does the operations of one client, in order."""

    def __init__(self, run: BindRun, number: int, program: bp.Client, vm: BindVm, process: Process) -> None:
        self.run = run
        self.world = run.world
        self.engine = run.world.engine
        self.number = number
        self.program = program
        self.vm = vm
        self.process = process
        self.setup = run.binds.vms[program.vm]
        self.lr = self.setup.mode != "dma_fence"
        """Jobs and binds have no dma-fence."""
        self.offset = STRIDE * (1 + number)
        """Of its word in a page."""
        self.window = Window(
            vm, run.window_page(number), self._usable(), process.name, run.arena >> PAGE_SHIFT, run.program.pages
        )
        self.bind_queues = [vm.vm.default_queue]
        self.queues: dict[int, ExecQueue] = {}
        self.spoiled: dict[int, bool] = {}
        """Queues that have a reason to die."""
        self.jobs: list[Job] = []
        """Not judged yet, oldest first."""
        self.job_syncs: dict[int, UserSyncobj] = {}
        """Out-fence of the last job of each queue, until it was waited for."""
        self.bind_syncs: dict[int, UserSyncobj] = {}
        """The same of each bind queue."""
        self.fences: list[UserFence] = []
        """User fences of binds that were not seen written."""
        self.written: dict[int, int] = {}
        """Last value of the user fence of each bind queue."""
        self.submitted = 0

    def _usable(self) -> dict[int, XeBo]:
        """Objects that can be mapped here and are not somebody else's alone."""
        usable: dict[int, XeBo] = {}
        for number, bo in self.run.bos.items():
            entry = self.run.binds.bos[number]
            if (entry.external or entry.vm == self.program.vm) and entry.client in (None, self.number):
                usable[number] = bo
        return usable

    @property
    def alone(self) -> list[int]:
        """Objects nobody else uses."""
        return [number for number in self.window.bos if self.run.binds.bos[number].client == self.number]

    async def work(self) -> None:
        """Everything, then wait for the end of it."""
        self._create_bind_queues()
        for index in range(len(self.program.operations)):
            await self.run.do_operation(self, index)
        await self.wait()

    def _create_bind_queues(self) -> None:
        """Queues of its own; the first client makes do with the default one when one is enough."""
        if self.setup.bind_queues == 1 and not self.number:
            return
        try:
            self.bind_queues = [self.vm.bind_queue() for _ in range(self.setup.bind_queues)]
        except ENOENT:
            self.engine.count("binds.queue_refused")

    async def do(self, operation: bp.Operation) -> None:
        """One operation."""
        match operation:
            case bp.Bind():
                await self.bind(operation)
            case bp.Submit(accesses, queue, spin):
                await self.submit(accesses, queue, spin)
            case bp.Hang(queue, stubborn):
                if not self.lr:
                    await self._send(queue, [Spin(None, preemptible=not stubborn)], (Item(None),), spoils=True)
            case bp.Stray(queue):
                await self._send(queue, [Load(self.window.first - 1)], (Item(None),), spoils=True)
            case bp.Wait():
                await self.wait()
            case bp.DestroyQueue(queue):
                await self._destroy(queue)
            case bp.Drop(number):
                await self._drop(number)
            case bp.Unmirror(page, n):
                await self._mirrored(page, n, BindKind.UNMAP)
            case bp.Remirror(page, n):
                await self._mirrored(page, n, BindKind.MAP_MIRROR)
            case bp.CpuRead() | bp.CpuWrite() | bp.UserWrite() | bp.Mirror():
                await self.wait()
                await self._look(operation)

    # -- binds -----------------------------------------------------------------------------

    async def bind(self, bind: bp.Bind) -> None:
        """One ioctl; the window must be what was asked for afterwards, or what it was."""
        ops, after = self.window.operations(bind.changes, self.alone)
        if not ops:
            return
        slot = bind.queue % len(self.bind_queues)
        eager = bind.eager and self.window.only_new(bind.changes)
        if bind.immediate:
            ops = [attrs.evolve(op, flags=op.flags | BindFlag.IMMEDIATE) if op.kind in MAPS else op for op in ops]
        if self.lr and not eager:
            await self.wait()
        syncs = [] if eager else [sync.sync_in() for sync in self.job_syncs.values()]
        out = None if self.lr else self.world.syncobj()
        fence = self._user_fence(slot) if self.lr or bind.user_fence else None
        if out is not None:
            syncs.append(out.sync_out())
        if fence is not None:
            syncs.append(Sync(user_fence=fence, signal=True))
        try:
            await self.vm.bind_array(ops, queue=self.bind_queues[slot], syncs=syncs)
        except KernelError as error:
            self._bind_refused(error)
            self.window.check("INV-VMB-08", f"a bind that answered {error.code}")
            return
        self.window.pages = after
        self.window.check("INV-VMB-02", "a bind")
        if out is not None:
            self.bind_syncs[slot] = out
        if fence is not None:
            self.fences.append(fence)

    async def _mirrored(self, page: int, n: int, kind: BindKind) -> None:
        """Take mirrored memory out of a VM in fault mode, or put it back."""
        if not self.vm.vm.faulting:
            return
        try:
            await self.vm.bind_array([BindOp(kind, self.window.user + page, n)])
        except EBUSY:
            self.engine.count("binds.mirror_busy")
        except KernelError as error:
            self._bind_refused(error)

    def _bind_refused(self, error: KernelError) -> None:
        """Raise unless it is an error that the ioctl may answer now."""
        self.engine.count("binds.bind_refused")
        if isinstance(error, EINVAL) and self.vm.vm.closed:
            return
        if not isinstance(error, BIND_ERRORS):
            raise PropertyFailed(ORACLE, "errors", f"a bind answers {error.code}")
        if isinstance(error, EBUSY) and not self.fences:
            raise PropertyFailed(ORACLE, "VMB-R28", "a bind answers EBUSY, and every user fence was seen written")

    def _user_fence(self, slot: int) -> UserFence:
        value = self.written[slot] = self.written.get(slot, 0) + 1
        return self.vm.user_fence(self.process, self.run.fence_address(self.number, slot), value)

    async def _see_fences(self) -> None:
        """Look at the memory, as user space does, and go to sleep when that takes long."""
        for fence in self.fences:
            for _ in range(POLLS):
                if await self._found(fence):
                    break
            else:
                await fence.written.wait()
        self.fences.clear()

    async def _found(self, fence: UserFence) -> bool:
        """Its value is there; not if nobody can look."""
        try:
            return int.from_bytes(await self.process.read(fence.addr, 8), "little") >= fence.value
        except KernelError as error:
            self.run.refusals.accept(error, "read")
            return False

    # -- jobs ------------------------------------------------------------------------------

    async def submit(self, accesses: tuple[bp.Access, ...], queue: int, spin: int | None) -> None:
        """A job with those accesses that lead somewhere."""
        items: list[Item] = []
        steps: list[Step] = []
        risky = False
        for index, access in enumerate(accesses):
            target = self.window.pages.get(access.at)
            if target is None or not self._may(access, target):
                continue
            if index == spin:
                steps.append(Spin(SPIN))
                items.append(Item(None))
            risky |= not target.known
            steps.append(self._instruction(access))
            items.append(Item(access, target, self._write(access, target)))
        if steps:
            await self._send(queue, steps, tuple(items), spoils=risky)

    @staticmethod
    def _may(access: bp.Access, target: Target) -> bool:
        if access.do == "add":
            return target.atomic
        return access.do == "load" or not target.read_only

    def _instruction(self, access: bp.Access) -> Step:
        vpn = self.window.first + access.at
        match access.do:
            case "load":
                offset = self.offset if access.of is None else STRIDE * (1 + access.of)
                return Load(vpn, offset, WORD)
            case "store":
                return Store(vpn, self.offset, word(access.value))
        return AtomicAdd(vpn, COUNTER, 1, WORD)

    def _write(self, access: bp.Access, target: Target) -> Write | None:
        if access.do != "store" or target.place is None or not target.known:
            return None
        return self.run.memory.write(target.place, self.number, access.value, self.engine.steps)

    async def _send(self, queue: int, steps: list[Step], items: tuple[Item, ...], *, spoils: bool) -> None:
        slot = queue % self.setup.exec_queues
        if self.lr:
            await self._see_fences()
            if any(job.slot != slot for job in self.jobs):
                await self._judge_jobs()
        begun = self.engine.steps
        try:
            execution = await self._exec(slot, steps)
        except KernelError as error:
            self._exec_refused(error, items)
            return
        self.spoiled[slot] = self.spoiled.get(slot, False) or spoils
        self.submitted += 1
        name = f"job {self.submitted} of client {self.number}"
        self.jobs.append(
            Job(name, execution, items, begun, slot, self.spoiled[slot], self.run.memory, self.number)
        )

    async def _exec(self, slot: int, steps: list[Step]) -> Execution:
        queue = await self._queue(slot)
        if self.lr:
            return await self.vm.submit(queue, steps)
        ins = [*self.bind_syncs.values(), *(sync for number, sync in self.job_syncs.items() if number != slot)]
        out = self.world.syncobj()
        execution = await self.vm.submit(queue, steps, ins, [out])
        self.job_syncs[slot] = out
        return execution

    async def _queue(self, slot: int) -> ExecQueue:
        """The queue of this number, a new one when it is dead."""
        if slot not in self.queues or self.queues[slot].dead:
            await self._judge_jobs()
            self.queues[slot] = await self.vm.create_queue()
            self.spoiled[slot] = False
        return self.queues[slot]

    def _exec_refused(self, error: KernelError, items: tuple[Item, ...]) -> None:
        self.engine.count("binds.exec_refused")
        for item in items:
            if item.write is not None:
                self.run.memory.cancel(item.write)
        if not isinstance(error, EXEC_ERRORS):
            raise PropertyFailed(ORACLE, "errors", f"an exec answers {error.code}")

    async def _judge_jobs(self) -> None:
        """Wait for all jobs, in order, and look at what they did."""
        while self.jobs:
            job = self.jobs[0]
            await job.execution.fence.wait()
            self.jobs.pop(0)
            self.run.ended(self, job)
            job.end(self.engine.steps, self._faulted(job))

    def _faulted(self, job: Job) -> bool:
        results = job.execution.batch.results
        return bool(results) and isinstance(results[-1], GpuFault)

    def check_failed(self, job: Job) -> None:
        """A job that failed had a reason."""
        error, faulted = job.execution.fence.error, self._faulted(job)
        if excused(self.engine, job.execution):
            self.spoiled[job.slot] = True  # those behind it have a reason, too, even if it got through just in time
        if error is None and not faulted:
            return
        self.engine.count("binds.job_failed")
        if not (job.spoiled or self.spoiled.get(job.slot) or self.vm.vm.closed or self.run.disturbed):
            how = "faults" if faulted else f"ends with {error!r}"
            raise PropertyFailed(ORACLE, "INV-VMB-03", f"{job.name} {how}, and nothing was wrong with it")

    async def _destroy(self, queue: int) -> None:
        slot = queue % self.setup.exec_queues
        if slot in self.queues:
            self.spoiled[slot] = True
            await self.queues[slot].destroy()

    # -- waiting and looking -----------------------------------------------------------------

    async def wait(self) -> None:
        """Until all binds and jobs are through."""
        for sync in [*self.bind_syncs.values(), *self.job_syncs.values()]:
            await sync.wait()
        self.bind_syncs.clear()
        self.job_syncs.clear()
        await self._see_fences()
        await self._judge_jobs()

    async def _look(self, operation: bp.Look) -> None:
        """CPU and mirror accesses to one's own word, with nothing under way."""
        match operation:
            case bp.CpuRead(number, page) if number in self.window.bos:
                await self._cpu_read(self.window.bos[number], page)
            case bp.CpuWrite(number, page, value) if number in self.window.bos:
                await self._cpu_write(self.window.bos[number], page, value)
            case bp.UserWrite(page, value):
                await self._user_write(page, value)
            case bp.Mirror(page, value, wild):
                await self._mirror(page, value, wild)

    async def _cpu_read(self, bo: XeBo, page: int) -> None:
        page %= bo.npages
        place = (bo.name, page)
        try:
            data = await bo.read(page * PAGE_SIZE + self.offset, WORD)
        except KernelError:
            self.engine.count("binds.cpu_refused")
            return
        if self.run.memory.known(place):
            legal = self.run.memory.own(place, self.number)
            check_word(legal, int.from_bytes(data, "little"), "the CPU", place, self.number)

    async def _cpu_write(self, bo: XeBo, page: int, value: int) -> None:
        page %= bo.npages
        write = self.run.memory.write((bo.name, page), self.number, value, self.engine.steps)
        try:
            await bo.write(page * PAGE_SIZE + self.offset, word(value))
        except KernelError:
            self.engine.count("binds.cpu_refused")
            self.run.memory.cancel(write)
            return
        self.run.memory.end(write, self.engine.steps, certain=True)

    def _calm(self, page: int) -> tuple[Place, int]:
        """Place and address of a calm page."""
        page = self.run.program.pages + page % self.run.binds.calm
        return (self.process.name, page), self.run.address(page) + self.offset

    async def _user_write(self, page: int, value: int) -> None:
        place, addr = self._calm(page)
        write = self.run.memory.write(place, self.number, value, self.engine.steps)
        try:
            await self.process.write(addr, word(value))
        except KernelError as error:
            self.run.refusals.accept(error, "write")
            self.run.memory.cancel(write)
            return
        self.run.memory.end(write, self.engine.steps, certain=True)

    async def _mirror(self, page: int, value: int, wild: bool) -> None:
        vm = self.run.mirror_of(self.program.vm)
        if vm is None:
            return
        try:
            await (self._mirror_wild(vm, page, value) if wild else self._mirror_calm(vm, page, value))
        except KernelError as error:
            self.run.refusals.accept(error, "mirror")
            self.engine.count("binds.mirror_refused")

    async def _mirror_wild(self, vm: GpuVm | BindVm, page: int, value: int) -> None:
        addr = self.run.address(page % self.run.program.pages) + self.offset
        await (vm.store(addr, word(value)) if value else vm.load(addr, WORD))

    async def _mirror_calm(self, vm: GpuVm | BindVm, page: int, value: int) -> None:
        place, addr = self._calm(page)
        if not value:
            data = await vm.load(addr, WORD)
            if isinstance(data, bytes):
                legal = self.run.memory.own(place, self.number)
                check_word(legal, int.from_bytes(data, "little"), "the mirroring VM", place, self.number)
            return
        write = self.run.memory.write(place, self.number, value, self.engine.steps)
        try:
            result = await vm.store(addr, word(value))
        except KernelError:  # refused as a whole: no instruction has run
            self.run.memory.cancel(write)
            raise
        self.run.memory.end(write, self.engine.steps, certain=result is None)

    async def _drop(self, number: int) -> None:
        """The mappings stay, and keep the object alive."""
        if number in self.alone:
            bo = self.window.bos.pop(number)
            self.run.drop(number)
            self.world.bos.remove(bo)
            await bo.put()

