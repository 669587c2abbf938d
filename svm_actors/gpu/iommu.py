"""The IOMMU of one device: which pages it can reach, and under which bus addresses.

This is the DMA API as gpusvm and pagemap use it (gpusvm section 4 step 7, pagemap section 3.1): single
maps, and IOVA windows that are reserved first and then linked page by page.  Addresses are IOVA page
numbers and are reused last in, first out, so that a stale one meets its new owner soon.

None of it is an op: drivers map and unmap inside sections they have announced.  What real hardware
answers with an IOMMU fault, and what a DMA-API debugger would shout at, raises :class:`PropertyFailed`.

Simplified: order-0 mappings; no deferred IOTLB flush, so an unmapped address is unreachable at once.
A mapping holds no reference to its page: keeping the page alive is what the notifier order is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sortedcontainers import SortedDict

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ENOMEM, PropertyFailed
from svm_actors.gpu.address import Direction
from svm_actors.mm.folio import Folio

_FIRST_IOVA = 0x1000


class Mapping(NamedTuple):
    """What one IOVA page leads to."""

    folio: Folio
    """The page; its identity is its allocation."""
    direction: Direction
    """What the device may do."""


class Iommu:
    """IOVA space and mappings of one device."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.has_windows = True
        """False: :meth:`reserve` never succeeds, as on a device without an IOMMU of its own."""
        self.fail_next = 0
        """How many of the next maps and links fail with -ENOMEM."""
        self.fail_after = 0
        """How many go through before those."""
        self._single: dict[int, Mapping] = {}
        self._linked: dict[int, Mapping] = {}
        self._windows: SortedDict = SortedDict()
        """Reserved windows: base to number of pages."""
        self._free: dict[int, list[int]] = {}
        """Free bases by number of pages, the next one to use last."""
        self._next = _FIRST_IOVA

    # -- single maps -----------------------------------------------------------------

    def map(self, folio: Folio, direction: Direction) -> int:
        """dma_map_page: answers the IOVA page.  -ENOMEM (drivers report it as -EFAULT)."""
        mapping = self._new_mapping(folio, direction)
        iova = self._take(1)
        self._single[iova] = mapping
        return iova

    def unmap(self, iova: int) -> None:
        """dma_unmap_page; each map has exactly one (RULE-45)."""
        mapping = self._single.pop(iova, None)
        if mapping is None:
            raise PropertyFailed("lifetime", "RULE-45", f"{self.name} unmaps {iova:#x}, which is not mapped singly")
        self._outlived(mapping)
        self._give_back(iova, 1)

    # -- windows ---------------------------------------------------------------------

    def reserve(self, npages: int) -> int | None:
        """dma_iova_try_alloc: the base of a window, None when there is none to be had."""
        if not self.has_windows or npages <= 0 or self.engine.faults.strike("dma"):
            return None
        base = self._take(npages)
        self._windows[base] = npages
        return base

    def link(self, iova: int, folio: Folio, direction: Direction) -> None:
        """dma_iova_link: map one page of a reserved window.  -ENOMEM."""
        if not self._in_window(iova) or iova in self._linked:
            state = "which is linked already" if iova in self._linked else "outside every reserved window"
            raise PropertyFailed("lifetime", "RULE-22", f"{self.name} links {iova:#x}, {state}")
        self._linked[iova] = self._new_mapping(folio, direction)

    def unlink(self, iova: int, npages: int) -> None:
        """dma_iova_unlink: unmap ``npages`` linked pages; the window stays reserved."""
        for page in range(iova, iova + npages):
            mapping = self._linked.pop(page, None)
            if mapping is None:
                raise PropertyFailed("lifetime", "RULE-22", f"{self.name} unlinks {page:#x}, which is not linked")
            self._outlived(mapping)

    def free(self, base: int) -> None:
        """dma_iova_free: give the whole reservation back; nothing may be linked any more."""
        npages = self._windows.get(base)
        if npages is None:
            raise PropertyFailed("lifetime", "RULE-22", f"{self.name} frees window {base:#x}, which is not reserved")
        left = [page for page in range(base, base + npages) if page in self._linked]
        if left:
            raise PropertyFailed("lifetime", "RULE-45", f"{self.name} frees window {base:#x} with {left[0]:#x} linked")
        del self._windows[base]
        self._give_back(base, npages)

    # -- what the device does ------------------------------------------------------------

    def resolve(self, iova: int, write: bool) -> Folio:
        """The page an access reaches.  Unmapped: RULE-18; freed or reused: INV-05; direction: RULE-45."""
        mapping = self._single.get(iova) or self._linked.get(iova)
        if mapping is None:
            raise PropertyFailed("lifetime", "RULE-18", f"{self.name}: access through unmapped IOVA {iova:#x}")
        folio, direction = mapping
        if folio.freed:
            raise PropertyFailed(
                "lifetime", "INV-05", f"{self.name}: access through IOVA {iova:#x} to {folio.name}, which is freed"
            )
        if not direction.allows(write):
            verb = "write" if write else "read"
            raise PropertyFailed(
                "lifetime", "RULE-45", f"{self.name}: {verb} through IOVA {iova:#x}, mapped {direction.value}"
            )
        return folio

    # -- for oracles ---------------------------------------------------------------------

    def mappings(self) -> Iterator[tuple[int, Mapping]]:
        """Every (IOVA page, mapping), singles before links, in order of mapping."""
        yield from self._single.items()
        yield from self._linked.items()

    def statistics(self) -> dict[str, int]:
        """Live mappings and reservations; both 0 at teardown."""
        return {"mappings": len(self._single) + len(self._linked), "reservations": len(self._windows)}

    # -- inside --------------------------------------------------------------------------

    def _new_mapping(self, folio: Folio, direction: Direction) -> Mapping:
        if folio.freed:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name} maps {folio.name}, which has been freed")
        if self.fail_next and self.fail_after:
            self.fail_after -= 1
        elif self.fail_next:
            self.fail_next -= 1
            raise ENOMEM
        self.engine.faults.fail("dma")
        return Mapping(folio, direction)

    def _outlived(self, mapping: Mapping) -> None:
        """INV-05: up to this moment the device could have written to the page."""
        if mapping.folio.freed:
            raise PropertyFailed("lifetime", "INV-05", f"{self.name} had {mapping.folio.name} mapped when it was freed")

    def _in_window(self, iova: int) -> bool:
        position = self._windows.bisect_right(iova) - 1
        if position < 0:
            return False
        base, npages = self._windows.peekitem(position)
        return bool(iova < base + npages)

    def _take(self, npages: int) -> int:
        stack = self._free.get(npages)
        if stack:
            return stack.pop()
        base = self._next
        self._next += npages
        return base

    def _give_back(self, base: int, npages: int) -> None:
        self._free.setdefault(npages, []).append(base)
