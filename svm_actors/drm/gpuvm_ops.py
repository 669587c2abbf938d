"""Operations of drm_gpuvm and lists of them (vm_bind sections 8.1 to 8.4).

An operation is a frozen value that names what has to be done to the GPU virtual address space: map, unmap,
remap, prefetch.  A list of them describes one request against the tree *as it was when the list was
made*: it is good for nothing once anybody else has changed the tree (VMB-R29).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import attrs

from svm_actors.drm.gpuvm_va import DrmGpuva

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm_gem import GemObject

__all__ = ["GpuvaOps", "Op", "OpMap", "OpPrefetch", "OpRemap", "OpUnmap", "Versioned"]


class Versioned(Protocol):
    """A tree that can tell that it has changed; a DrmGpuvm."""

    generation: int
    """Grows with every insertion and removal."""


@attrs.define(eq=False)
class GpuvaOps:
    """drm_gpuva_ops: the list of one request, or the walk of one in immediate mode, which keeps no list."""

    gpuvm: Versioned
    """Whose tree it was made from."""
    generation: int
    """Of the tree, for which the operations not applied yet are right."""
    ops: list[Op] = attrs.field(factory=list)
    """In the order in which they must be applied."""
    touched: list[tuple[int, int]] = attrs.field(factory=list)
    """Mappings [start, end) that it has put in or taken out so far."""

    @property
    def current(self) -> bool:
        """True while the tree is as the list expects it."""
        return self.generation == self.gpuvm.generation

    def applied(self, start: int, end: int) -> None:
        """A mapping was put in or taken out as the list says: the rest of it is still right."""
        self.generation = self.gpuvm.generation
        self.touched.append((start, end))

    def has_touched(self, start: int, end: int) -> bool:
        """A list for [start, end), made before this one was applied, would be wrong now."""
        return any(start < last and first < end for first, last in self.touched)

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)


_NOT_COMPARED = {"eq": False, "repr": False, "kw_only": True}


@attrs.frozen
class OpMap:
    """drm_gpuva_op_map, also the form of a request."""

    addr: int
    """First address."""
    range: int
    """Length; the unit is the driver's."""
    obj: GemObject | None = None
    """What is mapped; None is sparse or a CPU mirror."""
    offset: int = 0
    """Where in the object ``addr`` lies."""
    owner: GpuvaOps | None = attrs.field(default=None, **_NOT_COMPARED)  # type: ignore[call-overload]
    """The list it belongs to."""

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.addr + self.range


@attrs.frozen
class OpUnmap:
    """drm_gpuva_op_unmap: the whole of a vma."""

    va: DrmGpuva
    """What goes away."""
    keep: bool = False
    """The map that follows shows the same bytes at the same addresses: page-table entries may stay."""
    owner: GpuvaOps | None = attrs.field(default=None, **_NOT_COMPARED)  # type: ignore[call-overload]
    """The list it belongs to."""


@attrs.frozen
class OpRemap:
    """drm_gpuva_op_remap: a vma is cut; one or two pieces of it stay."""

    unmap: OpUnmap
    """The vma as it was."""
    prev: OpMap | None = None
    """The piece that stays on the left."""
    next: OpMap | None = None
    """The piece that stays on the right."""
    owner: GpuvaOps | None = attrs.field(default=None, **_NOT_COMPARED)  # type: ignore[call-overload]
    """The list it belongs to."""

    def unmapped(self) -> tuple[int, int]:
        """drm_gpuva_op_remap_to_unmap_range: the addresses [start, end) that the cut vacates (8.3)."""
        va = self.unmap.va
        return (
            va.addr if self.prev is None else self.prev.end,
            va.end if self.next is None else self.next.addr,
        )


@attrs.frozen
class OpPrefetch:
    """drm_gpuva_op_prefetch: the whole of a vma, never a part of it."""

    va: DrmGpuva
    """What to bring near."""
    owner: GpuvaOps | None = attrs.field(default=None, **_NOT_COMPARED)  # type: ignore[call-overload]
    """The list it belongs to."""


Op = OpMap | OpUnmap | OpRemap | OpPrefetch
