"""A bench for gpusvm tests: the pagemap bench with one gpusvm on top and a driver that only records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from pagemap_bench import SCHEDULES, Machine

from svm_actors.drm.gpusvm import DrmGpusvm, GpusvmCtx, GpusvmNotifier, GpusvmPages, GpusvmRange, set_unmapped
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import KernelError
from svm_actors.engine.locks import RwSem
from svm_actors.explore.strategies import make
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.mmu_notifier import Event, NotifierRange

READ_WRITE = GpusvmCtx()
READ_ONLY = GpusvmCtx(read_only=True)


class Range(GpusvmRange):
    """A range with pages, as drivers make them."""

    __slots__ = ("pages",)

    def __init__(self, gpusvm: DrmGpusvm, pages: GpusvmPages) -> None:
        super().__init__(gpusvm)
        self.pages = pages


class Svm(Machine):
    """The machine, its gpusvm and the driver of both."""

    def __init__(
        self,
        engine: Engine,
        *,
        chunks: tuple[int, ...] = (4, 1),
        notifier_pages: int = 16,
        gpusvm: type[DrmGpusvm] = DrmGpusvm,
        **options: Any,
    ) -> None:
        super().__init__(engine, **options)
        self.lock = RwSem(engine, "driver.lock", "vm_lock")
        self.events: list[tuple[str, int, int]] = []
        """What the callback was told: event, first page, one past the last."""
        self.freed: list[tuple[int, int]] = []
        self.fail_alloc = False
        self.unmap_in_callback = True
        self.gpusvm = gpusvm(
            engine,
            "svm",
            self.core,
            self.mm,
            self,
            mm_start=0,
            mm_range=TASK_PAGES,
            notifier_pages=notifier_pages,
            chunk_pages=chunks,
            driver_lock=self.lock,
        )
        self.gpusvm.start()

    # -- the driver ------------------------------------------------------------------

    def range_alloc(self, gpusvm: Any) -> Range:
        return Range(gpusvm, GpusvmPages(self.gpus[0]))

    async def range_free(self, range_: GpusvmRange) -> None:
        assert isinstance(range_, Range)
        self.freed.append((range_.start, range_.end))
        await self.gpusvm.free_pages(range_.pages)

    async def invalidate(self, notifier: GpusvmNotifier, event: NotifierRange) -> None:
        assert self.gpusvm.notifier_lock.held_for_write()
        self.events.append((event.event.value, event.start, event.end))
        for range_ in notifier.overlapping(event.start, event.end):
            assert isinstance(range_, Range)
            if self.unmap_in_callback:
                await self.gpusvm.unmap_pages(range_.pages, in_notifier=True)
            if event.event is Event.UNMAP:
                set_unmapped(range_, [range_.pages], event)

    # -- what a fault handler does -----------------------------------------------------

    async def find(self, vpn: int, ctx: GpusvmCtx = READ_WRITE, span: tuple[int, int] = (0, TASK_PAGES)) -> Range:
        """Find or insert, under the driver's lock."""
        async with self.lock.writing():
            range_ = await self.gpusvm.range_find_or_insert(vpn, *span, ctx)
        assert isinstance(range_, Range)
        return range_

    async def get(self, range_: Range, ctx: GpusvmCtx = READ_WRITE) -> str:
        """get_pages; ``ok`` or the error code."""
        try:
            await self.gpusvm.get_pages(range_.pages, self.mm, range_.interval, range_.start, range_.end, ctx)
        except KernelError as error:
            return error.code
        return "ok"

    async def mapped(self, vpn: int, ctx: GpusvmCtx = READ_WRITE) -> Range:
        """A range with its pages."""
        range_ = await self.find(vpn, ctx)
        assert await self.get(range_, ctx) == "ok"
        return range_

    async def drop(self, range_: Range) -> None:
        """Unmap and remove, as a garbage collector does."""
        async with self.lock.writing():
            await self.gpusvm.unmap_pages(range_.pages)
            await self.gpusvm.range_remove(range_)

    def spans(self) -> list[tuple[int, int]]:
        """Every range, in address order."""
        return [(range_.start, range_.end) for range_ in self.gpusvm.ranges(0, TASK_PAGES)]

    def iommu(self) -> dict[str, int]:
        return self.gpus[0].iommu.statistics()

    @asynccontextmanager
    async def unchanged(self) -> AsyncIterator[None]:
        """A block that must leave no user, subscription, range or mapping behind."""
        before = self.ledger()
        yield
        assert self.ledger() == before

    def ledger(self) -> tuple[Any, ...]:
        return (
            self.mm.users,
            self.mm.count,
            len(self.mm.subscriptions.tree),
            self.gpusvm.statistics(),
            self.iommu(),
            [xe.dpagemap.refs for xe in self.xe],
        )

    async def close(self) -> None:
        """The driver's VM close, then the machine's; nothing may be left."""
        async with self.lock.writing():
            for range_ in self.gpusvm.ranges(0, TASK_PAGES):
                assert isinstance(range_, Range)
                await self.gpusvm.unmap_pages(range_.pages)
            await self.gpusvm.fini()
        assert self.gpusvm.statistics() == {"notifiers": 0, "ranges": 0}
        assert not self.mm.subscriptions.tree
        assert not self.gpusvm.notifier_lock.holders()
        await super().close()


Body = Callable[[Svm], Awaitable[None]]


def run(body: Body, strategy: str = "fifo", seed: int | str = 0, **options: Any) -> Svm:
    """One run on the direct back end, with the leak check at its end."""
    backend = DirectBackend()
    engine = Engine(backend, make(strategy, seed), record=True, step_budget=200_000)
    machine = Svm(engine, **options)

    async def main() -> None:
        await body(machine)
        await machine.close()

    backend.run(main())
    return machine


def every(body: Body, schedules: int = SCHEDULES, **options: Any) -> Iterator[Svm]:
    """First come first served, then random schedules."""
    yield run(body, **options)
    for seed in range(schedules):
        yield run(body, "random", seed, **options)


def counted(machines: list[Svm], name: str) -> int:
    """How often an event was counted in all the runs."""
    return sum(machine.engine.counters[name] for machine in machines)
