"""Events of the hardware for oracles and reports.  Emitted in the same atomic step as what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from svm_actors.gpu.page_table import GpuPte
    from svm_actors.mm.folio import Folio


@attrs.frozen
class GpuAccess:
    """A GPU load, store or atomic that went through."""

    gpu: str
    """Name of the GPU."""
    asid: int
    """GPU address space."""
    vpn: int
    """Virtual page."""
    offset: int
    """First byte inside the page."""
    data: bytes
    """What was loaded or stored; for an atomic the value it left behind."""
    kind: Literal["load", "store", "atomic"]
    """What it was."""
    folio: Folio
    """The page it hit."""
    generation: int
    """Generation of that page."""
    old: bytes | None = None
    """For an atomic the value it found."""

    @property
    def write(self) -> bool:
        """True when it changed memory."""
        return self.kind != "load"


@attrs.frozen
class TlbFilled:
    """The walker put a translation into the TLB."""

    gpu: str
    """Name of the GPU."""
    asid: int
    """GPU address space."""
    vpn: int
    """Virtual page."""
    pte: GpuPte
    """The entry copied."""


@attrs.frozen
class TlbFlushed:
    """The TLB dropped every translation of a range; the fence is signaled after it."""

    gpu: str
    """Name of the GPU."""
    asid: int
    """GPU address space."""
    start: int
    """First page really flushed."""
    end: int
    """One past the last page really flushed."""
    dropped: int
    """How many entries that were."""
    asked: tuple[int, int] | None = attrs.field(default=None, eq=False)
    """What the request said: first page, and one past the last; None when nobody asked."""
