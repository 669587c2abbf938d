"""xe_hw_engine_group: dma-fence jobs and faulting queues take turns (vm_bind sections 2, 9 and 11; VMB-R34).

A fault may need memory, and memory management may wait for a dma-fence.  So no dma-fence may depend on an
engine that stands still in a fault: before a dma-fence job is submitted, every faulting queue of the group is
suspended, and none goes on before the last dma-fence job of every queue is through.

The group is in one *mode*, protected by ``mode_sem``.  An exec with a dma-fence reads the semaphore, with
the mode its own, from before vm.lock until the job is pushed; a switch writes it.  Whoever suspended faulting
queues that had work asks for a worker, which switches back and resumes them; an exec on a faulting queue
asks for it as well.

An exec whose in-syncs are not signaled does not switch: it would keep the faulting queues off for the sake of
a job that cannot run, with the mode locked against whoever is to signal them (VMB-R34).

Simplified: one group per device, as every context has an execution unit of its own.  Long-running jobs that do not
fault publish no fence and take no part.  A faulting queue that does not let go is banned and thrown off
by a reset, so it is off all the same and the exec that met it goes on.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

from svm_actors.drm.sched_work import Work, Workqueue
from svm_actors.engine.errors import EINVAL, ENOENT, ETIME, PropertyFailed
from svm_actors.engine.locks import RwSem

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.exec_vm import ExecVm
    from svm_actors.xe.submission import Submission

MODE_SEM = "hw_engine_group_mode_sem"
"""Lock class; outside of vm_lock."""


class ExecMode(enum.Enum):
    """xe_hw_engine_group_execution_mode."""

    DMA_FENCE = "dma_fence"
    """Jobs with a dma-fence; faulting queues are suspended."""
    LR = "lr"
    """Faulting queues; no dma-fence job is unfinished."""


class EngineGroup:
    """The group of one device."""

    def __init__(self, submission: Submission) -> None:
        engine = submission.engine
        self.submission = submission
        self.engine = engine
        self.name = f"{submission.device.gpu.name}.engine_group"
        self.mode_sem = RwSem(engine, f"{self.name}.mode_sem", MODE_SEM)
        """Read: the mode stays.  Write: it changes, or a faulting queue comes or goes."""
        self.mode = ExecMode.DMA_FENCE
        self.faulting: list[ExecQueue] = []
        """Faulting queues, in order of creation; in dma-fence mode the group holds a suspend of each."""
        self.resume_wq = Workqueue(engine, f"{self.name}.resume_wq")
        self._resume = Work(engine, f"{self.name}.resume", self._resume_faulting)

    # -- dma-fence jobs ------------------------------------------------------------------

    async def enter(self, in_fences: Sequence[Fence]) -> bool:
        """xe_hw_engine_group_get_mode: on True dma-fence jobs may be submitted until :meth:`leave`.

        On False nothing is held: wait for ``in_fences`` first.
        """
        await self.mode_sem.read()
        if self.mode is ExecMode.DMA_FENCE:
            return True
        self.mode_sem.release()
        await self.mode_sem.write()
        try:
            if self.mode is ExecMode.LR:
                if self.must_wait_first(in_fences):
                    self.mode_sem.release()
                    return False
                await self.suspend_faulting()
                self.mode = ExecMode.DMA_FENCE
        except BaseException:
            self.mode_sem.release()
            raise
        self.mode_sem.downgrade()
        return True

    def leave(self) -> None:
        """xe_hw_engine_group_put: the job is pushed, or there will be none."""
        self.mode_sem.release()

    def must_wait_first(self, in_fences: Sequence[Fence]) -> bool:
        """VMB-R34: no faulting work is stopped for a job that has to wait; who makes it wait may need the mode."""
        if all(queue.idle for queue in self.faulting) or all(fence.is_signaled() for fence in in_fences):
            return False
        self.engine.count("VMB-R34")
        return True

    async def suspend_faulting(self) -> None:
        """xe_hw_engine_group_suspend_faulting_lr_jobs: all are asked first, then waited for."""
        if any(not queue.idle for queue in self.faulting):
            self.engine.count("exec.group_switch")
            self.queue_resume()
        for queue in self.faulting:
            queue.suspend()
        for queue in self.faulting:
            await self._wait_off(queue)

    async def _wait_off(self, queue: ExecQueue) -> None:
        try:
            await queue.suspend_wait()
        except ETIME:
            self.engine.count("exec.group_threw_off")
        await queue.taken_off()

    # -- faulting jobs -------------------------------------------------------------------

    def queue_resume(self) -> None:
        """xe_hw_engine_group_resume_faulting_lr_jobs: have a worker switch back; never sleeps."""
        self.resume_wq.queue_work(self._resume)

    async def _resume_faulting(self) -> None:
        """hw_engine_group_resume_lr_jobs_func."""
        async with self.mode_sem.writing():
            if self.mode is ExecMode.LR:
                return
            await self.wait_for_dma_fence_jobs()
            self.mode = ExecMode.LR
            for queue in self.faulting:
                queue.resume()

    async def wait_for_dma_fence_jobs(self) -> None:
        """Nothing faulting runs before these are through; no new one comes, the mode is locked."""
        last = [queue.last_fence for queue in self.submission.queues if not queue.vm.lr]
        for fence in last:
            if fence is not None:
                await fence.wait()

    # -- members -------------------------------------------------------------------------

    async def add(self, queue: ExecQueue) -> None:
        """xe_hw_engine_group_add_exec_queue for a faulting queue; vm.lock is not held."""
        async with self.mode_sem.writing():
            if self.mode is ExecMode.DMA_FENCE:
                await self.suspend_new(queue)
            self.faulting.append(queue)

    async def suspend_new(self, queue: ExecQueue) -> None:
        """One that comes in dma-fence mode is off like the others, until the mode changes."""
        queue.suspend()
        await self._wait_off(queue)

    async def remove(self, queue: ExecQueue) -> None:
        """xe_hw_engine_group_del_exec_queue; nothing for a queue that is no member."""
        if queue in self.faulting:
            async with self.mode_sem.writing():
                self.faulting.remove(queue)

    # -- what must hold ------------------------------------------------------------------

    def check_exclusive(self, queue: ExecQueue) -> None:
        """The hardware is about to be given work of ``queue``: no work of the other kind may be on it."""
        if queue in self.faulting:
            others = [other for other in self.submission.queues if not other.vm.lr and other.context.busy]
        elif queue.vm.lr:
            return
        else:
            others = [other for other in self.faulting if other.context.busy]
        if others:
            text = f"{queue.name} goes on the hardware while {others[0].name}, which excludes it, is there"
            raise PropertyFailed("exec", "VMB-R34", text)


async def add_faulting_queue(vm: ExecVm, device: XeDevice) -> ExecQueue:
    """xe_exec_queue_create for a VM in fault mode: long-running, without preempt fence.  -EINVAL, -ENOENT.

    -EINVAL for a VM that does not fault, -ENOENT when it is closed or banned.  With no lock held.
    """
    from svm_actors.xe.exec_queue import ExecQueue

    if not vm.faulting:
        raise EINVAL
    async with vm.lock.writing():
        if vm.closed:
            raise ENOENT
        queue = vm.engine.parts.of(ExecQueue)(vm, device, lr=True)
    await device.submission.group.add(queue)
    return queue
