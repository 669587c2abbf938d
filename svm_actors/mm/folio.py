"""Folios: physical pages with reference ledger, lock and flags (core_mm sections 1 and 4).

A folio is a shared kernel object: drivers and the core MM hold references to the same one.
Every reference has a reason (``map``, ``collect``, ``fault`` ...); the count is their sum, so that
"who holds the extra reference" always has an answer (INV-06).

Simplified: one data page per folio (order 0).  ``order`` exists so that large folios can be added
without moving this file's interface.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import BitLock
from svm_actors.mm.content import ZERO, Content

if TYPE_CHECKING:
    from svm_actors.mm.memremap import DevPagemap
    from svm_actors.mm.page_alloc import PageAllocator
    from svm_actors.mm.rmap import AnonVma


class Kind(Enum):
    """What backs a folio."""

    RAM = "ram"
    ZERO = "zero"
    DEVICE_PRIVATE = "device_private"
    VRAM = "vram"
    """Device memory of a buffer object: no struct page, the core MM never meets one."""


class Folio:
    """One physical page (or, later, a run of them)."""

    __slots__ = (
        "allocator",
        "anon",
        "anon_exclusive",
        "anon_vma",
        "content",
        "dirty",
        "engine",
        "generation",
        "index",
        "kind",
        "lock",
        "lru",
        "mapcount",
        "mapping",
        "name",
        "order",
        "pfn",
        "pgmap",
        "refcount",
        "refs",
        "swap_slot",
        "uptodate",
        "zone_device_data",
    )

    def __init__(self, engine: Engine, pfn: int, generation: int, kind: Kind, order: int = 0) -> None:
        self.engine = engine
        self.pfn = pfn
        self.generation = generation
        """How often this pfn was allocated before; tells a reused page from the one it was."""
        self.kind = kind
        self.order = order
        self.name = f"folio:{pfn:x}"
        self.lock = BitLock(engine, self.name, "folio_lock")
        self.refcount = 0
        self.refs: dict[str, int] = {}
        """References by reason; their sum is ``refcount``."""
        self.mapcount = 0
        """Leaf entries (PRESENT, DEVICE_PRIVATE, DEVICE_EXCLUSIVE) of all mms that point here."""
        self.content: Content = ZERO
        self.dirty = False
        self.uptodate = False
        self.lru = False
        """On an LRU list: a reclaim candidate that migration must isolate first."""
        self.anon = False
        self.anon_exclusive = False
        """PageAnonExclusive: exactly one mm maps it and may write without a copy (INV-13)."""
        self.anon_vma: AnonVma | None = None
        self.mapping: Any = None
        """The shmem or file object of a page-cache folio, else None."""
        self.index = 0
        """Page offset inside ``anon_vma`` or ``mapping``."""
        self.swap_slot: Any = None
        """The swap slot while the folio is in the swap cache."""
        self.allocator: PageAllocator | None = None
        self.pgmap: DevPagemap | None = None
        self.zone_device_data: Any = None

    # -- references ------------------------------------------------------------------

    def get(self, reason: str, count: int = 1) -> None:
        """Take a reference.  Taking one on a free page is a use after free (INV-05)."""
        if self.refcount <= 0 and reason != "born":
            raise PropertyFailed("lifetime", "INV-05", f"reference ({reason}) taken on free {self.name}")
        self.refs[reason] = self.refs.get(reason, 0) + count
        self.refcount += count

    def put(self, reason: str) -> None:
        """Drop a reference; the last one frees the page."""
        held = self.refs.get(reason, 0)
        if not held:
            raise PropertyFailed("lifetime", "INV-06", f"reference ({reason}) dropped on {self.name} but not held")
        if held == 1:
            del self.refs[reason]
        else:
            self.refs[reason] = held - 1
        self.refcount -= 1
        if not self.refcount:
            self._free()

    def rename_ref(self, old: str, new: str) -> None:
        """Hand a reference from one reason to another; the count does not move."""
        self.get(new)
        self.put(old)

    def _free(self) -> None:
        if self.mapcount:
            raise PropertyFailed("lifetime", "INV-07", f"{self.name} freed with {self.mapcount} mappings")
        if self.lock.locked:
            raise PropertyFailed("lifetime", "INV-08", f"{self.name} freed while locked")
        self.lru = False
        self.anon_exclusive = False
        if self.pgmap is not None:
            self.pgmap.free_zone_device_folio(self)
        elif self.allocator is not None:
            self.allocator.free(self)

    @property
    def freed(self) -> bool:
        """True once the last reference is gone: this object no longer is the page."""
        return self.refcount == 0

    # -- mappings --------------------------------------------------------------------

    def add_mapping(self) -> None:
        """A leaf entry now points here: +1 reference, +1 mapcount."""
        self.get("map")
        self.mapcount += 1

    def remove_mapping(self) -> None:
        """A leaf entry no longer points here; may free the page."""
        self.mapcount -= 1
        self.put("map")

    # -- tests -----------------------------------------------------------------------

    @property
    def is_device_private(self) -> bool:
        """is_device_private_page."""
        return self.kind is Kind.DEVICE_PRIVATE

    @property
    def is_zero(self) -> bool:
        """The shared zero page: never counted, never written."""
        return self.kind is Kind.ZERO

    @property
    def swapcache(self) -> int:
        """References held by the swap cache."""
        return self.refs.get("swapcache", 0)

    @property
    def owner(self) -> object:
        """The owner cookie of a device page, None for RAM."""
        return self.pgmap.owner if self.pgmap is not None else None

    def check_live(self, generation: int, doing: str) -> None:
        """Raise unless the page is still the allocation it was (INV-05, INV-10)."""
        if not self.refcount or self.generation != generation:
            raise PropertyFailed("lifetime", "INV-05", f"{doing} uses {self.name}, which has been freed")

    def __repr__(self) -> str:
        refs = ",".join(f"{reason}={count}" for reason, count in sorted(self.refs.items()))
        return f"<{self.name} {self.kind.value} refs[{refs}] map={self.mapcount}>"
