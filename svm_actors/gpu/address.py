"""Addresses as a device sees them: drm_pagemap_addr (pagemap section 1.4).

``order`` and ``direction`` travel with the address because whoever unmaps it needs them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Proto(Enum):
    """Which path the address takes."""

    SYSTEM = "system"
    """Through the IOMMU to RAM."""
    VRAM = "vram"
    """Device-local memory; never mapped, never unmapped."""
    P2P = "p2p"
    """Through the IOMMU to the memory of another device."""
    NULL = "null"
    """Nowhere: reads give 0, writes are dropped."""


class Direction(Enum):
    """enum dma_data_direction: what the device may do."""

    TO_DEVICE = "to_device"
    FROM_DEVICE = "from_device"
    BIDIRECTIONAL = "bidirectional"

    def allows(self, write: bool) -> bool:
        """True when the device may read (or, with ``write``, write) through such a mapping."""
        return self is not (Direction.TO_DEVICE if write else Direction.FROM_DEVICE)


class DmaAddr(NamedTuple):
    """One address entry."""

    addr: int
    """IOVA page number for SYSTEM and P2P, device pfn for VRAM."""
    proto: Proto
    """Path."""
    order: int = 0
    """The entry stands for ``2**order`` consecutive pages."""
    direction: Direction = Direction.BIDIRECTIONAL
    """As it was mapped."""
