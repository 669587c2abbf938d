"""A ring of jobs that one piece of hardware works off in order.

It is an actor whose mailbox is the ring.  Submitting is writing to the ring and ringing the doorbell:
one op, which never waits and assigns sequence number and ring position together (fences_and_scheduler
1.4: otherwise queue order is not sequence order).  So unlike other actors it serves a request on the
spot, and only the job itself has a task: the hardware, which starts at the first doorbell, so that a
GPU that is never used costs nothing.

Simplified: the ring has no end.  Credits and a full ring belong to the job scheduler.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.channel import Channel
from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Task

T = TypeVar("T")
J = TypeVar("J")


class HardwareQueue(Actor, Generic[J]):
    """Base class: a subclass says how a message becomes a job, and what the hardware does with it."""

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine, name)
        self.ring: Channel[J] = Channel(engine, f"{name}.ring", capacity=None)
        self.hardware: Task | None = None
        """The task that works the ring off; None until the first doorbell."""

    def start(self) -> None:
        """Spawn the hardware task; calling it again does nothing."""
        if self.hardware is None:
            self.hardware = self.engine.spawn(self._loop(), self.name, daemon=True)

    async def call(self, message: Message[T]) -> T:
        """Put a job on the ring; answers at once."""
        await self.engine.step("send", self.ring, type(message).__name__)
        self.start()
        answer, job = self.submit(message)
        self.ring.send_nowait(job)
        return answer  # type: ignore[no-any-return]

    def submit(self, message: Message[Any]) -> tuple[Any, J]:
        """What to answer, and the job; one atomic step."""
        raise NotImplementedError

    async def execute(self, job: J) -> None:
        """Do one job; the next one starts when this returns."""
        raise NotImplementedError

    async def _loop(self) -> None:
        while True:
            await self.execute(await self.ring.receive())
