"""Deviations of the pagemap cache and its shrinker (pagemap section 8): who has an inactive pagemap in his hands."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.drm.pagemap_cache import PagemapCache, PagemapShrinker
from svm_actors.engine.parts import Parts


async def not_entered(_cache: PagemapCache) -> None:
    """Each step of a lookup has a lock of its own."""


def nothing_to_leave(_cache: PagemapCache) -> None:
    """See above."""


def plant_unlocked_lookup(parts: Parts) -> None:
    """Both ends of the section."""
    replace_guard(PagemapCache, "enter_lookup", not_entered)(parts)
    replace_guard(PagemapCache, "leave_lookup", nothing_to_leave)(parts)


async def stays_listed(_shrinker: PagemapShrinker, _pagemap: DrmPagemap) -> bool:
    """It is in use again; what does the list matter?"""
    return True


def already_listed(_cache: PagemapCache) -> bool:
    """Who finds an inactive pagemap takes it for listed."""
    return True


def clears_anything(_shrinker: PagemapShrinker, cache: PagemapCache, _pagemap: DrmPagemap) -> None:
    """As 7.3.4: the pointer leads nowhere now."""
    cache.dpagemap = None


async def does_not_wait(_shrinker: PagemapShrinker) -> None:
    """As 7.3.4: the list has been looked at."""


def drops_if_found(cache: PagemapCache, pagemap: DrmPagemap | None) -> None:
    """The branch for "nothing there" has no unlock."""
    if pagemap is not None:
        cache.lock.release()


PGM_B47 = Bug(
    id="PGM-B47",
    title="two lookups of a region that is not there both make it",
    removes="PagemapCache.enter_lookup",
    races=("PGM-R12",),
    oracles=("lifetime/RULE-49",),
    story="region-looked-up-and-shrunk",
    plant=plant_unlocked_lookup,
)

PGM_B48 = Bug(
    id="PGM-B48",
    title="a pagemap is revived and stays on the shrinker's list",
    removes="PagemapShrinker.cancel",
    races=("PGM-R12", "SVM-R35"),
    oracles=("lifetime/RULE-49", "lifetime/PGM-R33"),
    story="region-looked-up-and-shrunk",
    plant=replace_guard(PagemapShrinker, "cancel", stays_listed),
)

PGM_R12 = Bug(
    id="PGM-R12",
    title="a lookup does not wait until the last put has listed the pagemap, and starts a second one",
    removes="PagemapCache.is_listed",
    races=("PGM-R12",),
    oracles=("lifetime/RULE-49", "device-memory/RULE-49"),
    story="region-looked-up-and-shrunk",
    plant=replace_guard(PagemapCache, "is_listed", already_listed),
)

PGM_S06 = Bug(
    id="PGM-S06",
    title="the shrinker clears the cache's pointer, whichever pagemap it leads to by then",
    removes="PagemapShrinker.clear_pointer",
    races=("PGM-R18",),
    oracles=("lifetime/RULE-49", "device-memory/RULE-49"),
    story="region-looked-up-and-shrunk",
    plant=replace_guard(PagemapShrinker, "clear_pointer", clears_anything),
)
"""The successor is active and cannot be found: the next lookup makes a third one beside it."""

PGM_S07 = Bug(
    id="PGM-S07",
    title="a cache is freed while a scan is on its way to it",
    removes="PagemapShrinker.wait_for_scans",
    races=("PGM-R19",),
    oracles=("lifetime/PGM-R19",),
    story="region-shrunk-at-removal",
    plant=replace_guard(PagemapShrinker, "wait_for_scans", does_not_wait),
)

PGM_B10 = Bug(
    id="PGM-B10",
    title="the teardown of a cache that leads nowhere keeps its spinlock",
    removes="PagemapCache.drop_lock",
    races=("PGM-R19",),
    oracles=("engine",),
    story="region-shrunk-at-removal",
    plant=replace_guard(PagemapCache, "drop_lock", drops_if_found),
)
