"""GPU VMAs, as far as SVM needs them: spans of a VM that mirror the CPU address space (RULE-33).

Simplified: a VM is born with one mirror VMA over everything; VM_BIND, madvise attributes other than the
preferred location, and VMAs backed by objects or userptr come later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

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

    def preferred_pagemap(self, device: XeDevice) -> DrmPagemap | None:
        """xe_vma_resolve_pagemap: the region pages should be in; None is system memory."""
        return device.pagemap if self.preferred_loc == "vram" and device.is_dgfx else None
