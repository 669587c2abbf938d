"""VRAM eviction: the LRU walk and the move of one victim to system memory (pagemap section 5).

A victim's reservation is taken by trylock only, so a BO under construction is never a victim
(PGM-R04) and no lock order between reservations is needed.  A victim that could not be emptied
(-EBUSY) is reported to the walk as -ENOSPC, which means "try the next one"; every other error ends
the walk, also that of an unrelated dying process (PGM-S04).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.pagemap import EvictToRam
from svm_actors.engine.errors import EBUSY, ENOSPC, KernelError

if TYPE_CHECKING:
    from svm_actors.drm.buddy import Block
    from svm_actors.xe.bo import Bo, VramManager


async def evict_alloc(vram: VramManager, npages: int) -> list[Block]:
    """ttm_bo_evict_alloc: evict, least recently used first, until ``npages`` fit.  -ENOSPC."""
    cursor = 0
    while (victim := vram.next_in_lru(cursor)) is not None:
        cursor = victim.stamp
        if not await lock_victim(victim):
            continue
        try:
            blocks = await evict_victim(vram, victim, npages)
        except ENOSPC:
            continue
        if blocks is not None:
            return blocks
    raise ENOSPC


async def lock_victim(victim: Bo) -> bool:
    """PGM-R04: skip a BO whose reservation is held; a half-built one always is (RULE-55)."""
    if not await victim.resv.trylock():
        victim.engine.count("PGM-R04" if victim.building else "evict.skip")
        return False
    if victim.blocks:
        return True
    victim.resv.release()
    return False


async def evict_victim(vram: VramManager, victim: Bo, wanted: int = 0) -> list[Block] | None:
    """Evict one BO, locked on entry and unlocked on exit.  -ENOSPC when it would not go.

    Answers ``wanted`` pages taken before anybody else could, None when there is still no room.
    """
    alive = bool(victim.refs)
    if alive:
        victim.get()
    error: KernelError | None = None
    blocks = None
    try:
        await evict_bo(vram, victim)
        blocks = vram.try_alloc(wanted) if wanted else None
    except KernelError as failure:
        error = failure
    victim.resv.release()
    if alive:
        await victim.put()
    if error is not None:
        raise error
    return blocks


async def evict_bo(vram: VramManager, bo: Bo) -> None:
    """ttm_bo_evict: reservation held; on return the VRAM is free.  -ENOSPC: try another victim."""
    if bo.refs:
        await move_home(bo)
    await bo.wait_idle()
    vram.release_space(bo)


async def move_home(bo: Bo) -> None:
    """The move of a CPU-mirror BO: its pages go home, its memory then moves by a null move."""
    devmem = bo.devmem
    if devmem is None:
        raise ENOSPC
    try:
        await devmem.dpagemap.call(EvictToRam(devmem))
    except EBUSY:
        raise ENOSPC from None


async def evict_all(vram: VramManager) -> int:
    """ttm_resource_manager_evict_all, at device removal: answers how many BOs would not go."""
    cursor = 0
    failed = 0
    while (victim := vram.next_in_lru(cursor)) is not None:
        cursor = victim.stamp
        if not await lock_victim(victim):
            failed += 1
            continue
        try:
            await evict_victim(vram, victim)
        except KernelError:
            vram.engine.count("evict.failed")
            failed += 1
    return failed
