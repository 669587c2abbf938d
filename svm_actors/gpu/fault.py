"""Page faults of one GPU: the bounded queue between hardware and driver (gpusvm section 5).

The hardware waits for room rather than losing a fault, as a GPU stalls when its fault buffer is full.
Every fault the driver takes out is acknowledged exactly once (RULE-30): 0 makes the hardware try the
access again, anything else ends the program that faulted.

Simplified: the firmware message and the interrupt that copies it are one step, ``send``.
"""

from __future__ import annotations

from enum import Enum

import attrs

from svm_actors.engine.channel import Channel, Reply
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError, PropertyFailed


class Access(Enum):
    """What the faulting access was."""

    READ = "read"
    WRITE = "write"
    ATOMIC = "atomic"


class FaultReply(Reply[int]):
    """Where the acknowledgement goes."""

    __slots__ = ()

    @property
    def acked(self) -> bool:
        """True once the driver has answered."""
        return self._ready


@attrs.frozen(eq=False)
class PageFault:
    """One fault as the driver gets it."""

    gpu: str
    """Name of the GPU."""
    number: int
    """Counts the faults of one GPU, from 1."""
    asid: int
    """GPU address space."""
    vpn: int
    """Virtual page."""
    access: Access
    """What the program wanted."""
    reply: FaultReply
    """Answered by :meth:`ack`."""
    queue: FaultQueue = attrs.field(repr=False)
    """Where it came from; keeps the account of open faults."""

    def ack(self, errno: int = 0) -> None:
        """Answer: 0 replays the access, a positive errno ends the program.  Twice is RULE-30 broken."""
        if errno < 0:
            raise EngineError(f"a fault is acknowledged with 0 or a positive errno, not {errno}")
        if self.reply.acked:
            raise PropertyFailed("liveness", "RULE-30", f"{self.gpu}: fault {self.number} is acknowledged twice")
        self.queue.close_account(self)
        self.reply.set(errno)


class FaultQueue:
    """First in, first out; at most ``capacity`` faults not yet taken."""

    def __init__(self, engine: Engine, gpu: str, capacity: int) -> None:
        self.engine = engine
        self.gpu = gpu
        self.name = f"{gpu}.faults"
        self._channel: Channel[PageFault] = Channel(engine, self.name, capacity)
        self._outstanding: dict[int, PageFault] = {}
        self._count = 0

    async def report(self, asid: int, vpn: int, access: Access) -> int:
        """Hardware side: report a fault, wait for the acknowledgement, answer its errno."""
        engine = self.engine
        self._count += 1
        reply = FaultReply(engine, f"{self.name}.ack")
        fault = PageFault(self.gpu, self._count, asid, vpn, access, reply, self)
        engine.count("gpu.fault")
        if len(self._channel) == self._channel.capacity:
            engine.count("gpu.fault_queue_full")
        await self._channel.send(fault)
        return await fault.reply.get()

    async def receive(self) -> PageFault:
        """Driver side: the oldest fault; it must be acknowledged exactly once."""
        fault = await self._channel.receive()
        fault.reply.server = self.engine.current
        self._outstanding[fault.number] = fault
        return fault

    def close_account(self, fault: PageFault) -> None:
        """The fault is acknowledged: it is no longer outstanding."""
        self._outstanding.pop(fault.number, None)

    def statistics(self) -> dict[str, int]:
        """Faults so far, waiting in the queue, and taken but not acknowledged."""
        return {"faults": self._count, "queued": len(self._channel), "outstanding": len(self._outstanding)}
