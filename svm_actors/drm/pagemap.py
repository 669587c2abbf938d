"""drm_pagemap: the actor of one device memory region (pagemap sections 1.1, 3 head, 5 head).

It answers three messages.  ``PopulateMm`` brings a window of an address space into the region,
``MigrateToRam`` serves a CPU fault on one of its pages, ``EvictToRam`` empties one allocation by
physical pages only.  Each request runs in a task of its own on its caller's thread; what excludes
whom is decided by folio locks, BO reservations and mmap_lock, never by this actor.

The pagemap knows CPU mappings and physical pages; it never sees a GPU page table.

The work is in :mod:`pagemap_migrate` (to the device) and :mod:`pagemap_ram` (home again).
What becomes of a region that nobody uses is said in :mod:`pagemap_cache`.  Simplified: order 0 only.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import attrs

from svm_actors.drm.pagemap_migrate import MigrateDetails, ToDevmem
from svm_actors.drm.pagemap_ram import EvictPasses, ToRam
from svm_actors.drm.pagemap_work import WorkQueue
from svm_actors.drm.pagemap_zdd import Devmem, zdd_of
from svm_actors.engine.actor import Actor, Message
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EFAULT, KernelError, PropertyFailed
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap, VmFault

if TYPE_CHECKING:
    from svm_actors.drm.pagemap_cache import PagemapCache
    from svm_actors.gpu.address import Direction, DmaAddr
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm


@attrs.frozen
class PopulateMm(Message[None]):
    """drm_pagemap_populate_mm.  -EFAULT dying mm, -ENODEV device gone, -EBUSY, -ENOMEM, -ENOENT, -EINVAL."""

    mm: Mm
    """The address space."""
    start: int
    """First page."""
    end: int
    """One past the last page; the window becomes one allocation."""
    timeslice_ns: int = 0
    """Minimum stay before a CPU fault may pull the pages back, virtual ns; 0 is none."""


@attrs.frozen
class EvictToRam(Message[None]):
    """drm_pagemap_evict_to_ram: BO reservation held.  -EBUSY after three passes, -EFAULT dying mm, -ENOMEM."""

    devmem: Devmem
    """The allocation to empty."""


@attrs.frozen
class MigrateToRam(Message[None]):
    """dev_pagemap_ops.migrate_to_ram: bring the faulting page home.  -EFAULT is SIGBUS."""

    fault: VmFault
    """The CPU fault; its page is locked and referenced."""


class DrmPagemapOps(Protocol):
    """drm_pagemap_ops: what the driver does for one region."""

    def device_map(self, dpagemap: DrmPagemap, gpu: Gpu, folio: Folio, direction: Direction) -> DmaAddr:
        """Address of one of our pages as ``gpu`` sees it."""
        ...

    def device_unmap(self, dpagemap: DrmPagemap, gpu: Gpu, addr: DmaAddr) -> None:
        """Undo ``device_map``."""
        ...

    async def populate_mm(self, dpagemap: DrmPagemap, mm: Mm, start: int, end: int, timeslice_ns: int) -> None:
        """Allocate and migrate; mmap_lock is held for read and the mm is alive."""
        ...

    def destroy(self, dpagemap: DrmPagemap) -> None:
        """The last reference is gone."""
        ...


class DrmPagemap(Actor):
    """One device memory region.  Also the :class:`DevPagemapOps` of its ``dev_pagemap``."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        core: CoreMm,
        gpu: Gpu,
        ops: DrmPagemapOps,
        *,
        base_pfn: int,
        npages: int,
        owner: object = None,
    ) -> None:
        super().__init__(engine, name)
        self.core = core
        self.gpu = gpu
        """The device the memory belongs to."""
        self.ops = ops
        self.refs = 1
        """The device's, one per zdd, one per mapped ``gpusvm_pages``."""
        self.cache: PagemapCache | None = None
        """Where it is kept when nobody uses it, if anywhere."""
        self.destroyed = False
        self.live_zdds = 0
        self.allocations = 0
        """Allocations whose reference has not been released."""
        self.live_batches = 0
        """DMA batches mapped and not unmapped."""
        self.works = WorkQueue(engine, f"{name}.works")
        """What atomic context and inner locks leave to a worker."""
        self.pgmap = DevPagemap(engine, f"{name}.pgmap", owner, base_pfn, npages, self)
        self.to_devmem = self.engine.parts.of(ToDevmem)(self)
        self.to_ram = self.engine.parts.of(ToRam)(self)
        self.evict_passes = self.engine.parts.of(EvictPasses)(self)
        self.handle(PopulateMm, self._populate_mm)
        self.handle(EvictToRam, self._evict_to_ram)
        self.handle(MigrateToRam, self._migrate_to_ram)

    @property
    def owner(self) -> object:
        """The owner cookie of every page of the region."""
        return self.pgmap.owner

    @owner.setter
    def owner(self, owner: object) -> None:
        self.pgmap.owner = owner

    # -- references ------------------------------------------------------------------

    def get(self) -> None:
        """drm_pagemap_get."""
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "PGM-R33", f"reference taken on {self.name}, which is destroyed")
        self.refs += 1

    def put(self) -> None:
        """drm_pagemap_put: the last one makes the region inactive, or without a cache destroys it (RULE-49).

        PGM-R33: it is not the driver's when pages are in use: their zone data has references too.
        """
        self.refs -= 1
        if self.refs < 0:
            raise PropertyFailed("lifetime", "RULE-49", f"{self.name} is put more often than it was taken")
        if self.refs:
            if self.pgmap.live and self.refs <= self.live_zdds:
                self.engine.count("PGM-R33")
            return
        if self.pgmap.live:
            raise PropertyFailed("lifetime", "PGM-R33", f"{self.name} is destroyed with device pages in use")
        if self.cache is not None and not self.cache.closed:
            self.works.queue("pagemap_release", self.cache.shrinker.add, self)
        else:
            self.destroy()

    def reinit(self) -> None:
        """drm_pagemap_reinit: an inactive pagemap gets its first reference again."""
        self.refs = 1

    def destroy(self) -> None:
        """Nobody can get here again: destroyed at most once, and never while in use (RULE-49)."""
        if self.refs or self.destroyed:
            state = "a second time" if self.destroyed else f"with {self.refs} references"
            raise PropertyFailed("lifetime", "RULE-49", f"{self.name} is destroyed {state}")
        self.destroyed = True
        self.ops.destroy(self)

    # -- addresses -------------------------------------------------------------------

    def device_map(self, gpu: Gpu, folio: Folio, direction: Direction) -> DmaAddr:
        """Address of one of our pages as ``gpu`` sees it: device-local, or bus address for a peer."""
        return self.ops.device_map(self, gpu, folio, direction)

    def device_unmap(self, gpu: Gpu, addr: DmaAddr) -> None:
        """Undo :meth:`device_map`; a no-op for the device itself."""
        self.ops.device_unmap(self, gpu, addr)

    # -- dev_pagemap_ops ---------------------------------------------------------------

    async def migrate_to_ram(self, fault: VmFault) -> None:
        """Called by the core MM in the faulting thread."""
        await self.call(MigrateToRam(fault))

    def folio_free(self, folio: Folio) -> None:
        """The last reference of a device folio is gone: put its zdd.  Atomic context (PGM-R07)."""
        self.engine.enter_atomic(folio.lock)
        zdd_of(folio).put()
        self.engine.leave_atomic(folio.lock)

    # -- requests ----------------------------------------------------------------------

    async def _populate_mm(self, message: PopulateMm) -> None:
        async with MmUser(message.mm):
            await self.populate_locked(message)

    async def populate_locked(self, message: PopulateMm) -> None:
        """M1, SVM-R17: no VMA of the window goes or changes from the look at it to finalize (PGM-B53)."""
        async with message.mm.mmap_lock.reading():
            await self.ops.populate_mm(self, message.mm, message.start, message.end, message.timeslice_ns)

    async def _evict_to_ram(self, message: EvictToRam) -> None:
        devmem = message.devmem
        await self.evict_passes.run(devmem)
        if not devmem.detached.done:
            raise PropertyFailed("eviction", "RULE-48", f"{devmem.name} counts as evicted with device pages in use")

    async def _migrate_to_ram(self, message: MigrateToRam) -> None:
        await self.to_ram.run(message.fault)

    async def migrate_to_devmem(
        self, devmem: Devmem, mm: Mm, start: int, end: int, details: MigrateDetails | None = None
    ) -> None:
        """drm_pagemap_migrate_to_devmem, for the driver's populate_mm (section 3)."""
        await self.to_devmem.run(devmem, mm, start, end, details or MigrateDetails())

    def statistics(self) -> dict[str, int]:
        """All 0 when everything has been given back."""
        return {
            "zdds": self.live_zdds,
            "allocations": self.allocations,
            "device_pages": len(self.pgmap.live),
            "dma_batches": self.live_batches,
        }


class MmUser:
    """``async with MmUser(mm):`` mmget_not_zero and mmput.  -EFAULT when the mm is exiting (PGM-R20)."""

    __slots__ = ("mm",)

    def __init__(self, mm: Mm) -> None:
        self.mm = mm

    async def __aenter__(self) -> None:
        if not await self.mm.mmget_not_zero():
            self.mm.engine.count("PGM-R20")
            raise EFAULT

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KernelError):
            await self.mm.mmput()
