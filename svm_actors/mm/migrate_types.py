"""Arguments of the migrate_vma and migrate_device families (core_mm section 9)."""

from __future__ import annotations

from enum import IntFlag

import attrs

from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.vma import Vma


class Select(IntFlag):
    """Which pages migrate_vma_setup collects."""

    SYSTEM = 1
    DEVICE_PRIVATE = 2
    COMPOUND = 8


@attrs.define
class MigratePfn:
    """One entry of ``src``."""

    folio: Folio | None = None
    """The source page; None with ``migrate`` set is a hole that may be filled."""
    migrate: bool = False
    """MIGRATE: still taking part.  After ``pages`` it means committed."""
    write: bool = False
    """WRITE: the source entry was writable."""

    @property
    def valid(self) -> bool:
        """There is a source page."""
        return self.folio is not None

    def clear(self) -> None:
        """The entry takes no further part."""
        self.folio, self.migrate, self.write = None, False, False


@attrs.define
class MigrateVma:
    """struct migrate_vma, in pages.  mmap_lock is held for read from setup to finalize."""

    mm: Mm
    """Address space."""
    vma: Vma | None
    """The VMA that holds [start, end)."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
    pgmap_owner: object
    """Owner cookie: selects device pages and travels in the MIGRATE events."""
    select: Select
    """What to collect."""
    fault_page: Folio | None = None
    """The device page of a CPU fault in progress: locked and referenced by the fault path."""
    src: list[MigratePfn] = attrs.field(factory=list)
    """Filled by setup, one per page."""
    dst: list[Folio | None] = attrs.field(factory=list)
    """Filled by the driver with locked folios (reason ``dst``); None leaves the page behind."""
    cpages: int = 0
    """Entries collected, holes included."""

    @property
    def npages(self) -> int:
        """Length of the window."""
        return self.end - self.start
