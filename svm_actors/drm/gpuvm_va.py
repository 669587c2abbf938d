"""drm_gpuva and the interval tree of them (vm_bind sections 1 and 8.1).

A gpu_vma maps ``range`` units from ``addr`` on to an object from ``offset`` on.  No two of one VM overlap,
so the tree is a sorted map from first address, and the ordered list of all vmas is the same thing.

The unit of addresses and offsets is the driver's: pages in this model.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from svm_actors.engine.errors import EEXIST, PropertyFailed

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm_base import DrmGpuvmBase
    from svm_actors.drm.gpuvm_bo import DrmGpuvmBo
    from svm_actors.drm.gpuvm_gem import GemObject
    from svm_actors.drm.gpuvm_ops import OpMap

__all__ = ["DrmGpuva", "GpuvaFlags", "VaTree"]


class GpuvaFlags(enum.Flag):
    """drm_gpuva_flags."""

    NONE = 0
    INVALIDATED = enum.auto()
    """Its backing is gone; it must be bound again before use."""
    SPARSE = enum.auto()
    """No object: reads give zero, writes are dropped."""


class DrmGpuva:
    """One mapping; drivers subclass it."""

    def __init__(self, addr: int = 0, range_: int = 0, obj: GemObject | None = None, offset: int = 0) -> None:
        self.addr = addr
        self.range = range_
        self.obj = obj
        self.offset = offset
        """Where in the object ``addr`` lies."""
        self.flags = GpuvaFlags.NONE
        self.vm: DrmGpuvmBase | None = None
        """Where it was inserted last."""
        self.vm_bo: DrmGpuvmBo | None = None
        """Set while linked."""

    @property
    def end(self) -> int:
        """One past the last unit."""
        return self.addr + self.range

    def init_from_op(self, op: OpMap) -> None:
        """drm_gpuva_init_from_op."""
        self.addr, self.range, self.obj, self.offset = op.addr, op.range, op.obj, op.offset

    def __repr__(self) -> str:
        what = "sparse" if self.obj is None else f"{self.obj.name}+{self.offset:#x}"
        return f"<va [{self.addr:#x},{self.end:#x}) {what}>"


class VaTree:
    """The gpu_vmas of one VM by address."""

    def __init__(self) -> None:
        self._vas: SortedDict = SortedDict()

    def __len__(self) -> int:
        return len(self._vas)

    def __iter__(self) -> Iterator[DrmGpuva]:
        return iter(self._vas.values())

    def insert(self, va: DrmGpuva) -> None:
        """Add a vma.  -EEXIST when it overlaps another."""
        if self.find_first(va.addr, va.range) is not None:
            raise EEXIST
        self._vas[va.addr] = va

    def remove(self, va: DrmGpuva) -> None:
        """Take a vma out; it must be there, under the address it was inserted with."""
        if self._vas.get(va.addr) is not va:
            raise PropertyFailed("gpuvm", "INV-VMB-02", f"{va} is removed but not in the tree")
        del self._vas[va.addr]

    def find_first(self, addr: int, range_: int) -> DrmGpuva | None:
        """drm_gpuva_find_first: the lowest vma that overlaps."""
        index = self._vas.bisect_right(addr) - 1
        if index >= 0:
            va: DrmGpuva = self._vas.peekitem(index)[1]
            if va.end > addr and va.addr < addr + range_:
                return va
        return self._from(addr, addr + range_)

    def find(self, addr: int, range_: int) -> DrmGpuva | None:
        """drm_gpuva_find: the vma of exactly this range."""
        va: DrmGpuva | None = self._vas.get(addr)
        return va if va is not None and va.range == range_ else None

    def overlapping(self, addr: int, end: int) -> Iterator[DrmGpuva]:
        """drm_gpuvm_for_each_va_range_safe: the one last given may be taken out or replaced meanwhile.

        Which one follows is fixed before a vma is given, so what replaces it is not visited.
        """
        va = self.find_first(addr, end - addr)
        while va is not None:
            following = self._from(va.end, end)
            yield va
            va = following

    def _from(self, addr: int, end: int) -> DrmGpuva | None:
        """The lowest vma that begins in [addr, end)."""
        for start in self._vas.irange(addr, end, inclusive=(True, False)):
            va: DrmGpuva = self._vas[start]
            return va
        return None
