"""What the witnesses about fences and the scheduler share: a small driver on mock hardware (fences_and_scheduler 8).

The driver of :mod:`svm_actors.xe` has one scheduler per queue and one entity per scheduler.  What needs more than
that (two schedulers for one entity, files shared by processes, hardware fences with one lock) is done here, with
the scheduler's own mock hardware, inside a world: its oracles listen, and what is planted there is built here.

Every fence is counted, so a reference too many is a leak and one too few a use after free.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_mock import MockGpu, MockJob, hand_over
from svm_actors.drm.sched_user import ProcessGroup
from svm_actors.engine.errors import KernelError, PropertyFailed
from svm_actors.world import World

if TYPE_CHECKING:
    from svm_actors.drm.sched_fence import SchedFence

US: Final = 1_000
"""Virtual ns."""
MS: Final = 1_000_000


def expect(holds: bool, rule: str, text: str) -> None:
    """What whoever uses an interface may rely on; PropertyFailed of the oracle ``caller`` when it is not so."""
    if not holds:
        raise PropertyFailed("caller", rule, text)


async def signal(fence: Fence, error: KernelError | None = None) -> None:
    """Signal as hardware does: an op, then the effect."""
    await fence.engine.step("fence_signal", fence)
    fence.signal(error)


class FencePlace:
    """Counted fences: ``async with FencePlace(world) as place:``; at the end none may be left."""

    def __init__(self, world: World, *, inject: bool = False) -> None:
        self.world = world
        self.engine = world.engine
        self.memory = self.engine.parts.of(FenceMemory)(self.engine, inject=inject)

    def fence(self, name: str, *, context: int = 0, seqno: int = 0, lock: Any = None) -> Fence:
        """A plain one with its first reference."""
        kind = self.engine.parts.of(Fence)
        return kind(self.engine, name, context=context, seqno=seqno, memory=self.memory, lock=lock)

    def resv(self, name: str) -> DmaResv:
        """A reservation."""
        return self.engine.parts.of(DmaResv)(self.engine, name, memory=self.memory)

    async def __aenter__(self) -> FencePlace:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.world.settle()
            self.memory.inject = False
            await self.close()
            await self.memory.drain()
            self.memory.check_empty()

    async def close(self) -> None:
        """Nothing of its own to take apart."""


class MockDriver(FencePlace):
    """Schedulers on mock hardware and what is submitted to them; taken apart at the end of the ``async with``."""

    def __init__(self, world: World, *, inject: bool = False) -> None:
        super().__init__(world, inject=inject)
        self.scheds: list[DrmSched] = []
        self.gpus: list[MockGpu] = []
        self.entities: list[SchedEntity] = []
        self.fences: list[SchedFence] = []
        """Of every job submitted, with a reference on ``finished``."""
        self.process = ProcessGroup("opener")

    async def __aenter__(self) -> MockDriver:
        return self

    def sched(self, gpu: Any = None, **options: Any) -> DrmSched:
        """One more scheduler, with hardware of its own unless it is given some."""
        name = f"sched{len(self.scheds)}"
        if gpu is None:
            gpu = MockGpu(self.engine, f"{name}.gpu", memory=self.memory)
            self.gpus.append(gpu)
        sched = self.engine.parts.of(DrmSched)(self.engine, name, gpu, memory=self.memory, **options)
        self.scheds.append(sched)
        return sched

    def entity(self, *scheds: DrmSched) -> SchedEntity:
        """One more entity, opened by :attr:`process`; of the first scheduler unless others are named."""
        name = f"entity{len(self.entities)}"
        kind = self.engine.parts.of(SchedEntity)
        entity = kind(self.engine, name, scheds or self.scheds[:1], process=self.process)
        self.entities.append(entity)
        return entity

    def job(self, entity: SchedEntity, duration: int = 0, credits_: int = 1) -> MockJob:
        """A job for the mock hardware; without a duration it stays there until it is advanced."""
        return self.engine.parts.of(MockJob)(entity, duration, credits_)

    async def submit(self, entity: SchedEntity, duration: int = 0, after: Fence | None = None) -> MockJob:
        """Make a job that depends on a fence, and hand it over."""
        job = self.job(entity, duration)
        job.add_dependency(None if after is None else after.get())
        await self.hand_over(job)
        return job

    async def hand_over(self, job: MockJob) -> None:
        """Arm and push under one lock; its fences are kept until the end."""
        await hand_over(job, self.process, self.fences)

    async def advance(self) -> None:
        """Let the hardware complete what waits to be completed by hand, until nothing more comes."""
        while True:
            await self.world.settle()
            if not sum([await gpu.advance(1_000) for gpu in self.gpus]):
                return

    async def advance_one(self) -> None:
        """The hardware completes one job, as soon as there is one."""
        gpu = self.gpus[0]
        while not await gpu.advance(1):
            await self.fences[0].scheduled.wait()

    def at_rest(self) -> None:
        """Nothing moves: have the oracles look."""
        for check in self.world.at_rest:
            check()

    async def close(self) -> None:
        """Entities, schedulers, references, and then the memory of the schedulers."""
        self.at_rest()
        for entity in self.entities:
            if not entity.freed:
                await entity.fini()
        for sched in self.scheds:
            if not sched.ended:
                await sched.fini()
        await self.world.settle()
        for pair in self.fences:
            expect(pair.finished.signaled, "INV-FEN-10", f"{pair.finished.name} is never signaled")
            pair.finished.put()
        for sched in self.scheds:
            if not sched.freed:
                sched.free_rcu(self.memory.rcu)


Body = Callable[[], Coroutine[Any, Any, Any]]


async def together(world: World, *bodies: Body) -> None:
    """Run them side by side, and go on when all are through."""
    async with world.nursery() as nursery:
        for body in bodies:
            nursery.start_soon(body)
