"""Witnesses of the pagemap cache and its shrinker (pagemap section 8): a region is looked up, let go of, found again.

The machine's own GPUs keep their region for as long as they live; here is one whose region comes and goes.
"""

from __future__ import annotations

from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.drm.pagemap_cache import PagemapCache, PagemapShrinker
from svm_actors.gpu.gpu import Gpu
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.pgm_memory import expect
from svm_actors.world import VRAM_BASE_PFN, World
from svm_actors.xe.pagemap import xe_pagemap_create


class CachedRegion:
    """A GPU whose region is made by whoever looks it up first."""

    def __init__(self, world: World) -> None:
        self.world = world
        parts = world.engine.parts
        self.gpu = Gpu(world.engine, "gpu9", vram_pages=16, base_pfn=VRAM_BASE_PFN + (9 << 28))
        self.shrinker = parts.of(PagemapShrinker)(world.engine)
        self.cache = parts.of(PagemapCache)(world.engine, self.shrinker, "gpu9.cache")
        self.made: list[DrmPagemap] = []

    def create(self) -> DrmPagemap:
        """xe_pagemap_create."""
        self.made.append(xe_pagemap_create(self.world.core, self.gpu, self.world.xe.owners).dpagemap)
        return self.made[-1]

    async def use(self, times: int = 1) -> None:
        """Look the region up, use it, let go of it."""
        for _ in range(times):
            pagemap = await self.cache.find_or_create(self.create)
            await self.world.engine.step("local", pagemap, "use")
            pagemap.put()

    async def shrink(self, times: int = 1) -> None:
        """Memory pressure."""
        for _ in range(times):
            await self.shrinker.scan()

    def check(self) -> None:
        """Whatever was made has been destroyed."""
        left = [pagemap for pagemap in self.made if not pagemap.destroyed]
        expect(not left, "RULE-49", f"{len(left)} of {len(self.made)} pagemaps are left when the device has gone")


@witness("PGM-R12 PGM-R18")
async def region_looked_up_and_shrunk(world: World) -> None:
    """Two users look a region up and let go of it again, under memory pressure."""
    region = CachedRegion(world)
    async with world.nursery() as nursery:
        nursery.start_soon(region.use, 2)
        nursery.start_soon(region.use)
        nursery.start_soon(region.shrink, 3)
    await world.settle()
    await region.cache.fini()
    region.check()


@witness("PGM-R12 PGM-R19")
async def region_shrunk_at_removal(world: World) -> None:
    """A device goes while memory pressure takes its region, which nobody has used for a while."""
    region = CachedRegion(world)
    await region.use()
    await world.settle()
    async with world.nursery() as nursery:
        nursery.start_soon(region.shrink)
        nursery.start_soon(region.cache.fini)
    await world.settle()
    region.check()
