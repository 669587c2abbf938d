"""A bench for hardware tests: one GPU with hand-made page tables, no driver, no core MM."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.task import Task
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.mm.content import FILLED
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap
from svm_actors.mm.page_alloc import PageAllocator

ASID = 7
BASE_PFN = 0x8000
VRAM_PAGES = 16


class Stay:
    """The running task goes on while it can, then the oldest candidate."""

    name = "stay"

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        for index, task in enumerate(candidates):
            if task is running:
                return index
        return 0

    def data(self, count: int, label: str) -> int:
        return 0


class Script(Stay):
    """Runs the named tasks in this order at the steps where there is a choice; then stays."""

    name = "script"

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        if not self.names:
            return super().schedule(running, candidates, timer)
        wanted = self.names.pop(0)
        return next(index for index, task in enumerate(candidates) if task.id == wanted)


class Prefix:
    """Follows a tape, then takes the first alternative."""

    name = "prefix"

    def __init__(self, tape: list[int]) -> None:
        self.tape = tape
        self.position = 0

    def _next(self) -> int:
        self.position += 1
        return self.tape[self.position - 1] if self.position <= len(self.tape) else 0

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        return self._next()

    def data(self, count: int, label: str) -> int:
        return self._next()


class Bench:
    """One GPU, some RAM, its device memory, one address space."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine = engine
        self.events: list[Any] = []
        engine.listeners.append(self.events.append)
        self.gpu = Gpu(engine, "gpu0", vram_pages=VRAM_PAGES, base_pfn=BASE_PFN, **options)
        self.allocator = PageAllocator(engine)
        self.pgmap = DevPagemap(engine, "vram0", "owner", BASE_PFN, VRAM_PAGES, self)
        self.gpu.vram.attach(self.pgmap)
        self.page_table = GpuPageTable("gpu0.vm7")
        self.gpu.attach_vm(ASID, self.page_table)

    async def migrate_to_ram(self, fault: Any) -> None:
        raise AssertionError("no CPU here")

    def folio_free(self, folio: Folio) -> None:
        """Device pages are handed out by number here."""

    def ram(self, fill: int = 0) -> Folio:
        folio = self.allocator.alloc_now("test")
        folio.content = FILLED[fill]
        return folio

    def device(self, index: int, fill: int = 0) -> Folio:
        folio = self.pgmap.zone_device_page_init(BASE_PFN + index, "test")
        folio.lock.release()
        folio.content = FILLED[fill]
        return folio

    def address(self, folio: Folio, direction: Direction = Direction.BIDIRECTIONAL) -> DmaAddr:
        """Map a page on the GPU."""
        if folio.is_device_private:
            return DmaAddr(folio.pfn, Proto.VRAM, 0, direction)
        return DmaAddr(self.gpu.iommu.map(folio, direction), Proto.SYSTEM, 0, direction)

    def bind(self, vpn: int, folio: Folio, writable: bool = True, dma: DmaAddr | None = None) -> DmaAddr:
        """Write the GPU page-table entry of a page."""
        dma = dma or self.address(folio)
        self.page_table.set(vpn, GpuPte.of(dma, writable, folio))
        return dma

    async def run(self, *program: Any) -> list[Any]:
        return await self.gpu.compute.run(ASID, program)

    def told(self, kind: type) -> list[Any]:
        """Events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]


Body = Callable[[Bench], Awaitable[Any]]


def run(body: Body, chooser: Any = None, catch: bool = False, **options: Any) -> tuple[Bench, Any]:
    """Run a body as the main task on the direct back end; the bench and what the body returned.

    With ``catch`` a broken property is the result instead of an exception.
    """
    backend = DirectBackend()
    engine = Engine(backend, chooser or Stay(), record=True, step_budget=20_000)
    bench = Bench(engine, **options)
    result: list[Any] = []

    async def main() -> None:
        result.append(await body(bench))

    try:
        backend.run(main())
    except PropertyFailed as failure:
        if not catch:
            raise
        return bench, failure
    return bench, result[0]


def every_schedule(body: Body, limit: int = 20_000, **options: Any) -> Iterator[tuple[Bench, Any]]:
    """Run a body once under each schedule it has."""
    tape: list[int] = []
    for _ in range(limit):
        bench, result = run(body, Prefix(tape), **options)
        yield bench, result
        tape, arity = bench.engine.tape, bench.engine.arity
        while tape and tape[-1] + 1 == arity[-1]:
            tape.pop()
            arity.pop()
        if not tape:
            return
        tape[-1] += 1
    raise AssertionError("more schedules than expected")
