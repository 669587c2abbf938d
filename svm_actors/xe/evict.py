"""VRAM eviction: the LRU walk and the move of one victim to system memory (pagemap section 5).

Victims are BOs of CPU-mirror memory and buffer objects of user space, in one LRU order.

A victim's reservation is taken by trylock first, so a BO under construction is never a victim
(PGM-R04), nor is anything an exec has locked, and no lock order between reservations is needed.  Only a
caller in a ww transaction may then sleep for one, with its ticket.  A caller that holds a reservation may
offer the other objects under it.  A victim that could not be emptied
is reported to the walk as -ENOSPC, which means "try the next one".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.pagemap import EvictToRam
from svm_actors.engine.errors import EDEADLK, ENOSPC, KernelError

if TYPE_CHECKING:
    from svm_actors.drm.buddy import Block
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.ww_mutex import WwCtx
    from svm_actors.xe.bo import Bo, VramManager


class VramObject(Protocol):
    """What is on the LRU of a VRAM manager."""

    engine: Engine
    npages: int
    refs: int
    """0: dead, and waiting for the end of what its memory was used for."""
    blocks: list[Block]
    """Its VRAM."""
    stamp: int
    """Place in the LRU order."""

    @property
    def resv(self) -> Reservation:
        """Protects where it is."""

    def unlock(self) -> None:
        """Let go of the reservation."""

    def get(self) -> object:
        """Take a reference; it must be alive."""

    async def put(self) -> None:
        """Drop one."""

    async def evict(self) -> None:
        """Reservation held; on return the VRAM is free.  -ENOSPC: try another victim."""

    def note_busy(self) -> None:
        """Its reservation could not be had."""


class Reservation(Protocol):
    """A reservation, of whatever kind."""

    async def trylock(self) -> bool:
        """Take it if free."""

    def release(self) -> None:
        """Let go."""


async def evict_alloc(
    vram: VramManager, npages: int, own: DmaResv | None = None, ticket: WwCtx | None = None
) -> list[Block]:
    """ttm_bo_evict_alloc: evict, least recently used first, until ``npages`` fit.  -ENOSPC.

    ``own`` is held by the caller, who offers the objects under it.  ``ticket`` is the caller's acquire
    context: when trying has not been enough, it waits for objects that others have locked.
    """
    blocks = await _walk(vram, npages, own, None)
    while blocks is None and ticket is not None and vram.next_in_lru(0) is not None:
        before = vram.evictions
        blocks = await _walk(vram, npages, own, ticket)
        if vram.evictions == before:
            break
    if blocks is None:
        raise ENOSPC
    return blocks


async def _walk(vram: VramManager, npages: int, own: DmaResv | None, ticket: WwCtx | None) -> list[Block] | None:
    """One pass over the LRU; with a ticket it sleeps for one victim at most, the others it tries."""
    cursor = 0
    while (victim := vram.next_in_lru(cursor)) is not None:
        cursor = victim.stamp
        mine = own is not None and victim.resv is own
        if not mine:
            resv = victim.resv
            if ticket is not None and isinstance(resv, DmaResv) and not resv.ww.held_by_me():
                locked = await wait_for_victim(victim, resv, ticket)
                ticket = None
            else:
                locked = await lock_victim(victim)
            if not locked:
                continue
        try:
            blocks = await evict_victim(vram, victim, npages, unlock=not mine)
        except ENOSPC:
            continue
        vram.evictions += 1
        if blocks is not None:
            return blocks
    return None


async def wait_for_victim(victim: VramObject, resv: DmaResv, ticket: WwCtx) -> bool:
    """ttm_lru_walk_ticketlock: sleep for it.  -EDEADLK means that the caller has to back off: -ENOSPC, no walk."""
    if not victim.refs:
        return await lock_victim(victim)
    victim.engine.count("evict.ticket")
    victim.get()
    try:
        await resv.lock(ticket)
    except EDEADLK:
        await victim.put()
        raise ENOSPC from None
    await victim.put()
    if victim.blocks and victim.resv is resv:
        return True
    resv.unlock()
    return False


async def lock_victim(victim: VramObject) -> bool:
    """PGM-R04: skip a BO whose reservation is held; a half-built one always is (RULE-55)."""
    resv = victim.resv
    if not await resv.trylock():
        victim.note_busy()
        return False
    if victim.blocks and victim.resv is resv:
        return True
    # It has gone meanwhile, or has died and got a reservation of its own.
    resv.release()
    return False


async def evict_victim(
    vram: VramManager, victim: VramObject, wanted: int = 0, *, unlock: bool = True
) -> list[Block] | None:
    """Evict one BO, locked on entry and unlocked on exit.  -ENOSPC when it would not go.

    Answers ``wanted`` pages taken before anybody else could, None when there is still no room.
    """
    alive = bool(victim.refs)
    if alive:
        victim.get()
    error: KernelError | None = None
    blocks = None
    try:
        await evict_bo(victim)
        blocks = vram.try_alloc(wanted) if wanted else None
    except KernelError as failure:
        error = failure
    if unlock:
        victim.unlock()
    if alive:
        await victim.put()
    if error is not None:
        raise error
    return blocks


async def evict_bo(bo: VramObject) -> None:
    """ttm_bo_evict: reservation held; on return the VRAM is free.  -ENOSPC: try another victim."""
    await bo.evict()


async def move_home(bo: Bo) -> None:
    """The move of a CPU-mirror BO: its pages go home, its memory then moves by a null move."""
    devmem = bo.devmem
    if devmem is None:
        raise ENOSPC
    try:
        await devmem.dpagemap.call(EvictToRam(devmem))
    except KernelError as error:
        raise devmem.dpagemap.engine.parts.of(answer_of)(error) from None


def answer_of(error: KernelError) -> KernelError:
    """PGM-R20: what kept one victim here says nothing about the next: -ENOSPC, "try another".

    7.3.4 says so of -EBUSY alone; a process that is dying, whose pages cannot be brought home any more, ends the walk
    of whoever needs memory just then (PGM-S04), and so does a lack of RAM.
    """
    return ENOSPC()


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
