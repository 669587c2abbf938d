"""BOs of CPU-mirror memory and the TTM-like resource manager of one region (pagemap sections 1.2, 3, 5).

A BO here has a reservation lock (dma-resv), a reference count, the fences its memory must wait for, and
contiguous, naturally aligned VRAM (PGM-R31).  The manager hands out VRAM, keeps the least recently
used order, and evicts others when there is no room (:mod:`svm_actors.xe.evict`).

A BO that dies while its memory is still busy (a clear in flight) keeps the memory until it is idle;
a worker does the waiting, as TTM's delayed delete.

The manager is shared with the buffer objects of user space (:mod:`svm_actors.xe.gem`): one buddy
allocator, one LRU, one walk.

Simplified: no pinning, no bulk moves.  These BOs can be in VRAM or gone home, nothing else.  Their
reservation is a mutex, acquired by trylock wherever two are held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from svm_actors.drm.buddy import Block, Buddy
from svm_actors.drm.pagemap_work import WorkQueue
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM, ENOSPC, PropertyFailed
from svm_actors.engine.locks import Mutex, RwSem
from svm_actors.xe.evict import VramObject, evict_alloc, move_home
from svm_actors.xe.migrate import Migrate

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.dma_buf.resv import DmaResv
    from svm_actors.drm.pagemap_zdd import Devmem
    from svm_actors.engine.ww_mutex import WwCtx
    from svm_actors.gpu.gpu import Gpu


class Bo:
    """xe_bo."""

    __slots__ = ("blocks", "building", "devmem", "engine", "fences", "name", "npages", "refs", "resv", "stamp", "vram")

    def __init__(self, vram: VramManager, name: str, npages: int) -> None:
        self.engine = vram.engine
        self.vram = vram
        self.name = name
        self.npages = npages
        self.resv = Mutex(vram.engine, f"{name}.resv", "dma_resv")
        self.refs = 1
        self.blocks: list[Block] = []
        """Its VRAM; empty before validation and after the move to system memory."""
        self.fences: list[Fence] = []
        """Kernel fences of the reservation: what the memory must wait for."""
        self.devmem: Devmem | None = None
        """The allocation inside, for a CPU-mirror BO."""
        self.building = True
        """From creation until the creator unlocks it; for the window event of PGM-R04 only."""
        self.stamp = 0
        """Place in the LRU order."""

    @property
    def pfns(self) -> list[int]:
        """Device page frames in order."""
        base = self.vram.base_pfn
        return [base + page for block in self.blocks for page in range(block.start, block.end)]

    @property
    def idle(self) -> bool:
        """No fence is outstanding."""
        return all(fence.signaled for fence in self.fences)

    async def wait_idle(self) -> None:
        """Wait for every fence; their errors do not matter."""
        for fence in self.fences:
            await fence.wait()

    def get(self) -> Bo:
        """xe_bo_get."""
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "RULE-41", f"reference taken on {self.name}, which is dead")
        self.refs += 1
        return self

    async def put(self) -> None:
        """xe_bo_put; never waits for fences."""
        await self.engine.step("put", self)
        self.put_now()

    def put_now(self) -> None:
        """The same inside an atomic section of a context that may sleep: the last put of a BO does (PGM-R07)."""
        if self.engine.atomic:
            raise PropertyFailed("context", "PGM-R07", f"{self.name} is put where nothing may sleep")
        self.refs -= 1
        if self.refs < 0:
            raise PropertyFailed("lifetime", "RULE-41", f"{self.name} is put more often than it was taken")
        if not self.refs:
            self.vram.bo_died(self)

    def unlock(self) -> None:
        """xe_bo_unlock."""
        self.building = False
        self.resv.release()

    async def evict(self) -> None:
        """ttm_bo_evict: its pages go home, its memory then moves by a null move.  -ENOSPC: try another victim."""
        if self.refs:
            await move_home(self)
        await self.wait_idle()
        self.vram.release_space(self)

    def note_busy(self) -> None:
        """PGM-R04: an evictor has met the one who is building it."""
        self.engine.count("PGM-R04" if self.building else "evict.skip")

    def __repr__(self) -> str:
        return f"<{self.name} refs={self.refs} pages={self.npages}>"


class VramManager:
    """The VRAM of one tile: buddy allocator, LRU, deferred work."""

    def __init__(self, engine: Engine, gpu: Gpu, works: WorkQueue) -> None:
        self.engine = engine
        self.works = works
        """Where deferred puts and deletes run."""
        self.gpu = gpu
        self.name = f"{gpu.name}.vram_mgr"
        self.base_pfn = gpu.vram.base_pfn
        self.buddy = Buddy(gpu.vram.npages) if gpu.vram.npages else None
        """None on an integrated part, which has no memory of its own."""
        self.migrate = engine.parts.of(Migrate)(engine, gpu)
        self.validation = RwSem(engine, f"{gpu.name}.validation", "validation_lock")
        """Read by everyone who allocates; write by who ran out of memory once and tries alone."""
        self.lru: SortedDict = SortedDict()
        """BOs that have VRAM, least recently used first, by stamp."""
        self.evictions = 0
        """How many went, ever."""
        self.refusals = 0
        """How often somebody was told that there is no room."""
        self.live_bos = 0
        self._stamp = 0
        self._created = 0

    # -- creation --------------------------------------------------------------------

    async def create_locked(self, npages: int) -> Bo:
        """xe_bo_create_locked: VRAM, cleared by the copy engine, reservation held.  -ENOMEM."""
        bo = Bo(self, f"{self.gpu.name}.bo{self._created}", npages)
        self._created += 1
        self.live_bos += 1
        await bo.resv.acquire()
        try:
            bo.blocks = await self.get_space(npages)
        except ENOSPC:
            self._abandon(bo)
            raise ENOMEM from None
        except Exception:
            self._abandon(bo)
            raise
        self.lru_add(bo)
        bo.fences.append(await self.migrate.clear(bo.pfns))
        return bo

    def _abandon(self, bo: Bo) -> None:
        bo.unlock()
        bo.put_now()

    async def get_space(
        self, npages: int, *, evict: bool = True, own: DmaResv | None = None, ticket: WwCtx | None = None
    ) -> list[Block]:
        """ttm_bo_alloc_resource: free space first, then eviction.  -ENOSPC, or what ends the walk.

        ``own``: a reservation held by the caller whose objects may be victims too.  ``ticket``: the caller's
        acquire context, with which it may sleep for a victim.
        """
        await self.engine.step("alloc", self)
        self.engine.faults.fail("vram", ENOSPC)
        blocks = self.try_alloc(npages)
        if blocks is None:
            self.engine.count("vram.full")
            if not evict:
                raise ENOSPC
            blocks = await evict_alloc(self, npages, own, ticket)
        return blocks

    def try_alloc(self, npages: int) -> list[Block] | None:
        """PGM-R31: one contiguous run, aligned to its power of two, or nothing."""
        if self.buddy is None:
            return None
        try:
            return self.buddy.alloc(npages, contiguous=True)
        except ENOSPC:
            return None

    # -- LRU -------------------------------------------------------------------------

    def lru_add(self, bo: VramObject) -> None:
        """At the tail: it has VRAM, and was used just now."""
        self._stamp += 1
        bo.stamp = self._stamp
        self.lru[bo.stamp] = bo

    def touch(self, bo: VramObject) -> None:
        """ttm_bo_move_to_lru_tail: used just now."""
        if self.lru.pop(bo.stamp, None) is not None:
            self.lru_add(bo)

    def next_in_lru(self, after: int) -> VramObject | None:
        """The least recently used BO with a later stamp; the walk's cursor is a stamp."""
        for stamp in self.lru.irange(after, inclusive=(False, True)):
            bo: VramObject = self.lru[stamp]
            return bo
        return None

    # -- the end ---------------------------------------------------------------------

    def release_space(self, bo: VramObject) -> None:
        """The VRAM is free for others: after a move to system memory or at the end of an idle BO."""
        if bo.blocks and self.buddy is not None:
            del self.lru[bo.stamp]
            self.buddy.free(bo.blocks)
            bo.blocks = []

    def bo_died(self, bo: Bo) -> None:
        """ttm_bo_release: at once when idle, else by a worker that waits."""
        if bo.idle:
            self._destroy(bo)
        else:
            self.works.queue("delayed_delete", self._delayed_delete, bo)

    async def _delayed_delete(self, bo: Bo) -> None:
        await bo.wait_idle()
        await bo.resv.acquire()
        self._destroy(bo)
        bo.resv.release()

    def _destroy(self, bo: Bo) -> None:
        self.release_space(bo)
        if bo.devmem is not None:
            bo.devmem.drop_mm()
        self.live_bos -= 1

    # -- workers ---------------------------------------------------------------------

    def put_async(self, bo: Bo) -> None:
        """xe_bo_put_async: put by a worker, for contexts that cannot sleep."""
        self.works.queue("bo_put_async", Bo.put, bo)

    def statistics(self) -> dict[str, int]:
        """All 0 when everything has been given back."""
        used = self.buddy.statistics()["used"] if self.buddy is not None else 0
        return {"bos": self.live_bos, "vram_pages": used, "works": self.works.pending}
