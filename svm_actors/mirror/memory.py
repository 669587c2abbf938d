"""Device memory of a mirror device: chunks and the free list (hmm_mirror sections 1 and 6).

A chunk is one pagemap of 65 536 small pages.  A device page has no memory of its own: its
``zone_device_data`` is a RAM page that backs it, and the backing page's ``zone_device_data`` is the
mirror that migrated the data in.  Both are set at allocation and stable until the page is freed.

The free list is a stack of page runs, so that an untouched chunk costs one run, not 65 536 entries.
Simplified: private kind, small pages; the huge-folio list and the coherent kind need core MM
support that is listed in docs/design/not_yet.md.
"""

from __future__ import annotations

from typing import Final

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM
from svm_actors.engine.locks import Mutex, WaitQueue
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap, DevPagemapOps

CHUNK_PAGES: Final = 65_536
"""Small pages in a chunk: 256 MiB."""


def backing_of(page: Folio) -> Folio:
    """The RAM page behind a device page (BACKING_PAGE)."""
    backing: Folio = page.zone_device_data
    return backing


@attrs.define(eq=False)
class Chunk:
    """One pagemap and its state."""

    pgmap: DevPagemap
    """The region as the core MM knows it."""
    idle: WaitQueue
    """Woken when a page of the chunk becomes free; unmapping the pagemap waits here."""
    remove: bool = False
    """Being removed: its pages do not go back to the free list."""


@attrs.define(eq=False)
class FreeRun:
    """Free pages [low, high) of one chunk; handed out from the high end."""

    chunk: Chunk
    low: int
    high: int


class DeviceMemory:
    """All memory of one device."""

    def __init__(
        self, engine: Engine, name: str, owner: object, ops: DevPagemapOps, base_pfn: int, max_chunks: int | None
    ) -> None:
        self.engine = engine
        self.name = name
        self.owner = owner
        """Owner cookie of every page."""
        self.ops = ops
        self.max_chunks = max_chunks
        """How many chunks may exist at once; None is no limit."""
        self.lock = Mutex(engine, f"{name}.devmem_lock", "mirror_devmem_lock")
        """The device mutex: chunk array."""
        self.chunks: list[Chunk] = []
        self.allocated = 0
        self.freed = 0
        self._next_pfn = base_pfn
        self._free: list[FreeRun] = []
        """Head of the kernel's list is the last element."""
        self._grow()

    # -- chunks ----------------------------------------------------------------------

    def _grow(self) -> None:
        """A new chunk of small pages on top of the free list.  -ENOMEM."""
        if self.max_chunks is not None and len(self.chunks) >= self.max_chunks:
            raise ENOMEM
        base = self._next_pfn
        self._next_pfn += CHUNK_PAGES
        name = f"{self.name}.chunk{base:x}"
        pgmap = DevPagemap(self.engine, name, self.owner, base, CHUNK_PAGES, self.ops)
        chunk = Chunk(pgmap, WaitQueue(self.engine, f"{name}.idle"))
        self.chunks.append(chunk)
        self._free.append(FreeRun(chunk, base, base + CHUNK_PAGES))

    def chunk_of(self, page: Folio) -> Chunk:
        """The chunk a device page belongs to."""
        return next(chunk for chunk in self.chunks if chunk.pgmap is page.pgmap)

    def drop_free_pages(self, chunk: Chunk) -> None:
        """Take a chunk's pages off the free list.

        The list is cut behind the chunk's deepest page, so free pages of other chunks that sit
        above it are lost too: trap HM-D12.
        """
        for depth, run in enumerate(self._free):
            if run.chunk is chunk:
                others = sum(other.high - other.low for other in self._free[depth:] if other.chunk is not chunk)
                if others:
                    self.engine.count("HM-D12", others)
                del self._free[depth:]
                return

    def free_pages(self) -> int:
        """Pages on the free list."""
        return sum(run.high - run.low for run in self._free)

    # -- pages -----------------------------------------------------------------------

    async def alloc_page(self) -> Folio:
        """A device page, locked, one reference ``dst``, without backing yet.  -ENOMEM."""
        await self.engine.step("alloc", self)
        self.engine.faults.fail("vram")
        if not self._free:
            async with self.lock:
                self._grow()
        return self._pop()

    def _pop(self) -> Folio:
        run = self._free[-1]
        run.high -= 1
        if run.low == run.high:
            self._free.pop()
        self.allocated += 1
        return run.chunk.pgmap.zone_device_page_init(run.high, "dst")

    def free_page(self, page: Folio) -> None:
        """folio_free: drop the backing page, then put the page back unless its chunk is going."""
        backing_of(page).put("backing")
        chunk = self.chunk_of(page)
        if not chunk.remove:
            self.freed += 1
            self._free.append(FreeRun(chunk, page.pfn, page.pfn + 1))
        chunk.idle.wake_up()

    def statistics(self) -> dict[str, int]:
        """Counters of the device."""
        live = sum(len(chunk.pgmap.live) for chunk in self.chunks)
        return {"chunks": len(self.chunks), "live": live, "allocated": self.allocated, "freed": self.freed}
