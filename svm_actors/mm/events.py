"""Events of the core MM for oracles and reports.  Emitted in the same atomic step as what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from svm_actors.mm.folio import Folio
    from svm_actors.mm.mm_struct import Mm


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
class MmCreated:
    """A new, empty address space."""

    mm: Mm
    """It."""


@attrs.frozen
class MmExited:
    """Everything is unmapped; the address space is gone."""

    mm: Mm
    """It."""
