"""A hardware context: what a submission queue runs on (fences_and_scheduler section 9).

A context is a ring of batches and the state of the execution unit.  While it is *on*, the hardware works
the ring off, one instruction after the other; while it is *off* it touches nothing.  Switching off is a
request that the hardware acknowledges between two instructions, saving its place, so a batch that is
switched off goes on where it was.  What spins without letting itself be preempted never acknowledges:
only a reset gets rid of it, and that loses the ring.

A fault that the driver refuses halts the context, which is reported once.  Behind the program of a batch the
ring may have stores of its own, to addresses of the same space.  When all that is through, the hardware writes
the sequence number to memory, and only then come the interrupts: the one that signals its fence, and the user
interrupt.

Injected (:mod:`svm_actors.engine.faults`): a batch hangs, which means that it spins for ever where it should begin, or
is late, which means that it spins before its end for as long as its driver's patience lasts.  That happens only where
somebody watches how long batches take (:attr:`HwContext.patience`), for nothing else would ever end them.  The answer
to a switch-off is lost, or comes when whoever waits for it gives up (:attr:`HwContext.ack_patience`); it is off.

The context-switch in flushes the TLB of its address space, and so does a batch that asks for it.

A reset does not wait for the driver to answer a fault of the context: the instruction is lost where it is.

Simplified: instructions take no time, a :class:`~svm_actors.gpu.program.Spin` does; the ring has no end;
every context has an execution unit of its own.  After a reset it goes on when the lost fault is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.engine import Engine, Source
from svm_actors.gpu.compute import ComputeEngine, Errand
from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.program import GpuFault, GpuStuck, Result, Spin, Step, Store
from svm_actors.mm.constants import TASK_PAGES


class HwFence(Fence):
    """Signals by interrupt; whoever polls reads the sequence number in memory and may know it earlier."""

    __slots__ = ("ring",)

    def __init__(self, ring: HwContext, seqno: int) -> None:
        super().__init__(ring.engine, f"{ring.name}.{seqno}", context=ring.fence_context, seqno=seqno)
        self.ring = ring

    def ops_signaled(self) -> bool:
        """The number in memory has reached this one's."""
        return self.ring.seqno_memory >= self.seqno


@attrs.define(eq=False)
class Batch:
    """One program on a ring."""

    program: tuple[Step, ...]
    """What to run."""
    fence: HwFence
    """Signaled when it is through."""
    flush_tlb: bool = False
    """Flush the TLB of the address space first."""
    user_fences: tuple[Store, ...] = ()
    """What the ring stores when the program is through."""
    results: list[Result] = attrs.field(factory=list)
    """One per instruction done."""
    stored: int = 0
    """User fences done."""
    started: bool = False
    """The hardware has begun it."""
    left_ns: int | None = None
    """What is left of the spin it is in, as of when it went on; None: it is in none, or in one without end."""
    spun_ns: int = 0
    """Time spent in spins, those before the current one."""
    spinning_since: int | None = None
    """Virtual time at which the current spin went on."""
    disturbed: Spin | None = None
    """An injected fault: a spin that the program does not have.  Gone after a reset, which begins it anew."""
    unwell: bool = False
    """It was disturbed, so it has a reason to fail."""

    def runtime(self, now: int) -> int:
        """The run-time counter: virtual ns on the execution unit."""
        if self.spinning_since is None:
            return self.spun_ns
        took = now - self.spinning_since
        return self.spun_ns + (took if self.left_ns is None else min(took, self.left_ns))

    def next_step(self) -> Step | None:
        """What comes next; None: it is through."""
        if len(self.results) < len(self.program):
            return self.program[len(self.results)]
        return self.user_fences[self.stored] if self.stored < len(self.user_fences) else None

    def note(self, result: Result) -> None:
        """The next step is done; what the ring stores has no result but a fault."""
        if len(self.results) < len(self.program) or isinstance(result, GpuFault | GpuStuck):
            self.results.append(result)
        else:
            self.stored += 1

    def rewind(self) -> None:
        """To its beginning, as a reset loses the place."""
        self.disturbed = None
        self.results.clear()
        self.stored = 0
        self.started = False
        self.left_ns = None
        self.spun_ns = 0


