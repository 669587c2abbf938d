"""The exec ioctl: make the VM usable, submit a program, publish its fence (vm_bind sections 4, 5.2 and 9).

In this order, each step under what the one before it took:

0. The engine group is brought into dma-fence mode, and stays in it (:mod:`svm_actors.xe.engine_group`).
1. vm.lock for read; for write, and down to read again, if userptrs must be pinned.  Then a look whether the
   system is about to sleep: if so, out again with everything, and the call is run again afterwards (VMB-R35).
2. vm.resv and the reservations of all external objects, in one ww ticket; evicted objects are made
   resident and entries written until nothing is left to do; slots are reserved.
3. The job is made; it depends on the KERNEL fences of *everything* locked (VMB-B02) and on the in-syncs.
4. notifier_lock for read: no userptr went stale meanwhile, else all over again.  This check comes after
   everything that can fail and in the section that publishes the fence (VMB-R01, VMB-B15).
5. Arm, fence into every reservation as BOOKKEEP (VMB-B03), out-syncs, push.

A long-running VM has little of this: vm.lock and the look; then the job is armed and pushed, and the rebind
worker woken if it sleeps.  One in fault mode has its engine group brought back to faulting queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from svm_actors.dma_buf.resv import Usage
from svm_actors.dma_buf.unwrap import merge
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.errors import EAGAIN, ECANCELED, EINVAL, ENOENT, ENOMEM, ERESTARTSYS, KernelError
from svm_actors.engine.signalling import signalling
from svm_actors.engine.signals import signal_pending
from svm_actors.gpu.context import Batch
from svm_actors.xe.sync import SyncList
from svm_actors.xe.validation import validating

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.gpu.program import Result, Step
    from svm_actors.xe.exec_job import ExecJob
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.sync import Sync


@attrs.frozen
class Execution:
    """What became of a submission."""

    fence: Fence
    """Signaled when it is through, with its error if it failed."""
    batch: Batch
    """Where the results are."""

    async def wait(self) -> list[Result]:
        """Sleep until it is through; answers the results.  The error of the job."""
        await self.fence.wait()
        if self.fence.error is not None:
            raise self.fence.error
        return self.batch.results


class Exec:
    """One call.  A planted bug replaces one of its guards."""

    def __init__(self, queue: ExecQueue, program: tuple[Step, ...], syncs: Sequence[Sync]) -> None:
        self.queue = queue
        self.vm = queue.vm
        self.engine = queue.engine
        self.program = program
        self.sync_args = syncs
        self.syncs = SyncList()
        self.attempts = 0

    async def run(self) -> Execution:
        """-ECANCELED dead queue or banned VM, -ENOENT closed VM, -EAGAIN too many jobs, -EINVAL, -ENOMEM.

        -EINTR, -ERESTARTSYS: a signal, and nothing was done.
        """
        gate = self.queue.device.power.gate
        while True:
            gate.enter()
            try:
                return await self._call()
            except ERESTARTSYS:
                if signal_pending(self.engine):
                    raise
                self.engine.count("exec.restarted")
            finally:
                gate.leave()
            await gate.thawed()

    async def _call(self) -> Execution:
        """-ERESTARTSYS: nothing was done, and the system is about to sleep."""
        await self.engine.step("read", self.queue, "state")
        if self.queue.dead:
            raise ECANCELED
        self.check_job_limit()
        self.engine.faults.fail("memory")
        self.syncs = SyncList.parse(self.sync_args, lr=self.vm.lr)
        try:
            if not self.program:
                return self._only_syncs()
            if self.vm.lr:
                return await self._attempts()
            await self._enter_group()
            try:
                return await self._attempts()
            finally:
                self.queue.submission.group.leave()
        finally:
            self.syncs.cleanup()

    def check_job_limit(self) -> None:
        """FEN-B33: a queue takes so many jobs and no more, or it would need memory without bound.  -EAGAIN."""
        if self.queue.in_flight >= self.queue.submission.limits.job_limit:
            raise EAGAIN

    async def _enter_group(self) -> None:
        """The group is in dma-fence mode until it is left again."""
        while not await self.queue.submission.group.enter(self.syncs.in_fences):
            await self.wait_for_in_syncs()

    async def wait_for_in_syncs(self) -> None:
        """VMB-R34: with no lock, and where a freezer finds it asleep: they may take as long as they like."""
        gate = self.queue.device.power.gate
        gate.leave()
        try:
            for fence in self.syncs.in_fences:
                await fence.wait(intr=True)
        finally:
            gate.enter()

    async def _attempts(self) -> Execution:
        while (execution := await self._attempt()) is None:
            self.engine.count("exec.stale")
        return execution

    def _only_syncs(self) -> Execution:
        """No program: the out-syncs get what the queue is doing, and what this call would wait for.

        -EINVAL for a user fence: there is no batch behind which the ring could store it.
        """
        if self.syncs.user_fences:
            raise EINVAL
        fence = merge(self.engine, [self.queue.last_fence, *self.syncs.in_fences])
        if fence is None:
            raise ENOMEM
        self.syncs.install(fence)
        return Execution(fence, Batch((), self.queue.context.new_fence()))

    async def _attempt(self) -> Execution | None:
        """None: a userptr went stale on the way."""
        self.attempts += 1
        await self._lock_vm()
        try:
            self.check_vm()
            self.queue.device.power.gate.check_open()
            if self.vm.lr:
                return await self._push_lr()
            return await validating(self.queue.device.region.vram, self._lock_and_push)
        finally:
            self.vm.lock.release()

    def check_vm(self) -> None:
        """INV-VMB-11: nothing is run by a VM that is banned (-ECANCELED) or closed (-ENOENT)."""
        if self.vm.banned or self.queue.dead:
            raise ECANCELED
        if self.vm.closed:
            raise ENOENT

    # -- making the VM usable ----------------------------------------------------------------

    async def _lock_vm(self) -> None:
        """For write where userptrs have to be pinned, which only one may do at a time."""
        vm, hooks = self.vm, self.vm.execs.hooks
        if vm.lr or not hooks.needs_repin():
            await vm.lock.read(interruptible=True)
            return
        await vm.lock.write()
        try:
            self.check_vm()
            await hooks.repin()
        except BaseException:
            vm.lock.release()
            raise
        vm.lock.downgrade()

    async def _lock_and_push(self) -> Execution | None:
        with self.engine.parts.of(DrmExec)(self.engine, f"{self.queue.name}.exec", interruptible=True) as exec_:
            await exec_.until_all_locked(self._prepare)
            for obj in exec_.objects:
                obj.resv.reserve(1)
            self.check_vm()
            job = self.queue.new_job(self.program)
            try:
                self.add_dependencies(job, exec_)
                execution = await self.publish(job, exec_)
            except KernelError:
                job.cleanup()
                raise
            if execution is None:
                job.cleanup()
            return execution

    async def _prepare(self, exec_: DrmExec) -> None:
        """The body of the lock loop; may run several times."""
        gpuvm = self.vm.gpuvm
        await gpuvm.prepare_vm(exec_, 1)
        await gpuvm.prepare_objects(exec_, 1)
        await self.vm.execs.make_valid(exec_)

    def add_dependencies(self, job: ExecJob, exec_: DrmExec) -> None:
        """VMB-B02: moves and clears of every object locked, not only of those of the VM."""
        for obj in exec_.objects:
            job.add_resv_dependencies(obj.resv, Usage.KERNEL)
        self._add_in_syncs(job)

    def _add_in_syncs(self, job: ExecJob) -> None:
        for fence in self.syncs.in_fences:
            job.add_dependency(fence.get())

    # -- the point of no return ----------------------------------------------------------------

    async def publish(self, job: ExecJob, exec_: DrmExec) -> Execution | None:
        """VMB-R01: the stale check and the publication are one section; None when a userptr went stale.

        Nothing fails once the job is armed (VMB-B15).
        """
        async with self.vm.notifier_lock.reading():
            if not self.still_valid():
                return None
            async with self.queue.entity.submission():
                execution = await self._arm(job)
                with signalling(self.engine):
                    await self.add_fence(exec_, execution.fence)
                    self._note_windows(exec_)
                    await self._push(job, execution)
        return execution

    def still_valid(self) -> bool:
        """VMB-R02: pages pinned may have been taken since; VMB-R03: even several times over."""
        if self.vm.execs.hooks.needs_repin():
            self.engine.count("VMB-R02")
            return False
        return True

    async def add_fence(self, exec_: DrmExec, fence: Fence) -> None:
        """VMB-R04, VMB-R05, VMB-B03: into every reservation that this exec relied on, and still holds."""
        await self.vm.gpuvm.resv_add_fence(exec_, fence, Usage.BOOKKEEP, Usage.BOOKKEEP)

    def _note_windows(self, exec_: DrmExec) -> None:
        """Who had to wait until the fence was out."""
        if self.vm.notifier_lock.parked:
            self.engine.count("VMB-R01")
        for obj in exec_.objects:
            if obj.resv.ww.parked:
                self.engine.count("VMB-R04" if obj.resv is self.vm.resv_dma else "VMB-R05")

    async def _arm(self, job: ExecJob) -> Execution:
        job.note_flush()
        job.batch.user_fences = tuple(fence.store() for fence in self.syncs.user_fences)
        await job.arm()
        return Execution(job.s_fence.finished, job.batch)

    async def _push(self, job: ExecJob, execution: Execution) -> None:
        """Out-syncs first: after the push the job may be gone."""
        queue = self.queue
        queue.last_fence = execution.fence
        queue.in_flight += 1
        self.engine.count("exec")
        self.syncs.install(execution.fence)
        await job.push()

    async def _push_lr(self) -> Execution:
        """No reservation, no fence published: what memory management waits for is the preempt fence."""
        job = self.queue.new_job(self.program)
        self._add_in_syncs(job)
        async with self.queue.entity.submission():
            execution = await self._arm(job)
            await self._push(job, execution)
        self.vm.execs.rebind.reactivate()
        if self.vm.faulting:
            self.queue.submission.group.queue_resume()
        return execution


async def exec_ioctl(queue: ExecQueue, program: Sequence[Step], syncs: Sequence[Sync] = ()) -> Execution:
    """xe_exec_ioctl.  Errors: see :meth:`Exec.run`."""
    return await queue.device.engine.parts.of(queue.exec_class)(queue, tuple(program), syncs).run()
