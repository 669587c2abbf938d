"""xe_tlb_inval: flushing a GPU's TLB from the driver (vm_bind section 13, gpusvm section 6.2, I5 and I6).

A submission never waits; whoever needs the translations gone waits for the fence.

The client numbers its requests 1 to 0xFFFFF and round again, never 0.  One lock makes number, place in the
pending list and place in the hardware's queue one order.  An acknowledgement of a number completes
everything up to it (VMB-R27), which is why several can be lost and nothing is.  "Up to" is modular: half
of the numbers are before, half after.

A timer, where there is one, completes what is overdue with -ETIME.  A reset of the GT drops all
translations, so it completes everything without an error, and acknowledgements that come late are past
(VMB-R26).

Injected (:mod:`svm_actors.engine.faults`): the message of an acknowledgement is lost, or comes when the timer is due.
The flush itself has been done: the driver completes what is overdue and goes on, and a flush that was not done would be
memory in reach for ever, in the kernel too.

Simplified: a widening is the hardware's, see :mod:`svm_actors.gpu.tlb_inval`, and there is no timer unless
one is asked for, or messages may be lost, which the hardware does not do by itself.  Messages are read in the
interrupt; only where it is asked for, the worker of the channel has it now and then, and reads what came meanwhile,
later (VMB-R27).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched_work import DelayedWork, Work, Workqueue
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ECANCELED, ENOTRECOVERABLE, ETIME, KernelError, PropertyFailed
from svm_actors.engine.locks import Mutex, SpinLock
from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.tlb_inval import InvalidateTlb
from svm_actors.mm.constants import TASK_PAGES

SEQNO_MAX: Final = 0x100000
"""Numbers are below this; it also stands for "part of a longer flush"."""

LONGEST: Final = 1 << 34
"""Pages one message can name; what a whole address space has, no message can."""

ADDRESS_SPACE: Final = 1 << 36
"""All pages there are."""

TIMEOUT_NS: Final = 250_000_000
"""What the driver gives a flush, without the estimate for the transport."""


def timeout_where(engine: Engine) -> int | None:
    """A timer runs where an acknowledgement may fail to come; elsewhere it would only be armed and disarmed."""
    return TIMEOUT_NS if {"tlb-lost", "tlb-late"} & {*engine.faults.kinds} else None


def seqno_past(recv: int, seqno: int) -> bool:
    """``seqno`` was acknowledged once ``recv`` was: it is not after it, by the half-range rule."""
    return (recv - seqno) % SEQNO_MAX < SEQNO_MAX // 2


class TlbFence(Fence):
    """xe_tlb_inval_fence: signaled exactly once (INV-VMB-12)."""

    __slots__ = ("sent_at",)

    def __init__(self, client: XeTlbInval, seqno: int) -> None:
        super().__init__(client.engine, f"{client.name}.fence.{client.requests}", seqno=seqno)
        self.sent_at = client.engine.now


@attrs.define(eq=False)
class TlbStatistics:
    """What the client has seen."""

    completed: int = 0
    """Fences signaled."""
    coalesced: int = 0
    """Of them, by the acknowledgement of a later one."""
    past: int = 0
    """Acknowledgements that came too late."""


class XeTlbInval:
    """TLB invalidations of one device."""

    def __init__(self, gpu: Gpu, *, timeout: int | None = None) -> None:
        self.gpu = gpu
        self.engine = gpu.engine
        self.name = f"{gpu.name}.tlb_client"
        self.seqno_lock = Mutex(gpu.engine, f"{self.name}.seqno_lock", "tlb_seqno_lock")
        """Number, pending list and hardware queue in one order; may be taken in reclaim."""
        self.pending_lock = SpinLock(gpu.engine, f"{self.name}.pending_lock", "tlb_pending_lock")
        """The pending list against the acknowledgement, the timer and the reset (VMB-R26)."""
        self.seqno = 1
        """The next number."""
        self.seqno_recv = SEQNO_MAX - 1
        """The last number acknowledged."""
        self.pending: dict[int, TlbFence] = {}
        """Fences by number, in the order in which they were sent."""
        self.requests = 0
        """Sent so far."""
        self.refused: KernelError | None = None
        """Why the backend takes no messages: disabled by a reset (-ECANCELED) or wedged (-ENOTRECOVERABLE)."""
        self.timeout = timeout if timeout is not None else timeout_where(gpu.engine)
        self.stats = TlbStatistics()
        self.shares_channel = False
        """The worker of the channel may have it when an acknowledgement comes: a choice each time."""
        self._on_its_way: dict[int, None] = {}
        """Numbers the hardware is asked for and has not answered."""
        self._unread: list[int] = []
        """Acknowledgements left to the worker."""
        self._channel = Workqueue(gpu.engine, f"{self.name}.channel")
        self._reader = Work(gpu.engine, f"{self.name}.reader", self._read)
        self._timer = DelayedWork(gpu.engine, f"{self.name}.timeout", self._timed_out, Workqueue(gpu.engine, self.name))

    # -- sending -----------------------------------------------------------------------

    async def submit(self, asid: int, start: int, end: int) -> Fence:
        """xe_tlb_inval_range: ask for a flush of pages [start, end)."""
        async with self.seqno_lock:
            fence = self.prepare()
            try:
                await self.send(InvalidateTlb(asid, *self.span(start, end)), fence)
            except KernelError as error:
                await self.send_failed(fence, error)
        self.engine.count("gpu.tlb_inval")
        return fence

    def span(self, start: int, end: int) -> tuple[int, int]:
        """VMB-B26: what is longer than a message can say is a full flush."""
        return (0, ADDRESS_SPACE) if end - start > LONGEST else (start, end)

    def prepare(self) -> TlbFence:
        """The next number, pending from here on: the acknowledgement may come before the send returns."""
        self.requests += 1
        fence = TlbFence(self, self.seqno)
        self.pending[fence.seqno] = fence
        self.seqno = self.seqno % (SEQNO_MAX - 1) + 1
        if self.timeout is not None and len(self.pending) == 1:
            self._timer.queue_delayed(self.timeout)
        return fence

    async def send(self, message: InvalidateTlb, fence: TlbFence) -> None:
        """To the hardware.  -ECANCELED, -ENOTRECOVERABLE while the backend takes nothing."""
        if self.refused is not None:
            raise self.refused
        _number, done = await self.gpu.tlb_inval.call(message)
        fence.signaler = done.signaler
        self._on_its_way[fence.seqno] = None
        done.add_callback(self._ack(fence.seqno))

    def _ack(self, seqno: int) -> Callable[[Fence], None]:
        def answered(_done: Fence) -> None:
            self._on_its_way.pop(seqno, None)
            if not self._goes_astray(seqno):
                self.heard(seqno)

        return answered

    async def send_failed(self, fence: TlbFence, error: KernelError) -> None:
        """Always signaled (VMB-B27, FEN-B23).  A reset under way, or a device given up, is no error: neither leaves
        translations behind."""
        async with self.pending_lock:
            if self.pending.pop(fence.seqno, None) is not None:
                self.complete(fence, None if isinstance(error, ECANCELED | ENOTRECOVERABLE) else error)

    # -- acknowledgements ----------------------------------------------------------------

    def _goes_astray(self, seqno: int) -> bool:
        """The message is lost, or late: an injected fault.  Of no interest when nobody waits for it any more."""
        fence, faults = self.pending.get(seqno), self.engine.faults
        if fence is None:
            return False
        if faults.strike("tlb-lost"):
            return True
        if not faults.strike("tlb-late"):
            return False
        late = self._comes_late(seqno, fence.sent_at + (self.timeout or 0))
        self.engine.spawn(late, f"{self.name}.late", parent=self.engine.current)
        return True

    async def _comes_late(self, seqno: int, moment: int) -> None:
        """VMB-R26: just when the timer is due."""
        await self.engine.sleep(moment - self.engine.now)
        await self.engine.step("send", self, "late acknowledgement")
        self.heard(seqno)

    def heard(self, seqno: int) -> None:
        """VMB-R27: the interrupt reads the message, unless the worker has the channel; then later ones may overtake."""
        if self.shares_channel and self.engine.choose(2, "channel"):
            self._unread.append(seqno)
            self._channel.queue_work(self._reader)
        else:
            self.done(seqno)

    async def _read(self) -> None:
        """xe_guc_ct worker: what the interrupt has left, in the order in which it came."""
        while self._unread:
            await self.engine.step("read", self, "channel")
            self.done(self._unread.pop(0))

    def done(self, seqno: int) -> None:
        """xe_tlb_inval_done_handler: interrupt or worker, one atomic step.

        A number that is past already is ignored (VMB-R26).
        """
        if seqno == SEQNO_MAX:
            self._restart_timer()
            return
        if self.is_past(seqno):
            self.stats.past += 1
            self.engine.count("VMB-R26")
            return
        self.receive(seqno)
        for number in self.completed_by(seqno):
            fence = self.pending.pop(number)
            if number != seqno:
                self.stats.coalesced += 1
                self.engine.count("VMB-R27")
            self.complete(fence, None)
        self._restart_timer()

    def completed_by(self, seqno: int) -> list[int]:
        """VMB-R27: everything up to the number, as the firmware works in order; their own answers will be past."""
        return [number for number in self.pending if seqno_past(seqno, number)]

    def receive(self, seqno: int) -> None:
        """INV-VMB-12: what was acknowledged stays so."""
        if not seqno_past(seqno, self.seqno_recv):
            text = f"{self.name} goes back from {self.seqno_recv} to {seqno}"
            raise PropertyFailed("tlb", "INV-VMB-12", text)
        self.seqno_recv = seqno

    def is_past(self, seqno: int) -> bool:
        """VMB-R26: acknowledged before, or given up by a timeout or a reset."""
        return seqno_past(self.seqno_recv, seqno)

    def complete(self, fence: TlbFence, error: KernelError | None) -> None:
        """Signal it.  INV-VMB-12: exactly once."""
        self.stats.completed += 1
        if not fence.signal(error):
            raise PropertyFailed("tlb", "INV-VMB-12", f"{fence.name} is signaled twice")

    # -- waiting -----------------------------------------------------------------------

    async def wait(self, fence: Fence) -> None:
        """xe_tlb_inval_wait: until no access uses a translation of the range any more."""
        await fence.wait()

    # -- when it goes wrong --------------------------------------------------------------

    def _restart_timer(self) -> None:
        if self.timeout is None:
            return
        if self.pending:
            self._timer.mod(self.timeout)
        else:
            self._timer.cancel()

    async def _timed_out(self) -> None:
        """xe_tlb_inval_fence_timeout: those overdue end with -ETIME, up to the first that is not.

        What the worker of the channel has still to read comes first.  The timer is no race of the hardware's: one
        that is at work on a flush is slow only as far as the schedule goes, and gets the whole time once more.
        """
        await self._reader.wait_idle()
        async with self.pending_lock:
            for number in [*self.pending]:
                left = self.pending[number].sent_at + (self.timeout or 0) - self.engine.now
                if left > 0 or number in self._on_its_way:
                    self._timer.mod(left if left > 0 else self.timeout or 0)
                    return
                self.engine.count("tlb.timeout")
                self.complete(self.pending.pop(number), ETIME())

    async def reset(self) -> None:
        """xe_tlb_inval_reset: the translations are gone with the reset, so everything pending is done.

        VMB-R26: the last number counts as received, and what is still on its way is past.  Whoever wants to send waits
        for seqno_lock: told "done, for there is a reset" before the translations are gone, or when the walker has put
        one back, a notifier would return with its pages still in reach (INV-01).
        """
        async with self.seqno_lock:
            await self.engine.step("tlb_flush", self.gpu.tlb)
            self._drop_translations()
            await self._all_done()

    async def _all_done(self) -> None:
        async with self.pending_lock:
            self.seqno_recv = self.before(self.seqno)
            for number in [*self.pending]:
                self.complete(self.pending.pop(number), None)
            self._restart_timer()

    def _drop_translations(self) -> None:
        """What the reset does to the hardware."""
        tlb = self.gpu.tlb
        for asid in dict.fromkeys(asid for asid, _vpn, _pte in tlb.entries()):
            dropped = tlb.flush(asid, 0, TASK_PAGES)
            if self.engine.listeners:
                self.engine.emit(TlbFlushed(self.gpu.name, asid, 0, TASK_PAGES, dropped))

    @staticmethod
    def before(seqno: int) -> int:
        """The number given out before this one."""
        return seqno - 1 or SEQNO_MAX - 1

    def statistics(self) -> dict[str, int]:
        """Fences not signaled."""
        return {"pending": len(self.pending)}
