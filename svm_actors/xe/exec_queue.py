"""xe_exec_queue: a queue of GPU programs on one hardware context (fences_and_scheduler section 9).

Every queue has a scheduler of its own with one entity.  Jobs, and the messages *suspend* and *resume*,
are worked off by the same ordered worker, so a suspend never meets a job half way onto the ring.

State bits, as the firmware protocol has them: ``enabled`` (the context is on), ``pending_disable`` (asked
off, no answer yet), ``suspended``, and for the end ``killed``, ``banned``, ``reset``.  A dead queue puts
nothing on the hardware any more; its jobs end with -ECANCELED, as their fences are promised.

Suspends are counted.  The first one sends the message; the answer of the hardware clears
``pending_disable`` and *then* announces the suspend, so whoever resumes next finds a clean state (VMB-B22).

Simplified: no registration with a firmware; priorities are those of the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence
from svm_actors.dma_buf.seqno import dma_fence_context_alloc
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_types import Priority
from svm_actors.drm.sched_work import Work
from svm_actors.engine.errors import ETIME, PropertyFailed
from svm_actors.engine.locks import WaitQueue
from svm_actors.gpu.context import Batch, HwContext
from svm_actors.xe.exec import Exec
from svm_actors.xe.exec_job import ExecJob
from svm_actors.xe.queue_backend import QueueBackend
from svm_actors.xe.queue_events import QueueEnded, QueueSwitchedOn
from svm_actors.xe.queue_reset import JobTimeout

if TYPE_CHECKING:
    from svm_actors.gpu.program import Step
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.exec_vm import ExecVm
    from svm_actors.xe.preempt_fence import PreemptFence


class ExecQueue:
    """One queue.  A long-running one (``lr``) is made with :func:`svm_actors.xe.preempt_fence.add_lr_queue`."""

    exec_class = Exec
    timeout_class = JobTimeout
    context_class = HwContext

    def __init__(
        self,
        vm: ExecVm,
        device: XeDevice,
        *,
        lr: bool = False,
        priority: Priority = Priority.NORMAL,
        kernel: bool = False,
    ) -> None:
        engine = device.engine
        self.engine = engine
        self.vm = vm
        self.device = device
        self.submission = vm.execs.submission
        self.name = self.submission.queue_name()
        self.lr = lr
        self.kernel = kernel
        """Belongs to the kernel: it may not hang."""
        self.context: HwContext = self.context_class(
            engine, f"{self.name}.ctx", device.gpu.compute, vm.asid, dma_fence_context_alloc(engine)
        )
        self.context.on_off_ack = self.off_acked
        self.context.on_halt = self.halted
        self.context.on_user_interrupt = vm.ufence_wq.wake_up
        self.context.patience = None if lr else self.submission.limits.job_timeout
        self.context.ack_patience = self.submission.limits.ack_timeout
        self.enabled = False
        self.pending_disable = False
        self.suspend_count = 0
        """How many want it off."""
        self.suspend_pending = False
        """A suspend was asked for and is not through."""
        self.suspended = False
        """It is off because of a suspend."""
        self.killed = False
        self.banned = False
        self.was_reset = False
        self.dying = False
        """Somebody is taking it apart, or has."""
        self.destroyed = False
        self.stopped = False
        """A reset is going on: nobody waits for an answer of the hardware (FEN-R27)."""
        self.resumed_at = 0
        """Virtual time at which it was last switched on."""
        self.in_flight = 0
        """Jobs pushed and not freed."""
        self.flushed_seqno = vm.tlb_flush_seqno
        """Up to which of the VM's rebinds its ring has flushed."""
        self.last_fence: Fence | None = None
        """Of the last job armed."""
        self.preempt_fence: PreemptFence | None = None
        """The current one of a long-running queue."""
        self.preempt_context = 0
        """Timeline of its preempt fences; 0 before the first one."""
        self.preempt_seqno = 0
        self.answer = WaitQueue(engine, f"{self.name}.answer")
        """Who waits for the hardware's answer, or for the end of a reset."""
        self.timeout = engine.parts.of(self.timeout_class)(self)
        self.sched = device.engine.parts.of(DrmSched)(
            engine, self.name, QueueBackend(self), credit_limit=64, timeout_wq=self.submission.timeout_wq,
            timeout=MAX_SCHEDULE_TIMEOUT if lr else self.submission.limits.job_timeout,
        )  # fmt: skip
        entity: type[SchedEntity] = device.engine.parts.of(SchedEntity)
        self.entity: SchedEntity = entity(engine, f"{self.name}.entity", [self.sched], priority)
        self._suspend = Work(engine, f"{self.name}.suspend", self._suspend_message)
        self._resume = Work(engine, f"{self.name}.resume", self._resume_message)
        self.submission.queues.append(self)
        vm.exec_queues.append(self)
        vm.gpuvm.get()

    # -- state -------------------------------------------------------------------------

    @property
    def dead(self) -> bool:
        """Nothing of it reaches the hardware any more."""
        return self.killed or self.banned or self.was_reset or self.destroyed or self.submission.wedged

    @property
    def idle(self) -> bool:
        """No job of it is unfinished."""
        return self.last_fence is None or self.last_fence.signaled

    @property
    def on_hardware(self) -> bool:
        """The hardware is at work on it, or just about to be."""
        return self.context.busy or (self.enabled and bool(self.context.ring))

    def new_job(self, program: tuple[Step, ...]) -> ExecJob:
        """xe_sched_job_create.  -EINVAL bad program, -ENOMEM."""
        self.engine.faults.fail("memory")
        return self.engine.parts.of(ExecJob)(self, program)

    # -- switching on and off ------------------------------------------------------------

    async def submit(self, batch: Batch) -> None:
        """Put it on the ring; the context goes on unless somebody wants it off."""
        await self.context.submit(batch)
        if not self.enabled and not self.suspend_count:
            await self.enable()

    async def enable(self) -> None:
        """Switch the context on.  INV-VMB-11: not that of a queue that has died meanwhile."""
        await self.wait_answer()
        if self.dead:
            return
        self.check_may_run()
        self.enabled = True
        self.resumed_at = self.engine.now
        self.engine.emit(QueueSwitchedOn(self))
        await self.context.switch_on()

    def check_may_run(self) -> None:
        """VMB-B37: not while the system sleeps; and not beside work that this excludes."""
        if self.device.power.off:
            raise PropertyFailed("exec", "VMB-B37", f"{self.name} is switched on while there is no power")
        self.submission.group.check_exclusive(self)

    async def request_disable(self) -> None:
        """Ask the hardware to switch it off."""
        self.pending_disable = True
        await self.context.request_off()

    async def wait_answer(self) -> bool:
        """Sleep until the hardware has answered; False: it did not, or a reset makes that pointless."""
        return await self._patiently(lambda: not self.pending_disable or self.stopped) and not self.pending_disable

    async def _patiently(self, over: Callable[[], bool]) -> bool:
        """Sleep until ``over()``; False when the hardware does not answer in time.

        The timer is no race: it counts against a hardware that is stuck, not against one that is slow, which
        would need a thousand times as long as it ever takes.
        """
        timeout = self.submission.limits.ack_timeout
        while not over():
            if not await self.answer.wait_event_timeout(over, timeout) and not self.will_be_answered():
                return False
        return True

    def will_be_answered(self) -> bool:
        """The hardware is asked and only slow, or somebody is about to ask it, or a reset will say that it is off."""
        on_its_way = self.pending_disable or self._suspend.busy or self.stopped
        return on_its_way and not self.context.stuck

    def off_acked(self) -> None:
        """The hardware has switched it off.  VMB-B22: the state is clean before anybody is told."""
        if self.is_past_answer():
            self.engine.count("FEN-R28")
            return
        self.enabled = False
        self.pending_disable = False
        self.check_off()
        self.finish_suspend()

    def check_off(self) -> None:
        """INV-FEN-11: what counts as off is off; one that is dead counts only when somebody has taken it off."""
        if self.context.on and not self.dead:
            raise PropertyFailed("exec", "INV-FEN-11", f"{self.name} counts as switched off, but its context is on")

    def is_past_answer(self) -> bool:
        """FEN-R28: a reset has given it up; who acted on it would take a context for off that is on again."""
        return not self.pending_disable or self.context.answers_late

    def finish_suspend(self) -> None:
        """Announce the suspend, and wake everybody."""
        if self.suspend_pending:
            self.check_off()
            self.suspend_pending = False
            self.suspended = True
        self.answer.wake_up()

    def halted_now(self) -> None:
        """A refused fault has halted it: no use waiting for the timer."""
        self.was_reset = True
        self.sched.tdr.queue_immediately()
        self.tell_waiters()

    def halted(self) -> None:
        """Interrupt: the firmware reports that it gave the context up."""
        self.engine.count("exec.fault_reset")
        self.halted_now()
        self.answer.wake_up()

    # -- suspend and resume --------------------------------------------------------------

    def suspend(self) -> None:
        """Ask for a suspend; never sleeps.  Whoever needs it off calls :meth:`suspend_wait`."""
        self.suspend_count += 1
        if self.suspend_count == 1 and not self.dead:
            self.suspend_pending = True
            self.suspended = False
            self.sched.submit_wq.queue_work(self._suspend)

    async def suspend_wait(self) -> None:
        """Sleep until it is off, or dead.  -ETIME when the hardware does not answer; then it is banned.

        FEN-B34: a signal does not end it, for whoever goes on then takes the suspend for done.
        """
        if self.stopped:
            self.engine.count("FEN-R27")
        if not await self._patiently(self.suspend_is_over):
            self.engine.count("exec.suspend_timeout")
            await self.throw_off()
            raise ETIME

    async def taken_off(self) -> None:
        """INV-FEN-11: a dead queue is not asked to let go; the timeout handler, or a reset, takes it off.

        Whoever takes its memory away waits until then, for the hardware does not know yet that it is dead.
        """
        if self.on_hardware:
            self.engine.count("exec.dead_but_on")
            await self.answer.wait_event(lambda: not self.on_hardware)

    async def throw_off(self) -> None:
        """INV-FEN-11: it does not answer, so it is banned, and a GT reset takes it off before anybody goes on."""
        self.mark_banned()
        self.submission.reset.queue()
        await self.answer.wait_event(lambda: not self.enabled)

    def suspend_is_over(self) -> bool:
        """FEN-R27: off, or dead; a reset ends the waiting too, since the answer will never come."""
        return not self.suspend_pending or self.dead

    def resume(self) -> None:
        """Undo one suspend; the last one switches it on.  VMB-B21: only what was really suspended."""
        if self.suspend_pending and not self.dead:
            raise PropertyFailed("exec", "VMB-B21", f"{self.name} is resumed before its suspend is through")
        self.suspend_count -= 1
        if self.suspend_count == 0 and not self.dead:
            self.sched.submit_wq.queue_work(self._resume)

    async def _suspend_message(self) -> None:
        """The worker: let it run its minimum period, then ask the hardware."""
        if self.dead or not self.enabled:
            await self.engine.step("write", self, "suspend")
            self.finish_suspend()
            return
        if self.stopped:
            return  # the reset says so when it has taken it off, not earlier (INV-FEN-11)
        await self.keep_min_run_period()
        if self.enabled and not self.pending_disable:
            await self.request_disable()

    async def withdraw_messages(self) -> None:
        """FEN-R27: a reset takes it off and says whether it goes on again; what was asked before that is void.

        A message left in the queue would be taken for that of the next suspend, which has to come after the resume
        between the two; or it would switch on what the reset has just declared to be suspended.
        """
        for message in (self._suspend, self._resume):
            await self.sched.submit_wq.cancel_work_sync(message)

    async def keep_min_run_period(self) -> None:
        """Progress is guaranteed: nobody takes the context away right after it was given."""
        left = self.resumed_at + self.submission.limits.min_run_period - self.engine.now
        if left > 0:
            self.engine.count("exec.min_run_period")
            await self.answer.wait_event_timeout(lambda: self.dead or self.stopped, left)

    async def _resume_message(self) -> None:
        """The worker: on again, if there is something to run.

        Also when the next suspend was asked for meanwhile: its message comes after this one, so what was resumed
        has its minimum run period in between, or two VMs that evict each other would never run anything.
        """
        self.suspended = False
        if self.dead or self.stopped:
            return
        if self.context.ring and not self.enabled:
            await self.enable()

    # -- the end ---------------------------------------------------------------------------

    def mark_banned(self) -> None:
        """It misbehaved: nothing of it runs any more, user space gets -ECANCELED.  Nothing for one that is killed.

        Whoever does this sees to it that its jobs end.
        """
        if not self.banned and not self.killed:
            self.banned = True
            self.engine.emit(QueueEnded(self))
            self.sched.tdr.timeout = 0
            self.engine.count("exec.banned")
            self.tell_waiters()

    def kill(self) -> None:
        """Its owner is gone: what is on the hardware is taken off.  Never sleeps."""
        if not self.killed:
            self.killed = True
            self.engine.emit(QueueEnded(self))
            self.end_jobs()
            self.tell_waiters()

    def tell_waiters(self) -> None:
        """Who waits for a user fence of this queue learns that it is dead."""
        self.vm.ufence_wq.wake_up()

    def end_jobs(self) -> None:
        """Have the timeout handler take off what is on the hardware; who waits for a suspend goes on."""
        self.sched.tdr.queue_immediately()
        self.answer.wake_up()

    async def destroy(self) -> None:
        """xe_exec_queue_fini: off the hardware, every job ended, then taken apart.  With no lock held.

        User space may destroy it while its VM is closed; one of the two does it, the other one waits for that.
        """
        if self.dying:
            await self.answer.wait_event(lambda: self.destroyed)
            return
        self.dying = True
        self.kill()
        if self.preempt_fence is not None:
            self.preempt_fence.enable_sw_signaling()
        await self.take_apart()
        await self.context.reset()
        await self.submission.group.remove(self)
        self.destroyed = True
        self.submission.queues.remove(self)
        self.vm.exec_queues.remove(self)
        self.vm.gpuvm.put_now()
        self.answer.wake_up()

    async def take_apart(self) -> None:
        """FEN-B27: the entity, what is on the hardware, and the scheduler last, as it serves both until then."""
        await self.entity.fini()
        await self.answer.wait_event(lambda: self.in_flight == 0)
        await self.sched.fini()

    def statistics(self) -> dict[str, Any]:
        """State and jobs."""
        return {"dead": self.dead, "in_flight": self.in_flight, **self.context.statistics()}

    def __repr__(self) -> str:
        return f"<{self.name} of {self.vm.name}>"
