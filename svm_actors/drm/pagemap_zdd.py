"""Device allocations and the zone data that ties device folios to them (pagemap sections 1.2, 1.3).

* :class:`Devmem` is one allocation: one migrated chunk, living inside a buffer object.
* :class:`Zdd` is what ``folio.zone_device_data`` of every device folio of that chunk points at.
  It owns the allocation reference: one zdd reference for the migration that creates it plus one
  per folio (RULE-40).  The last put completes ``detached`` and then releases the allocation,
  exactly once (RULE-41).

Nothing here knows a virtual address, and nothing points from a folio to one (design rule 4).

The kernel keeps the MIGRATED flag in the low bit of the zone-data pointer.  Here the pointer stays
a plain pointer (RULE-42) and the flag is a set of page frame numbers inside the zdd: a zdd lives as
long as any of its folios, and a page handed out again belongs to another zdd, so the flag vanishes
at the same moment as in the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import WaitQueue
from svm_actors.mm.folio import Folio

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.gpu.address import DmaAddr
    from svm_actors.mm.mm_struct import Mm

Pages = Sequence[Folio | None]
"""Device pages of the copying device, one per entry; None is skipped."""
Addrs = Sequence["DmaAddr | None"]
"""Where the other side of each entry is for the copying device; None is skipped."""


class DevmemOps(Protocol):
    """drm_pagemap_devmem_ops: what the driver does for one allocation."""

    async def populate_devmem_pfn(self, devmem: Devmem) -> list[int]:
        """Physical page frames of the allocation, in order; no side effects.  Needs it in VRAM."""
        ...

    async def copy_to_devmem(self, pages: Pages, addrs: Addrs, fence: Fence | None) -> None:
        """Copy ``addrs[i]`` into device page ``pages[i]``; done on return, not before ``fence``."""
        ...

    async def copy_to_ram(self, pages: Pages, addrs: Addrs, fence: Fence | None) -> None:
        """Copy device page ``pages[i]`` to ``addrs[i]``; done on return, not before ``fence``."""
        ...

    def devmem_release(self, devmem: Devmem) -> None:
        """Drop the allocation reference.  May run in atomic context: must not sleep."""
        ...


class Completion(WaitQueue):
    """struct completion: done once, for ever."""

    __slots__ = ("done",)

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine, name)
        self.done = False

    def complete_all(self) -> None:
        """Let every waiter go, now and later."""
        self.done = True
        self.wake_up()

    async def wait(self) -> None:
        """Sleep until done."""
        await self.wait_event(lambda: self.done)


class Devmem:
    """drm_pagemap_devmem: one allocation of device memory, embedded in a buffer object."""

    __slots__ = (
        "buffer",
        "detached",
        "dpagemap",
        "filled",
        "filling",
        "holds_mm",
        "mm",
        "name",
        "npages",
        "ops",
        "pre_migrate_fence",
        "released",
        "timeslice_expiration",
    )

    def __init__(
        self,
        name: str,
        dpagemap: DrmPagemap,
        mm: Mm,
        npages: int,
        ops: DevmemOps,
        *,
        buffer: Any = None,
        fence: Fence | None = None,
    ) -> None:
        self.name = name
        self.buffer = buffer
        """The driver's buffer object it is embedded in (container_of)."""
        self.dpagemap = dpagemap
        self.mm = mm
        """The address space it was made for."""
        self.npages = npages
        """Size in pages: exactly the migrated window."""
        self.ops = ops
        self.detached = Completion(dpagemap.engine, f"{name}.detached")
        """Done when the last device folio is free: the only truth about "eviction finished"."""
        self.timeslice_expiration = 0
        """Virtual time (ns) before which CPU faults do not migrate it back (section 2)."""
        self.pre_migrate_fence = fence
        """What the destination must wait for before the first copy: clear, earlier eviction."""
        self.released = False
        self.filling = False
        """Entries are being pointed here, and the maker is not through; for window events only."""
        self.filled = False
        """The maker is through, and all of the window came here; for window events only."""
        self.holds_mm = False
        dpagemap.allocations += 1

    def hold_mm(self) -> None:
        """PGM-R20: mmgrab: an eviction may look at the structure when every user has gone, and the GPU VM with them.

        It lasts as long as the BO, which may be picked when its pages are free and only its put is outstanding.  In
        7.3.4 the pointer is bare (PGM-S03).
        """
        self.mm.grab()
        self.holds_mm = True

    def drop_mm(self) -> None:
        """The BO is destroyed."""
        if self.holds_mm:
            self.holds_mm = False
            self.mm.drop()

    def release(self) -> None:
        """Drop the allocation reference, exactly once (RULE-41)."""
        if self.released:
            raise PropertyFailed("lifetime", "RULE-41", f"allocation {self.name} is released twice")
        self.released = True
        self.dpagemap.allocations -= 1
        self.ops.devmem_release(self)


class Zdd:
    """drm_pagemap_zdd: the value of ``zone_device_data``, shared by the folios of one allocation."""

    __slots__ = ("d2d_sources", "devmem", "dpagemap", "name", "refs", "retired")

    def __init__(self, devmem: Devmem) -> None:
        dpagemap = devmem.dpagemap
        self.devmem = devmem
        self.dpagemap = dpagemap
        self.refs = 1
        """The creator's; it is put when the migration ends."""
        self.retired: set[int] = set()
        """Page frames whose content already went to RAM (MIGRATED): never a source again."""
        self.d2d_sources = 0
        """Device-to-device migrations that hold folios of this zdd right now."""
        self.name = f"{devmem.name}.zdd"
        self._hold_pagemap()
        dpagemap.live_zdds += 1

    def _hold_pagemap(self) -> None:
        """PGM-R33: the region lives as long as any page of it is in use (PGM-B07)."""
        self.dpagemap.get()

    def _drop_pagemap(self) -> None:
        self.dpagemap.put()

    def attach(self, folio: Folio) -> None:
        """PGM-R33: point a freshly initialised folio here; it carries one reference until it is free.

        SVM-R15: so whoever has the page has its zone data too (PGM-B46).
        """
        self.refs += 1
        folio.zone_device_data = self

    def put(self) -> None:
        """kref_put; the last one completes ``detached``, then releases.  Never sleeps."""
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "RULE-40", f"{self.name} is put more often than it was taken")
        self.refs -= 1
        if not self.refs:
            self.dpagemap.live_zdds -= 1
            self.devmem.detached.complete_all()
            self.devmem.release()
            self._drop_pagemap()

    def retire(self, folio: Folio) -> None:
        """Mark a folio's content as gone; under its lock, between pages and finalize."""
        self.retired.add(folio.pfn)

    def is_retired(self, folio: Folio) -> bool:
        """True when the content already left (RULE-53)."""
        return folio.pfn in self.retired

    def __repr__(self) -> str:
        return f"<{self.name} refs={self.refs}>"


def zdd_of(folio: Folio) -> Zdd:
    """The zone data of a device folio in use (RULE-56)."""
    zdd = folio.zone_device_data
    if not isinstance(zdd, Zdd):
        raise PropertyFailed("lifetime", "RULE-56", f"{folio.name} is a device page in use and has no zone data")
    return zdd
