"""GPU VMAs, as far as SVM needs them: spans of a VM that mirror the CPU address space (RULE-33).

A VM that mirrors everything is born with one of them; a VM filled with VM_BIND has one inside each
:class:`~svm_actors.xe.bind_vma.XeBindVma` that was mapped with CPU_ADDR_MIRROR.

Both have attributes; only the second kind can be advised on (:mod:`svm_actors.xe.madvise`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.xe.vm_attr import DEFAULT_ATTR, VmaAttr

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.xe.device import XeDevice


@attrs.define(eq=False)
class XeVma:
    """xe_vma with CPU_ADDR_MIRROR, over pages [start, end)."""

    start: int
    """First page."""
    end: int
    """One past the last page."""
    read_only: bool = False
    """The GPU may only read."""
    preferred_loc: str = "vram"
    """``vram`` (DEFAULT_DEVICE: the memory of the faulting device) or ``system`` (DEFAULT_SYSTEM)."""
    attr: VmaAttr = DEFAULT_ATTR
    """The other attributes."""
    autoreset: bool = False
    """They go when memory does."""

    @property
    def is_default(self) -> bool:
        """Nobody has advised on it, or it has been forgotten."""
        return self.preferred_loc == "vram" and self.attr == DEFAULT_ATTR

    def reset(self) -> None:
        """xe_vma_set_default_attributes."""
        self.preferred_loc, self.attr = "vram", DEFAULT_ATTR

    def part(self, start: int, end: int) -> XeVma:
        """What stays of it, with its attributes."""
        return attrs.evolve(self, start=start, end=end)

    def preferring(self, location: str) -> XeVma:
        """The same with another preferred location."""
        return attrs.evolve(self, preferred_loc=location)

    def preferred_pagemap(self, device: XeDevice) -> DrmPagemap | None:
        """xe_vma_resolve_pagemap: the region pages should be in; None is system memory."""
        return device.pagemap if self.preferred_loc == "vram" and device.is_dgfx else None
