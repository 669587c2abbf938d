"""A bench for pagemap and BO tests: the real core MM, GPUs and their VRAM; no GPU VM, no page faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from svm_actors.drm.pagemap import DrmPagemap, PopulateMm
from svm_actors.drm.pagemap_util import OwnerList, same_device
from svm_actors.drm.pagemap_zdd import Zdd, zdd_of
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import KernelError
from svm_actors.explore.strategies import make
from svm_actors.gpu.gpu import Gpu
from svm_actors.mm.constants import PAGE_SHIFT, RW
from svm_actors.mm.core import CoreMm
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.folio import Folio
from svm_actors.mm.messages import Fork, Mmap, Mprotect, Mremap, Munmap
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.mm.page_table import Entry
from svm_actors.xe.pagemap import XePagemap, xe_pagemap_create

BASE_PFN = 1 << 36
SPACING = 1 << 20
SCHEDULES = 50
"""Random schedules per racing test."""


def populate(start: int, end: int, mm: Mm, timeslice_ns: int = 0) -> PopulateMm:
    return PopulateMm(mm, start, end, timeslice_ns)


class Machine:
    """One process, GPUs with a little VRAM each, all in one owner group when ``fast``."""

    def __init__(self, engine: Engine, gpus: int = 1, vram_pages: int = 16, ram: int | None = None, fast: bool = True):
        self.engine = engine
        self.core = CoreMm(engine, PageAllocator(engine, ram))
        self.core.start()
        owners = OwnerList((lambda first, second: True) if fast else same_device)
        self.owners = owners
        self.gpus = [
            Gpu(engine, f"gpu{n}", vram_pages=vram_pages, base_pfn=BASE_PFN + n * SPACING) for n in range(gpus)
        ]
        self.xe: list[XePagemap] = [xe_pagemap_create(self.core, gpu, owners) for gpu in self.gpus]
        for xe in self.xe:
            xe.start()
        self.mm = self.core.new_mm("mm0")
        self.mms = [self.mm]
        self.results: dict[str, Any] = {}
        """What the threads of a test found, by name."""

    @property
    def pagemap(self) -> DrmPagemap:
        return self.xe[0].dpagemap

    # -- the process -----------------------------------------------------------------

    async def map(self, npages: int, mm: Mm | None = None, *, at: int | None = None, shared: bool = False) -> int:
        """Map anonymous memory at a multiple of 16 pages, so that windows are aligned; answers the page."""
        where = 0x10000 if at is None else at
        addr = await self.core.call(
            Mmap(mm or self.mm, where << PAGE_SHIFT, npages << PAGE_SHIFT, RW, shared=shared, fixed=True)
        )
        return addr >> PAGE_SHIFT

    async def unmap(self, vpn: int, npages: int) -> None:
        await self.core.call(Munmap(self.mm, vpn << PAGE_SHIFT, npages << PAGE_SHIFT))

    async def protect(self, vpn: int, npages: int, prot: Any) -> None:
        await self.core.call(Mprotect(self.mm, vpn << PAGE_SHIFT, npages << PAGE_SHIFT, prot))

    async def move(self, vpn: int, npages: int, to: int) -> None:
        size = npages << PAGE_SHIFT
        await self.core.call(
            Mremap(self.mm, vpn << PAGE_SHIFT, size, size, maymove=True, fixed=True, new_addr=to << PAGE_SHIFT)
        )

    async def fork(self) -> Mm:
        child = await self.core.call(Fork(self.mm, f"mm{len(self.mms)}"))
        self.mms.append(child)
        return child

    async def exit(self, mm: Mm) -> None:
        self.mms.remove(mm)
        await mm.mmput()

    async def write(self, vpn: int, *values: int, mm: Mm | None = None) -> None:
        """One byte into each page from ``vpn`` on."""
        for offset, value in enumerate(values):
            await cpu_write(self.core, mm or self.mm, (vpn + offset) << PAGE_SHIFT, bytes([value]))

    async def read(self, vpn: int, npages: int = 1, mm: Mm | None = None) -> list[int]:
        """The first byte of each page."""
        return [(await cpu_read(self.core, mm or self.mm, (vpn + n) << PAGE_SHIFT, 1))[0] for n in range(npages)]

    # -- device memory -----------------------------------------------------------------

    async def populate(self, vpn: int, npages: int, timeslice_ns: int = 0, gpu: int = 0) -> str:
        """Into the VRAM of a GPU; ``ok`` or the error code."""
        try:
            await self.xe[gpu].dpagemap.call(PopulateMm(self.mm, vpn, vpn + npages, timeslice_ns))
        except KernelError as error:
            return error.code
        return "ok"

    def where(self, vpn: int, npages: int = 1, mm: Mm | None = None) -> str:
        """One letter per page: ``v`` and the GPU number, ``r`` RAM, ``z`` zero page, ``m`` migrating, ``-`` none."""
        text = ""
        for page in range(vpn, vpn + npages):
            pte = (mm or self.mm).page_table.get(page)
            if pte is None:
                text += "-"
            elif pte.kind is Entry.DEVICE_PRIVATE:
                text += str((pte.folio.pfn - BASE_PFN) // SPACING)
            elif pte.kind is Entry.PRESENT:
                text += "z" if pte.folio.is_zero else "r"
            else:
                text += "m"
        return text

    def folio(self, vpn: int, mm: Mm | None = None) -> Folio:
        pte = (mm or self.mm).page_table.get(vpn)
        assert pte is not None
        folio: Folio = pte.folio
        return folio

    def zdd(self, vpn: int) -> Zdd:
        return zdd_of(self.folio(vpn))

    # -- the end -----------------------------------------------------------------------

    async def close(self) -> None:
        """Everything goes; nothing may be left."""
        for mm in self.mms:
            await mm.mmput()
        for xe in self.xe:
            await xe.flush()
        for xe in self.xe:
            await xe.close()
            left = {name: count for name, count in xe.statistics().items() if count}
            assert not left, left
            assert xe.dpagemap.destroyed
        for gpu in self.gpus:
            assert gpu.iommu.statistics() == {"mappings": 0, "reservations": 0}
        assert not self.owners.owners
        assert self.core.statistics() == {"mms": 0, "ram": 0, "swap": 0}
        held = {task.id: task.thread.held for task in self.engine.tasks.values() if task.thread.held}
        assert not held, held


Body = Callable[[Machine], Awaitable[None]]


def run(body: Body, strategy: str = "fifo", seed: int | str = 0, **options: Any) -> Machine:
    """One run on the direct back end, with the leak check at its end."""
    backend = DirectBackend()
    engine = Engine(backend, make(strategy, seed), record=True, step_budget=200_000)
    machine = Machine(engine, **options)

    async def main() -> None:
        await body(machine)
        await machine.close()

    backend.run(main())
    return machine


def every(body: Body, schedules: int = SCHEDULES, **options: Any) -> Iterator[Machine]:
    """First come first served, then random schedules."""
    yield run(body, **options)
    for seed in range(schedules):
        yield run(body, "random", seed, **options)


def counted(machines: list[Machine], name: str) -> int:
    """How often an event was counted in all the runs."""
    return sum(machine.engine.counters[name] for machine in machines)
