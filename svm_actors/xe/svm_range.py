"""xe_svm_range: a gpusvm range with the state of its GPU mapping (gpusvm section 1.3)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from svm_actors.drm.gpusvm_pages import GpusvmPages
from svm_actors.drm.gpusvm_range import GpusvmRange

if TYPE_CHECKING:
    from svm_actors.xe.svm_host import SvmHost

TILE = 1
"""Bit of the only tile in the per-tile masks."""


class Link(Enum):
    """The garbage collector's list entry."""

    UNLINKED = "unlinked"
    QUEUED = "queued"
    POPPED = "popped"
    """Off the list, but still looking linked (RULE-25)."""


class XeSvmRange(GpusvmRange):
    """One range of a VM; holds a reference on the VM."""

    __slots__ = ("link", "pages", "tile_invalidated", "tile_present", "vm")

    def __init__(self, vm: SvmHost) -> None:
        super().__init__(vm.svm.gpusvm)
        self.vm = vm
        self.pages = GpusvmPages(vm.device.gpu)
        self.link = Link.UNLINKED
        self.tile_present = 0
        """Tiles with page-table entries; changes under notifier_lock only (RULE-28)."""
        self.tile_invalidated = 0
        """Tiles whose entries have been zapped since."""

    @property
    def has_valid_mapping(self) -> bool:
        """xe_vm_has_valid_gpu_mapping: read without a lock in the fault path (SVM-R27)."""
        return bool(self.tile_present & ~self.tile_invalidated & TILE)

    def note_bound(self) -> None:
        """Its entries are written, or the job that will is published; notifier_lock held."""
        self.tile_present |= TILE
        self.tile_invalidated &= ~TILE
