"""Cache and shrinker of pagemaps: a region that nobody uses is kept for a while (pagemap section 8, PGM-R12).

The last put makes a pagemap *inactive*: it goes on the shrinker's list, and ``queued`` says so.  A lookup that finds it
there takes it off and revives it; one that comes before ``queued`` waits; one that comes after the shrinker has taken
it starts anew.  The cache's pointer is not counted: it leads to the active pagemap, to an inactive one that may be
revived, or nowhere (RULE-49).

Lock order: ``lookup_mutex``, ``lock``, the shrinker's ``lock``.  The scan takes the last two one at a time, which opens
the two windows that 7.3.4 leaves open and the model closes: the pointer may lead to a successor by the time the scan
clears it (PGM-R18, suspected as PGM-S06), and the whole cache may be gone (PGM-R19, PGM-S07).  Being listed and being
``queued`` are one step here.

Simplified: a pagemap is destroyed by whoever has taken it off the list, not by a worker; an inactive one still holds
the driver's module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from svm_actors.drm.pagemap_zdd import Completion
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import Mutex, SpinLock, WaitQueue

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.engine.engine import Engine


class PagemapShrinker:
    """drm_pagemap_shrinker: inactive pagemaps, the one that has been so for longest first."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = SpinLock(engine, "pagemap_shrinker.lock", "pagemap_shrinker")
        self.list: list[DrmPagemap] = []
        self.scanning = 0
        """Scans that have taken a pagemap off the list and not let go of its cache."""
        self._idle = WaitQueue(engine, "pagemap_shrinker.idle")

    async def add(self, pagemap: DrmPagemap) -> None:
        """drm_pagemap_shrinker_add, the second half of the last put; the reader of ``queued`` may go on."""
        cache = pagemap.cache
        assert cache is not None
        async with self.lock:
            self.list.append(pagemap)
            cache.queued.complete_all()

    async def cancel(self, pagemap: DrmPagemap) -> bool:
        """PGM-R12, SVM-R35: take a pagemap off the list; False when a scan was faster (PGM-B48)."""
        async with self.lock:
            listed = pagemap in self.list
            if listed:
                self.list.remove(pagemap)
        return listed

    async def scan(self) -> bool:
        """Memory pressure: destroy the oldest inactive pagemap; False when there is none."""
        async with self.lock:
            if not self.list:
                return False
            pagemap = self.list.pop(0)
            self.scanning += 1
        cache = pagemap.cache
        assert cache is not None
        async with cache.lock:
            self.clear_pointer(cache.alive(), pagemap)
        self.scanning -= 1
        self._idle.wake_up()
        pagemap.destroy()
        return True

    def clear_pointer(self, cache: PagemapCache, pagemap: DrmPagemap) -> None:
        """PGM-R18: a lookup may have put a successor there since; 7.3.4 does not look (PGM-S06)."""
        if cache.dpagemap is pagemap:
            cache.dpagemap = None
        else:
            self.engine.count("PGM-R18")

    async def wait_for_scans(self) -> None:
        """PGM-R19: who frees a cache must know that no scan is on its way to it; 7.3.4 does not (PGM-S07)."""
        if self.scanning:
            self.engine.count("PGM-R19")
        await self._idle.wait_event(lambda: not self.scanning)


