"""Preempt fences: a long-running queue is off the hardware (fences_and_scheduler section 9, vm_bind 10).

A long-running job has no dma-fence, as nobody knows when it ends.  What memory management waits for is
that the queue is *switched off*, which the kernel can always bring about.  Nothing happens until somebody
waits: enabling signaling asks for the suspend.  A worker waits for the answer, signals, and tells the
rebind worker, which makes the VM usable again and switches the queue on with a new fence.

All workers of a device share one ordered queue.  So not only the signal but the whole worker is in the
signalling section: a tail that took vm.lock would hold up other preempt fences, and with them whoever
holds vm.lock and waits for those (VMB-R22, VMB-B20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.sched_work import Work
from svm_actors.engine.errors import EINVAL, ENOENT, ETIME, KernelError
from svm_actors.engine.signalling import signalling
from svm_actors.xe.validation import keeping_out

if TYPE_CHECKING:
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.exec_vm import ExecVm


class PreemptFence(Fence):
    """xe_preempt_fence.  Each is the next of its queue's timeline."""

    __slots__ = ("queue", "work")

    lazy = True

    def __init__(self, queue: ExecQueue) -> None:
        if not queue.preempt_context:
            queue.preempt_context = dma_fence_context_alloc(queue.engine)
        queue.preempt_seqno += 1
        name = f"{queue.name}.preempt.{queue.preempt_seqno}"
        super().__init__(queue.engine, name, context=queue.preempt_context, seqno=queue.preempt_seqno)
        self.queue = queue
        self.work = Work(queue.engine, f"{name}.work", self._preempt)

    def ops_enable_signaling(self) -> bool:
        """preempt_fence_enable_signaling: start the suspend, leave the waiting to the worker."""
        submission = self.queue.submission
        self.engine.count("exec.preempted")
        if submission.preempting:
            self.engine.count("FEN-R30")
        submission.preempting += 1
        self.queue.suspend()
        submission.preempt_wq.queue_work(self.work)
        return True

    async def _preempt(self) -> None:
        """preempt_fence_work_func, VMB-R22: all of it below the level of fences, not only the signal (VMB-B20).

        FEN-R30: others are behind it in the queue, so it waits for nothing but the answer of the hardware.
        """
        with signalling(self.engine):
            error = await self._wait_off()
            await self.engine.step("fence_signal", self)
            self.queue.submission.preempting -= 1
            self.signal(error)
            self.tail()

    def tail(self) -> None:
        """VMB-R22: only queues work; whatever needs vm.lock is the rebind worker's."""
        if self.queue.vm.lock.holders():
            self.engine.count("VMB-R22")
        self.queue.vm.execs.rebind.queue()

    async def _wait_off(self) -> KernelError | None:
        """-ENOENT for a dead queue: it does not come back."""
        queue = self.queue
        error: KernelError | None = ENOENT() if queue.dead else None
        try:
            await queue.suspend_wait()
        except ETIME as late:
            return late
        await queue.taken_off()
        return error


async def add_lr_queue(vm: ExecVm, device: XeDevice) -> ExecQueue:
    """xe_vm_add_compute_exec_queue: a long-running queue with its first preempt fence.  -EINVAL, -ENOENT.

    -EINVAL for a VM that is not in long-running mode, -ENOENT when it is closed or banned.
    """
    from svm_actors.xe.exec_queue import ExecQueue

    if not vm.lr:
        raise EINVAL
    async with vm.lock.writing():
        if vm.closed:
            raise ENOENT
        queue = vm.engine.parts.of(ExecQueue)(vm, device, lr=True)
        async with keeping_out(device.region.vram):
            await _publish_first(vm, queue)
    return queue


async def _publish_first(vm: ExecVm, queue: ExecQueue) -> None:
    """Its first preempt fence, into every reservation of the VM."""
    fence = vm.engine.parts.of(PreemptFence)(queue)
    with vm.engine.parts.of(DrmExec)(vm.engine, f"{queue.name}.add") as exec_:
        await exec_.until_all_locked(lambda ex: _prepare(vm, ex))
        async with vm.notifier_lock.reading():
            queue.preempt_fence = fence
            await vm.gpuvm.resv_add_fence(exec_, fence, Usage.BOOKKEEP, Usage.BOOKKEEP)
            vm.engine.parts.of(join_preemption)(queue)


async def _prepare(vm: ExecVm, exec_: DrmExec) -> None:
    await vm.gpuvm.prepare_vm(exec_, 1)
    await vm.gpuvm.prepare_objects(exec_, 1)


def join_preemption(queue: ExecQueue) -> None:
    """VMB-R19: queues of a VM stop and start together; a new one does not run on alone while others stop.

    Nor does the first one run on what was evicted while the VM had no queue, and so no fence to stop at.
    """
    fence = queue.preempt_fence
    assert fence is not None
    if queue.vm.execs.preemption_under_way(but=queue):
        queue.engine.count("VMB-R19")
        fence.enable_sw_signaling()
    elif queue.vm.execs.needs_work():
        queue.engine.count("exec.late_validation")
        fence.enable_sw_signaling()


async def add_preempt_fences(vm: ExecVm, exec_: DrmExec) -> None:
    """A bind has made an object external to this VM: memory management must find the queues there too.

    Every object locked in ``exec_`` gets them; one slot per queue must be reserved.
    """
    for queue in vm.execs.queues:
        fence = queue.preempt_fence
        if fence is not None and not fence.signaled:
            for obj in exec_.objects:  # a bind locks only what it touches
                obj.resv.add(fence, Usage.BOOKKEEP)
