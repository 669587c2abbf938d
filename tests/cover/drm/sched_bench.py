"""A bench for scheduler tests: schedulers on mock hardware, the invariants checked at every event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_fence import SchedFence
from svm_actors.drm.sched_invariants import SchedInvariants
from svm_actors.drm.sched_job import SchedJob
from svm_actors.drm.sched_mock import MockGpu, MockJob, hand_over
from svm_actors.drm.sched_types import GpuSchedStat, Priority, SchedBackend
from svm_actors.drm.sched_user import ProcessGroup
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Task
from svm_actors.explore.strategies import make

US = 1_000
MS = 1_000_000
S = 1_000_000_000
SCHEDULES = 60
"""Random schedules per racing test."""


class Bench:
    """Schedulers, mock GPUs, and everything submitted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.memory = FenceMemory(engine)
        self.checker = SchedInvariants()
        engine.listeners.append(self.checker)
        self.scheds: list[DrmSched] = []
        self.gpus: list[MockGpu] = []
        self.entities: list[SchedEntity] = []
        self.fences: list[SchedFence] = []
        """Of all jobs submitted through :meth:`submit`, each with a reference."""
        self.process = ProcessGroup("p0")
        self.log: list[Any] = []

    def sched(
        self, name: str = "", cls: type[DrmSched] = DrmSched, gpu: MockGpu | None = None, **options: Any
    ) -> DrmSched:
        """One more scheduler with hardware of its own."""
        name = name or f"sched{len(self.scheds)}"
        gpu = gpu or MockGpu(self.engine, f"{name}.gpu", memory=self.memory)
        sched = cls(self.engine, name, gpu, memory=self.memory, **options)
        self.scheds.append(sched)
        self.gpus.append(gpu)
        return sched

    @property
    def gpu(self) -> MockGpu:
        return self.gpus[0]

    def entity(
        self,
        *scheds: DrmSched,
        priority: Priority = Priority.NORMAL,
        cls: type[SchedEntity] = SchedEntity,
        **options: Any,
    ) -> SchedEntity:
        """One more entity; of the first scheduler by default."""
        options.setdefault("process", self.process)
        name = f"e{len(self.entities)}"
        entity = cls(self.engine, name, scheds or self.scheds[:1], priority, **options)
        self.entities.append(entity)
        return entity

    async def submit(self, entity: SchedEntity, duration: int = 0, *depends: Any, **options: Any) -> MockJob:
        """Make a job, let it depend on fences or jobs, hand it over."""
        job = MockJob(entity, duration, **options)
        for fence in depends:
            job.add_dependency((fence.s_fence.finished if isinstance(fence, MockJob) else fence).get())
        await self.hand_over(job)
        return job

    async def hand_over(self, job: MockJob) -> None:
        await hand_over(job, self.process, self.fences)

    async def advance_until_idle(self) -> None:
        """Step every timeline until nothing more comes."""
        while True:
            await self.engine.quiesce()
            if not sum([await gpu.advance(1_000) for gpu in self.gpus]):
                return

    async def close(self) -> None:
        """Everything down: entities, schedulers, references; then nothing may be left."""
        for entity in self.entities:
            if not entity.freed:
                await entity.fini()
        for sched in self.scheds:
            if not sched.ended:
                await sched.fini()
        await self.engine.quiesce()
        self.checker.at_close()
        for pair in self.fences:
            assert pair.scheduled.signaled, pair.scheduled
            assert pair.finished.signaled, pair.finished
            pair.finished.put()
        for sched in self.scheds:
            sched.free()
        await self.memory.drain()
        self.memory.check_empty()


Body = Callable[[Bench], Awaitable[None]]


def run(
    body: Body,
    strategy: str = "fifo",
    seed: int | str = 0,
    *,
    chooser: Chooser | None = None,
    close: bool = True,
    **options: Any,
) -> Bench:
    """One run; checks everything at its end and, with ``close``, tears down what the body did not."""
    backend = DirectBackend()
    engine = Engine(backend, chooser or make(strategy, seed), **options)
    found: list[Bench] = []

    async def main() -> None:
        bench = Bench(engine)
        found.append(bench)
        await body(bench)
        await engine.quiesce()
        bench.checker.at_rest()
        if close:
            await bench.close()

    backend.run(main())
    return found[0]


def every(body: Body, schedules: int = SCHEDULES, **options: Any) -> Iterator[Bench]:
    """The default schedule and many random ones."""
    yield run(body, **options)
    for seed in range(schedules):
        try:
            yield run(body, "random", seed, **options)
        except BaseException as error:
            error.add_note(f"random schedule {seed}")
            raise


def counted(benches: Sequence[Bench] | Iterator[Bench], name: str) -> int:
    """How often a window was hit in all runs together."""
    return sum(bench.engine.counters[name] for bench in benches)


class Branch:
    """Makes given choices, then always the first; remembers what there was to choose.

    Alternatives are numbered from the running task on, and once ``preemptions`` of them were spent on
    taking the processor from a task that could go on, it keeps it.
    """

    name = "branch"

    def __init__(self, prefix: Sequence[int], preemptions: int) -> None:
        self.prefix = prefix
        self.left = preemptions
        self.taken: list[int] = []
        self.arity: list[int] = []

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        here = candidates.index(running) if running is not None and running.enabled else -1
        if here >= 0 and not self.left:
            return here
        count = len(candidates) + timer
        choice = self._next(count)
        if here < 0:
            return choice
        self.left -= choice > 0
        return here if not choice else choice - (choice <= here)

    def _next(self, count: int) -> int:
        at = len(self.taken)
        value = self.prefix[at] if at < len(self.prefix) else 0
        self.taken.append(value)
        self.arity.append(count)
        return value

    def data(self, count: int, label: str) -> int:
        return self._next(count)


def exhaust(body: Body, limit: int, preemptions: int = 1_000, **options: Any) -> int:
    """Every interleaving with so many preemptions at most; how many there are.

    Fails when there are more than the limit.  Nothing is torn down: the body ends at rest.
    """
    prefix: list[int] = []
    for count in range(1, limit + 1):
        branch = Branch(prefix, preemptions)
        try:
            run(body, chooser=branch, close=False, **options)
        except BaseException as error:
            error.add_note(f"choices {branch.taken}")
            raise
        prefix = branch.taken
        while prefix and prefix[-1] + 1 == branch.arity[len(prefix) - 1]:
            prefix = prefix[:-1]
        if not prefix:
            return count
        prefix = [*prefix[:-1], prefix[-1] + 1]
    raise AssertionError(f"more than {limit} interleavings")


class NoHardware(SchedBackend):
    """A driver whose jobs are done as soon as they run: the fewest ops a scheduler can have."""

    can_cancel = True

    def __init__(self) -> None:
        self.order: list[SchedJob] = []
        """Jobs in the order in which they ran."""

    async def run_job(self, job: SchedJob) -> None:
        self.order.append(job)

    async def timedout_job(self, job: SchedJob) -> GpuSchedStat:
        raise AssertionError("nothing is ever late")
