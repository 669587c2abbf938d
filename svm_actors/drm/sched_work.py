"""Work items, the queues that run them, and completions (kernel workqueue.c and completion.h).

The scheduler never acts in the thread of whoever asks it to: every kick, timeout and cleanup is a work
item (fences_and_scheduler 8.1).  A work item is pending at most once, so a hundred kicks before the
worker comes round are one; it is never run twice at a time; and what is queued while it runs makes it
run again.  That is all there is against a lost wake-up, so it is modelled as it is.

* An *ordered* queue runs its items one after the other, in the order in which they were queued.
* Any other queue runs every item in a task of its own.
* A delayed item is queued by a timer, in virtual time.

Queueing does not sleep and is no op: it is done in callbacks of fences, in interrupt context.  Taking an
item off the queue to run it is the op, and so is every cancellation.

Simplified: no worker pools, no CPU affinity, no limit on the number of items at work (a concurrency
limit only delays), and the rescuer thread of a queue that must make progress without memory is not
needed, since starting an item needs no memory here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from svm_actors.engine.engine import Engine, Source
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import WaitQueue
from svm_actors.engine.task import Task

WorkFunction = Callable[[], Coroutine[Any, Any, None]]


class Completion(WaitQueue):
    """A flag that tasks can wait for: wait_for_completion, complete_all, reinit_completion."""

    __slots__ = ("done",)

    def __init__(self, engine: Engine, name: str, *, done: bool = False) -> None:
        super().__init__(engine, name)
        self.done = done

    def complete_all(self) -> None:
        """Let everybody through, now and until :meth:`reinit`."""
        self.done = True
        self.wake_up()

    def reinit(self) -> None:
        """Make the next one wait again."""
        self.done = False

    async def wait(self, waits_for: Any = None) -> None:
        """Sleep until done."""
        await self.wait_event(lambda: self.done, waits_for)

    async def wait_timeout(self, nanoseconds: int) -> bool:
        """The same for at most so much virtual time; says whether it is done."""
        return await self.wait_event_timeout(lambda: self.done, nanoseconds)


class Work:
    """One work item.  ``function`` is a coroutine function and may sleep."""

    def __init__(self, engine: Engine, name: str, function: WorkFunction) -> None:
        self.engine = engine
        self.name = name
        self.function = function
        self.pending = False
        """Queued and not yet begun; queueing it again does nothing."""
        self.worker: Task | None = None
        """Who runs it now."""
        self.cancelling = 0
        """How many wait for it to end; while they do it cannot be queued."""
        self.idle = WaitQueue(engine, name)
        """Woken whenever it is through, or taken off the queue."""

    @property
    def busy(self) -> bool:
        """Queued or running."""
        return self.pending or self.worker is not None

    def blocked_by(self, _waiter: Task) -> list[Task]:
        """For the wait-for graph: the task that runs it."""
        return [] if self.worker is None else [self.worker]

    async def run(self) -> None:
        """Once, in the running task."""
        self.pending = False
        self.worker = self.engine.current
        await self.function()
        self.worker = None
        self.idle.wake_up()

    async def wait_idle(self) -> None:
        """flush_work: sleep until it neither waits nor runs."""
        await self.idle.wait_event(lambda: not self.busy, self)

    async def wait_cancelled(self) -> None:
        """The same, and it cannot be queued again meanwhile, not even by itself."""
        self.cancelling += 1
        await self.wait_idle()
        self.cancelling -= 1


class Workqueue:
    """A queue of work items."""

    def __init__(self, engine: Engine, name: str, *, ordered: bool = True) -> None:
        self.engine = engine
        self.name = name
        self.ordered = ordered
        """One item at a time."""
        self.destroyed = False
        self.worker: Task | None = None
        """The worker of an ordered queue; None until something is queued."""
        self._queued: deque[Work] = deque()
        self._filled = Source(engine)

    def statistics(self) -> dict[str, Any]:
        """Items queued, in order."""
        return {"queued": [work.name for work in self._queued]}

    def queue_work(self, work: Work) -> bool:
        """Ask for one more run; False when one is pending already.  Never sleeps.

        -> PropertyFailed INV-FEN-08 when the queue is gone.
        """
        if self.destroyed:
            raise PropertyFailed("lifetime", "INV-FEN-08", f"{work.name} is queued on {self.name}, which is destroyed")
        if work.pending or work.cancelling or self.engine.closing:
            return False
        work.pending = True
        self._queued.append(work)
        if not self.ordered:
            self.engine.spawn(self._one(work), work.name)
        elif self.worker is None:
            self.worker = self.engine.spawn(self._loop(), self.name, daemon=True)
        elif self._filled.parked:
            self._filled.changed()
        return True

    def take_off(self, work: Work) -> bool:
        """Undo a queueing that has not begun to run; False when there is none."""
        if not work.pending:
            return False
        work.pending = False
        self._queued.remove(work)
        work.idle.wake_up()
        return True

    async def cancel_work_sync(self, work: Work) -> bool:
        """Take it off and wait until it does not run; says whether it was pending."""
        await self.engine.step("write", self, work.name)
        was_pending = self.take_off(work)
        await work.wait_cancelled()
        return was_pending

    def destroy(self) -> None:
        """destroy_workqueue: nothing may be queued any more."""
        self.destroyed = True

    async def _loop(self) -> None:
        """The worker of an ordered queue."""
        queued = self._queued
        while True:
            await self.engine.wait("receive", self, self._filled, lambda: bool(queued))
            await queued.popleft().run()

    async def _one(self, work: Work) -> None:
        """One run of an item of an unordered queue; its own earlier run comes first."""
        await self.engine.wait("receive", self, work.idle, lambda: work.worker is None or not work.pending, work.name)
        if work.pending:  # else it was cancelled, or another task of the same item was faster
            self._queued.remove(work)
            await work.run()


class DelayedWork(Work):
    """A work item with a timer in front; ``queue`` is where it goes when the timer fires."""

    def __init__(self, engine: Engine, name: str, function: WorkFunction, queue: Workqueue) -> None:
        super().__init__(engine, name, function)
        self.queue = queue
        self.expires: int | None = None
        """Virtual time at which the timer fires; None while it is not armed."""
        self._timer: Task | None = None
        self._rearmed = Source(engine)

    @property
    def busy(self) -> bool:
        """Armed, queued or running."""
        return self.expires is not None or super().busy

    def queue_delayed(self, delay_ns: int) -> bool:
        """queue_delayed_work: arm the timer; False when it is armed, or the item queued, already."""
        if self.expires is not None or self.pending:
            return False
        self._arm(delay_ns)
        return True

    def mod(self, delay_ns: int) -> bool:
        """mod_delayed_work: arm the timer anew, whatever was before; says whether something was pending."""
        was_pending = self.queue.take_off(self) or self.expires is not None
        self._arm(delay_ns)
        return was_pending

    def cancel(self) -> bool:
        """cancel_delayed_work: disarm it and take it off the queue; a run that has begun goes on."""
        was_pending = self.queue.take_off(self) or self.expires is not None
        if self.expires is not None:
            self.expires = None
            self._rearmed.changed()
        return was_pending

    async def cancel_sync(self) -> bool:
        """cancel_delayed_work_sync: the same, and wait for a run that has begun."""
        await self.engine.step("write", self)
        was_pending = self.cancel()
        await self.wait_cancelled()
        return was_pending

    def _arm(self, delay_ns: int) -> None:
        if self.cancelling or self.engine.closing:
            return
        if delay_ns <= 0:
            self.expires = None
            self.queue.queue_work(self)
            return
        self.expires = self.engine.now + delay_ns
        if self._timer is None:
            self._timer = self.engine.spawn(self._run_timer(), f"{self.name}.timer", daemon=True)
        else:
            self._rearmed.changed()

    async def _run_timer(self) -> None:
        """The timer interrupt.  Moving the deadline back costs nothing: it looks again when it fires."""
        engine = self.engine
        while True:
            await engine.wait("receive", self, self._rearmed, lambda: self.expires is not None, "timer")
            aim = self.expires
            assert aim is not None
            await engine.wait(
                "wait", self, self._rearmed, self._moved_before(aim), f"until {aim} ns", timeout=aim - engine.now
            )
            if self.expires is not None and self.expires <= engine.now:
                self.expires = None
                self.queue.queue_work(self)

    def _moved_before(self, aim: int) -> Callable[[], bool]:
        """Guard: the timer was disarmed, or is to fire earlier than thought."""
        return lambda: self.expires is None or self.expires < aim