def _nothing() -> None:
    """Nobody listens."""


class HwContext:
    """One context."""

    def __init__(self, engine: Engine, name: str, compute: ComputeEngine, asid: int, fence_context: int) -> None:
        self.engine = engine
        self.name = name
        self.compute = compute
        self.asid = asid
        self.fence_context = fence_context
        """Timeline of its fences."""
        self.ring: deque[Batch] = deque()
        """Batches not through, oldest first."""
        self.on = False
        """The hardware may work on it."""
        self.dead = False
        """The hardware does not react any more, as far as this context goes: a defect for tests."""
        self.halted = False
        """A refused fault ended its batch; it stays so until it is reset."""
        self.seqno_memory = 0
        """Sequence number of the last batch that is through, as memory shows it."""
        self.on_off_ack: Callable[[], None] = _nothing
        """Called when the hardware acknowledges a switch-off, in interrupt context."""
        self.on_user_interrupt: Callable[[], None] = _nothing
        """Called when a batch is through, in interrupt context."""
        self.on_halt: Callable[[], None] = _nothing
        """Called when a refused fault halts it, in interrupt context."""
        self.patience: int | None = None
        """How long a batch may take, in virtual ns, before its driver looks at it; None: it never does."""
        self.ack_patience: int | None = None
        """How long its driver waits for the answer to a switch-off, in virtual ns; None: for ever."""
        self.answers_late = False
        """The last answer was to a request from before the last reset."""
        self._seqno = 0
        self._resets = 0
        self._off_wanted = False
        self._executing = False
        self._errand = Errand()
        """The instruction that is on its way, or was the last one."""
        self._silent = False
        """It has been switched off, and the answer is lost or late."""
        self._defiant = False
        """In a spin that does not let itself be preempted."""
        self._bell = Source(engine)
        self._started = False

    # -- the driver's side -------------------------------------------------------------

    def new_fence(self) -> HwFence:
        """The fence of the next batch."""
        self._seqno += 1
        return HwFence(self, self._seqno)

    async def submit(self, batch: Batch) -> None:
        """Put a batch on the ring and ring the doorbell."""
        await self.engine.step("send", self, "ring")
        self.ring.append(batch)
        self._ring_bell()

    async def switch_on(self) -> None:
        """Let the hardware work on it; stale translations do not survive a context switch."""
        self._off_wanted = False
        await self.engine.step("tlb_flush", self.compute.tlb)
        self._flush_tlb()
        self.on = True
        self._ring_bell()

    async def request_off(self) -> None:
        """Ask the hardware to let go of it; :attr:`on_off_ack` is called when it has."""
        await self.engine.step("send", self, "off")
        self._off_wanted = True
        self._ring_bell()

    async def reset(self) -> None:
        """Off at once whatever it does, and the ring is lost; returns when nothing of it runs any more.

        An instruction whose fault is with the driver is lost, too: the answer will mean nothing to anybody.
        """
        await self.engine.step("write", self, "reset")
        self._resets += 1
        self._errand.lost = True
        self.on = self._off_wanted = self.halted = self._silent = False
        self.ring.clear()
        self._bell.changed()
        await self.engine.wait("wait", self, self._bell, lambda: not self._executing or self._errand.waits, "off")

    def _ring_bell(self) -> None:
        if not self._started:
            self._started = True
            self.engine.spawn(self._work(), self.name, daemon=True)
        self._bell.changed()

    # -- the hardware ------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """An instruction is on its way, or the hardware goes on with the next one by itself."""
        return (self._executing and not self._errand.lost) or (self.on and bool(self.ring))

    @property
    def stuck(self) -> bool:
        """It will not answer a switch-off, not even late."""
        return self.dead or self._defiant or self._silent

    def _has_work(self) -> bool:
        if self.dead:
            return False
        return self._off_wanted or (self.on and bool(self.ring) and not self.halted)

    async def _work(self) -> None:
        while True:
            await self.engine.wait("receive", self, self._bell, self._has_work)
            if self._off_wanted:
                await self._go_off()
            else:
                await self._advance(self.ring[0])

    async def _go_off(self) -> None:
        """Let go of it, its place in the program saved, and say so.  The answer may be overtaken by a reset."""
        asked_after = self._resets
        self.on = self._off_wanted = False
        if self._withholds_answer("ack-lost"):
            return
        if self._withholds_answer("ack-late"):
            self.engine.spawn(self._answer_late(asked_after), f"{self.name}.late", parent=self.engine.current)
            return
        await self._answer(asked_after)

    async def _answer(self, asked_after: int) -> None:
        await self.engine.step("send", self, "off_ack")
        self.answers_late = asked_after != self._resets
        self.on_off_ack()

    def _withholds_answer(self, kind: str) -> bool:
        """An injected fault."""
        self._silent = self.ack_patience is not None and self.engine.faults.strike(kind)
        return self._silent

    async def _answer_late(self, asked_after: int) -> None:
        """FEN-R28: just when the driver gives up, or after the reset that it then asks for."""
        await self.engine.sleep(self.ack_patience or 0)
        if asked_after == self._resets:
            self._silent = False
        await self._answer(asked_after)

    async def _advance(self, batch: Batch) -> None:
        """One instruction, or the end of the batch."""
        resets = self._resets
        if not batch.started:
            batch.started = True
            self._disturb(batch, "hang", None)
            if batch.flush_tlb:
                await self.engine.step("tlb_flush", self.compute.tlb)
                self._flush_tlb()
                return
        step = batch.disturbed or batch.next_step()
        if step is None and not batch.unwell:
            self._disturb(batch, "late", self.patience)
            step = batch.disturbed
        if step is None:
            await self._complete(batch, resets)
            return
        self._executing = True
        result = await self._execute(batch, step)
        self._executing = False
        self._bell.changed()
        if step is batch.disturbed:
            if result is not _UNFINISHED:
                batch.disturbed = None
            return
        if self._resets == resets and result is not _UNFINISHED:
            batch.note(result)
            if isinstance(result, GpuFault | GpuStuck):
                self.halted = True
                self.on_halt()

    def _disturb(self, batch: Batch, kind: str, ns: int | None) -> None:
        """An injected fault: it spins although its program does not say so."""
        if self.patience is not None and self.engine.faults.strike(kind):
            batch.disturbed, batch.unwell = Spin(ns), True

    async def _execute(self, batch: Batch, step: Step) -> Any:
        self._errand = Errand()
        if isinstance(step, Spin):
            return await self._spin(batch, step)
        return (await self.compute.run(self.asid, (step,), self._errand))[0]

    async def _spin(self, batch: Batch, spin: Spin) -> Any:
        """Until the time is over, it is preempted, or a reset ends it."""
        engine, resets = self.engine, self._resets
        if batch.left_ns is None:
            batch.left_ns = spin.ns
        left = batch.left_ns
        batch.spinning_since = engine.now
        self._defiant = not spin.preemptible
        await engine.wait(
            "wait", self, self._bell, lambda: self._resets != resets or (self._off_wanted and spin.preemptible),
            "spin", timeout=left,
        )  # fmt: skip
        self._defiant = False
        before, batch.spun_ns = batch.spun_ns, batch.runtime(engine.now)
        batch.spinning_since = None
        if left is None:
            return _UNFINISHED
        batch.left_ns = left - (batch.spun_ns - before)
        if batch.left_ns:
            return _UNFINISHED
        batch.left_ns = None
        return None

    async def _complete(self, batch: Batch, resets: int) -> None:
        """Memory first, then the interrupts."""
        await self.engine.step("write", self, "seqno")
        if self._resets != resets:
            return
        self.ring.popleft()
        self.seqno_memory = batch.fence.seqno
        await self.engine.step("fence_signal", batch.fence)
        batch.fence.signal()
        self.on_user_interrupt()

    def _flush_tlb(self) -> None:
        dropped = self.compute.tlb.flush(self.asid, 0, TASK_PAGES)
        if self.engine.listeners:
            self.engine.emit(TlbFlushed(self.compute.gpu, self.asid, 0, TASK_PAGES, dropped))

    def statistics(self) -> dict[str, Any]:
        """Batches on the ring, and whether the hardware may work on them."""
        return {"ring": len(self.ring), "on": self.on}


_UNFINISHED = object()
"""The instruction has to go on later."""
