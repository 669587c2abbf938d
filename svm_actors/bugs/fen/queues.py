"""Deviations of exec queues: their end, their suspend, and their share of a GT reset (fences_and_scheduler 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.xe.exec import Exec
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.queue_reset import GtReset, JobTimeout

if TYPE_CHECKING:
    from svm_actors.engine.errors import KernelError
    from svm_actors.xe.exec_job import ExecJob


async def ends_anyway(timeout: JobTimeout, job: ExecJob, error: KernelError) -> None:
    """Its queue is dead, so its result is an error, as it seems."""
    fence = job.batch.fence
    await timeout.engine.step("fence_signal", fence)
    fence.set_error(error)
    fence.signal()


async def error_afterwards(timeout: JobTimeout, job: ExecJob, error: KernelError) -> None:
    """First the signal, which wakes those who wait, then the reason."""
    fence = job.batch.fence
    await timeout.engine.step("fence_signal", fence)
    if not fence.is_signaled():
        fence.signal()
        fence.set_error(error)


async def scheduler_first(queue: ExecQueue) -> None:
    """The scheduler is torn down, and its queue after it."""
    await queue.sched.fini()
    await queue.entity.fini()
    await queue.answer.wait_event(lambda: queue.in_flight == 0)


def keeps_them_waiting(original: type[GtReset]) -> type[GtReset]:
    """A subclass whose reset lets those who wait for a suspend wait for the answer of the hardware."""

    class KeepsThemWaiting(original):  # type: ignore[misc, valid-type]
        async def stop(self, queue: ExecQueue) -> None:
            queue.stopped = True
            await queue.sched.recovery.wqueue_stop()
            await queue.withdraw_messages()
            await queue.context.reset()
            queue.enabled = queue.pending_disable = False
            if self.is_guilty(queue):
                queue.mark_banned()

    return KeepsThemWaiting


def every_answer_counts(_queue: ExecQueue) -> bool:
    """It says "off", so it is off."""
    return False


def no_limit(_exec: Exec) -> None:
    """Memory is what user space makes of it."""


def interruptible(original: type[ExecQueue]) -> type[ExecQueue]:
    """A subclass whose wait for a suspend is ended by a signal, which nobody looks at."""

    class Interruptible(original):  # type: ignore[misc, valid-type]
        async def suspend_wait(self) -> None:
            task = self.engine.current
            await self._patiently(lambda: self.suspend_is_over() or task.thread.signal)

    return Interruptible


FEN_R29 = Bug(
    id="FEN-R29",
    title="the end of a queue writes its error over the result of a job that has just completed",
    removes="JobTimeout.end",
    races=("FEN-R29",),
    oracles=("fence/FEN-R04",),
    story="queue-destroyed-with-jobs",
    plant=replace_guard(JobTimeout, "end", ends_anyway),
)

FEN_R04 = Bug(
    id="FEN-R04",
    title="the error of a job that is given up is set after its fence was signaled",
    removes="JobTimeout.end",
    races=("FEN-R04",),
    oracles=("fence/FEN-R04",),
    story="queue-destroyed-with-jobs",
    plant=replace_guard(JobTimeout, "end", error_afterwards),
)

FEN_B27 = Bug(
    id="FEN-B27",
    title="a scheduler is torn down before the queue it serves",
    removes="ExecQueue.take_apart",
    races=("FEN-R24",),
    oracles=("sched/INV-FEN-10", "engine/deadlock", "sched", "lifetime"),
    story="queue-destroyed-with-jobs",
    plant=replace_guard(ExecQueue, "take_apart", scheduler_first),
)

FEN_R27 = Bug(
    id="FEN-R27",
    title="a GT reset leaves those waiting who wait for the answer of a context that it has thrown off",
    removes="GtReset.stop",
    races=("FEN-R27",),
    oracles=("caller/FEN-R27", "engine/deadlock"),
    story="lr-preempted-and-reset",
    plant=replace_part(GtReset, keeps_them_waiting),
)

FEN_B33 = Bug(
    id="FEN-B33",
    title="a queue takes any number of jobs",
    removes="Exec.check_job_limit",
    races=(),
    oracles=("caller/FEN-B33",),
    story="exec-over-the-limit",
    plant=replace_guard(Exec, "check_job_limit", no_limit),
)

FEN_B34 = Bug(
    id="FEN-B34",
    title="a suspend that a signal has interrupted counts as done",
    removes="ExecQueue.suspend_wait",
    races=("FEN-R27",),
    oracles=("exec/VMB-R34", "exec/VMB-B21", "engine/deadlock"),
    story="exec-interrupted-in-a-switch",
    plant=replace_part(ExecQueue, interruptible),
)

FEN_R28 = Bug(
    id="FEN-R28",
    title="an answer of the hardware that a reset has overtaken is taken for one of now",
    removes="ExecQueue.is_past_answer",
    races=("FEN-R28",),
    oracles=("exec/INV-FEN-11", "caller/INV-FEN-11"),
    story="kernel-queue-suspended-and-reset",
    plant=replace_guard(ExecQueue, "is_past_answer", every_answer_counts),
)
