"""Events of the core MM for oracles and reports.  Emitted in the same atomic step as what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from svm_actors.mm.folio import Folio
    from svm_actors.mm.memremap import VmFault
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.page_table import Pte
    from svm_actors.mm.swap import SwapSlot


@attrs.frozen
class CpuAccess:
    """A CPU load or store that went through."""

    mm: Mm
    """Address space."""
    vpn: int
    """Page."""
    offset: int
    """First byte inside the page."""
    data: bytes
    """What was read or written."""
    write: bool
    """True for a store."""
    folio: Folio
    """The page it hit."""


@attrs.frozen
class FolioMigrated:
    """A migration has committed: from now on the target is the page."""

    source: Folio | None
    """What was the page before; None when a hole was filled."""
    target: Folio
    """The page now, still locked."""
    by_fault: bool
    """A CPU fault on a device page does it."""


@attrs.frozen
class MigrationRefused:
    """A page that was collected takes no further part: it is mapped elsewhere, busy or referenced."""

    source: Folio
    """The page."""
    mapcount: int
    """Entries it still had."""
    references: int
    """References nobody accounts for."""


@attrs.frozen
class MigrationOver:
    """A migration is through with one entry: its pages are unlocked and put."""

    source: Folio | None
    """The page that was collected; None for a hole."""
    target: Folio | None
    """The destination; None when there was none."""
    committed: bool
    """The target is the page now."""
    by_fault: bool
    """The lock and a reference of the source belong to a CPU fault, which is not over."""


@attrs.frozen
class EntryChanged:
    """A leaf entry was written."""

    mm: Mm
    """Address space."""
    vpn: int
    """Page."""
    old: Pte | None
    """What was there; None for nothing."""
    new: Pte | None
    """What is there; None for nothing."""


@attrs.frozen
class FaultPageTaken:
    """A CPU fault on a device page is about to call the driver."""

    fault: VmFault
    """What the driver is told."""


@attrs.frozen
class FaultPageServed:
    """The driver has answered a CPU fault without an error; the core has not let go of the page yet."""

    fault: VmFault
    """What the driver was told."""


@attrs.frozen
class FaultPageLeft:
    """The core has let go of the page of a CPU fault, whatever the driver answered."""

    fault: VmFault
    """What the driver was told."""


@attrs.frozen
class SwappedOut:
    """Reclaim gives a page away; from now on its content is that of the slot."""

    folio: Folio
    """The page, still as it was."""
    slot: SwapSlot
    """Where its content is to be found."""


@attrs.frozen
class RangeChanging:
    """A system call starts to change what [start, end) holds; until :class:`RangeChanged` both the
    old and the new contents are legal answers."""

    mm: Mm
    """Address space."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
    what: str
    """``unmap``, ``map``, ``dontneed``, ``free``, ``move`` or ``fork``."""
    to_mm: Mm | None = None
    """``fork``: the child."""
    to_start: int = 0
    """``move``: first page of the new place."""


@attrs.frozen
class RangeChanged:
    """The end of a :class:`RangeChanging` with the same fields."""

    mm: Mm
    """Address space."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
    what: str
    """As in the beginning."""
    to_mm: Mm | None = None
    """As in the beginning."""
    to_start: int = 0
    """As in the beginning."""


@attrs.frozen
class MmExited:
    """Everything is unmapped; the address space is gone."""

    mm: Mm
    """It."""
