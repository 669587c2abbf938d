"""A machine without GPUs: the core MM under any strategy, with a recorder and, if wanted, a toy device."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.explore.strategies import make
from svm_actors.mm import messages as m
from svm_actors.mm.constants import PAGE_SHIFT, RW, Prot
from svm_actors.mm.core import CoreMm
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap, VmFault
from svm_actors.mm.migrate_types import MigrateVma, Select
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import IntervalNotifier, NotifierRange
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.oracle.coherence import Coherence
from svm_actors.oracle.notifier import Invalidation
from svm_actors.oracle.structure import Structure

PAGE = 1 << PAGE_SHIFT
ARENA = 0x4000_0000
FIRST = ARENA >> PAGE_SHIFT


class Recorder:
    """A subscriber that remembers every event and obeys the protocol."""

    def __init__(self, name: str = "recorder") -> None:
        self.notifier = IntervalNotifier(name, self)
        self.events: list[tuple[str, int, int]] = []
        self.refuse = False

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool:
        if self.refuse and not event.blockable:
            return False
        notifier.set_seq(seq)
        self.events.append((event.event.value, event.start - FIRST, event.end - event.start))
        return True

    def take(self) -> list[tuple[str, int, int]]:
        """Events since the last call, pages relative to the arena."""
        taken, self.events = self.events, []
        return taken


class ToyDevice:
    """Device memory with the shortest correct migrate_to_ram."""

    def __init__(self, rig: Rig, npages: int = 64) -> None:
        self.rig = rig
        self.pgmap = DevPagemap(rig.engine, "toy", self, 1 << 36, npages, self)
        self.free = [self.pgmap.base_pfn + index for index in reversed(range(npages))]

    def folio_free(self, folio: Folio) -> None:
        self.free.append(folio.pfn)

    async def to_device(self, start: int, npages: int, mm: Mm | None = None) -> int:
        """Migrate pages of the arena to the device; how many are there now by this call."""
        core, mm = self.rig.core, mm or self.rig.mm
        async with mm.mmap_lock.reading():
            vma = mm.find_vma(FIRST + start)
            args = MigrateVma(mm, vma, FIRST + start, FIRST + start + npages, self, Select.SYSTEM)
            await core.call(m.MigrateVmaSetup(args))
            for index, entry in enumerate(args.src):
                if entry.migrate:
                    page = self.pgmap.zone_device_page_init(self.free.pop(), "dst")
                    if entry.folio is not None:
                        page.content = entry.folio.content
                    args.dst[index] = page
            await core.call(m.MigrateVmaPages(args))
            moved = sum(entry.migrate for entry in args.src)
            await core.call(m.MigrateVmaFinalize(args))
        return moved

    async def migrate_to_ram(self, fault: VmFault) -> None:
        args = MigrateVma(
            fault.mm, fault.vma, fault.vpn, fault.vpn + 1, self, Select.DEVICE_PRIVATE, fault_page=fault.page
        )
        core = self.rig.core
        await core.call(m.MigrateVmaSetup(args))
        await self._copy_home(args.src, args.dst)
        await core.call(m.MigrateVmaPages(args))
        await core.call(m.MigrateVmaFinalize(args))

    async def _copy_home(self, src: list[Any], dst: list[Folio | None]) -> None:
        for index, entry in enumerate(src):
            if entry.migrate:
                folio = await self.rig.core.allocator.alloc("dst")
                folio.lock.trylock_now()
                folio.content = entry.folio.content
                dst[index] = folio

    async def evict(self) -> int:
        """Bring everything home by physical page; how many pages went."""
        core = self.rig.core
        src = await core.call(m.MigrateDevicePfns(self.pgmap, sorted(self.pgmap.live)))
        dst: list[Folio | None] = [None] * len(src)
        await self._copy_home(src, dst)
        await core.call(m.MigrateDevicePages(src, dst))
        moved = sum(entry.migrate for entry in src)
        await core.call(m.MigrateDeviceFinalize(src, dst))
        return moved


class Rig:
    """One machine, one process with a 16-page arena, verbs in arena pages."""

    def __init__(self, strategy: str = "fifo", seed: int = 0, *, ram: int | None = None, record: bool = False) -> None:
        self.engine = Engine(DirectBackend(), make(strategy, seed), step_budget=300_000, record=record)
        self.core = CoreMm(self.engine, PageAllocator(self.engine, ram))
        self.mm: Mm = self.core.new_mm("p0")
        self.recorder = Recorder()
        fake = SimpleNamespace(
            engine=self.engine, core=self.core, allocator=self.core.allocator,
            gpus=[], mirrors=[], mirror_devices=[], mm_of_asid=lambda gpu, asid: None,
        )  # fmt: skip
        self.structure = Structure(fake)
        self.engine.listeners += [Coherence(fake), Invalidation(fake), self.structure]

    def run(self, body: Callable[[Rig], Coroutine[Any, Any, None]], *, arena: str | None = "rw") -> Rig:
        """Map the arena, subscribe, run the body, tear down, count what is left."""

        async def main() -> None:
            self.core.start()
            if arena is not None:
                await self.mmap(0, 16, arena)
            await self.core.call(m.IntervalNotifierInsert(self.recorder.notifier, self.mm, 0, 1 << 35))
            await body(self)
            await self.engine.quiesce()
            self.structure.check()
            if self.recorder.notifier.subscribed:
                await self.core.call(m.IntervalNotifierRemove(self.recorder.notifier))
            if self.mm.users:
                await self.mm.mmput()
            assert self.core.statistics() == {"mms": 0, "ram": 0, "swap": 0}

        self.engine.backend.run(main())  # type: ignore[attr-defined]
        return self

    # -- verbs in arena pages --------------------------------------------------------

    def addr(self, page: int) -> int:
        return ARENA + page * PAGE

    async def mmap(self, page: int, n: int, prot: str = "rw", *, shared: bool = False) -> None:
        await self.core.call(m.Mmap(self.mm, self.addr(page), n * PAGE, bits(prot), shared, fixed=True))

    async def munmap(self, page: int, n: int) -> None:
        await self.core.call(m.Munmap(self.mm, self.addr(page), n * PAGE))

    async def mremap(self, page: int, n: int, to: int, **options: bool) -> None:
        await self.core.call(
            m.Mremap(self.mm, self.addr(page), n * PAGE, n * PAGE, True, True, new_addr=self.addr(to), **options)
        )

    async def mprotect(self, page: int, n: int, prot: str) -> None:
        await self.core.call(m.Mprotect(self.mm, self.addr(page), n * PAGE, bits(prot)))

    async def madvise(self, page: int, n: int, advice: str) -> None:
        await self.core.call(m.Madvise(self.mm, self.addr(page), n * PAGE, advice))

    async def swap_out(self, page: int, n: int) -> int:
        return await self.core.call(m.ReclaimPages(self.mm, FIRST + page, FIRST + page + n))

    async def fork(self, name: str = "child") -> Mm:
        return await self.core.call(m.Fork(self.mm, name))

    async def write(self, page: int, value: int, mm: Mm | None = None) -> None:
        await cpu_write(self.core, mm or self.mm, self.addr(page), bytes([value]))

    async def read(self, page: int, mm: Mm | None = None) -> int:
        return (await cpu_read(self.core, mm or self.mm, self.addr(page), 1))[0]

    def pte(self, page: int, mm: Mm | None = None) -> Any:
        return (mm or self.mm).page_table.get(FIRST + page)

    def vmas(self, mm: Mm | None = None) -> list[tuple[int, int]]:
        """VMAs as (first page, length) relative to the arena."""
        return [(vma.start - FIRST, vma.npages) for vma in (mm or self.mm).vmas]


def bits(prot: str) -> Prot:
    return {"none": Prot.NONE, "r": Prot.READ, "rw": RW}[prot]
