"""The rebind worker: brings the long-running queues of a VM back (vm_bind section 10).

Somebody preempted them, because memory moved or pages were taken.  The worker, with vm.lock for write,
pins the userptrs again, makes objects resident, writes page-table entries, and switches the queues on
with new preempt fences.

The last part is one notifier_lock section: check that no userptr went stale, resume, publish the new
fences.  A notifier comes either before, and is seen by the check, or after, and finds the fences (VMB-R20).

A VM whose queues have nothing to run is not worth the work: the worker deactivates itself, and the next
exec reactivates it after its push (VMB-R21).

While the system is about to sleep it does not work, nor does it wait: it parks on a list (VMB-R35).

An error other than a stale userptr bans the VM: there is nobody to report it to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.resv import Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.sched_work import Work
from svm_actors.engine.errors import EAGAIN, ETIME, KernelError
from svm_actors.xe.preempt_fence import PreemptFence
from svm_actors.xe.validation import validating

if TYPE_CHECKING:
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.exec_vm import VmExecs


class RebindWorker:
    """preempt_rebind_work_func of one VM."""

    def __init__(self, execs: VmExecs) -> None:
        self.execs = execs
        self.vm = execs.vm
        self.engine = execs.engine
        self.deactivated = False
        """All queues were idle; nobody is resumed until somebody has something to run."""
        self.disabled = False
        """VM close: it does not come back."""
        self.rounds = 0
        """Attempts so far."""
        self.work = Work(self.engine, f"{self.vm.name}.rebind", self._run)

    # -- who calls it --------------------------------------------------------------------

    def queue(self) -> None:
        """xe_vm_queue_rebind_worker: never sleeps."""
        if not self.disabled and not self.vm.closed:
            self.execs.submission.ordered_wq.queue_work(self.work)

    def reactivate(self) -> None:
        """VMB-R21: after a push, since a worker that found the queue empty before does not come again."""
        if self.deactivated:
            self.engine.count("VMB-R21")
            self.deactivated = False
            self.queue()

    async def disable(self) -> None:
        """VM close, with no lock held: wait for the last run, let no other begin."""
        self.disabled = True
        if self.vm.lr:
            await self.execs.submission.device.power.gate.forget(self)
        await self.execs.submission.ordered_wq.cancel_work_sync(self.work)

    # -- one run -------------------------------------------------------------------------

    async def _run(self) -> None:
        vm = self.vm
        async with vm.lock.writing():
            while not vm.closed and not self.disabled:
                if await self.parks():
                    return
                self.rounds += 1
                try:
                    await self._attempt()
                except EAGAIN:
                    continue
                except KernelError as error:
                    self.engine.count(f"rebind.error.{error.code}")
                    vm.ban()
                return

    async def parks(self) -> bool:
        """VMB-R35: nothing is brought back while the system goes to sleep; True when it ends for now."""
        return await self.execs.submission.device.power.gate.parks(self)

    async def _attempt(self) -> None:
        """-EAGAIN: something went stale on the way, begin again."""
        hooks = self.execs.hooks
        if hooks.needs_repin():
            await hooks.repin()
        await validating(self.execs.submission.device.region.vram, self._restore)

    async def _restore(self) -> None:
        """Everything resident and bound again, then resume: in one transaction."""
        vm = self.vm
        with self.engine.parts.of(DrmExec)(self.engine, f"{vm.name}.rebind") as exec_:
            await exec_.until_all_locked(self._prepare)
            if not self._wanted():
                return
            self.engine.faults.fail("memory")
            new_fence = self.engine.parts.of(PreemptFence)
            fences = [(queue, new_fence(queue)) for queue in self.execs.queues if not queue.dead]
            await self.execs.make_valid(exec_)
            for obj in exec_.objects:
                obj.resv.reserve(max(1, len(fences)))
            await vm.resv_dma.wait(Usage.KERNEL)
            async with vm.notifier_lock.reading():
                self.still_valid()
                await self._resume(exec_, fences)
        self.engine.count("exec.rebound")

    def _wanted(self) -> bool:
        """There is a queue to resume."""
        return not self.deactivated and any(self._is_preempted(queue) for queue in self.execs.queues)

    @staticmethod
    def _is_preempted(queue: ExecQueue) -> bool:
        fence = queue.preempt_fence
        return not queue.dead and fence is not None and fence.enabled

    async def _prepare(self, exec_: DrmExec) -> None:
        """The body of the lock loop: may run several times."""
        vm, slots = self.vm, max(1, len(self.execs.queues))
        await vm.gpuvm.prepare_vm(exec_, slots)
        self.check_all_let_go()
        self.deactivated = all(queue.idle for queue in self.execs.queues)
        if not self._wanted():
            return
        await vm.gpuvm.prepare_objects(exec_, slots)
        await self._wait_off()
        await self.execs.make_valid(exec_)

    async def _wait_off(self) -> None:
        """All queues are off before anything is touched; one that cannot be switched off costs the VM."""
        for queue in self.execs.queues:
            fence = queue.preempt_fence
            if fence is not None and not queue.dead:
                await fence.wait()
        self.check_all_let_go()

    def check_all_let_go(self) -> None:
        """A queue that was not off in time is dead itself by now, but nothing else ever tells its VM.  -ETIME."""
        fences = [queue.preempt_fence for queue in self.execs.queues]
        if any(fence is not None and isinstance(fence.error, ETIME) for fence in fences):
            raise ETIME

    def still_valid(self) -> None:
        """VMB-R20: nothing went stale since it was pinned; notifier_lock is held until the fences are out."""
        if self.execs.hooks.needs_repin():
            self.engine.count("VMB-R20")
            raise EAGAIN

    async def _resume(self, exec_: DrmExec, fences: list[tuple[ExecQueue, PreemptFence]]) -> None:
        """Arm, resume, publish; atomic as far as a notifier can see."""
        for queue, fence in fences:
            queue.preempt_fence = fence
            if self.may_resume(queue):
                queue.resume()
            await self.vm.gpuvm.resv_add_fence(exec_, fence, Usage.BOOKKEEP, Usage.BOOKKEEP)

    @staticmethod
    def may_resume(queue: ExecQueue) -> bool:
        """VMB-B21: only one that was really suspended and did not die of a reset meanwhile."""
        return queue.suspend_count > 0 and not queue.suspend_pending and not queue.dead
