"""The pagemap cache: what a lookup finds, what the shrinker takes, and what removal leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from svm_actors import run
from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.engine.errors import PropertyFailed
from svm_actors.workload.witnesses.pgm_cache import CachedRegion
from svm_actors.world import World

Body = Callable[[World, CachedRegion], Awaitable[None]]


def held(body: Body) -> dict[str, int]:
    """Run it once, alone; answers the counters."""

    async def scenario(world: World) -> None:
        await body(world, CachedRegion(world))

    result = run(scenario, backend="direct")
    assert result.ok, result.failure
    return result.counters


async def look_up(region: CachedRegion) -> DrmPagemap:
    return await region.cache.find_or_create(region.create)


def test_an_active_pagemap_is_found_again() -> None:
    async def body(_world: World, region: CachedRegion) -> None:
        first = await look_up(region)
        assert await look_up(region) is first
        assert first.refs == 2
        first.put()
        first.put()

    held(body)


def test_one_that_nobody_uses_is_listed_and_revived() -> None:
    async def body(world: World, region: CachedRegion) -> None:
        first = await look_up(region)
        first.put()
        await world.settle()
        assert region.shrinker.list == [first]
        assert await look_up(region) is first
        assert (first.refs, first.destroyed, region.shrinker.list) == (1, False, [])
        first.put()

    assert held(body)["pagemap.revived"] == 1


def test_a_lookup_waits_for_the_end_of_the_last_put() -> None:
    async def body(_world: World, region: CachedRegion) -> None:
        first = await look_up(region)
        first.put()
        assert not region.cache.queued.done
        assert await look_up(region) is first
        first.put()

    assert held(body)["PGM-R12"] == 1


def test_what_the_shrinker_has_taken_is_made_anew() -> None:
    async def body(world: World, region: CachedRegion) -> None:
        first = await look_up(region)
        first.put()
        await world.settle()
        assert await region.shrinker.scan()
        assert not await region.shrinker.scan()
        assert first.destroyed
        second = await look_up(region)
        assert second is not first
        second.put()

    held(body)


def test_the_one_that_nobody_has_used_for_longest_goes_first() -> None:
    async def body(world: World, region: CachedRegion) -> None:
        regions = [region, CachedRegion(world), CachedRegion(world)]
        pagemaps = [await look_up(each) for each in regions]
        for index in (1, 0, 2):
            regions[index].cache.shrinker = region.shrinker
            pagemaps[index].put()
            await world.settle()
        assert await region.shrinker.scan()
        assert [pagemap.destroyed for pagemap in pagemaps] == [False, True, False]
        while await region.shrinker.scan():
            pass

    held(body)


@pytest.mark.parametrize("in_use", [False, True])
def test_removal_takes_an_inactive_one_and_leaves_an_active_one_to_its_users(in_use: bool) -> None:
    async def body(world: World, region: CachedRegion) -> None:
        pagemap = await look_up(region)
        if not in_use:
            pagemap.put()
        await region.cache.fini()
        assert pagemap.destroyed is not in_use
        if in_use:
            pagemap.put()
        await world.settle()
        assert pagemap.destroyed
        with pytest.raises(PropertyFailed, match="after it was freed"):
            await look_up(region)

    held(body)


def test_a_pagemap_is_destroyed_once_and_only_when_nobody_uses_it() -> None:
    async def body(_world: World, region: CachedRegion) -> None:
        pagemap = await look_up(region)
        with pytest.raises(PropertyFailed, match="with 1 references"):
            pagemap.destroy()
        region.cache.closed = True
        pagemap.put()
        with pytest.raises(PropertyFailed, match="a second time"):
            pagemap.destroy()

    held(body)