class PagemapCache:
    """drm_pagemap_cache: one per region of a device."""

    def __init__(self, engine: Engine, shrinker: PagemapShrinker, name: str) -> None:
        self.engine = engine
        self.shrinker = shrinker
        self.name = name
        self.lookup_mutex = Mutex(engine, f"{name}.lookup_mutex", "pagemap_lookup")
        self.lock = SpinLock(engine, f"{name}.lock", "pagemap_cache")
        engine.lockdep.declare("pagemap_lookup", "pagemap_cache", "pagemap_shrinker")
        self.dpagemap: DrmPagemap | None = None
        self.queued = Completion(engine, f"{name}.queued")
        self.closed = False
        """The device is gone: a last put destroys at once."""
        self.freed = False
        self._made: list[DrmPagemap] = []

    def alive(self) -> PagemapCache:
        """The cache, which must not have been freed."""
        if self.freed:
            raise PropertyFailed("lifetime", "PGM-R19", f"{self.name} is used after it was freed")
        return self

    # -- lookup ----------------------------------------------------------------------

    async def find_or_create(self, create: Callable[[], DrmPagemap]) -> DrmPagemap:
        """The region's pagemap with a reference: the active one, a revived one, or a new one."""
        await self.enter_lookup()
        try:
            found = await self.get_from_cache()
            if found is None:
                found = self._create(create)
                await self._set(found)
            return found
        finally:
            self.leave_lookup()

    async def enter_lookup(self) -> None:
        """PGM-R12: a lookup that finds nothing and the creation that follows are one (PGM-B47)."""
        await self.lookup_mutex.acquire()

    def leave_lookup(self) -> None:
        """The end of it."""
        self.lookup_mutex.release()

    async def get_from_cache(self) -> DrmPagemap | None:
        """drm_pagemap_get_from_cache; lookup_mutex held."""
        while True:
            async with self.lock:
                pagemap = self.alive().dpagemap
                if pagemap is None or self.get_unless_zero(pagemap):
                    return pagemap
                if self.is_listed():
                    return await self._revive(pagemap)
            self.engine.count("PGM-R12")
            self.engine.count("SVM-R35")
            await self.queued.wait()

    def get_unless_zero(self, pagemap: DrmPagemap) -> bool:
        """PGM-R12: kref_get_unless_zero: an inactive pagemap is not simply taken."""
        if not pagemap.refs:
            return False
        pagemap.get()
        return True

    def is_listed(self) -> bool:
        """PGM-R12: before the put that made it inactive is through, it is in nobody's hands."""
        return self.queued.done

    async def _revive(self, pagemap: DrmPagemap) -> DrmPagemap | None:
        """Under ``lock``: inactive and listed; None, and no pointer, when the shrinker has it."""
        if not await self.shrinker.cancel(pagemap):
            self.engine.count("PGM-R12")
            self.engine.count("SVM-R35")
            self.dpagemap = None
            return None
        self.engine.count("pagemap.revived")
        pagemap.reinit()
        self.queued = Completion(self.engine, f"{self.name}.queued")
        return pagemap

    def _create(self, create: Callable[[], DrmPagemap]) -> DrmPagemap:
        """RULE-49: two active pagemaps of one region would hand out its memory twice."""
        active = [pagemap.name for pagemap in self._made if pagemap.refs]
        if active:
            raise PropertyFailed("lifetime", "RULE-49", f"{self.name}: made once more, and {active[0]} is in use")
        pagemap = create()
        pagemap.cache = self
        self._made = [*(one for one in self._made if not one.destroyed), pagemap]
        return pagemap

    async def _set(self, pagemap: DrmPagemap) -> None:
        """drm_pagemap_cache_set_pagemap: arms ``queued`` again."""
        async with self.lock:
            self.alive().dpagemap = pagemap
            self.queued = Completion(self.engine, f"{self.name}.queued")

    # -- the end -----------------------------------------------------------------------

    async def fini(self) -> None:
        """Device removal: an inactive pagemap goes, an active one is destroyed by its last put; the cache is freed."""
        await self.lookup_mutex.acquire()
        self.closed = True
        pagemap = await self._take_inactive()
        self.lookup_mutex.release()
        if pagemap is not None:
            pagemap.destroy()
        await self.shrinker.wait_for_scans()
        self.freed = True

    async def _take_inactive(self) -> DrmPagemap | None:
        """Off the list, if it is there; a put that is not through yet is waited for."""
        while True:
            await self.lock.acquire()
            pagemap = self.dpagemap
            if pagemap is None or pagemap.refs or self.queued.done:
                break
            self.lock.release()
            await self.queued.wait()
        self.dpagemap = None
        listed = pagemap is not None and not pagemap.refs and await self.shrinker.cancel(pagemap)
        self.drop_lock(pagemap)
        return pagemap if listed else None

    def drop_lock(self, _pagemap: DrmPagemap | None) -> None:
        """PGM-B10: the spinlock is dropped whether or not there was a pagemap."""
        self.lock.release()
