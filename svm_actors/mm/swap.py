"""Swap: slots, swap cache, reclaim of cold pages (core_mm sections 3, 4, 12).

A folio in the swap cache carries the slot and one ``swapcache`` reference.  Reclaim skips what is
locked, pinned, on no LRU list or not anonymous.  GPU use does not make a page look hot.

Simplified: the device is infinitely large and never fails; writeback is part of the step that
drops the folio; page-cache pages are not reclaimed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.mm.content import Content
from svm_actors.mm.events import SwappedOut
from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry
from svm_actors.mm.rmap import try_to_unmap

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


class SwapSlot:
    """One page on the swap device."""

    __slots__ = ("content", "count", "folio", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        """SWAP entries that name the slot (INV-32)."""
        self.content: Content | None = None
        self.folio: Folio | None = None
        """The folio in the swap cache, if any."""


class Swap:
    """All swap slots in use."""

    def __init__(self) -> None:
        self.live: dict[str, SwapSlot] = {}
        self._next = 0

    def alloc(self) -> SwapSlot:
        """A fresh slot."""
        slot = SwapSlot(f"swap:{self._next}")
        self._next += 1
        self.live[slot.name] = slot
        return slot

    def add_to_cache(self, folio: Folio, slot: SwapSlot) -> None:
        """The folio joins the swap cache."""
        folio.get("swapcache")
        folio.swap_slot, slot.folio = slot, folio

    def remove_from_cache(self, folio: Folio) -> None:
        """The folio leaves the swap cache; an unused slot is freed."""
        slot = folio.swap_slot
        folio.swap_slot = slot.folio = None
        self.free_if_unused(slot)
        folio.put("swapcache")

    def put_entry(self, slot: SwapSlot) -> None:
        """One SWAP entry less (swap_free); an unmapped cached folio nobody wants goes too."""
        slot.count -= 1
        folio = slot.folio
        if not slot.count and folio is not None and not folio.mapcount and not folio.lock.locked:
            self.remove_from_cache(folio)
        else:
            self.free_if_unused(slot)

    def free_if_unused(self, slot: SwapSlot) -> None:
        """Forget a slot without entries and without cached folio."""
        if not slot.count and slot.folio is None:
            self.live.pop(slot.name, None)

    def free_swap_cache(self, folio: Folio) -> None:
        """After a mapping went: an unmapped cached folio that no SWAP entry needs leaves the cache."""
        slot = folio.swap_slot
        if slot is not None and not slot.count and not folio.mapcount and not folio.lock.locked:
            self.remove_from_cache(folio)

    def folio_free_swap(self, folio: Folio) -> bool:
        """Leave the swap cache when no SWAP entry needs the slot.  Folio locked by the caller."""
        if folio.swap_slot is None:
            return True
        if folio.swap_slot.count:
            return False
        self.remove_from_cache(folio)
        folio.dirty = True
        return True


async def reclaim_pages(core: CoreMm, mm: Mm, start: int, end: int) -> int:
    """Swap out what can be swapped out of [start, end); answers how many pages went."""
    reclaimed = 0
    candidates: list[Folio] = []
    await core.lru.drain()
    async with mm.mmap_lock.reading():
        for table in mm.page_table.tables(start, end):
            await core.engine.step("pte_read", mm.page_table, table)
            for _vpn, pte in mm.page_table.entries(table, start, end):
                if pte.kind is Entry.PRESENT and isolate(pte.folio):
                    candidates.append(pte.folio)
    for folio in candidates:
        reclaimed += await pageout(core, folio)
    return reclaimed


def isolate(folio: Folio) -> bool:
    """Take an anonymous folio off its LRU list, with a reference."""
    if folio.is_zero or not folio.anon or not folio.lru:
        return False
    folio.get("reclaim")
    folio.lru = False
    return True


async def pageout(core: CoreMm, folio: Folio) -> int:
    """shrink_folio_list for one isolated folio: trylock, unmap, write, free.  1 when it went."""
    if not await folio.lock.trylock():
        putback(core, folio)
        return 0
    if not folio.mapcount:
        folio.lock.release()
        putback(core, folio)
        return 0
    slot = folio.swap_slot
    if slot is None:
        slot = core.swap.alloc()
        core.swap.add_to_cache(folio, slot)
    await try_to_unmap(core, folio, slot)
    await core.engine.step("write", folio, "swap out")
    gone = not folio.mapcount and folio.refcount == 1 + folio.swapcache
    if gone:
        write_back(folio, slot)
        core.engine.emit(SwappedOut(folio, slot))
        folio.swap_slot = slot.folio = None
        folio.put("swapcache")
        core.swap.free_if_unused(slot)
        core.engine.count("reclaim.swap_out")
    folio.lock.release()
    core.swap.free_swap_cache(folio)  # in case the last entry went while the lock was held here
    putback(core, folio)
    return int(gone)


def write_back(folio: Folio, slot: SwapSlot) -> None:
    """pageout: only a page that is dirty, or has no copy yet, is written: else the slot has what it has (INV-16)."""
    if folio.dirty or slot.content is None:
        slot.content = folio.content
        folio.dirty = False


def putback(core: CoreMm, folio: Folio) -> None:
    """Back to the LRU list and drop the isolation reference."""
    if folio.refcount > 1:
        core.lru.add(folio)
    folio.put("reclaim")
